"""Options of the navigator, and of the sensors that it shares with other nodes."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.engine import PacedConfig, QwenConfig
from vln_ros.config.options import group, option
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.simulation import ExpertConfig, StepConfig


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
