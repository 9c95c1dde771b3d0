"""Options of the worlds, of the oracle policy, and of the node that shows a world as a robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from vln_ros.config.options import ConfigError, Scalar, from_flat, group, option, to_flat, walk_options
from vln_ros.config.place import LookDownPicture
from vln_ros.config.sensors import SensorsConfig

WorldName = Literal["embedded", "habitat"]
OracleAnswers = Literal["pixels", "arrows"]
BridgeMode = Literal["lockstep", "realtime", "manual", "live"]


@dataclass(frozen=True)
class StepConfig:
    """What one discrete action does."""

    forward_m: float = option(
        0.25,
        "Distance of one forward action. It must be the distance that the policy was trained with: other "
        "values make the robot stop before or behind its goal.",
        unit="m", minimum=0.01, maximum=2.0,
    )  # fmt: skip
    turn_deg: float = option(
        15.0,
        "Angle of one turn action. It must be the angle that the policy was trained with: other values make "
        "the robot turn too far or not far enough.",
        unit="deg", minimum=1.0, maximum=90.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """The simulated RGB-D camera."""

    width: int = option(
        640,
        "Width of the simulated camera's images. Larger images show more detail and take longer to render; "
        "the profile scales them to what its model takes.",
        unit="px", minimum=16, maximum=4096,
    )  # fmt: skip
    height: int = option(
        480,
        "Height of the simulated camera's images. Larger images show more detail and take longer to render; "
        "the profile scales them to what its model takes.",
        unit="px", minimum=16, maximum=4096,
    )  # fmt: skip
    hfov_deg: float = option(
        79.0,
        "Horizontal field of view of the simulated camera. A policy fails with another one than it was "
        "trained with: a narrow view misses doors beside the robot, a wide one makes things look farther "
        "away.",
        unit="deg", minimum=10.0, maximum=150.0,
    )  # fmt: skip
    height_m: float = option(
        1.25,
        "Height of the simulated camera above the floor. A policy fails with another one than it was trained "
        "with; a low camera looks at table legs, a high one over low things.",
        unit="m", minimum=0.05, maximum=2.5,
    )  # fmt: skip
    pitch_down_deg: float = option(
        0.0,
        "Downward tilt of the simulated camera. A policy fails with another one than it was trained with; a "
        "strong tilt sees the floor only.",
        unit="deg", minimum=-60.0, maximum=60.0,
    )  # fmt: skip
    look_down_deg: float = option(
        0.0,
        "Downward tilt of a second simulated camera at the same place, for models that ask to look down "
        "(navigator.qwen.look_down.picture camera). The bridge publishes it on camera_down, and waits until "
        "somebody listens there, too. 0: there is none; the released evaluation of InternVLA-N1 has 30. Too "
        "small shows nothing new, too large only the robot's feet.",
        unit="deg", minimum=0.0, maximum=80.0,
    )  # fmt: skip
    depth_noise: float = option(
        0.0,
        "Standard deviation of the simulated depth's error, as a share of the depth; alike within patches of "
        "a sixteenth of the picture, and the same at the same place. 0 is exact, 0.05 a poor stereo camera.",
        minimum=0.0, maximum=0.5,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HabitatConfig:
    """The Habitat world (docs/evaluate/habitat.md)."""

    python: str = option(
        "",
        "Path of the Python interpreter of the environment in which habitat_sim is installed. Habitat runs "
        "under it, in a process of its own.",
    )
    scenes: str = option(
        "data/scene_datasets",
        "Folder below which the scenes lie that the episodes name by their scene ids.",
    )
    gpu: int = option(
        -1,
        "CUDA number of the GPU that Habitat renders with. -1 uses none, or what EGL offers first; a number "
        "that does not exist is an error at the start.",
        minimum=-1, maximum=63,
    )  # fmt: skip
    timeout_s: float = option(
        300.0,
        "Longest time that Habitat's process may take for one answer, loading a scene included. Too low ends "
        "runs in large scenes; too high waits long for a process that hangs.",
        unit="s", minimum=1.0, maximum=36000.0,
    )  # fmt: skip
    sliding: bool = option(
        True,
        "Whether the agent slides along what it runs into, instead of stopping there. Published protocols "
        "differ in it, and it changes success; it holds for the embedded world, too.",
    )
    radius_m: float = option(
        0.1,
        "Radius of the agent, by which the navigation mesh is narrowed. A small one passes gaps that a robot "
        "would not; a large one closes doorways, and goals become unreachable.",
        unit="m", minimum=0.01, maximum=2.0,
    )  # fmt: skip
    height_m: float = option(
        1.5,
        "Height of the agent, by which the navigation mesh is cut below low ceilings. A small one passes "
        "under tables; a large one closes doorways.",
        unit="m", minimum=0.05, maximum=5.0,
    )  # fmt: skip
    recompute_navmesh: bool = option(
        False,
        "Whether the navigation mesh is computed for this agent even where one lies beside the scene. True "
        "takes seconds per scene; false measures distances for the agent that the file was made for.",
    )
    mesh_cell_height_m: float = option(
        0.02,
        "Height of the cells of a navigation mesh that is computed; its floor may lie too high by this much. "
        "Small cells are exact and slow, large ones lift the camera; 0 takes Habitat's own 0.2 m.",
        unit="m", minimum=0.0, maximum=0.5,
    )  # fmt: skip
    depth_min_m: float = option(
        0.0,
        "Depth below which Habitat's camera gives no reading, as a real sensor. 0 measures up to the lens; "
        "higher values leave near walls without depth.",
        unit="m", minimum=0.0, maximum=100.0,
    )  # fmt: skip
    depth_max_m: float = option(
        10.0,
        "Depth beyond which Habitat's camera gives no reading, as a real sensor. Lower values leave far "
        "walls without depth, higher ones give readings that no indoor camera has.",
        unit="m", minimum=0.1, maximum=1000.0,
    )  # fmt: skip


@dataclass(frozen=True)
class ExpertConfig:
    """The engine that knows the way (simulation only)."""

    episodes: str = option(
        "",
        "Episode file (VLN-CE json.gz) whose instructions the oracle policy knows. It recognises its episode "
        "by the words and the start, and fails on any other instruction.",
    )
    actions_per_decision: int = option(
        4,
        "Most actions in one queue of the oracle policy. 1 decides after every action; longer queues decide "
        "less often and drive more smoothly.",
        minimum=1, maximum=64,
    )  # fmt: skip
    clearance_m: float = option(
        0.0,
        "Distance that the oracle policy keeps from walls, beyond the robot's own size, where there is room "
        "for it, and by which it stops sooner at a goal, which is beside furniture. 0 follows the shortest "
        "path and grazes door frames, at which an executor stops; large values make detours.",
        unit="m", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    decision_ms: float = option(
        0.0,
        "Time that the oracle policy computes before each decision, to stand for a slower model. 0 answers "
        "at once; higher values let the robot stand longer between queues.",
        unit="ms", minimum=0.0, maximum=60000.0,
    )  # fmt: skip
    habitat: HabitatConfig = group(HabitatConfig)
    """As the world's, whose ways it follows; no interpreter: the scenes are the embedded world's."""


@dataclass(frozen=True, kw_only=True)
class PixelOracleConfig:
    """The engine that knows the way and answers as a model with pixel goals does (simulation only)."""

    profile: str = option(
        "internvla-n1-s2",
        "Name of a shipped profile with pixel goals, or path of one, in whose words the oracle answers and "
        "by which its answers are read.",
    )
    answers: OracleAnswers = option(
        "pixels",
        "How the oracle answers. pixels: turns, and pixels of the next stretch of the way, which depth, pose "
        "and the local planner make into queues; arrows: the expert's own actions in the profile's words, as "
        "a check of what comes before and after.",
        choices=get_args(OracleAnswers),
    )
    picture: LookDownPicture = option(
        "profile",
        "Which picture the oracle points in. profile: as the profile says; same: the newest picture again, "
        "of a camera that is tilted enough to see the floor before the robot; camera: that of a second "
        "camera (camera.look_down_deg), as in the released evaluation.",
        choices=get_args(LookDownPicture),
    )
    pixel_noise_px: float = option(
        0.0,
        "Standard deviation of the error of row and of column of a pixel that the oracle names. 0 points "
        "exactly; a model misses by several pixels.",
        unit="px", minimum=0.0, maximum=1000.0,
    )  # fmt: skip
    seed: int = option(0, "Seed of the errors of pixels; the same one gives the same answers.", minimum=0)


@dataclass(frozen=True)
class LimitsConfig:
    """When a run that goes nowhere is ended early; what holds is written into every result."""

    actions: int = option(
        -1,
        "Number of actions after which an episode ends early. 0 never ends it, -1 takes the profile's limit; "
        "a low limit ends episodes that would still succeed.",
        minimum=-1,
    )
    turns_in_place: int = option(
        -1,
        "Number of actions in a row that leave the robot where it is, after which an episode ends early. 0 "
        "never ends it, -1 takes the profile's limit; below a full turn (24 actions of 15 degrees) a robot "
        "that looks around is ended.",
        minimum=-1,
    )
    questions: int = option(
        -1,
        "Number of decisions after which an episode ends early. 0 never ends it, -1 takes the profile's "
        "limit; a low limit ends episodes that would still succeed.",
        minimum=-1,
    )
    as_stop: bool = option(
        False,
        "Whether such an early end counts as the robot's own stop, as in the released scripts that force "
        "one. True can turn a robot that circles near its goal into a success.",
    )


@dataclass(frozen=True)
class WorldConfig:
    """A simulated world."""

    world: WorldName = option(
        "embedded",
        "What simulates. embedded: the generated flats that come with the package; habitat: Habitat with "
        "scanned houses, which is installed separately (docs/evaluate/habitat.md).",
        choices=get_args(WorldName),
    )
    protocol: str = option(
        "custom",
        "Named rules of a published evaluation (docs/evaluate/habitat.md), which then decide step size, "
        "camera and agent. custom: the options decide; r2r-vlnce, rxr-vlnce and streamvln: the rules of that "
        "evaluation, and an option that says otherwise is an error.",
        choices=("custom", "r2r-vlnce", "rxr-vlnce", "streamvln"),
    )
    languages: str = option(
        "",
        "Languages of the episodes that are run, separated by commas (RxR has en-US, en-IN, hi-IN, te-IN). "
        "Empty runs the episodes of every language.",
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

    episodes: str = option(
        "",
        "Episode file (VLN-CE json.gz) that the bridge runs, one episode after the other.",
    )
    first_episode: int = option(
        0,
        "Index of the first episode that is run, counted from 0. One beyond the end of the file is an error.",
        minimum=0,
    )
    episode_count: int = option(
        0,
        "Number of episodes that are run, from first_episode on. 0 runs all that are left in the file.",
        minimum=0,
    )
    episode: str = option(
        "",
        "Id of the episode to begin with. Set while the bridge is running, that episode begins at once, and "
        "the one under way comes after it. In mode live the robot is put at its start; the id of a flat of "
        "val_unseen puts it there, and anywhere at a random free place.",
        live=True,
    )
    mode: BridgeMode = option(
        "lockstep",
        "What moves the simulated robot. lockstep: the action queue, and the world waits for the model; "
        "realtime: cmd_vel, and nothing waits; manual: one service call per action; live: as realtime, and "
        "instructions come from people: episodes only say where the robot stands at first.",
        choices=get_args(BridgeMode),
    )
    run_folder: str = option(
        "",
        "Folder that results, videos and maps are written to. Empty writes nothing, and the measures are on "
        "topics only.",
    )
    command: str = option(
        "",
        "Command that a person typed to start this run, for the report. The commands of this package fill it "
        "in.",
    )
    run_info: str = option(
        "",
        "JSON file that identifies the run whose folder is continued. Empty identifies the run by the "
        "options of this bridge.",
    )
    navigator_info: str = option(
        "",
        "JSON file with the navigator's options (config) and the fingerprint of its weights (checkpoint), "
        "for the report. Empty leaves open in the report who decided.",
    )
    video: bool = option(
        True,
        "Whether a video of every episode is written into run_folder. Videos take some time and disk space "
        "per episode.",
    )
    max_steps: int = option(
        200,
        "Number of actions after which an episode ends. Too low ends episodes whose way is long, too high "
        "spends time on robots that are lost.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    step: StepConfig = group(StepConfig)
    limits: LimitsConfig = group(LimitsConfig)
    max_episode_s: float = option(
        240.0,
        "Simulated time after which an episode ends in real time. Too low ends episodes whose way is long, "
        "too high spends time on robots that are stuck.",
        unit="s", minimum=1.0, maximum=36000.0,
    )  # fmt: skip
    step_period_s: float = option(
        0.5,
        "Simulated time that one action takes in lockstep, from one frame's stamp to the next. The "
        "navigator's time limits (sync.max_odometry_gap_s, sync.max_speed_m_s) must allow it: too low looks "
        "like a jump, too high like a gap.",
        unit="s", minimum=0.05, maximum=10.0,
    )  # fmt: skip
    listeners: int = option(
        1,
        "Number of subscribers to each camera and odometry topic for which the bridge waits before it "
        "begins. With a recorder it must be 2; too low begins before all listen, too high waits for ever.",
        minimum=1, maximum=100,
    )  # fmt: skip
    answer_timeout_s: float = option(
        60.0,
        "Longest time that the bridge waits for an answer in lockstep before it gives up. Too low gives up "
        "on slow models (the first answer takes longest), too high hangs when the navigator is gone.",
        unit="s", minimum=0.1, maximum=36000.0,
    )  # fmt: skip
    surprises: int = option(
        0,
        "Number of dynamic obstacles per episode: boxes that appear before the driving robot in real time, "
        "for four seconds each. 0 has none; only the embedded world has them.",
        minimum=0, maximum=1000,
    )  # fmt: skip
    realtime_factor: float = option(
        1.0,
        "Simulated seconds per second of the clock in real time. Above what the machine can render, "
        "simulated time passes more slowly; high values leave the model less time to decide.",
        minimum=0.1, maximum=20.0,
    )  # fmt: skip
    image_hz: float = option(
        10.0,
        "Rate of camera images in real time, by simulated time. Low rates show the model older frames; above "
        "what the machine can render, simulated time slows down.",
        unit="Hz", minimum=0.5, maximum=60.0,
    )  # fmt: skip
    odometry_hz: float = option(
        50.0,
        "Rate of odometry and /clock in real time, by simulated time. Below the executor's rate_hz its "
        "control becomes coarse; high rates cost processor time.",
        unit="Hz", minimum=5.0, maximum=500.0,
    )  # fmt: skip
    stamped_cmd_vel: bool = option(
        False,
        "Whether the bridge takes cmd_vel as TwistStamped instead of Twist. It must be as at the executor, "
        "or the robot does not move.",
    )
    command_timeout_s: float = option(
        0.5,
        "Age of the last cmd_vel at which the simulated base stops by itself, as a real one must. Too low "
        "stops it between two commands, too high drives on when the executor dies.",
        unit="s", minimum=0.05, maximum=10.0,
    )  # fmt: skip
    reliability: str = option(
        "reliable",
        "Quality of service of the image publishers. reliable: every subscriber hears them; best_effort: "
        "only those that subscribe with best effort do, as with most camera drivers.",
        choices=("best_effort", "reliable"),
    )
    transport: str = option(
        "raw",
        "How the bridge publishes images. raw: as Image messages; compressed: colour as JPEG and depth as "
        "compressedDepth, as over a network.",
        choices=("raw", "compressed"),
    )
    sensors: SensorsConfig = group(SensorsConfig)
    jpeg_quality: int = option(
        90,
        "Quality of the JPEG images that are published with compressed transport. Low values show the model "
        "blocks and blurred edges, high values take more network.",
        minimum=1, maximum=100,
    )  # fmt: skip
    odom_frame: str = option(
        "odom",
        "Name of the frame that the published odometry is in; navigator and executor must expect the same.",
    )
    base_frame: str = option(
        "base_link",
        "Name of the frame that the published odometry is of (child_frame_id); it is the base_frame of the "
        "other nodes.",
    )
    optical_frame: str = option(
        "camera_color_optical_frame",
        "Name of the optical frame (z forward, x right, y down) that the published images are in.",
    )
