"""Options of VLN-Cache, of pruning, and of the memory of landmarks."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


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
