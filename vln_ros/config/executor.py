"""Options of the executor: how it drives, and when it stands still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vln_ros.config.options import ConfigError, group, option
from vln_ros.config.place import PlaceConfig
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.robot import Extrinsics, ExtrinsicsConfig, SyncConfig

ObstacleSensors = Literal["none", "depth", "scan", "both"]


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """When the executor stands still, whatever the queue says. Ages are measured on a steady clock."""

    odometry_timeout_s: float = option(
        0.5,
        "Time without new odometry after which the robot stops. Too low stops it for single late messages; "
        "too high lets it drive on without knowing where it is.",
        unit="s", minimum=0.05, maximum=10.0, live=True,
    )  # fmt: skip
    heartbeat_timeout_s: float = option(
        0.5,
        "Time without the navigator's heartbeat after which the robot stops. Too low stops it on a busy "
        "network; too high lets it finish a queue though the navigator or the link is dead.",
        unit="s", minimum=0.1, maximum=10.0, live=True,
    )  # fmt: skip
    frame_timeout_s: float = option(
        1.0,
        "Time without a new complete frame at the navigator after which the robot stops. Too low stops it "
        "with slow cameras (it must exceed several frame periods); too high lets it drive on though the "
        "camera is dead.",
        unit="s", minimum=0.1, maximum=10.0, live=True,
    )  # fmt: skip
    obstacles: ObstacleSensors = option(
        "depth",
        "Which sensors the executor looks for obstacles with. depth: the depth camera; scan: the laser "
        "scanner on the topic scan; both: either one stops the robot; none: nothing does, which is for "
        "simulation and for bases that protect themselves.",
        choices=get_args(ObstacleSensors),
    )
    obstacle_timeout_s: float = option(
        0.7,
        "Time without new depth images, or scans, after which the robot stops. Too low stops it with slow "
        "sensors; too high lets it drive into what has appeared since.",
        unit="s", minimum=0.05, maximum=10.0, live=True,
    )  # fmt: skip
    stop_distance_m: float = option(
        PlaceConfig.stop_distance_m,
        "Free way ahead of the robot's edge below which it stops and drops its queue. Too low leaves no room "
        "for errors of sensors and brakes; too high stops it far from every wall and chair.",
        unit="m", minimum=0.0, maximum=3.0, live=True,
    )  # fmt: skip
    slow_distance_m: float = option(
        0.6,
        "Free way ahead of the robot's edge below which it slows down, in proportion, until stop_distance_m. "
        "It must not be below stop_distance_m: too low brakes hard and late, too high makes it crawl in "
        "narrow rooms.",
        unit="m", minimum=0.0, maximum=3.0, live=True,
    )  # fmt: skip
    creep_m_s: float = option(
        0.05,
        "Speed that the robot keeps at the end of the slow-down zone, until it stops. Too low and it hardly "
        "gets to stop_distance_m (or its motors do not turn); too high brakes hard at the end.",
        unit="m/s", minimum=0.01, maximum=0.5, live=True,
    )  # fmt: skip
    reaction_s: float = option(
        0.15,
        "Time between an obstacle's appearance and the base's reaction: age of the depth image and delay of "
        "the base together. The robot stops when it could not brake within the free way after this time; too "
        "low lets it brake too late, too high makes it stop early at speed.",
        unit="s", minimum=0.0, maximum=1.0, live=True,
    )  # fmt: skip
    robot_radius_m: float = option(
        PlaceConfig.robot_radius_m,
        "Radius of the circle about base_frame that holds the whole robot, arms and bumpers included. Too "
        "low lets its corners touch things; too high keeps it out of doorways.",
        unit="m", minimum=0.05, maximum=2.0, live=True,
    )  # fmt: skip
    min_height_m: float = option(
        PlaceConfig.min_height_m,
        "Height above base_frame below which everything is floor. Too low takes unevenness and noise of the "
        "floor for obstacles; too high drives over cables, sills and feet.",
        unit="m", minimum=-2.0, maximum=2.0, live=True,
    )  # fmt: skip
    max_height_m: float = option(
        PlaceConfig.max_height_m,
        "Height above base_frame above which nothing is an obstacle. It must exceed the robot's highest "
        "part: too low hits shelves and table tops with it, too high stops before lamps and lintels that it "
        "would pass under.",
        unit="m", minimum=0.0, maximum=3.0, live=True,
    )  # fmt: skip
    min_readings: float = option(
        0.1,
        "Smallest share of the pixels, or rays, that must hold a measurement in each third (left, middle, "
        "right) of the robot's way. Below it the sensor counts as blind, and the robot stops: too low drives "
        "on with a dirty lens, too high stops before glass and in large halls.",
        minimum=0.0, maximum=1.0, live=True,
    )  # fmt: skip
    min_depth_m: float = option(
        0.15,
        "Depth below which nearly all pixels must lie for the lens to count as covered. Too low misses a "
        "hand on the lens; too high takes a wall nearby for a cover.",
        unit="m", minimum=0.0, maximum=2.0, live=True,
    )  # fmt: skip
    max_depth_m: float = option(
        20.0,
        "Depth beyond which a reading counts as no measurement; when most pixels lie beyond it, the unit is "
        "wrong. Too low calls a large hall a fault, too high does not notice millimetres that are read as "
        "metres.",
        unit="m", minimum=1.0, maximum=1000.0, live=True,
    )  # fmt: skip
    scan_no_return: str = option(
        "inf",
        "How the scanner says that a ray met nothing. inf: by infinity alone, as REP 117 says; zero: by 0.0, "
        "too; beyond: by ranges above range_max, too. With the wrong choice free rays count as missing "
        "measurements, and the robot stops in large rooms.",
        choices=("inf", "zero", "beyond"),
    )
    scan_extrinsics: Extrinsics = option(
        "same",
        "Where the extrinsics of the laser scanner come from. same: as those of the camera; tf: the "
        "transform from base_frame to the scan's frame_id; parameters: the scan_* values in this group.",
        choices=get_args(Extrinsics),
    )
    scan_x_m: float = option(
        0.0,
        "Position of the laser scanner ahead of base_frame. Too large a value makes obstacles seem farther "
        "away than they are, too small a value stops the robot too early.",
        unit="m", minimum=-3.0, maximum=3.0,
    )  # fmt: skip
    scan_y_m: float = option(
        0.0,
        "Position of the laser scanner to the left of the centre of base_frame. A wrong value shifts "
        "obstacles sideways.",
        unit="m", minimum=-3.0, maximum=3.0,
    )  # fmt: skip
    scan_roll_deg: float = option(
        0.0,
        "Rotation of the laser scanner about its own x axis; 180 is upside down. A wrong value swaps left "
        "and right.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip
    scan_yaw_deg: float = option(
        0.0,
        "Rotation of the laser scanner to the left. A wrong value looks for obstacles beside the way instead "
        "of on it.",
        unit="deg", minimum=-180.0, maximum=180.0,
    )  # fmt: skip
    max_jump_m: float = option(
        0.2,
        "Distance that odometry may move beyond what the base can have driven since the last message. Beyond "
        "that it has jumped, and the robot stands until it is told to go on: too low stops it for wheel "
        "slip, too high accepts a localisation that corrects itself.",
        unit="m", minimum=0.01, maximum=10.0, live=True,
    )  # fmt: skip
    max_jump_deg: float = option(
        15.0,
        "Angle that odometry may turn beyond what the base can have turned since the last message. Beyond "
        "that it has jumped, and the robot stands until it is told to go on: too low stops it for wheel "
        "slip, too high accepts a localisation that corrects itself.",
        unit="deg", minimum=0.5, maximum=180.0, live=True,
    )  # fmt: skip

    @property
    def uses_depth(self) -> bool:
        """Obstacles are looked for in depth images."""
        return self.obstacles in ("depth", "both")

    @property
    def uses_scan(self) -> bool:
        """Obstacles are looked for in a laser scan."""
        return self.obstacles in ("scan", "both")


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig(ExtrinsicsConfig):
    """The executor: action queue and odometry to velocities."""

    autostart: bool = option(
        True,
        "Whether the node configures and activates itself when its process starts. False leaves that to a "
        "lifecycle manager, and nothing moves until one acts.",
    )
    rate_hz: float = option(
        20.0,
        "Rate of the control loop, and of cmd_vel. Too low makes motion jerky and faults take effect later "
        "(each needs one period); too high loads the processor, and the periods are missed.",
        unit="Hz", minimum=5.0, maximum=200.0,
    )  # fmt: skip
    max_linear_m_s: float = option(
        0.5,
        "Largest forward speed. Lower is safer and slower; above what the base can do, actions take longer "
        "than expected and may be reported as blocked.",
        unit="m/s", minimum=0.01, maximum=3.0, live=True,
    )  # fmt: skip
    max_angular_rad_s: float = option(
        1.0,
        "Largest turn rate. Lower gives sharper pictures while turning; above what the base can do, turns "
        "take longer than expected and may be reported as blocked.",
        unit="rad/s", minimum=0.01, maximum=6.0, live=True,
    )  # fmt: skip
    max_linear_accel_m_s2: float = option(
        1.0,
        "Largest change of the forward speed per second, both ways, but for a stop by a fault, which is "
        "immediate. Too low lengthens every action and the distance that is kept for braking; too high slips "
        "wheels and overshoots.",
        unit="m/s^2", minimum=0.05, maximum=20.0, live=True,
    )  # fmt: skip
    max_angular_accel_rad_s2: float = option(
        3.0,
        "Largest change of the turn rate per second, both ways, but for a stop by a fault, which is "
        "immediate. Too low lengthens every turn; too high slips wheels and overshoots.",
        unit="rad/s^2", minimum=0.05, maximum=50.0, live=True,
    )  # fmt: skip
    linear_gain: float = option(
        5.0,
        "Speed that is wanted per metre of distance left, near the goal of an action. Too low creeps at the "
        "end of every action; too high overshoots, or swings about the goal with a base that obeys late.",
        unit="1/s", minimum=0.1, maximum=20.0, live=True,
    )  # fmt: skip
    angular_gain: float = option(
        5.0,
        "Turn rate that is wanted per radian of heading error. Too low creeps at the end of every turn; too "
        "high overshoots, or swings about the heading with a base that obeys late.",
        unit="1/s", minimum=0.1, maximum=20.0, live=True,
    )  # fmt: skip
    position_tolerance_m: float = option(
        0.01,
        "Distance from its goal within which a forward action counts as done. Too low creeps for a long "
        "time, or blocks on a base that slips; too high ends actions short, which the next one must make "
        "good.",
        unit="m", minimum=0.001, maximum=0.5, live=True,
    )  # fmt: skip
    heading_tolerance_deg: float = option(
        0.7,
        "Angle from its goal within which an action counts as done. Too low creeps for a long time, or "
        "blocks on a base that slips; too high ends turns short, which the next action must make good.",
        unit="deg", minimum=0.05, maximum=20.0, live=True,
    )  # fmt: skip
    lookahead_m: float = option(
        0.3,
        "Distance ahead on its line toward which a base beside the line steers. Too low makes it weave about "
        "the line; too high returns to the line slowly, and may end an action beside its goal.",
        unit="m", minimum=0.05, maximum=5.0, live=True,
    )  # fmt: skip
    delay_s: float = option(
        0.1,
        "Time from a velocity command to its effect in the odometry, by which the executor looks ahead. Too "
        "low overshoots every action, too high stops short and creeps; /diagnostics tells what was measured "
        "after some seconds of driving.",
        unit="s", minimum=0.0, maximum=1.0, live=True,
    )  # fmt: skip
    blend: bool = option(
        True,
        "Whether equal actions in a row are driven as one motion. True is faster and smoother; false stops "
        "the base after every action.",
        live=True,
    )
    holonomic: bool = option(
        False,
        "Whether the base can move sideways. True on a differential base leaves sideways errors uncorrected, "
        "for it ignores the sideways part of cmd_vel.",
    )
    stamped_cmd_vel: bool = option(
        False,
        "Whether cmd_vel is a TwistStamped instead of a Twist. It must be what the base's driver subscribes "
        "to, or the base does not move.",
    )
    action_timeout_s: float = option(
        4.0,
        "Time after an action's due time at which it counts as blocked, and the robot stops. Too low stops "
        "slow bases during an action; too high lets wheels spin against an obstacle that no sensor sees.",
        unit="s", minimum=0.5, maximum=60.0, live=True,
    )  # fmt: skip
    diagnostics_hz: float = option(
        1.0,
        "Rate at which the executor publishes on /diagnostics and repeats its progress. Lower rates show "
        "problems later, and a navigator that was restarted waits longer; higher ones fill the network and "
        "the logs.",
        unit="Hz", minimum=0.1, maximum=10.0,
    )  # fmt: skip
    odom_frame: str = option(
        SyncConfig.odom_frame,
        "The frame_id that the executor expects in odometry messages; with another one the robot stands. "
        "Empty accepts any, which mixes up poses where two sources publish on one topic.",
    )
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
