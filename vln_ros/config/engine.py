"""Options of the engine, of what it may leave out, and of the small networks that are built here."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import group, option


@dataclass(frozen=True)
class PruneConfig:
    """Leaving visual tokens out that show what others show; needs depth and poses."""

    strategy: str = option(
        "none",
        "none; voxels: past tokens are dropped when later ones show the same place; "
        "seen: tokens that show a place seen before are not taken in",
        choices=("none", "voxels", "seen"),
    )
    voxel_m: float = option(
        0.25, "Tokens in one cube of this side show the same place", unit="m", minimum=0.01, maximum=10.0
    )
    max_depth_m: float = option(
        10.0, "Tokens beyond this depth have no place", unit="m", minimum=0.1, maximum=1000.0
    )
    depth_tolerance: float = option(
        0.05, "Depths that differ by this share of themselves agree", minimum=0.001, maximum=0.5
    )
    max_step_m: float = option(
        2.0, "A camera that moves farther from one frame to the next has jumped", unit="m", minimum=0.01,
        maximum=100.0,
    )  # fmt: skip
    max_turn_deg: float = option(
        120.0, "The same, turned", unit="deg", minimum=1.0, maximum=180.0
    )  # fmt: skip
    least_share: float = option(
        0.1,
        "voxels: a frame with less than this share of its tokens left is dropped; "
        "seen: of each frame at least this share is taken in",
        minimum=0.001,
        maximum=1.0,
    )
    period_frames: int = option(
        64, "voxels: tokens replace others of the same so many frames", minimum=1, maximum=1000000
    )
    whole_frames: int = option(1, "voxels: so many newest frames stay whole", minimum=0, maximum=10000)
    max_age_frames: int = option(
        64, "seen: a token counts as seen if that was no more frames ago", minimum=1, maximum=1000000
    )
    nearer: float = option(
        1.5,
        "seen: a place seen from more than this many times as far counts as new",
        minimum=1.0,
        maximum=100.0,
    )
    refresh_frames: int = option(
        16, "seen: after so many frames without it, one is taken in whole", minimum=1, maximum=1000000
    )
    window: int = option(
        24, "It switches itself off if it lost time over this many frames; 0 for never", minimum=0,
        maximum=1000,
    )  # fmt: skip


@dataclass(frozen=True)
class LandmarkConfig:
    """Instruction agent and frame memory: what the instruction names, and which frames show it."""

    plan: str = option(
        "none",
        "Who splits the instruction into stages and landmarks: none; rules, of English; or the model, with "
        "the rules where its answer does not hold",
        choices=("none", "rules", "model"),
    )
    plan_tokens: int = option(192, "Longest answer of the model to that", minimum=1, maximum=4096)
    memory: bool = option(
        False,
        "After each decision ask the model which landmarks its frame shows; past frames are then kept and "
        "shown by that instead of by novelty",
    )
    threshold: float = option(
        0.5, "A landmark is in a frame when the model is this sure", minimum=0.0, maximum=1.0
    )
    frames: int = option(16, "Most older frames that stay for their landmarks", minimum=1, maximum=100000)


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
class ReuseConfig:
    """Taking over keys and values of what was seen before (VLN-Cache)."""

    enabled: bool = option(False, "Take over what depth and pose say was seen before")
    keyframes: int = option(8, "Most earlier frames that a new one is compared with", minimum=1, maximum=64)
    depth_tolerance: float = option(
        0.05, "Relative difference of depths that still are one surface", minimum=0.001, maximum=0.5
    )
    max_depth_bias: float = option(
        0.01,
        "Frames whose depths differ by this in the median do not fit together",
        minimum=0.001,
        maximum=0.5,
    )
    min_agreement: float = option(
        0.85, "So do frames where a smaller share of the depths is as expected", minimum=0.0, maximum=1.0
    )
    reach: int = option(
        1, "Neighbours on each side among which the most alike is looked for", minimum=0, maximum=3
    )
    max_drift: float = option(
        0.6, "Most alike this far off in the mean: the poses are wrong", unit="tokens", minimum=0.05,
        maximum=3.0,
    )  # fmt: skip
    min_similarity: float = option(
        0.99, "Least cosine of vision features of a token that is taken over", minimum=-1.0, maximum=1.0
    )
    max_relevance: float = option(
        4.0, "Tokens with more of the action's attention are computed; in multiples of the mean",
        minimum=0.0, maximum=1000000.0,
    )  # fmt: skip
    max_relevance_change: float = option(
        2.0, "So are tokens whose share of it changes by more", minimum=0.0, maximum=1000000.0
    )
    landmark_gain: float = option(
        1.0,
        "Where a frame surely shows a landmark of the instruction, both limits are divided by 1 + this "
        "(needs qwen.stream.landmarks.memory)",
        minimum=0.0,
        maximum=1000000.0,
    )
    max_age: int = option(
        4, "How often a token may be handed on before it is computed again", minimum=1, maximum=100000
    )
    refresh_every: int = option(
        16, "Every such frame is computed whole; 0 for never", minimum=0, maximum=100000
    )
    max_share: float = option(0.9, "Largest share of a frame that is taken over", minimum=0.0, maximum=1.0)
    layer_budget: bool = option(False, "Take over fewer tokens in layers that look everywhere")
    entropy_weight: float = option(
        0.5, "By how much of the frame less at full entropy", minimum=0.0, maximum=1.0
    )
    min_share: float = option(0.1, "What a layer may always take over", minimum=0.0, maximum=1.0)
    min_depth_m: float = option(
        0.1, "A median depth below this is in a wrong unit", unit="m", minimum=0.0, maximum=10.0
    )
    max_depth_m: float = option(
        50.0, "A median depth above this is in a wrong unit", unit="m", minimum=0.1, maximum=10000.0
    )
    max_step_m: float = option(
        1.5,
        "A camera that moves further from frame to frame has jumped",
        unit="m",
        minimum=0.01,
        maximum=100.0,
    )
    max_turn_deg: float = option(
        100.0, "A camera that turns further from frame to frame has jumped", unit="deg", minimum=1.0,
        maximum=180.0,
    )  # fmt: skip
    window: int = option(
        12,
        "It switches itself off if it lost time over this many frames; 0 for never",
        minimum=0,
        maximum=1000,
    )


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
    least_executed: int = option(
        1000,
        "The policy is asked again after so many actions at least and after its whole queue at most; each "
        "run draws bounds of its own. Above the queue's length it is asked at the end of every queue.",
        minimum=1,
        maximum=1000,
    )
    questions: int = option(
        6,
        "Of a run of a profile that shows a history, so many decisions are learnt at a time, drawn anew each "
        "time; a profile with one growing chat learns all.",
        minimum=1,
        maximum=1000,
    )
    stale_conversations: float = option(
        0.0,
        "Share of the conversations in which visual tokens take over keys and values of the frame before, so "
        "that the policy tolerates reuse.",
        minimum=0.0,
        maximum=1.0,
    )
    least_stale: float = option(
        0.3,
        "Smallest share of a frame's tokens that is stale in such a conversation.",
        minimum=0.0,
        maximum=1.0,
    )
    most_stale: float = option(
        0.7,
        "Largest share of a frame's tokens that is stale in such a conversation.",
        minimum=0.0,
        maximum=1.0,
    )
    mean_steps: int = option(
        0,
        "Weights that are validated and written are a running mean over about so many steps; 0 takes the "
        "newest ones. A mean is as good as a learning rate that has fallen, at any time.",
        minimum=0,
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
