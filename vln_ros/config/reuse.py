"""Options of VLN-Cache, of pruning, and of the memory of landmarks."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


@dataclass(frozen=True, kw_only=True)
class FrameCheckConfig:
    """Frames that are not compared with those before them: reuse and pruning alike."""

    max_step_m: float = option(
        1.5,
        "Distance between the cameras of two frames beyond which the pose has jumped, and earlier places are "
        "not compared. Too low refuses fast robots or low frame rates; too high compares places across a "
        "jump.",
        unit="m", minimum=0.01, maximum=100.0,
    )  # fmt: skip
    max_turn_deg: float = option(
        100.0,
        "Angle between the cameras of two frames beyond which the pose has jumped, and earlier places are "
        "not compared. Too low refuses fast turns; too high compares places across a jump.",
        unit="deg", minimum=1.0, maximum=180.0,
    )  # fmt: skip
    min_depth_m: float = option(
        0.1,
        "Median depth of a frame below which its unit counts as wrong, and the frame is not compared. Too "
        "high refuses views of near walls; 0 accepts metres that are read as millimetres.",
        unit="m", minimum=0.0, maximum=10.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PruneConfig(FrameCheckConfig):
    """Leaving visual tokens out that show what others show; needs depth and poses."""

    strategy: str = option(
        "none",
        "Which visual tokens are left out of the stream because others show the same place. none: all stay; "
        "voxels: past tokens go when later ones show their place; seen: tokens whose place the stream shows "
        "already are not taken in. Both need depth and poses.",
        choices=("none", "voxels", "seen"),
    )
    voxel_m: float = option(
        0.25,
        "Edge of the cubes by which places are told apart: tokens in one cube show the same place. Too small "
        "finds nothing to leave out; too large drops different things that stand side by side.",
        unit="m", minimum=0.01, maximum=10.0,
    )  # fmt: skip
    max_depth_m: float = option(
        10.0,
        "Depth beyond which a token has no place and always stays. Too low leaves little out; beyond the "
        "camera's range the places are noise.",
        unit="m", minimum=0.1, maximum=1000.0,
    )  # fmt: skip
    depth_tolerance: float = option(
        0.05,
        "Relative difference within which two depths agree, when tokens are placed and frames are checked "
        "against each other. Too low refuses frames of a noisy camera; too high accepts wrong poses.",
        minimum=0.001, maximum=0.5,
    )  # fmt: skip
    least_share: float = option(
        0.1,
        "Smallest share of a frame's tokens that is kept. With voxels a frame that falls below it is dropped "
        "as a whole, with seen at least this share is taken in; too low leaves fragments that the model "
        "cannot read, too high saves nothing.",
        minimum=0.001, maximum=1.0,
    )  # fmt: skip
    period_frames: int = option(
        64,
        "With strategy voxels: tokens replace older ones only within the same period of this many frames. A "
        "short period keeps old views of a place, a long one forgets them.",
        minimum=1, maximum=1000000,
    )  # fmt: skip
    whole_frames: int = option(
        1,
        "With strategy voxels: number of newest frames from which nothing is left out. 0 thins even the "
        "newest one, once its turn is over; large values save less.",
        minimum=0, maximum=10000,
    )  # fmt: skip
    max_age_frames: int = option(
        64,
        "With strategy seen: age in frames up to which a token in the stream counts as having shown a place. "
        "Low values take places in again soon; high ones rely on views that are long past.",
        minimum=1, maximum=1000000,
    )  # fmt: skip
    nearer: float = option(
        1.5,
        "With strategy seen: a place counts as new when the earlier view was more than this many times as "
        "far away. Near 1 takes every approach in anew; high values keep the model from a closer look.",
        minimum=1.0, maximum=100.0,
    )  # fmt: skip
    refresh_frames: int = option(
        16,
        "With strategy seen: number of frames after which one is taken in whole. Low values save less; high "
        "ones let errors of depth and pose add up.",
        minimum=1, maximum=1000000,
    )  # fmt: skip
    window: int = option(
        24,
        "Number of frames over which pruning must save time, or it switches itself off until the next "
        "instruction. Low values judge by chance, high ones keep losing time for longer; 0 never switches "
        "off.",
        minimum=0, maximum=1000,
    )  # fmt: skip


@dataclass(frozen=True)
class StandstillConfig:
    """Frames that show what was shown before, but for noise: a robot that stands."""

    enabled: bool = option(
        False,
        "Whether nothing is computed for a frame that was taken where the one shown before was, and differs "
        "from it by the camera's noise only. False computes it, unless it is equal pixel by pixel, which no "
        "real camera's are.",
    )
    max_move_m: float = option(
        0.005,
        "Distance between the cameras of two frames up to which they were taken at one place. It must be "
        "above what odometry wanders while the robot stands; too high overlooks a slow start.",
        unit="m", minimum=0.0, maximum=0.1,
    )  # fmt: skip
    max_turn_deg: float = option(
        0.2,
        "Angle between the cameras of two frames up to which they were taken at one place. It must be above "
        "what odometry turns while the robot stands; too high overlooks a slow start.",
        unit="deg", minimum=0.0, maximum=5.0,
    )  # fmt: skip
    whole_every_s: float = option(
        1.0,
        "Time after which a frame is computed even if nothing has changed. Short times save less; long ones "
        "overlook for longer what is too faint to be told from noise.",
        unit="s", minimum=0.0, maximum=60.0,
    )  # fmt: skip


@dataclass(frozen=True)
class LandmarkConfig:
    """Instruction agent and frame memory: what the instruction names, and which frames show it."""

    plan: str = option(
        "none",
        "Who splits the instruction into stages and landmarks. none: nobody; rules: rules for English; "
        "model: the checkpoint, with the rules where its answer does not hold.",
        choices=("none", "rules", "model"),
    )
    plan_tokens: int = option(
        192,
        "Longest answer, in tokens, when the model splits the instruction. Too low cuts the answer off, and "
        "the rules are used instead; too high takes longer where the model does not come to an end.",
        minimum=1, maximum=4096,
    )  # fmt: skip
    memory: bool = option(
        False,
        "Whether the model is asked after each decision which landmarks the frame shows. Past frames are "
        "then kept by that instead of by novelty, at the cost of one more forward per decision.",
    )
    threshold: float = option(
        0.5,
        "Probability from which on a frame counts as showing a landmark. Low values keep frames that show "
        "none, high ones forget frames in which the model is not sure.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    frames: int = option(
        16,
        "Most older frames that stay in the stream for the landmarks that they show. Few forget landmarks of "
        "a long instruction, many leave less of the token budget for other frames.",
        minimum=1, maximum=100000,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReuseConfig(FrameCheckConfig):
    """Taking over keys and values of what was seen before (VLN-Cache)."""

    enabled: bool = option(
        False,
        "Whether keys and values are taken over from earlier frames where depth and pose say that the place "
        "was seen before (VLN-Cache). It saves time with large frames and decoders, and costs time with "
        "small ones; it needs depth and good poses.",
    )
    budget: float = option(
        0.5,
        "Share of a frame that is computed where nothing forces more; it is rounded up to 0.25, 0.5, 0.75 or "
        "1, so that few shapes occur. Low values save more and follow the picture less, 1 computes every "
        "frame whole.",
        minimum=0.01, maximum=1.0,
    )  # fmt: skip
    tower: bool = option(
        True,
        "Whether the vision tower, too, passes over what is taken over: it then goes by whole windows of 4 x "
        "4 tokens. False runs all of it, and single tokens are chosen. Histories, pruning and shared "
        "forwards need all features and always run all of it.",
    )
    depth_tolerance: float = option(
        0.05,
        "Relative difference within which two depths count as one surface. Too low refuses tokens of a noisy "
        "camera; too high takes tokens over from what lies behind.",
        minimum=0.001, maximum=0.5,
    )  # fmt: skip
    max_depth_bias: float = option(
        0.01,
        "Median relative difference of depths beyond which two frames do not fit together, for instance "
        "because odometry is late. Too low refuses frames of a noisy camera, too high takes tokens over from "
        "wrong places.",
        minimum=0.001, maximum=0.5,
    )  # fmt: skip
    min_agreement: float = option(
        0.85,
        "Smallest share of depths that must be as expected for two frames to fit together. Too low takes "
        "tokens over though the pose is wrong, too high refuses frames in which something moves.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    max_drift: float = option(
        0.6,
        "Mean distance between where depth and pose expect the tokens and where their pixels are most alike, "
        "beyond which the poses count as wrong. Too low refuses good frames, too high takes tokens over from "
        "wrong places.",
        unit="tokens", minimum=0.05, maximum=3.0,
    )  # fmt: skip
    max_relevance: float = option(
        4.0,
        "Attention of the last action to a token, in multiples of the mean, above which the token is "
        "computed anew. Low values compute most tokens, high ones take over what the decision depends on.",
        minimum=0.0, maximum=1000000.0,
    )  # fmt: skip
    max_relevance_change: float = option(
        2.0,
        "Change of that attention from one decision to the next, in multiples of the mean, above which a "
        "token is computed anew. Low values compute most tokens, high ones miss that something has become "
        "important.",
        minimum=0.0, maximum=1000000.0,
    )  # fmt: skip
    landmark_gain: float = option(
        1.0,
        "How much stricter the two limits on attention are where a frame surely shows a landmark of the "
        "instruction: they are divided by 1 + this value. 0 treats all frames alike, high values compute "
        "such frames whole; it needs qwen.stream.landmarks.memory.",
        minimum=0.0, maximum=1000000.0,
    )  # fmt: skip
    max_age: int = option(
        4,
        "Most times that a token is handed on from frame to frame before it is computed again. Low values "
        "save less, high ones let errors add up.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    refresh_every: int = option(
        8,
        "Number of frames of which one is computed whole. Low values save less, high ones let errors add up.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    doubt: float = option(
        0.5,
        "Probability of the last first action below which, or if the answer was held, the next frame is "
        "computed whole. 0 never does so; high values save nothing where the model is rarely sure.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    layer_budget: bool = option(
        False,
        "Whether layers whose attention looks everywhere take over fewer tokens. True is closer to full "
        "compute and saves less; it needs the features of all tokens, so tower must be false.",
    )
    entropy_weight: float = option(
        0.5,
        "With layer_budget: share of a frame that a layer takes over less when its attention looks "
        "everywhere alike. 0 treats all layers alike, high values take over little.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    min_share: float = option(
        0.1,
        "With layer_budget: share of a frame that every layer may take over. Low values let single layers "
        "compute everything, high ones undo the budget.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    max_depth_m: float = option(
        50.0,
        "Median depth of a frame above which its unit counts as wrong, and nothing is taken over. Too low "
        "refuses views of large halls, too high accepts millimetres that are read as metres.",
        unit="m", minimum=0.1, maximum=10000.0,
    )  # fmt: skip
    window: int = option(
        12,
        "Number of frames over which reuse must save time, or it switches itself off until the next "
        "instruction. Low values judge by chance, high ones keep losing time for longer; 0 never switches "
        "off.",
        minimum=0, maximum=1000,
    )  # fmt: skip
