"""Options of the small networks that are built here, and of their training."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import group, option


@dataclass(frozen=True)
class TinyConfig:
    """A small random Qwen2.5-VL checkpoint (`vln_ros tiny`)."""

    seed: int = option(0, "Seed of the weights; the same seed gives the same files", minimum=0)
    hidden: int = option(192, "Width of the decoder", minimum=16, maximum=8192)
    layers: int = option(4, "Decoder layers", minimum=1, maximum=128)
    heads: int = option(6, "Attention heads of the decoder", minimum=1, maximum=128)
    kv_heads: int = option(2, "Key-value heads of the decoder", minimum=1, maximum=128)
    intermediate: int = option(512, "Width of the decoder's feed-forward layers", minimum=16, maximum=65536)
    vision_depth: int = option(
        3, "Blocks of the vision tower; the last has full attention", minimum=1, maximum=64
    )
    vision_hidden: int = option(128, "Width of the vision tower", minimum=16, maximum=4096)
    vision_heads: int = option(4, "Attention heads of the vision tower", minimum=1, maximum=64)
    vision_intermediate: int = option(
        344, "Width of the vision tower's feed-forward layers", minimum=16, maximum=16384
    )
    vocabulary: int = option(768, "Most tokens that the byte-level BPE may learn", minimum=300, maximum=8192)
    true_ids: bool = option(
        False, "Pad the vocabulary so that the special tokens have Qwen's own ids (151643 and up)"
    )
    tied: bool = option(False, "Share input and output embedding, as the 3B model does")
    shards: int = option(1, "Weight files; more than one come with an index", minimum=1, maximum=64)


@dataclass(frozen=True)
class TrainConfig:
    """Training of the package's own small policy (`vln_ros train`)."""

    seed: int = option(
        0, "Seed of weights and noise; it also says which episodes of the train split come first", minimum=0
    )
    profile: str = option("tiny", "Name of a shipped profile, or path of a profile YAML file")
    start_from: str = option("", "Checkpoint folder whose weights to begin with; empty: random ones")
    device: str = option("cpu", "Torch device: cpu, cuda, cuda:1 ...")
    workers: int = option(
        1, "Processes that make demonstrations; 0 makes them in line", minimum=0, maximum=256
    )
    steps: int = option(20000, "Optimiser steps; the learning rate falls to nothing over them", minimum=1)
    batch: int = option(16, "Conversations per step", minimum=1, maximum=4096)
    micro_batch: int = option(8, "Conversations per forward", minimum=1, maximum=4096)
    threads: int = option(
        1, "Forwards computed side by side; with more than one, each on one core", minimum=1, maximum=256
    )
    precision: str = option(
        "float32",
        "What matrices are multiplied in; weights and their updates stay float32",
        choices=("float32", "bfloat16"),
    )
    learning_rate: float = option(1.2e-3, "Highest learning rate", minimum=1e-6, maximum=1.0)
    warmup_steps: int = option(150, "Steps until the highest learning rate", minimum=1)
    weight_decay: float = option(0.02, "AdamW's, of matrices only", minimum=0.0, maximum=1.0)
    vision_weight: float = option(
        1.0, "Weight of naming what visual tokens show", minimum=0.0, maximum=100.0
    )  # fmt: skip
    referent_weight: float = option(
        2.0, "Weight of finding the visual tokens that the instruction speaks of", minimum=0.0, maximum=100.0
    )
    way_weight: float = option(
        0.5, "Weight of naming direction and length of the way", minimum=0.0, maximum=100.0
    )  # fmt: skip
    cost_temperature: float = option(
        0.5,
        "Actions that cost so much more than the best one are taught with 1/e of its share",
        unit="actions",
        minimum=0.01,
        maximum=100.0,
    )
    render_width: int = option(160, "Image width before the profile's resizing", unit="px", minimum=28)
    render_height: int = option(120, "Image height before the profile's resizing", unit="px", minimum=28)
    max_turns: int = option(10, "Runs are cut after this many decisions", minimum=1, maximum=1000)
    stop_within_m: float = option(
        0.5, "The expert stops when the goal is nearer than this", unit="m", minimum=0.1, maximum=3.0
    )
    clearance_m: float = option(
        0.12, "Distance that the expert keeps from walls where it can", unit="m", minimum=0.0, maximum=1.0
    )
    noise: float = option(
        0.3, "Highest share of random actions in a run of the expert", minimum=0.0, maximum=1.0
    )
    pool: int = option(128, "Demonstrations to draw batches from", minimum=1)
    fresh: int = option(8, "Demonstrations that are replaced by new ones per step", minimum=1)
    small_from: float = option(
        0.5,
        "Share of the steps after which small flats join the rooms; 1 for never",
        minimum=0.0,
        maximum=1.0,
    )
    flat_from: float = option(
        0.75, "Share of the steps after which whole flats join in; 1 for never", minimum=0.0, maximum=1.0
    )
    small_weight: float = option(
        1.0, "How often small flats are drawn where rooms are drawn once", minimum=0.0, maximum=100.0
    )  # fmt: skip
    flat_weight: float = option(
        1.0, "How often whole flats are drawn where rooms are drawn once", minimum=0.0, maximum=100.0
    )  # fmt: skip
    dagger_from: float = option(
        0.3, "Share of the steps after which the policy's own runs join in", minimum=0.0, maximum=1.0
    )
    dagger_share: float = option(0.5, "Share of these among new demonstrations", minimum=0.0, maximum=1.0)
    dagger_every: int = option(
        200, "Steps after which own runs are made with the weights as they are then", minimum=1
    )
    validate_every: int = option(500, "Steps between validations", minimum=1)
    validate_episodes: int = option(50, "Episodes per validation and kind of flat", minimum=1)
    save_every: int = option(200, "Steps between saved states", minimum=1)
    model: TinyConfig = group(TinyConfig)
