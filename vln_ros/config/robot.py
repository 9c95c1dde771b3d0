"""Options of the nodes on a robot: what they hear, when they stop, how they drive."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.engine import PacedConfig, QwenConfig
from vln_ros.config.options import ConfigError, group, option
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
class ColorInputConfig:
    """Where colour comes from."""

    color_topic: str = option(
        "camera/color/image_raw", "Colour images, rectified; /compressed is appended for that transport"
    )
    color_transport: str = option(
        "raw", "raw: Image messages; compressed: CompressedImage, jpeg or png", choices=("raw", "compressed")
    )


@dataclass(frozen=True)
class ImageInputConfig(ColorInputConfig, DepthInputConfig):
    """Where colour and depth come from."""

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
