"""Options of the navigator, and of the sensors that it shares with other nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vln_ros.config.engine import PacedConfig, QwenConfig
from vln_ros.config.options import group, option
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.simulation import ExpertConfig, StepConfig

EngineName = Literal["qwen", "expert", "paced"]
CameraExtrinsics = Literal["tf", "parameters"]
Extrinsics = Literal["same", "tf", "parameters"]


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
        "Largest gap between two odometry messages across which a pose is interpolated. Too low drops frames "
        "when a message is lost; too high invents poses, which displaces what reuse and the predicted path "
        "are computed from.",
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
        "Speed above which two odometry poses count as a jump, so that no pose is interpolated between them. "
        "Set it above the robot's own top speed: too low drops good frames, too high accepts the jumps of a "
        "localisation.",
        unit="m/s", minimum=0.1, maximum=100.0, live=True,
    )  # fmt: skip
    odom_frame: str = option(
        "odom",
        "The frame_id that the navigator expects in odometry messages; others are dropped and counted. Empty "
        "accepts any, which mixes up poses where two sources publish on one topic.",
    )


@dataclass(frozen=True)
class DepthInputConfig:
    """The depth camera."""

    depth_topic: str = option(
        "camera/aligned_depth_to_color/image_raw",
        "Topic of depth images that are registered to the colour image, of the same size and frame. With "
        "compressed transport, /compressedDepth is appended.",
    )
    camera_info_topic: str = option(
        "camera/color/camera_info",
        "Topic of the calibration that belongs to the colour images. That of another camera is refused, and "
        "no frame reaches the model.",
    )
    base_frame: str = option(
        "base_link",
        "Frame of the robot's base, in which actions and velocities are expressed: x forward, y left, z up "
        "(REP 103). Extrinsics and odometry are brought to it.",
    )


@dataclass(frozen=True)
class ImageInputConfig(DepthInputConfig):
    """Where colour and depth come from."""

    color_topic: str = option(
        "camera/color/image_raw",
        "Topic of colour images. They must be rectified, or taken with a lens that has no distortion to "
        "speak of. With compressed transport, /compressed is appended.",
    )
    color_transport: str = option(
        "raw",
        "How colour images come. raw: as Image messages; compressed: as CompressedImage with JPEG or PNG, "
        "which saves network where the navigator runs on another machine.",
        choices=("raw", "compressed"),
    )
    depth_transport: str = option(
        "raw",
        "How depth images come. raw: as Image messages; compressed: as CompressedImage in the "
        "compressedDepth format, which saves network where the navigator runs on another machine.",
        choices=("raw", "compressed"),
    )


@dataclass(frozen=True, kw_only=True)
class OdometryConfig:
    """Of which frame on the robot the odometry is. Of base_frame itself nothing needs to be told."""

    child_frame: str = option(
        "",
        "Frame whose pose the odometry gives, where the messages leave child_frame_id empty. With extrinsics "
        "set to parameters it is also the one frame besides base_frame that is accepted, and the six values "
        "here are its place.",
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
        "Height of the odometry's child frame above base_frame, along its z axis. It matters only where that "
        "frame is tilted.",
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
        "Downward tilt of the x axis of the odometry's child frame. A wrong value tilts every pose, and with "
        "it everything that the camera sees.",
        unit="deg", minimum=-90.0, maximum=90.0,
    )  # fmt: skip
    yaw_deg: float = option(
        0.0,
        "Rotation of the odometry's child frame to the left, about the vertical. A wrong value makes the "
        "robot seem to drive sideways, and actions end beside their goal.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExtrinsicsConfig(DepthInputConfig):
    """The depth camera and where it sits on the base."""

    extrinsics: CameraExtrinsics = option(
        "tf",
        "Where the extrinsics of the sensors come from. tf: the transform from base_frame to the messages' "
        "frame_id, which needs tf2_ros; parameters: the six camera_* values, and those of the other sensors.",
        choices=get_args(CameraExtrinsics),
    )
    calibration: str = option(
        "auto",
        "Which matrix of camera_info describes the images. raw: K; rectified: P; auto: where the two differ, "
        "P if the topic's name says rect, K if it says raw, and otherwise P if there is distortion to "
        "rectify. The wrong one shifts obstacles sideways.",
        choices=("auto", "raw", "rectified"),
    )
    odometry: OdometryConfig = group(OdometryConfig)
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
        "Height of the camera above base_frame. Too low a value takes obstacles for floor, too high a value "
        "takes the floor for an obstacle.",
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
        "Rotation of the camera to the left. A wrong value looks for obstacles beside the way instead of on "
        "it.",
        unit="deg", minimum=-180.0, maximum=180.0,
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
        "simulated world; paced: always forward after a fixed time, to measure the graph.",
        choices=get_args(EngineName),
    )
    decide_on: str = option(
        "progress",
        "When the engine is asked. progress: when the executor has at most decide_ahead actions left; frame: "
        "after every frame, as for recordings in which nobody follows the queues.",
        choices=("progress", "frame"),
    )
    decide_ahead: int = option(
        0,
        "How many actions may be left in the executor's queue when the next decision is taken. 0 lets the "
        "robot stand while the model computes, and lockstep needs it; higher values keep it moving, but "
        "decide from an older view, and may cost success with a policy that was trained to decide at the end "
        "of a queue.",
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
        "Rate at which the navigator publishes on /diagnostics. Lower rates show problems later, higher ones "
        "fill the network and the logs.",
        unit="Hz", minimum=0.1, maximum=10.0,
    )  # fmt: skip
    reliability: str = option(
        "best_effort",
        "Quality of service of the subscriptions to camera topics. best_effort hears every publisher and may "
        "lose images; reliable loses none, but hears only reliable publishers and can stall on a bad link.",
        choices=("best_effort", "reliable"),
    )
    image_depth: int = option(
        5,
        "How many images of each camera topic may wait for the navigator's callbacks. 1 loses images "
        "whenever another callback is running; large values cost memory, and let the navigator work through "
        "old images after a delay.",
        minimum=1, maximum=100,
    )  # fmt: skip
    step: StepConfig = group(StepConfig)
    sync: SyncConfig = group(SyncConfig)
    qwen: QwenConfig = group(QwenConfig)
    expert: ExpertConfig = group(ExpertConfig)
    paced: PacedConfig = group(PacedConfig)
    profiling: ProfilingConfig = group(ProfilingConfig)
