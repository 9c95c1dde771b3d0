"""Options: the only place where a default value is written.

Each group of options is a frozen dataclass; each field carries its meaning, unit, range and
whether it may change while running. ROS parameters (``vln_ros.ros.parameters``), YAML files, the
command line and the tables in the documentation are all made from these classes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
Scalar = bool | int | float | str


class ConfigError(ValueError):
    """A value that the user gave cannot be used; the message names it and says what would do."""


@dataclass(frozen=True)
class Option:
    """What is known of one option besides its name, type and default."""

    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """May be changed while the node is active."""


def option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field with its description. ``minimum`` and ``maximum`` are inclusive."""
    return dataclasses.field(
        default=default, metadata={"option": Option(doc, unit, minimum, maximum, choices, live)}
    )


def group(cls: type[T]) -> T:
    """A dataclass field that is itself a group of options."""
    return dataclasses.field(default_factory=cls)


@dataclass(frozen=True)
class OptionEntry:
    """One option of a group, found by :func:`walk_options`."""

    name: str
    """Dotted, from the outermost group."""
    type: type
    default: Scalar
    option: Option


def walk_options(cls: type, prefix: str = "") -> Iterator[OptionEntry]:
    """Every option of a configuration class, nested groups included, in the order of definition."""
    for f in dataclasses.fields(cls):
        name = f"{prefix}{f.name}"
        if "option" in f.metadata:
            default: Any = f.default
            yield OptionEntry(name, type(default), default, f.metadata["option"])
        else:
            assert isinstance(f.default_factory, type), f"{cls.__name__}.{f.name} is neither option nor group"
            yield from walk_options(f.default_factory, f"{name}.")


def check_value(entry: OptionEntry, value: object) -> Scalar:
    """``value`` converted to the option's type, or ConfigError. An int serves where a float is asked."""
    name, expected, spec = entry.name, entry.type, entry.option
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(f"{name} = {value!r}: expected {expected.__name__}, got {type(value).__name__}")
    assert isinstance(value, bool | int | float | str)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value}: must be finite")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = spec.minimum, spec.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = (
                f"at least {low}"
                if high is None
                else f"at most {high}"
                if low is None
                else f"in [{low}, {high}]"
            )
            raise ConfigError(f"{name} = {value}: must be {bounds}{' ' + spec.unit if spec.unit else ''}")
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(spec.choices)}")
    return value


def from_flat(cls: type[T], values: Mapping[str, object]) -> T:
    """A configuration from dotted names; what is not named keeps its default.

    Raises:
        ConfigError: unknown name (the nearest known one is suggested), wrong type, out of range.
    """
    entries = {e.name: e for e in walk_options(cls)}
    for name in values:
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=1)
            raise ConfigError(
                f"unknown option {name!r} of {cls.__name__}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(entries)}")
            )
    checked = {name: check_value(entries[name], value) for name, value in values.items()}
    return _build(cls, checked, "")


def _build(cls: type[T], values: Mapping[str, Scalar], prefix: str) -> T:
    arguments: dict[str, Any] = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{prefix}{f.name}"
        if "option" in f.metadata:
            if name in values:
                arguments[f.name] = values[name]
        else:
            arguments[f.name] = _build(f.default_factory, values, f"{name}.")  # type: ignore[arg-type]
    return cls(**arguments)


def to_flat(config: object, prefix: str = "") -> dict[str, Scalar]:
    """The inverse of :func:`from_flat`."""
    flat: dict[str, Scalar] = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if "option" in f.metadata:
            flat[f"{prefix}{f.name}"] = value
        else:
            flat.update(to_flat(value, f"{prefix}{f.name}."))
    return flat


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings to dotted names."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def load_yaml(cls: type[T], path: Path) -> T:
    """A configuration from a YAML file of nested or dotted names. Raises ConfigError."""
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not valid YAML: {e}") from e
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must hold a mapping of options, got {type(tree).__name__}")
    try:
        return from_flat(cls, flatten(tree))
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


@dataclass(frozen=True)
class StepConfig:
    """What one discrete action does."""

    forward_m: float = option(0.25, "Distance of one forward action", unit="m", minimum=0.01, maximum=2.0)
    turn_deg: float = option(15.0, "Angle of one turn action", unit="deg", minimum=1.0, maximum=90.0)


@dataclass(frozen=True)
class CameraConfig:
    """The simulated RGB-D camera."""

    width: int = option(640, "Image width", unit="px", minimum=16, maximum=4096)
    height: int = option(480, "Image height", unit="px", minimum=16, maximum=4096)
    hfov_deg: float = option(79.0, "Horizontal field of view", unit="deg", minimum=10.0, maximum=150.0)
    height_m: float = option(
        1.25, "Height of the camera above the floor", unit="m", minimum=0.05, maximum=2.5
    )
    pitch_down_deg: float = option(
        0.0, "Downward tilt of the camera", unit="deg", minimum=-60.0, maximum=60.0
    )


@dataclass(frozen=True)
class SyncConfig:
    """How colour, depth and odometry become frames."""

    require_depth: bool = option(True, "Wait for a depth image for every colour image")
    max_depth_skew_s: float = option(
        0.02,
        "Largest difference between the stamps of colour and depth",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    max_odometry_gap_s: float = option(
        0.25,
        "Largest gap between odometry samples to interpolate across",
        unit="s",
        minimum=0.0,
        maximum=5.0,
        live=True,
    )
    max_wait_s: float = option(
        1.0,
        "How long, in sensor time, a colour image waits for its depth and odometry before it is dropped",
        unit="s",
        minimum=0.01,
        maximum=30.0,
        live=True,
    )
    max_speed_m_s: float = option(
        5.0,
        "Odometry that moves faster than this has jumped",
        unit="m/s",
        minimum=0.1,
        maximum=100.0,
        live=True,
    )
    odom_frame: str = option("odom", "Expected frame_id of the odometry; empty accepts any")


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
class HabitatConfig:
    """The Habitat world (docs/habitat.md)."""

    python: str = option("", "Interpreter of the environment that has habitat_sim")
    scenes: str = option("data/scene_datasets", "Folder that the scene ids of episodes are below")
    gpu: int = option(
        -1,
        "CUDA number of the GPU to render with; -1: none, or what EGL offers first",
        minimum=-1,
        maximum=63,
    )
    timeout_s: float = option(
        300.0, "How long an answer may take; loading a scene is one", unit="s", minimum=1.0, maximum=36000.0
    )
    sliding: bool = option(
        True, "Slide along what is run into, instead of stopping; in the embedded world, too"
    )
    radius_m: float = option(0.1, "Radius of the agent", unit="m", minimum=0.01, maximum=2.0)
    height_m: float = option(1.5, "Height of the agent", unit="m", minimum=0.05, maximum=5.0)
    recompute_navmesh: bool = option(
        False, "Compute the navigation mesh for this agent even where one lies beside the scene"
    )
    mesh_cell_height_m: float = option(
        0.02,
        "Height of the cells of a navigation mesh that is computed, by so much its floor may lie too high; "
        "0: Habitat's own, which is 0.2",
        unit="m",
        minimum=0.0,
        maximum=0.5,
    )
    depth_min_m: float = option(0.0, "Nearer depth is no reading", unit="m", minimum=0.0, maximum=100.0)
    depth_max_m: float = option(10.0, "Farther depth is no reading", unit="m", minimum=0.1, maximum=1000.0)


@dataclass(frozen=True)
class ExpertConfig:
    """The engine that knows the way (simulation only)."""

    episodes: str = option("", "Episode file (VLN-CE json.gz) that the instructions come from")
    actions_per_decision: int = option(4, "Length of a queue", minimum=1, maximum=64)
    clearance_m: float = option(
        0.0, "Distance to keep from walls where there is room for it", unit="m", minimum=0.0, maximum=1.0
    )
    decision_ms: float = option(
        0.0, "Computation per decision, as a slower model would need", unit="ms", minimum=0.0, maximum=60000.0
    )
    habitat: HabitatConfig = group(HabitatConfig)
    """As the world's, whose ways it follows; no interpreter: the scenes are the embedded world's."""


@dataclass(frozen=True)
class PacedConfig:
    """The engine that only takes time: for measuring the graph around it."""

    decision_ms: float = option(100.0, "Computation per decision", unit="ms", minimum=0.0, maximum=60000.0)


@dataclass(frozen=True)
class ProfilingConfig:
    """Where the time goes: spans, report, exports."""

    level: str = option(
        "off", "off; spans: time every stage; layers: every layer of the networks too, at some cost",
        choices=("off", "spans", "layers"),
    )  # fmt: skip
    folder: str = option("", "Folder to write report, JSON, CSV and trace to at the end; empty writes none")
    trace_spans: int = option(
        100_000, "Newest spans per thread that are kept for the trace", minimum=100, maximum=10_000_000
    )
    prometheus_port: int = option(
        0, "Serve the figures as Prometheus text on this port; 0 for none", minimum=0, maximum=65535
    )
    prometheus_address: str = option("127.0.0.1", "Address to serve them on")


@dataclass(frozen=True)
class DepthInputConfig:
    """The depth camera."""

    depth_topic: str = option(
        "camera/aligned_depth_to_color/image_raw",
        "Depth registered to colour; /compressedDepth is appended for that transport",
    )
    camera_info_topic: str = option("camera/color/camera_info", "Calibration of the colour images")
    base_frame: str = option("base_link", "Frame in which actions and velocities are expressed")


@dataclass(frozen=True)
class ImageInputConfig(DepthInputConfig):
    """Where colour and depth come from."""

    color_topic: str = option(
        "camera/color/image_raw", "Colour images, rectified; /compressed is appended for that transport"
    )
    color_transport: str = option(
        "raw", "raw: Image messages; compressed: CompressedImage, jpeg or png", choices=("raw", "compressed")
    )
    depth_transport: str = option(
        "raw",
        "raw: Image messages; compressed: CompressedImage, compressedDepth",
        choices=("raw", "compressed"),
    )


@dataclass(frozen=True)
class OdometryConfig:
    """Of which frame on the robot the odometry is. Of base_frame itself nothing needs to be told."""

    child_frame: str = option(
        "",
        "Frame whose pose the odometry gives, where its child_frame_id is empty; with extrinsics parameters "
        "also the one frame besides base_frame that is taken: the one that the six values are for",
    )
    extrinsics: str = option(
        "same",
        "Where the place of a child frame other than base_frame comes from. same: as the camera's; tf: the "
        "newest transform; parameters: the six values here",
        choices=("same", "tf", "parameters"),
    )
    x_m: float = option(
        0.0, "Position of the odometry's child frame in base_frame, forward", unit="m", minimum=-5.0,
        maximum=5.0,
    )  # fmt: skip
    y_m: float = option(0.0, "The same, to the left", unit="m", minimum=-5.0, maximum=5.0)
    z_m: float = option(0.0, "The same, up", unit="m", minimum=-5.0, maximum=5.0)
    roll_deg: float = option(
        0.0, "The child frame turned about its own x axis", unit="deg", minimum=-180.0, maximum=180.0
    )
    pitch_down_deg: float = option(
        0.0, "Downward tilt of the child frame's x axis", unit="deg", minimum=-90.0, maximum=90.0
    )
    yaw_deg: float = option(
        0.0, "The child frame turned to the left", unit="deg", minimum=-180.0, maximum=180.0
    )


@dataclass(frozen=True)
class MountConfig(DepthInputConfig):
    """The depth camera and where it sits on the base."""

    extrinsics: str = option(
        "tf",
        "Where the mountings of the sensors come from. tf: base_frame from the messages' frame_id, needs "
        "tf2_ros; parameters: the six camera_* values, and those of the other sensors",
        choices=("tf", "parameters"),
    )
    calibration: str = option(
        "auto",
        "What of the camera_info holds for the images. raw: K; rectified: P; auto: where the two differ, P "
        "if the topic's name says rect, K if it says raw, and otherwise P if there is distortion to rectify",
        choices=("auto", "raw", "rectified"),
    )
    odometry: OdometryConfig = group(OdometryConfig)
    camera_x_m: float = option(
        0.0, "Camera position in base_link, forward", unit="m", minimum=-5.0, maximum=5.0
    )
    camera_y_m: float = option(0.0, "Camera position in base_link, left", unit="m", minimum=-5.0, maximum=5.0)
    camera_z_m: float = option(1.25, "Camera position in base_link, up", unit="m", minimum=-5.0, maximum=5.0)
    camera_roll_deg: float = option(
        0.0, "Camera turned about its own forward axis", unit="deg", minimum=-180.0, maximum=180.0
    )
    camera_pitch_down_deg: float = option(
        0.0, "Downward tilt of the camera", unit="deg", minimum=-90.0, maximum=90.0
    )
    camera_yaw_deg: float = option(
        0.0, "Camera turned to the left", unit="deg", minimum=-180.0, maximum=180.0
    )


@dataclass(frozen=True)
class NavigatorConfig(MountConfig, ImageInputConfig):
    """The navigator node."""

    autostart: bool = option(True, "Configure and activate the node when its process starts")
    engine: str = option("qwen", "What decides", choices=("qwen", "expert", "paced"))
    decide_on: str = option(
        "progress",
        "progress: when the executor has at most decide_ahead actions left; frame: after every frame",
        choices=("progress", "frame"),
    )
    decide_ahead: int = option(
        0,
        "Decide when this many actions are left in the executor's queue; lockstep needs 0",
        minimum=0,
        maximum=64,
        live=True,
    )
    lost_after_s: float = option(
        2.0,
        "A queue that the executor has not begun this long after its frame is taken for lost",
        unit="s",
        minimum=0.1,
        maximum=60.0,
        live=True,
    )
    heartbeat_hz: float = option(20.0, "Rate of the heartbeat", unit="Hz", minimum=1.0, maximum=100.0)
    diagnostics_hz: float = option(1.0, "Rate of /diagnostics", unit="Hz", minimum=0.1, maximum=10.0)
    reliability: str = option(
        "best_effort", "Quality of service of the image subscriptions", choices=("best_effort", "reliable")
    )
    image_depth: int = option(5, "History depth of the image subscriptions", minimum=1, maximum=100)
    step: StepConfig = group(StepConfig)
    sync: SyncConfig = group(SyncConfig)
    qwen: QwenConfig = group(QwenConfig)
    expert: ExpertConfig = group(ExpertConfig)
    paced: PacedConfig = group(PacedConfig)
    profiling: ProfilingConfig = group(ProfilingConfig)


@dataclass(frozen=True)
class SafetyConfig:
    """When the executor stands still, whatever the queue says. Ages are measured on a steady clock."""

    odometry_timeout_s: float = option(
        0.5,
        "Without new odometry for this long the robot stops",
        unit="s",
        minimum=0.05,
        maximum=10.0,
        live=True,
    )
    heartbeat_timeout_s: float = option(
        0.5,
        "Without the navigator's heartbeat for this long it stops",
        unit="s",
        minimum=0.1,
        maximum=10.0,
        live=True,
    )
    frame_timeout_s: float = option(
        1.0,
        "Without a new complete frame at the navigator for this long it stops",
        unit="s",
        minimum=0.1,
        maximum=10.0,
        live=True,
    )
    obstacles: str = option(
        "depth", "Where obstacles are looked for", choices=("none", "depth", "scan", "both")
    )
    obstacle_timeout_s: float = option(
        0.7,
        "Without new depth (or scan) for this long it stops",
        unit="s",
        minimum=0.05,
        maximum=10.0,
        live=True,
    )
    stop_distance_m: float = option(
        0.15,
        "It stops when the free way ahead of its edge is shorter",
        unit="m",
        minimum=0.0,
        maximum=3.0,
        live=True,
    )
    slow_distance_m: float = option(
        0.6,
        "It slows down when the free way ahead of its edge is shorter",
        unit="m",
        minimum=0.0,
        maximum=3.0,
        live=True,
    )
    creep_m_s: float = option(
        0.05, "Speed at the end of the slow-down zone", unit="m/s", minimum=0.01, maximum=0.5, live=True
    )
    reaction_s: float = option(
        0.15, "Age of the depth and delay of the base together", unit="s", minimum=0.0, maximum=1.0, live=True
    )
    robot_radius_m: float = option(
        0.25, "Radius of the circle that holds the robot", unit="m", minimum=0.05, maximum=2.0, live=True
    )
    min_height_m: float = option(
        0.1, "What is lower is floor; above base_link", unit="m", minimum=-2.0, maximum=2.0, live=True
    )
    max_height_m: float = option(
        1.4, "What is higher is no obstacle; above base_link", unit="m", minimum=0.0, maximum=3.0, live=True
    )
    min_readings: float = option(
        0.1,
        "It stops when a smaller share of the pixels (or rays) that look at the left, the middle or the "
        "right of its way says something",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    min_depth_m: float = option(
        0.15, "A depth image that is nearer almost everywhere is that of a covered camera", unit="m",
        minimum=0.0, maximum=2.0, live=True,
    )  # fmt: skip
    max_depth_m: float = option(
        20.0, "Depth beyond this is none: the camera cannot measure it, or the unit is wrong", unit="m",
        minimum=1.0, maximum=1000.0, live=True,
    )  # fmt: skip
    scan_no_return: str = option(
        "inf",
        "How the scanner says that a ray met nothing. inf: as REP 117 says; zero: 0.0 does, too; beyond: "
        "ranges above range_max do, too. What is not named here says nothing",
        choices=("inf", "zero", "beyond"),
    )
    scan_extrinsics: str = option(
        "same",
        "Where the scanner's mounting comes from. same: as the camera's; tf: base_frame from the scan's "
        "frame_id; parameters: the scan_* values",
        choices=("same", "tf", "parameters"),
    )
    scan_x_m: float = option(
        0.0, "Laser scanner's position in base_link, forward", unit="m", minimum=-3.0, maximum=3.0
    )
    scan_y_m: float = option(
        0.0, "Laser scanner's position in base_link, left", unit="m", minimum=-3.0, maximum=3.0
    )
    scan_roll_deg: float = option(
        0.0, "Laser scanner turned about its own x axis; 180: upside down", unit="deg", minimum=-180.0,
        maximum=180.0,
    )  # fmt: skip
    scan_yaw_deg: float = option(
        0.0, "Laser scanner turned to the left", unit="deg", minimum=-180.0, maximum=180.0
    )
    max_jump_m: float = option(
        0.2,
        "Odometry that moves this much too far has jumped",
        unit="m",
        minimum=0.01,
        maximum=10.0,
        live=True,
    )
    max_jump_deg: float = option(
        15.0,
        "Odometry that turns this much too far has jumped",
        unit="deg",
        minimum=0.5,
        maximum=180.0,
        live=True,
    )


@dataclass(frozen=True)
class ExecutorConfig(MountConfig):
    """The executor: action queue and odometry to velocities."""

    autostart: bool = option(True, "Configure and activate the node when its process starts")
    rate_hz: float = option(20.0, "Control rate", unit="Hz", minimum=5.0, maximum=200.0)
    max_linear_m_s: float = option(
        0.5, "Largest forward velocity", unit="m/s", minimum=0.01, maximum=3.0, live=True
    )
    max_angular_rad_s: float = option(
        1.0, "Largest turn rate", unit="rad/s", minimum=0.01, maximum=6.0, live=True
    )
    max_linear_accel_m_s2: float = option(
        1.0, "Largest forward acceleration", unit="m/s^2", minimum=0.05, maximum=20.0, live=True
    )
    max_angular_accel_rad_s2: float = option(
        3.0, "Largest turn acceleration", unit="rad/s^2", minimum=0.05, maximum=50.0, live=True
    )
    linear_gain: float = option(
        5.0, "Velocity per remaining distance", unit="1/s", minimum=0.1, maximum=20.0, live=True
    )
    angular_gain: float = option(
        5.0, "Turn rate per heading error", unit="1/s", minimum=0.1, maximum=20.0, live=True
    )
    position_tolerance_m: float = option(
        0.01, "An action is done within this of its goal", unit="m", minimum=0.001, maximum=0.5, live=True
    )
    heading_tolerance_deg: float = option(
        0.7, "An action is done within this of its goal", unit="deg", minimum=0.05, maximum=20.0, live=True
    )
    lookahead_m: float = option(
        0.3,
        "A base beside its line steers toward the point this far ahead on it",
        unit="m",
        minimum=0.05,
        maximum=5.0,
        live=True,
    )
    delay_s: float = option(
        0.1,
        "From a command to its effect in the odometry; /diagnostics says what it measured",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    blend: bool = option(
        True, "Drive equal actions in a row as one; false: every action ends standing", live=True
    )
    holonomic: bool = option(False, "The base can also move sideways")
    stamped_cmd_vel: bool = option(False, "cmd_vel is TwistStamped instead of Twist")
    action_timeout_s: float = option(
        4.0,
        "An action that has not ended this long after its due time is blocked, and the robot stops",
        unit="s",
        minimum=0.5,
        maximum=60.0,
        live=True,
    )
    diagnostics_hz: float = option(1.0, "Rate of /diagnostics", unit="Hz", minimum=0.1, maximum=10.0)
    odom_frame: str = option(SyncConfig.odom_frame, "Expected frame_id of the odometry; empty accepts any")
    profiling: ProfilingConfig = group(ProfilingConfig)
    safety: SafetyConfig = group(SafetyConfig)

    def __post_init__(self) -> None:
        s = self.safety
        if s.slow_distance_m < s.stop_distance_m:
            raise ConfigError(
                f"safety.slow_distance_m = {s.slow_distance_m}: must be at least safety.stop_distance_m = "
                f"{s.stop_distance_m}"
            )
        if s.max_depth_m <= s.min_depth_m:
            raise ConfigError(
                f"safety.max_depth_m = {s.max_depth_m}: must be above min_depth_m = {s.min_depth_m}"
            )
        if s.max_height_m <= s.min_height_m:
            raise ConfigError(
                f"safety.max_height_m = {s.max_height_m}: must be above min_height_m = {s.min_height_m}"
            )


@dataclass(frozen=True)
class LimitsConfig:
    """When a run that goes nowhere is ended early; what holds is written into every result."""

    actions: int = option(
        -1, "End an episode after so many actions; 0: never, -1: as the profile says", minimum=-1
    )
    turns_in_place: int = option(
        -1, "After so many actions in a row that leave the position as it was; 0, -1: as above", minimum=-1
    )
    questions: int = option(-1, "After so many decisions; 0, -1: as above", minimum=-1)
    as_stop: bool = option(
        False, "Such an end counts as the robot's own stop, as in the released scripts that force one"
    )


@dataclass(frozen=True)
class WorldConfig:
    """A simulated world."""

    world: str = option("embedded", "What simulates", choices=("embedded", "habitat"))
    protocol: str = option(
        "custom",
        "Named rules (docs/habitat.md): they decide the options that they name; custom: the options do",
        choices=("custom", "r2r-vlnce", "rxr-vlnce", "streamvln"),
    )
    languages: str = option(
        "",
        "Only episodes in these languages, separated by commas (RxR: en-US, en-IN, hi-IN, te-IN); empty: all",
    )
    camera: CameraConfig = group(CameraConfig)
    habitat: HabitatConfig = group(HabitatConfig)


_R2R: Mapping[str, Scalar] = {
    "max_steps": 500,
    "camera.hfov_deg": 90.0,
    "camera.height_m": 1.25,
    "camera.pitch_down_deg": 0.0,
    "step.forward_m": 0.25,
    "step.turn_deg": 15.0,
    "habitat.sliding": True,
    "habitat.radius_m": 0.1,
    "habitat.height_m": 1.5,
    "habitat.depth_min_m": 0.0,
    "habitat.depth_max_m": 10.0,
}
PROTOCOL_RULES: Mapping[str, Mapping[str, Scalar]] = {
    "custom": {},
    # VLN-CE, habitat_extensions/config/vlnce_task.yaml, and the defaults of its habitat-lab
    "r2r-vlnce": _R2R,
    # VLN-CE, habitat_extensions/config/rxr_vlnce_english_task.yaml
    "rxr-vlnce": {
        **_R2R,
        "camera.hfov_deg": 79.0,
        "camera.height_m": 0.88,
        "step.turn_deg": 30.0,
        "habitat.sliding": False,
        "habitat.radius_m": 0.18,
        "habitat.height_m": 0.88,
        "habitat.depth_min_m": 0.5,
        "habitat.depth_max_m": 5.0,
    },
    # StreamVLN, config/vln_r2r.yaml; its RxR runs use the same
    "streamvln": {**_R2R, "camera.hfov_deg": 79.0},
}
"""What each protocol says, by dotted name of the option. Image sizes are the checkpoint's affair."""

WorldConfigT = TypeVar("WorldConfigT", bound=WorldConfig)


def with_protocol(config: WorldConfigT) -> WorldConfigT:
    """``config`` with the rules of its protocol in place.

    Raises:
        ConfigError: an option was set to something else than the protocol says: a result would be
            filed under a name that it does not deserve.
    """
    flat = to_flat(config)
    # where a navigator is part of the options, its step is what the actions do
    rules = {
        name if name in flat else f"navigator.{name}": value
        for name, value in PROTOCOL_RULES[config.protocol].items()
    }
    defaults = {entry.name: entry.default for entry in walk_options(type(config))}
    for name, value in rules.items():
        if flat[name] not in (value, defaults[name]):
            raise ConfigError(
                f"{name} = {flat[name]!r}: protocol {config.protocol!r} says {value!r}; "
                "leave it, or set protocol to 'custom'"
            )
    return from_flat(type(config), {**flat, **rules})


@dataclass(frozen=True)
class BridgeConfig(WorldConfig):
    """The simulator bridge: publishes what a robot publishes, takes what a robot takes."""

    episodes: str = option("", "Episode file (VLN-CE json.gz) to run")
    first_episode: int = option(0, "Index of the first episode to run", minimum=0)
    episode_count: int = option(0, "How many episodes to run; 0 runs all", minimum=0)
    episode: str = option(
        "", "Id of the episode to begin with; set while running, it begins at once", live=True
    )
    mode: str = option(
        "lockstep",
        "lockstep: the action queue moves the robot, the world waits; realtime: cmd_vel does, nothing waits; "
        "manual: services do, step by step",
        choices=("lockstep", "realtime", "manual"),
    )
    run_folder: str = option("", "Folder to write results to; empty writes none")
    command: str = option("", "The command that a person typed, for the report")
    run_info: str = option(
        "", "JSON file of what identifies the run, whose folder is gone on with; empty: these options do"
    )
    navigator_info: str = option(
        "",
        "JSON file with the navigator's options (config) and the fingerprint of its weights (checkpoint), "
        "for the report; empty: the report does not say who decided",
    )
    video: bool = option(True, "Write a video per episode")
    max_steps: int = option(200, "An episode ends after this many actions", minimum=1, maximum=100000)
    step: StepConfig = group(StepConfig)
    limits: LimitsConfig = group(LimitsConfig)
    max_episode_s: float = option(
        240.0,
        "A real-time episode ends after this much simulated time",
        unit="s",
        minimum=1.0,
        maximum=36000.0,
    )
    step_period_s: float = option(
        0.5, "Simulated time that one action takes in lockstep", unit="s", minimum=0.05, maximum=10.0
    )
    listeners: int = option(
        1,
        "Nothing begins before this many subscribe to every camera and odometry topic: 2 with a recorder",
        minimum=1,
        maximum=100,
    )
    answer_timeout_s: float = option(
        60.0,
        "In lockstep, how long to wait for an answer before giving up",
        unit="s",
        minimum=0.1,
        maximum=36000.0,
    )
    surprises: int = option(
        0,
        "In real time, how many boxes per episode appear before the driving robot, for four seconds each",
        minimum=0,
        maximum=1000,
    )
    realtime_factor: float = option(
        1.0, "Simulated seconds per second in real time, if the machine keeps up", minimum=0.1, maximum=20.0
    )
    image_hz: float = option(10.0, "Camera rate in real time", unit="Hz", minimum=0.5, maximum=60.0)
    odometry_hz: float = option(
        50.0, "Odometry and /clock rate in real time", unit="Hz", minimum=5.0, maximum=500.0
    )
    stamped_cmd_vel: bool = option(False, "cmd_vel is TwistStamped instead of Twist, as at the executor")
    command_timeout_s: float = option(
        0.5, "The base stops when cmd_vel is older than this", unit="s", minimum=0.05, maximum=10.0
    )
    reliability: str = option(
        "reliable", "Quality of service of the image publishers", choices=("best_effort", "reliable")
    )
    transport: str = option(
        "raw",
        "raw: Image messages; compressed: colour as JPEG, depth as compressedDepth",
        choices=("raw", "compressed"),
    )
    jpeg_quality: int = option(90, "Quality of the JPEG images", minimum=1, maximum=100)
    odom_frame: str = option("odom", "Frame of the published odometry")
    base_frame: str = option("base_link", "Child frame of the published odometry")
    optical_frame: str = option("camera_color_optical_frame", "Frame of the published images")


@dataclass(frozen=True)
class EvalConfig(WorldConfig):
    """What is evaluated on what, by which rules. A run is resumed with the same options only."""

    dataset: str = option(
        "",
        "Folder of R2R ({split}/{split}.json.gz) or RxR ({split}_guide.json.gz) episodes, or an episode "
        "file; empty: the embedded world's own",
    )
    split: str = option("val_unseen", "Which part of the dataset")
    kind: str = option("flat", "Size of the flats of the embedded world's own episodes")
    first_episode: int = option(0, "Index of the first episode to run", minimum=0)
    episodes: int = option(100, "How many episodes to run; 0: all", minimum=0)
    via: str = option(
        "pipeline",
        "pipeline: engine and world in one process; graph: as ROS nodes, over topics",
        choices=("pipeline", "graph"),
    )
    sessions: int = option(
        1, "Episodes that a worker runs side by side, their forwards as one", minimum=1, maximum=256
    )
    measures: str = option(
        "all",
        "basic: success, SPL, error and length only, without a geodesic distance at every step",
        choices=("all", "basic"),
    )
    videos: float = option(0.0, "Share of the episodes that get a video", minimum=0.0, maximum=1.0)
    film_extremes: bool = option(False, "Run the worst and the best episodes once more, for their videos")
    seed: int = option(0, "Seed of sampling, of the bootstrap and of the choice of videos", minimum=0)
    max_steps: int = option(500, "An episode ends after this many actions", minimum=1, maximum=100000)
    limits: LimitsConfig = group(LimitsConfig)
    step_period_s: float = option(
        0.5, "Simulated time that one action takes", unit="s", minimum=0.05, maximum=10.0
    )
    navigator: NavigatorConfig = group(NavigatorConfig)


@dataclass(frozen=True)
class FarmConfig:
    """Who does the work of an evaluation; no number depends on it."""

    backend: str = option(
        "processes", "processes: of this machine; ray: of a Ray cluster", choices=("processes", "ray")
    )
    workers: int = option(1, "How many; 0 works in the driver's own process", minimum=0, maximum=4096)
    attempts: int = option(
        3, "An episode is given up when it has ended this many workers", minimum=1, maximum=100
    )
    gpus_per_worker: float = option(
        0.0, "Share of a GPU that a Ray cluster reserves per worker", minimum=0.0, maximum=8.0
    )
    cpus_per_worker: float = option(
        1.0, "Processor cores that a Ray cluster reserves per worker", minimum=0.0, maximum=256.0
    )
    ray_address: str = option("", "Address of a running Ray cluster; empty: one is started here")
    shard: str = option("", "i/n: run the i-th (from 0) of n parts of the scenes, into a folder of its own")
    profiling: ProfilingConfig = group(ProfilingConfig)


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
class PlayerConfig:
    """The player of recordings."""

    bag: str = option("", "Folder of a rosbag2, or its .db3 or .mcap file")
    report: str = option("", "File to write what was seen to (JSON); empty writes none")
    instruction: str = option("", "What the robot is told")
    rate: float = option(
        1.0, "Speed of the playback; 0: each frame as soon as the one before is processed", minimum=0.0,
        maximum=100.0,
    )  # fmt: skip
    reliability: str = option(
        "reliable", "Quality of service of the image publishers", choices=("best_effort", "reliable")
    )
    answer_timeout_s: float = option(
        120.0, "How long to wait for the navigator", unit="s", minimum=1.0, maximum=36000.0
    )
    frame_timeout_s: float = option(
        10.0, "With rate 0, how long to wait for a frame", unit="s", minimum=0.1, maximum=3600.0
    )
    color: str = option("", "Colour topic of the bag; empty: the only one that fits")
    depth: str = option("", "Depth topic of the bag; empty: the only one that fits")
    camera_info: str = option("", "camera_info topic of the bag; empty: the only one that fits")
    odometry: str = option("", "Odometry topic of the bag; empty: the only one that fits")


@dataclass(frozen=True)
class InspectorConfig(ImageInputConfig):
    """The inspector: what people look at, drawn only while somebody looks."""

    rate_hz: float = option(
        5.0, "Rate of markers, trail and annotated images", unit="Hz", minimum=0.5, maximum=30.0
    )
    trail_spacing_m: float = option(
        0.05, "A point is added to the trail every such way", unit="m", minimum=0.001, maximum=10.0
    )
    trail_points: int = option(5000, "Most points of the trail; the oldest go", minimum=2, maximum=100000)


@dataclass(frozen=True)
class RecorderConfig(ImageInputConfig):
    """The recorder: inputs, queues, commands and diagnostics to a bag."""

    folder: str = option("bags", "Folder that the bags go to, each in a folder named by date and time")
    storage: str = option("mcap", "Format of the bag", choices=("mcap", "sqlite3"))
    queue_mb: int = option(
        256, "Most that may wait for the disk; what comes then is dropped and counted", unit="MB", minimum=1,
        maximum=65536,
    )  # fmt: skip
    stamped_cmd_vel: bool = option(False, "cmd_vel is TwistStamped instead of Twist")


NODES: Mapping[str, type] = {
    "navigator": NavigatorConfig,
    "executor": ExecutorConfig,
    "sim_bridge": BridgeConfig,
    "bag_player": PlayerConfig,
    "inspector": InspectorConfig,
    "recorder": RecorderConfig,
}
"""The parameters of every node, by its name."""


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
