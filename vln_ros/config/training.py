"""Options of the small networks that are built here, and of their training."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import LARGEST_SEED, group, option


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """A small random Qwen2.5-VL checkpoint (`vln_ros tiny`)."""

    seed: int = option(
        0,
        "Seed of the random weights. The same seed gives the same files.",
        minimum=0, maximum=LARGEST_SEED,
    )  # fmt: skip
    hidden: int = option(
        192,
        "Width of the decoder. Larger networks learn more and are slower; it must be a multiple of heads.",
        minimum=16, maximum=8192,
    )  # fmt: skip
    layers: int = option(
        4,
        "Number of decoder layers. More learn more and are slower.",
        minimum=1, maximum=128,
    )  # fmt: skip
    heads: int = option(
        6,
        "Number of attention heads of the decoder. Together they are hidden wide, so more heads are narrower "
        "ones.",
        minimum=1, maximum=128,
    )  # fmt: skip
    kv_heads: int = option(
        2,
        "Number of key-value heads of the decoder; it must divide heads. Fewer make the KV cache smaller.",
        minimum=1, maximum=128,
    )  # fmt: skip
    intermediate: int = option(
        512,
        "Width of the decoder's feed-forward layers. Wider ones learn more and are slower.",
        minimum=16, maximum=65536,
    )  # fmt: skip
    vision_depth: int = option(
        3,
        "Number of blocks of the vision tower; the last one has full attention. More learn more and are "
        "slower.",
        minimum=1, maximum=64,
    )  # fmt: skip
    vision_hidden: int = option(
        128,
        "Width of the vision tower. Wider ones learn more and are slower; it must be a multiple of "
        "vision_heads.",
        minimum=16, maximum=4096,
    )  # fmt: skip
    vision_heads: int = option(
        4,
        "Number of attention heads of the vision tower. Together they are vision_hidden wide, so more heads "
        "are narrower ones.",
        minimum=1, maximum=64,
    )  # fmt: skip
    vision_intermediate: int = option(
        344,
        "Width of the vision tower's feed-forward layers. Wider ones learn more and are slower.",
        minimum=16, maximum=16384,
    )  # fmt: skip
    vocabulary: int = option(
        768,
        "Most tokens that the byte-level BPE may learn. Few split words into many tokens, many make the "
        "embedding large.",
        minimum=300, maximum=8192,
    )  # fmt: skip
    true_ids: bool = option(
        False,
        "Whether the vocabulary is padded so that the special tokens have Qwen's own ids (151643 and up). "
        "True makes the file much larger.",
    )
    tied: bool = option(
        False,
        "Whether input and output share one embedding, as in the released 3B model.",
    )
    shards: int = option(
        1,
        "Number of weight files. More than one come with an index, as large checkpoints do.",
        minimum=1, maximum=64,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training of the package's own small policy (`vln_ros train`)."""

    seed: int = option(
        0,
        "Seed of weights, noise and order of the data. It also says which episodes of the train split come "
        "first, so another seed teaches other scenes.",
        minimum=0, maximum=LARGEST_SEED,
    )  # fmt: skip
    profile: str = option(
        "tiny",
        "Name of a shipped profile, or path of a profile YAML file, in whose chat format the policy is "
        "trained.",
    )
    start_from: str = option(
        "",
        "Checkpoint whose weights the training begins with: a folder, or shipped:tiny. Empty begins with "
        "random weights.",
    )
    device: str = option(
        "cpu",
        "Torch device that the network is trained on: cpu, cuda, cuda:1 and so on.",
    )
    workers: int = option(
        1,
        "Number of processes that make demonstrations ahead of their use. 0 makes them in the training's own "
        "process; too few let the training wait, too many take its cores.",
        minimum=0, maximum=256,
    )  # fmt: skip
    steps: int = option(
        20000,
        "Number of optimiser steps, over which the learning rate falls to nothing. Few end before the policy "
        "has learnt, many cost time and may learn the demonstrations by heart.",
        minimum=1,
    )
    batch: int = option(
        16,
        "Number of conversations per optimiser step. Small batches are noisy, large ones are slow.",
        minimum=1, maximum=4096,
    )  # fmt: skip
    micro_batch: int = option(
        8,
        "Number of conversations per forward; the gradients of a batch are summed. Smaller ones take less "
        "memory, larger ones are faster on a GPU.",
        minimum=1, maximum=4096,
    )  # fmt: skip
    threads: int = option(
        1,
        "Number of forwards that are computed side by side; with more than one, each runs on one core. More "
        "than there are cores slow each other down.",
        minimum=1, maximum=256,
    )  # fmt: skip
    precision: str = option(
        "float32",
        "Number format in which matrices are multiplied; weights and their updates stay float32. float32: "
        "exact; bfloat16: faster where the processor has instructions for it.",
        choices=("float32", "bfloat16"),
    )
    learning_rate: float = option(
        1.2e-3,
        "Highest learning rate of the training. Too low learns slowly, too high makes the loss jump or grow.",
        minimum=1e-6, maximum=1.0,
    )  # fmt: skip
    warmup_steps: int = option(
        150,
        "Number of steps in which the learning rate rises to its highest. Too few can spoil the weights at "
        "the beginning, many cost time.",
        minimum=1,
    )
    weight_decay: float = option(
        0.02,
        "Weight decay of AdamW, for matrices only. 0 has none; high values keep the network from learning "
        "details.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    vision_weight: float = option(
        1.0,
        "Weight of the loss for naming what visual tokens show. 0 leaves it out; high values take from the "
        "loss of the actions.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip
    referent_weight: float = option(
        2.0,
        "Weight of the loss for finding the visual tokens that the instruction speaks of. 0 leaves it out; "
        "high values take from the loss of the actions.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip
    way_weight: float = option(
        0.5,
        "Weight of the loss for naming direction and length of the way. 0 leaves it out; high values take "
        "from the loss of the actions.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip
    cost_temperature: float = option(
        0.5,
        "Additional cost-to-go at which an action is taught with 1/e of the best action's share. Small "
        "values teach the best action only, large ones teach poor actions, too.",
        unit="actions", minimum=0.01, maximum=100.0,
    )  # fmt: skip
    render_width: int = option(
        160,
        "Width of the rendered images, before the profile resizes them. Larger ones take longer to render; "
        "smaller ones than the profile's are blurred.",
        unit="px", minimum=28,
    )  # fmt: skip
    render_height: int = option(
        120,
        "Height of the rendered images, before the profile resizes them. Larger ones take longer to render; "
        "smaller ones than the profile's are blurred.",
        unit="px", minimum=28,
    )  # fmt: skip
    max_turns: int = option(
        10,
        "Number of decisions after which a demonstration is cut. Too low never shows the end of long ways, "
        "too high takes memory.",
        minimum=1, maximum=1000,
    )  # fmt: skip
    stop_within_m: float = option(
        0.5,
        "Distance to the goal at which the oracle policy stops. Above the success distance it teaches to "
        "stop too early; very small values teach to look for the exact place.",
        unit="m", minimum=0.1, maximum=3.0,
    )  # fmt: skip
    clearance_m: float = option(
        0.12,
        "Distance that the oracle policy keeps from walls where there is room. 0 teaches to graze door "
        "frames, which an imperfect policy runs into; large values teach detours.",
        unit="m", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    noise: float = option(
        0.3,
        "Highest share of random actions in a demonstration, after which the oracle policy corrects itself. "
        "0 never shows how to recover from mistakes, high values show little else.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    least_executed: int = option(
        1000,
        "Fewest actions after which the policy is asked again; each run draws bounds of its own from here to "
        "the whole queue. Above the queue's length the policy learns to be asked at the end of queues only.",
        minimum=1, maximum=1000,
    )  # fmt: skip
    questions: int = option(
        6,
        "Decisions of a run that are learnt at a time where the profile shows a history, drawn anew each "
        "time; more take longer. A profile with one growing chat always learns all of them.",
        minimum=1, maximum=1000,
    )  # fmt: skip
    stale_conversations: float = option(
        0.0,
        "Share of the conversations in which visual tokens take over keys and values of the frame before. It "
        "makes the policy tolerate reuse; 0 teaches whole frames only.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    least_stale: float = option(
        0.3,
        "Smallest share of a frame's visual tokens that is stale in such a conversation. Low values teach "
        "little about staleness, high ones leave little of a frame that is new.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    most_stale: float = option(
        0.7,
        "Largest share of a frame's visual tokens that is stale in such a conversation, at least "
        "least_stale. Low values prepare for little reuse, high ones leave little of a frame that is new.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    mean_steps: int = option(
        0,
        "Number of steps over which the written and validated weights are a running mean; 0 takes the newest "
        "weights. A mean is as good at any time as a learning rate that has fallen.",
        minimum=0,
    )
    pool: int = option(
        128,
        "Number of demonstrations that batches are drawn from. Small pools are learnt by heart, large ones "
        "take memory and time to fill.",
        minimum=1,
    )
    fresh: int = option(
        8,
        "Number of demonstrations that new ones replace at each step. Few repeat the same ones often, many "
        "need more workers.",
        minimum=1,
    )
    small_from: float = option(
        0.5,
        "Share of the steps after which small flats join the rooms. Too early is hard to learn from, too "
        "late leaves little time; 1 never adds them.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    flat_from: float = option(
        0.75,
        "Share of the steps after which whole flats join in. Too early is hard to learn from, too late "
        "leaves little time; 1 never adds them.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    small_weight: float = option(
        1.0,
        "How often small flats are drawn where rooms are drawn once. 0 draws none; high values forget the "
        "rooms.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip
    flat_weight: float = option(
        1.0,
        "How often whole flats are drawn where rooms are drawn once. 0 draws none; high values forget the "
        "rooms.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip
    dagger_from: float = option(
        0.3,
        "Share of the steps after which the policy's own runs join the demonstrations (DAgger). Too early "
        "shows runs of a policy that knows nothing, 1 never does.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    dagger_share: float = option(
        0.5,
        "Share of the policy's own runs among new demonstrations. Low values do not teach it to recover from "
        "its mistakes, high ones show little else.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    dagger_every: int = option(
        200,
        "Number of steps after which the policy's own runs are made with its newest weights. Low values cost "
        "time, high ones show mistakes that it no longer makes.",
        minimum=1,
    )
    validate_every: int = option(
        500,
        "Number of steps between validations. Low values cost time, high ones miss the best weights.",
        minimum=1,
    )
    validate_episodes: int = option(
        50,
        "Number of episodes per validation and kind of flat. Few choose the best weights by chance, many "
        "cost time.",
        minimum=1,
    )
    save_every: int = option(
        200,
        "Number of steps between saved states, from which an interrupted training resumes. Low values cost "
        "time and disk writes, high ones lose more work.",
        minimum=1,
    )
    model: TinyConfig = group(TinyConfig)
