"""Options of places that a model points at: in which picture, how large the robot is, how it gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vln_ros.config.options import option

DriveName = Literal["queue", "nav2"]
GoalTransport = Literal["auto", "action", "topic"]
LookDownPicture = Literal["profile", "same", "camera"]


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """How the robot gets to a place that the model points at (a pixel goal)."""

    robot_radius_m: float = option(
        0.25,
        "Radius of the circle that holds the robot, for which places and ways are looked for. Give it the "
        "value of the executor's safety.robot_radius_m: below that the executor stops what was planned, "
        "above it the robot finds no way through doors.",
        unit="m", minimum=0.05, maximum=2.0,
    )  # fmt: skip
    margin_m: float = option(
        0.02,
        "Distance that a planned way keeps from obstacles at least, beyond the robot's circle. Too low is "
        "stopped when the robot drifts off its line; too high finds no way through doors.",
        unit="m", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    stop_distance_m: float = option(
        0.15,
        "Free way that a planned forward action leaves beyond its end. Below the executor's "
        "safety.stop_distance_m the executor stops what was planned; above it the robot keeps farther "
        "from what it drives up to.",
        unit="m", minimum=0.0, maximum=3.0,
    )  # fmt: skip
    keep_away_m: float = option(
        0.25,
        "Distance from obstacles, beyond circle and margin, below which a way costs more: up to four "
        "times as much where it grazes them. Higher takes wider turns around furniture, and longer ways.",
        unit="m", minimum=0.0, maximum=2.0,
    )  # fmt: skip
    min_height_m: float = option(
        0.1,
        "Height above the base below which depth readings are floor. As the executor's "
        "safety.min_height_m.",
        unit="m", minimum=-2.0, maximum=2.0,
    )  # fmt: skip
    max_height_m: float = option(
        1.4,
        "Height above the base above which depth readings are no obstacle, as the robot passes below. As "
        "the executor's safety.max_height_m.",
        unit="m", minimum=0.0, maximum=3.0,
    )  # fmt: skip
    floor_height_m: float = option(
        0.0,
        "Height of the floor above base_frame: negative where base_frame is in the middle of the robot's "
        "body. It must be lower than min_height_m. A wrong one puts places without depth at the wrong "
        "distance, and takes floor for a drop.",
        unit="m", minimum=-2.0, maximum=2.0,
    )  # fmt: skip
    max_depth_m: float = option(
        10.0,
        "Depth beyond which a reading says nothing about where a pixel is. Too low moves far goals "
        "nearer; too high believes readings that the camera cannot measure.",
        unit="m", minimum=0.5, maximum=100.0,
    )  # fmt: skip
    reached_within_m: float = option(
        0.25,
        "Distance from the place at which it is reached and the model is asked again. The default is that "
        "of the released evaluation of InternVLA-N1; below half of a forward action the robot may turn "
        "around the place.",
        unit="m", minimum=0.05, maximum=2.0,
    )  # fmt: skip
    max_actions: int = option(
        8,
        "Actions toward one place after which the model is asked again, reached or not; 0 goes on until "
        "it is reached or given up. The default is that of the released evaluation of InternVLA-N1; more "
        "asks less often, and follows a wrong place for longer.",
        minimum=0, maximum=1000,
    )  # fmt: skip
    queue_actions: int = option(
        4,
        "Actions after which the way is planned anew from what is seen by then. Fewer react sooner to "
        "what appears, and the robot stands more often for a moment.",
        minimum=1, maximum=64,
    )  # fmt: skip
    max_distance_m: float = option(
        10.0,
        "Distance beyond which a place is not driven to but given up. Higher makes the grid that is "
        "searched larger, and planning slower.",
        unit="m", minimum=0.5, maximum=100.0,
    )  # fmt: skip
    max_shift_m: float = option(
        1.0,
        "Distance from the place within which another one is driven to where the place itself cannot be "
        "reached. Lower gives up sooner beside furniture; higher may end at something else than what the "
        "model points at.",
        unit="m", minimum=0.0, maximum=10.0,
    )  # fmt: skip
    max_detour: float = option(
        4.0,
        "How many times the straight distance (of one metre at least) the way to a place may cost before "
        "it is given up. Ways along obstacles cost up to four times their length, so lower values give up "
        "in narrow rooms; higher ones drive around through other rooms.",
        minimum=1.0, maximum=1000.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Nav2Config:
    """Driving by Nav2 instead of by the executor."""

    goals: GoalTransport = option(
        "auto",
        "How Nav2 is told where to drive. action: the action navigate_to_pose, whose result and "
        "cancelling are used; topic: PoseStamped on goal_pose, where only odometry tells how it goes; "
        "auto: the action where nav2_msgs can be imported, the topic otherwise.",
        choices=get_args(GoalTransport),
    )
    accept_timeout_s: float = option(
        5.0,
        "Time within which Nav2 must take a goal. Afterwards the goal is given up, an error says so, "
        "and the model is asked again. Too low gives up while Nav2 is busy.",
        unit="s", minimum=0.1, maximum=60.0,
    )  # fmt: skip
    stuck_s: float = option(
        15.0,
        "Time for which the robot may stand on the way to a goal before the goal is cancelled and the "
        "model is asked again. Lower than Nav2's recoveries take cuts them off; higher stands for "
        "longer.",
        unit="s", minimum=0.5, maximum=600.0,
    )  # fmt: skip
    frame_timeout_s: float = option(
        1.0,
        "Time without a new complete frame after which the goal is cancelled: the robot shall not drive "
        "on what nobody sees. Too low cancels when a frame is late.",
        unit="s", minimum=0.1, maximum=10.0,
    )  # fmt: skip
    heading_tolerance_deg: float = option(
        8.0,
        "Largest heading error at the end of a queue that Nav2 drives. It must be above the goal "
        "checker's own tolerance, or turns are never done, and below one turn of the policy, or they "
        "are done before they begin.",
        unit="deg", minimum=0.5, maximum=90.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LookDownConfig:
    """The picture in which a model points at places."""

    picture: LookDownPicture = option(
        "profile",
        "Which picture the model is shown when it asks to look down. profile: as the profile says; same: the "
        "newest picture again, for a camera that is fixed, as the released robot server does; camera: the "
        "newest picture of a second camera that looks down, as in the released evaluation.",
        choices=get_args(LookDownPicture),
    )
    max_age_s: float = option(
        0.5,
        "Largest difference between the stamps of the second camera's picture and of the newest frame. "
        "Without a picture within it the robot holds and says so. Too low holds with a slow second camera, "
        "too high shows what lies behind the robot by now.",
        unit="s", minimum=0.0, maximum=10.0,
    )  # fmt: skip
    color_topic: str = option(
        "camera_down/color/image_raw",
        "Topic of the second camera's colour images, which must be rectified. Transport, quality of service "
        "and everything else are as the first camera's.",
    )
    depth_topic: str = option(
        "camera_down/aligned_depth_to_color/image_raw",
        "Topic of the second camera's depth images, registered to its colour.",
    )
    camera_info_topic: str = option(
        "camera_down/color/camera_info",
        "Topic of the second camera's calibration. It must be the one of its colour images.",
    )
    pitch_down_deg: float = option(
        30.0,
        "Downward tilt of the second camera where extrinsics is parameters; its place is then that of the "
        "first. With extrinsics tf the transform counts. A wrong tilt puts every place at a wrong distance.",
        unit="deg", minimum=-90.0, maximum=90.0,
    )  # fmt: skip
