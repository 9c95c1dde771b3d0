"""Options of the engine: checkpoint, sampling, the stream, decoding."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import group, option
from vln_ros.config.reuse import LandmarkConfig, PruneConfig, ReuseConfig


@dataclass(frozen=True)
class StreamConfig:
    """How the stream of one robot is kept and decoded."""

    decode: str = option(
        "tree",
        "tree: all queues in one forward; forced: tokens without a choice go together; tokens: one by one; "
        "free: no grammar, the text is parsed",
        choices=("tree", "forced", "tokens", "free"),
    )
    tree_nodes: int = option(256, "Most nodes of the token tree in one forward", minimum=1, maximum=65536)
    wanted_tokens: int = option(
        0, "How far to follow the free text where it leaves the grammar", minimum=0, maximum=256
    )
    min_allowed: float = option(
        0.5,
        "The robot holds, and says what the model wanted, where the grammar leaves the model less than this "
        "share of its probability at any step of a queue; 0 for never, as a model needs that was not trained "
        "for the vocabulary",
        minimum=0.0,
        maximum=1.0,
    )
    free_tokens: int = option(64, "Longest free text", minimum=1, maximum=1024)
    max_phrases: int = option(
        0, "Bound on the phrases of a queue; 0 takes the profile's", minimum=0, maximum=64
    )
    max_repeats: int = option(
        -1, "Most times that a phrase may directly follow itself; -1 for no bound", minimum=-1, maximum=64
    )
    reversals: bool = option(True, "A turn may directly undo the one before it in the same queue")
    prefill_on_arrival: bool = option(
        True,
        "Prefill the frames that the profile keeps when they arrive and nobody asks about them, not when the "
        "model is asked: the answer comes sooner. Frames that the profile drops are not seen before they are "
        "asked about",
    )
    cache_block_tokens: int = option(1024, "The cache grows by this many tokens", minimum=1, maximum=65536)
    bank_frames: int = option(
        512, "Most past frames whose vision features are kept to choose from", minimum=2, maximum=100000
    )
    token_budget: int = option(
        24576,
        "Turns are evicted when the stream has more tokens than this, and only then",
        minimum=64,
        maximum=1000000,
    )
    cache_budget_mb: int = option(
        0, "The same in cache memory; 0 for no such bound", unit="MB", minimum=0, maximum=1000000
    )
    recent_turns: int = option(16, "Newest turns that are kept untouched", minimum=1, maximum=100000)
    keyframes: str = option(
        "pose",
        "Over the budget the least novel of the older turns go first, by this measure",
        choices=("pose", "appearance"),
    )
    keyframe_distance_m: float = option(
        1.0,
        "A way between two views that counts as much as keyframe_angle_deg between their headings",
        unit="m",
        minimum=0.01,
        maximum=100.0,
    )
    keyframe_angle_deg: float = option(
        45.0,
        "A turn between two views that counts as much as keyframe_distance_m between their places",
        unit="deg",
        minimum=1.0,
        maximum=360.0,
    )
    keyframe_difference: float = option(
        0.1, "The unit of the cosine distance between the features of two views", minimum=0.0001, maximum=2.0
    )
    keyframe_stride: int = option(
        1, "Of a keyframe's image only every such row and column is kept", minimum=1, maximum=16
    )
    max_position: int = option(
        30000, "Positions are made contiguous before they reach this", minimum=1024, maximum=1000000
    )
    prune: PruneConfig = group(PruneConfig)
    landmarks: LandmarkConfig = group(LandmarkConfig)


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen, where it is not to be done as the profile says."""

    top_k: int = option(
        -1, "Only the so many most probable tokens are drawn from; 0 for all, -1 for the profile's",
        minimum=-1, maximum=10000000,
    )  # fmt: skip
    top_p: float = option(
        0.0, "Only the most probable tokens that together reach this are drawn from; 1 for all, 0 for the "
        "profile's", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    repetition_penalty: float = option(
        0.0, "Scores of tokens that are in the context already are divided by this, or multiplied where they "
        "are negative; 1 for no penalty, 0 for the profile's", minimum=0.0, maximum=100.0,
    )  # fmt: skip


@dataclass(frozen=True)
class QwenConfig:
    """The Qwen2.5-VL engine."""

    checkpoint: str = option(
        "", "Folder or hub name of a Qwen2.5-VL checkpoint, or of a LoRA adapter that names one"
    )
    profile: str = option("tiny", "Name of a shipped profile, or path of a profile YAML file")
    device: str = option("auto", "Torch device: auto, cpu, cuda, cuda:1 ...")
    dtype: str = option(
        "auto", "Number format of the weights; auto is bfloat16 on a GPU and float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    attention: str = option(
        "sdpa", "Attention implementation of transformers",
        choices=("sdpa", "eager", "flash_attention_2"),
    )  # fmt: skip
    quantisation: str = option(
        "none",
        "Quantise the weights when they are loaded; none for a folder whose weights are quantised already",
        choices=("none", "bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"),
    )
    temperature: float = option(
        -1.0, "Sampling temperature; 0 decodes greedily, -1 as the profile says", minimum=-1.0, maximum=10.0
    )
    seed: int = option(0, "Seed of the sampling", minimum=0)
    sampling: SamplingConfig = group(SamplingConfig)
    stream: StreamConfig = group(StreamConfig)
    reuse: ReuseConfig = group(ReuseConfig)


@dataclass(frozen=True)
class PacedConfig:
    """The engine that only takes time: for measuring the graph around it."""

    decision_ms: float = option(100.0, "Computation per decision", unit="ms", minimum=0.0, maximum=60000.0)
