"""Options of the navigator, and of the sensors that it shares with other nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vln_ros.config.engine import PacedConfig, QwenConfig
from vln_ros.config.options import group, option
from vln_ros.config.place import DriveName, Nav2Config, PlaceConfig
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.simulation import ExpertConfig, PixelOracleConfig, StepConfig

EngineName = Literal["qwen", "expert", "pixel_oracle", "paced"]
CameraExtrinsics = Literal["tf", "parameters"]
Extrinsics = Literal["same", "tf", "parameters"]
OdometrySource = Literal["topic", "tf"]


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """How colour, depth and odometry become frames."""

    require_depth: bool = option(
        True,
        "Whether a colour image waits for the depth image of its instant. False takes the nearest one at "
        "hand, or none, and then VLN-Cache and pruning do nothing on that frame.",
    )
    max_depth_skew_s: float = option(
        0.02,
        "Largest difference between the stamps of a colour image and of the depth image that is joined to "
        "it. Too low drops frames of cameras that do not trigger both at once (color_no_depth grows on "
        "/diagnostics); too high joins pictures of different places when the robot turns.",
        unit="s", minimum=0.0, maximum=1.0, live=True,
    )  # fmt: skip
    max_odometry_gap_s: float = option(
        0.25,
        "Largest gap between two odometry messages across which a pose is interpolated. Too low drops "
        "frames when a message is lost; too high invents poses, which displaces what reuse and the "
        "predicted path are computed from.",
        unit="s", minimum=0.0, maximum=5.0, live=True,
    )  # fmt: skip
    max_wait_s: float = option(
        1.0,
        "How long, by the sensors' stamps, a colour image waits for its depth and odometry before it is "
        "dropped. Too low drops frames when a driver is slow; too high lets the model decide from old "
        "frames.",
        unit="s", minimum=0.01, maximum=30.0, live=True,
    )  # fmt: skip
    max_speed_m_s: float = option(
        5.0,
        "Speed above which two odometry poses count as a jump, so that no pose is interpolated between "
        "them. Set it above the robot's own top speed: too low drops good frames, too high accepts the "
        "jumps of a localisation.",
        unit="m/s", minimum=0.1, maximum=100.0, live=True,
    )  # fmt: skip
    odom_frame: str = option(
        "odom",
        "The frame_id that the navigator expects in odometry messages; others are dropped and counted. "
        "Empty accepts any, which mixes up poses where two sources publish on one topic.",
    )


@dataclass(frozen=True)
class DepthInputConfig:
    """The depth camera."""

    depth_topic: str = option(
        "camera/aligned_depth_to_color/image_raw",
        "Topic of depth images. They must be registered to the colour image, of the same size and frame, "
        "unless depth_camera_info_topic is set. With compressed transport, /compressedDepth is appended.",
    )
    depth_camera_info_topic: str = option(
        "",
        "Topic of the calibration of depth images that are not registered to the colour image, or are of "
        "another size: they are registered by it and by the place of the depth camera. Empty takes depth "
        "for registered, and depth of another frame or size is refused.",
    )
    camera_info_topic: str = option(
        "camera/color/camera_info",
        "Topic of the calibration that belongs to the colour images. That of another camera is refused, "
        "and no frame reaches the model.",
    )
    base_frame: str = option(
        "base_link",
        "Frame of the robot's base, in which actions and velocities are expressed: x forward, y left, z up "
        "(REP 103). Extrinsics and odometry are brought to it.",
    )


@dataclass(frozen=True)
class ColorInputConfig:
    """Where colour comes from."""

    color_topic: str = option(
        "camera/color/image_raw",
        "Topic of colour images. Those of a lens with distortion are undistorted by their camera_info. With "
        "compressed transport, /compressed is appended.",
    )
    color_transport: str = option(
        "raw",
        "How colour images come. raw: as Image messages; compressed: as CompressedImage with JPEG or PNG, "
        "which saves network where the navigator runs on another machine.",
        choices=("raw", "compressed"),
    )


@dataclass(frozen=True)
class ImageInputConfig(ColorInputConfig, DepthInputConfig):
    """Where colour and depth come from."""

    depth_transport: str = option(
        "raw",
        "How depth images come. raw: as Image messages; compressed: as CompressedImage in the "
        "compressedDepth format, which saves network where the navigator runs on another machine.",
        choices=("raw", "compressed"),
    )


@dataclass(frozen=True, kw_only=True)
class OdometryConfig:
    """Where odometry comes from, and of which frame it is. Of base_frame itself nothing needs to be told."""

    source: OdometrySource = option(
        "topic",
        "Where odometry comes from. topic: messages on odom; tf: the transforms from the odometry frame on "
        "/tf, for robots that publish nothing else; their rate and age are judged in the same way.",
        choices=get_args(OdometrySource),
    )
    child_frame: str = option(
        "",
        "Frame whose pose the odometry gives, where the messages leave child_frame_id empty. With "
        "extrinsics set to parameters it is also the one frame besides base_frame that is accepted, and "
        "the six values here are its place.",
    )
    extrinsics: Extrinsics = option(
        "same",
        "Where the place of odometry that is not of base_frame comes from. same: as the extrinsics of the "
        "camera; tf: the newest transform; parameters: the six values in this group.",
        choices=get_args(Extrinsics),
    )
    x_m: float = option(
        0.0,
        "Position of the odometry's child frame ahead of base_frame, along its x axis. A wrong value makes "
        "the pose swing sideways when the robot turns in place.",
        unit="m", minimum=-5.0, maximum=5.0,
    )  # fmt: skip
    y_m: float = option(
        0.0,
        "Position of the odometry's child frame to the left of base_frame, along its y axis. A wrong value "
        "makes the pose move forward or back when the robot turns in place.",
        unit="m", minimum=-5.0, maximum=5.0,
    )  # fmt: skip
    z_m: float = option(
        0.0,
        "Height of the odometry's child frame above base_frame, along its z axis. It matters only where "
        "that frame is tilted.",
        unit="m", minimum=-5.0, maximum=5.0,
    )  # fmt: skip
    roll_deg: float = option(
        0.0,
        "Rotation of the odometry's child frame about its own x axis; positive lowers its right side. A "
        "wrong value tilts every pose, and beyond 60 degrees the odometry is refused.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip
    pitch_down_deg: float = option(
        0.0,
        "Downward tilt of the x axis of the odometry's child frame. A wrong value tilts every pose, and "
        "with it everything that the camera sees.",
        unit="deg", minimum=-90.0, maximum=90.0,
    )  # fmt: skip
    yaw_deg: float = option(
        0.0,
        "Rotation of the odometry's child frame to the left, about the vertical. A wrong value makes the "
        "robot seem to drive sideways, and actions end beside their goal.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DepthCameraConfig:
    """Where a depth camera of its own sits, seen from the colour camera. Used where extrinsics is parameters
    and depth_camera_info_topic is set."""

    x_m: float = option(
        0.0,
        "Position of the depth camera ahead of the colour camera, along that one's viewing axis. A wrong "
        "value shifts every depth by as much.",
        unit="m", minimum=-2.0, maximum=2.0,
    )  # fmt: skip
    y_m: float = option(
        0.0,
        "Position of the depth camera to the left of the colour camera. A wrong value displaces the depth of "
        "near things sideways in the image, which reuse then finds at other places.",
        unit="m", minimum=-2.0, maximum=2.0,
    )  # fmt: skip
    z_m: float = option(
        0.0,
        "Position of the depth camera above the colour camera. A wrong value displaces the depth of near "
        "things up or down in the image.",
        unit="m", minimum=-2.0, maximum=2.0,
    )  # fmt: skip
    roll_deg: float = option(
        0.0,
        "Rotation of the depth camera about its own viewing axis; positive turns its right side down. A "
        "wrong value turns depth against colour.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip
    pitch_down_deg: float = option(
        0.0,
        "Downward tilt of the depth camera against the colour camera. A wrong value displaces depth up or "
        "down in the image, at every distance.",
        unit="deg", minimum=-90.0, maximum=90.0,
    )  # fmt: skip
    yaw_deg: float = option(
        0.0,
        "Rotation of the depth camera to the left against the colour camera. A wrong value displaces depth "
        "sideways in the image, at every distance.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExtrinsicsConfig(DepthInputConfig):
    """The depth camera and where it sits on the base."""

    extrinsics: CameraExtrinsics = option(
        "tf",
        "Where the extrinsics of the sensors come from. tf: the transform from base_frame to the "
        "messages' frame_id, which needs tf2_ros; parameters: the six camera_* values, and those of the "
        "other sensors.",
        choices=get_args(CameraExtrinsics),
    )
    calibration: str = option(
        "auto",
        "Which matrix of camera_info describes the images. raw: K, and they are undistorted by D; rectified: "
        "P; auto: where the two differ, P if the topic's name says rect, K if it says raw, and otherwise P "
        "if there is distortion to rectify. The wrong one shifts obstacles sideways.",
        choices=("auto", "raw", "rectified"),
    )
    odometry: OdometryConfig = group(OdometryConfig)
    depth_camera: DepthCameraConfig = group(DepthCameraConfig)
    camera_x_m: float = option(
        0.0,
        "Position of the camera ahead of base_frame. Too large a value makes obstacles seem farther away "
        "than they are, too small a value stops the robot too early.",
        unit="m", minimum=-5.0, maximum=5.0,
    )  # fmt: skip
    camera_y_m: float = option(
        0.0,
        "Position of the camera to the left of the centre of base_frame. A wrong value shifts obstacles "
        "sideways, so that the robot stops for what it would pass and touches what it should not.",
        unit="m", minimum=-5.0, maximum=5.0,
    )  # fmt: skip
    camera_z_m: float = option(
        1.25,
        "Height of the camera above base_frame. Too low a value takes obstacles for floor, too high a "
        "value takes the floor for an obstacle.",
        unit="m", minimum=-5.0, maximum=5.0,
    )  # fmt: skip
    camera_roll_deg: float = option(
        0.0,
        "Rotation of the camera about its own viewing axis; positive turns its right side down. A wrong "
        "value takes the floor on one side for an obstacle.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip
    camera_pitch_down_deg: float = option(
        0.0,
        "Downward tilt of the camera. Too small a value takes the floor ahead for an obstacle, too large a "
        "value takes obstacles for floor.",
        unit="deg", minimum=-90.0, maximum=90.0,
    )  # fmt: skip
    camera_yaw_deg: float = option(
        0.0,
        "Rotation of the camera to the left. A wrong value looks for obstacles beside the way instead "
        "of on it.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GuardsConfig:
    """When the navigator gives up a run that gets nowhere: it holds until there is a new instruction."""

    turns_in_place: int = option(
        -1,
        "Completed turns in a row, without a forward action between them, after which the run is given up. 0 "
        "never gives up, -1 takes the profile's limit; below a full turn (24 actions of 15 degrees) a robot "
        "that looks around is given up.",
        minimum=-1, maximum=10000,
    )  # fmt: skip
    to_and_fro: int = option(
        -1,
        "Changes between left and right turns without a forward action between them, or returns to a place "
        "where the model was asked before, after which the run is given up. 0 never gives up, -1 takes the "
        "profile's limit; low values give up a robot that looks about.",
        minimum=-1, maximum=10000,
    )  # fmt: skip
    stuck: int = option(
        -1,
        "Decisions in a row without the robot having moved or turned after which the run is given up. 0 "
        "never gives up, -1 takes the profile's limit; low values give up where somebody only stands in the "
        "way.",
        minimum=-1, maximum=10000,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunLimitsConfig:
    """When an instruction ends though nobody ends it and the model does not say stop.

    What changes while running holds for the next instruction.
    """

    max_duration_s: float = option(
        0.0,
        "How long an instruction may take, by the node's clock and pauses included, before it is aborted; 0: "
        "as long as it takes. Too short ends a run before its goal; without a limit a model that never says "
        "stop drives on.",
        unit="s", minimum=0.0, maximum=86400.0, live=True,
    )  # fmt: skip
    max_distance_m: float = option(
        0.0,
        "How far the base may drive under one instruction, by its odometry, before it is aborted; 0: as far "
        "as it takes. Too short ends a run before its goal, too long lets a robot that is lost go far.",
        unit="m", minimum=0.0, maximum=100000.0, live=True,
    )  # fmt: skip
    max_decisions: int = option(
        0,
        "How many queues the model may decide under one instruction before it is aborted; 0: as many as it "
        "takes. The last one is driven to its end.",
        minimum=0, maximum=1000000, live=True,
    )  # fmt: skip
    max_fault_s: float = option(
        60.0,
        "How long the executor may stand for a fault, or say nothing, before the instruction is aborted; 0: "
        "for ever. A pause and obstacles are none. Too short ends runs that a lost link interrupts; too long "
        "lets a robot drive off after minutes, when nobody expects it any more.",
        unit="s", minimum=0.0, maximum=86400.0, live=True,
    )  # fmt: skip


@dataclass(frozen=True)
class QuestionConfig:
    """Questions that are answered beside the run (docs/reference/nodes.md)."""

    max_waiting: int = option(
        4,
        "Most questions that wait while another one is answered; further ones are refused as busy. Too few "
        "refuse people who ask at once, too many answer long after the question.",
        minimum=1, maximum=1000,
    )  # fmt: skip
    timeout_s: float = option(
        30.0,
        "How long a question waits for the model to be free between decisions, or for the first frame of a "
        "run, before it is refused. Too low refuses questions to a robot that drives on a slow machine; too "
        "high lets people wait for nothing.",
        unit="s", minimum=0.1, maximum=3600.0,
    )  # fmt: skip
    max_question_tokens: int = option(
        512,
        "Longest question in tokens, its choices included; longer ones are refused. Too low refuses what "
        "people ask; each token takes memory and time beside the run.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    max_answer_tokens: int = option(
        64,
        "Longest answer in tokens; it is cut off there, and says so. Too low cuts sentences, too high keeps "
        "the machine busy where the model does not come to an end.",
        minimum=1, maximum=10000,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NavigatorConfig(ExtrinsicsConfig, ImageInputConfig):
    """The navigator: sees frames, hears the instruction, publishes action queues."""

    autostart: bool = option(
        True,
        "Whether the node configures and activates itself when its process starts. False leaves that to a "
        "lifecycle manager, and nothing happens until one acts.",
    )
    engine: EngineName = option(
        "qwen",
        "What decides. qwen: a Qwen2.5-VL checkpoint; expert: the oracle policy, which knows the map of a "
        "simulated world; pixel_oracle: that policy, answering with pixels as InternVLA-N1 does, to prove "
        "what drives there; paced: always forward after a fixed time, to measure the graph.",
        choices=get_args(EngineName),
    )
    decide_on: str = option(
        "progress",
        "When the engine is asked. progress: when the executor has at most decide_ahead actions left; "
        "frame: after every frame, as for recordings in which nobody follows the queues.",
        choices=("progress", "frame"),
    )
    decide_ahead: int = option(
        0,
        "How many actions may be left in the executor's queue when the next decision is taken. 0 lets "
        "the robot stand while the model computes, and lockstep needs it; higher values keep it moving, "
        "but decide from an older view, and may cost success with a policy that was trained to decide "
        "at the end of a queue.",
        minimum=0, maximum=64, live=True,
    )  # fmt: skip
    lost_after_s: float = option(
        2.0,
        "How long after the first frame that followed a decision the executor may take to begin its queue, "
        "before the queue counts as lost and the model is asked again. Too low asks twice over a slow "
        "network, too high leaves the robot standing after a lost message.",
        unit="s", minimum=0.1, maximum=60.0, live=True,
    )  # fmt: skip
    heartbeat_hz: float = option(
        20.0,
        "Rate of the heartbeat by which the executor knows that the navigator is alive. It must be several "
        "times 1 / safety.heartbeat_timeout_s: too low stops the robot for a single lost message, higher "
        "values only cost network.",
        unit="Hz", minimum=1.0, maximum=100.0,
    )  # fmt: skip
    diagnostics_hz: float = option(
        1.0,
        "Rate at which the navigator publishes on /diagnostics. Lower rates show problems later, higher "
        "ones fill the network and the logs.",
        unit="Hz", minimum=0.1, maximum=10.0,
    )  # fmt: skip
    reliability: str = option(
        "best_effort",
        "Quality of service of the subscriptions to camera topics. best_effort hears every publisher "
        "and may lose images; reliable loses none, but hears only reliable publishers and can stall on "
        "a bad link.",
        choices=("best_effort", "reliable"),
    )
    image_depth: int = option(
        5,
        "How many images of each camera topic may wait for the navigator's callbacks. 1 loses images "
        "whenever another callback is running; large values cost memory, and let the navigator work "
        "through old images after a delay.",
        minimum=1, maximum=100,
    )  # fmt: skip
    step: StepConfig = group(StepConfig)
    sync: SyncConfig = group(SyncConfig)
    qwen: QwenConfig = group(QwenConfig)
    expert: ExpertConfig = group(ExpertConfig)
    pixel_oracle: PixelOracleConfig = group(PixelOracleConfig)
    paced: PacedConfig = group(PacedConfig)
    limits: RunLimitsConfig = group(RunLimitsConfig)
    drive: DriveName = option(
        "queue",
        "Who drives. queue: action queues go to the executor, which moves the base; nav2: every answer "
        "goes to Nav2 as a goal, no executor may run beside it, and what stops the robot is Nav2's "
        "affair (docs/robot/bringup.md).",
        choices=get_args(DriveName),
    )
    place: PlaceConfig = group(PlaceConfig)
    nav2: Nav2Config = group(Nav2Config)
    guards: GuardsConfig = group(GuardsConfig)
    questions: QuestionConfig = group(QuestionConfig)
    profiling: ProfilingConfig = group(ProfilingConfig)


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """The fleet: navigators of several robots in one process, which share a model."""

    robots: str = option(
        "",
        "Namespaces of the robots that are served, separated by commas, as in left,right. In each of them "
        "there is a navigator with its topics, services and parameters; a robot that is not named has none.",
    )
    diagnostics_hz: float = option(
        1.0,
        "Rate at which the fleet publishes on /diagnostics what its robots share. Lower rates show a lost "
        "robot later, higher ones fill the network.",
        unit="Hz", minimum=0.1, maximum=10.0,
    )  # fmt: skip
