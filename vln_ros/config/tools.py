"""Options of the tools: player, inspector, recorder."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option
from vln_ros.config.robot import ImageInputConfig


@dataclass(frozen=True, kw_only=True)
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
