"""Options of the tools: player of recordings, inspector, recorder."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option
from vln_ros.config.robot import ImageInputConfig


@dataclass(frozen=True, kw_only=True)
class PlayerConfig:
    """The player: plays a recording to the other nodes and notes what they answer."""

    bag: str = option(
        "",
        "Folder of a rosbag2, or its .db3 or .mcap file, that is played.",
    )
    report: str = option(
        "",
        "File that what was heard during the playback is written to, as JSON. Empty writes none.",
    )
    instruction: str = option(
        "",
        "Instruction that is published before the first frame of the recording is played.",
    )
    rate: float = option(
        1.0,
        "Speed of the playback as a multiple of the recording's. 0 plays each frame as soon as the navigator "
        "has processed the one before; above what the model can keep up with, frames are replaced by newer "
        "ones.",
        minimum=0.0, maximum=100.0,
    )  # fmt: skip
    reliability: str = option(
        "reliable",
        "Quality of service of the image publishers. reliable: every subscriber hears them; best_effort: "
        "only those that subscribe with best effort do, as with most camera drivers.",
        choices=("best_effort", "reliable"),
    )
    answer_timeout_s: float = option(
        120.0,
        "Longest time that the player waits for the navigator to take the instruction, or to answer the last "
        "frame. Too low gives up while weights are loading, too high hangs when the navigator is gone.",
        unit="s", minimum=1.0, maximum=36000.0,
    )  # fmt: skip
    frame_timeout_s: float = option(
        10.0,
        "Longest time that the player waits, with rate 0, until a frame has been processed. Too low skips "
        "frames that a slow model would still answer, too high hangs on frames that are refused.",
        unit="s", minimum=0.1, maximum=3600.0,
    )  # fmt: skip
    color: str = option(
        "",
        "Topic of colour images in the recording. Empty takes the only topic that fits, and is an error "
        "where several do.",
    )
    depth: str = option(
        "",
        "Topic of depth images in the recording. Empty takes the only topic that fits, and is an error where "
        "several do.",
    )
    camera_info: str = option(
        "",
        "Topic of the camera's calibration in the recording. Empty takes the only topic that fits, and is an "
        "error where several do.",
    )
    odometry: str = option(
        "",
        "Topic of odometry in the recording. Empty takes the only topic that fits, and is an error where "
        "several do.",
    )


@dataclass(frozen=True)
class InspectorConfig(ImageInputConfig):
    """The inspector: what people look at, drawn only while somebody looks."""

    rate_hz: float = option(
        5.0,
        "Rate of markers, trail and annotated images, while somebody subscribes. Low rates look jerky in "
        "rviz; high ones take processor time from the other nodes.",
        unit="Hz", minimum=0.5, maximum=30.0,
    )  # fmt: skip
    trail_spacing_m: float = option(
        0.05,
        "Distance that the robot goes between two points of the trail. Small values make a smooth line and a "
        "large message, large ones cut corners.",
        unit="m", minimum=0.001, maximum=10.0,
    )  # fmt: skip
    trail_points: int = option(
        5000,
        "Most points that the trail holds; the oldest are dropped. Few points show only the last part of the "
        "way, many make a large message.",
        minimum=2, maximum=100000,
    )  # fmt: skip


@dataclass(frozen=True)
class RecorderConfig(ImageInputConfig):
    """The recorder: inputs, queues, commands and diagnostics to a bag."""

    folder: str = option(
        "bags",
        "Folder in which each recording gets a folder of its own, named by date and time.",
    )
    storage: str = option(
        "mcap",
        "File format of the recording. mcap: one file that survives a crash well and is read by Foxglove; "
        "sqlite3: the format of older ROS versions.",
        choices=("mcap", "sqlite3"),
    )
    queue_mb: int = option(
        256,
        "Most data that may wait in memory for the disk; what comes beyond that is dropped and counted. Too "
        "low drops messages when the disk pauses, too high takes memory that the robot needs.",
        unit="MB", minimum=1, maximum=65536,
    )  # fmt: skip
    stamped_cmd_vel: bool = option(
        False,
        "Whether the recorder takes cmd_vel as TwistStamped instead of Twist. It must be as at the executor, "
        "or velocities are missing in the recording.",
    )
