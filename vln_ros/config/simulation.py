"""Options of the worlds, of the oracle in them, and of the node that shows one to ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from vln_ros.config.options import ConfigError, Scalar, from_flat, group, option, to_flat, walk_options

WorldName = Literal["embedded", "habitat"]
BridgeMode = Literal["lockstep", "realtime", "manual"]


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


@dataclass(frozen=True, kw_only=True)
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

    world: WorldName = option("embedded", "What simulates", choices=get_args(WorldName))
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


@dataclass(frozen=True, kw_only=True)
class BridgeConfig(WorldConfig):
    """The simulator bridge: publishes what a robot publishes, takes what a robot takes."""

    episodes: str = option("", "Episode file (VLN-CE json.gz) to run")
    first_episode: int = option(0, "Index of the first episode to run", minimum=0)
    episode_count: int = option(0, "How many episodes to run; 0 runs all", minimum=0)
    episode: str = option(
        "", "Id of the episode to begin with; set while running, it begins at once", live=True
    )
    mode: BridgeMode = option(
        "lockstep",
        "lockstep: the action queue moves the robot, the world waits; realtime: cmd_vel does, nothing waits; "
        "manual: services do, step by step",
        choices=get_args(BridgeMode),
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
