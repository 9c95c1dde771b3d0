"""Options of the tools: player of recordings, inspector, recorder, page in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vln_ros.config.options import group, option
from vln_ros.config.robot import ColorInputConfig, ImageInputConfig, OdometrySource

ColorFormat = Literal["jpeg", "png", "as_published"]
DepthFormat = Literal["png", "as_published"]
BagCompression = Literal["none", "zstd"]


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
    listeners: int = option(
        1,
        "Number of subscribers to the colour images for which the player waits before it begins. With the "
        "page, which subscribes once somebody looks, it is 2; too high waits for ever.",
        minimum=1, maximum=100,
    )  # fmt: skip
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


@dataclass(frozen=True, kw_only=True)
class TrailOdometryConfig:
    """The odometry that the inspector's trail is drawn from, in the words of the other nodes."""

    source: OdometrySource = option(
        "topic",
        "Where the trail's poses come from. topic: messages on odom; tf: the transforms from odom_frame on "
        "/tf, for robots that publish nothing else. With the wrong one there is no trail.",
        choices=get_args(OdometrySource),
    )
    child_frame: str = option(
        "",
        "Frame below odom_frame that the trail follows where the transforms on /tf have no base_frame there; "
        "empty: base_frame alone. A frame that is fixed in the room makes no trail.",
    )


@dataclass(frozen=True)
class InspectorConfig(ImageInputConfig):
    """The inspector: what people look at, drawn only while somebody looks."""

    odom_frame: str = option(
        "odom",
        "Frame that odometry is in, as the other nodes have it. The trail looks for its transforms there if "
        "odometry.source is tf; by another name it finds none.",
    )
    odometry: TrailOdometryConfig = group(TrailOdometryConfig)
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


@dataclass(frozen=True, kw_only=True)
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
    color_format: ColorFormat = option(
        "jpeg",
        "How colour that comes raw is recorded. jpeg: a few percent of its size, with blurred edges; png: "
        "about half of it, exactly; as_published: as it is, which replay --exact needs.",
        choices=get_args(ColorFormat),
    )
    depth_format: DepthFormat = option(
        "png",
        "How depth that comes raw is recorded. png: compressedDepth in whole millimetres, about a fifth of "
        "its size; as_published: as it is, which replay --exact needs where depth is in metres.",
        choices=get_args(DepthFormat),
    )
    jpeg_quality: int = option(
        90,
        "Quality of the JPEG images of color_format. Low values leave blocks that a model may see, high "
        "values take more disk.",
        minimum=1, maximum=100,
    )  # fmt: skip
    compression: BagCompression = option(
        "none",
        "How the bag itself is compressed. none: not at all; zstd: in chunks (mcap) or message by "
        "message (sqlite3), without loss; it helps where images are recorded as published, and costs "
        "processor time.",
        choices=get_args(BagCompression),
    )
    split_mb: int = option(
        2048,
        "Size of a file of the recording after which the next one begins. 0 writes one file, however large; "
        "small values make many files.",
        unit="MB", minimum=0, maximum=1048576,
    )  # fmt: skip
    split_s: float = option(
        0.0,
        "Time after which the next file of the recording begins. 0 splits by size alone.",
        unit="s", minimum=0.0, maximum=86400.0,
    )  # fmt: skip
    min_free_mb: int = option(
        1024,
        "Space that is left on the disk. With less the recorder does not begin, and a recording ends with an "
        "error; too low a value lets a recording stop what else the robot writes.",
        unit="MB", minimum=0, maximum=1048576,
    )  # fmt: skip
    duration_s: float = option(
        0.0,
        "Length of the recording, after which the recorder ends. 0 records until it is ended.",
        unit="s", minimum=0.0, maximum=864000.0,
    )  # fmt: skip
    stamped_cmd_vel: bool = option(
        False,
        "Whether the recorder takes cmd_vel as TwistStamped instead of Twist. It must be as at the executor, "
        "or velocities are missing in the recording.",
    )


@dataclass(frozen=True, kw_only=True)
class WebConfig(ColorInputConfig):
    """The page in the browser: shows what the robot does, takes instructions and STOP."""

    host: str = option(
        "127.0.0.1",
        "Address that the page is served at. The default is reached from this machine only; 0.0.0.0 serves "
        "the network, and then the printed address holds a token that is asked for.",
    )
    port: int = option(
        8765,
        "TCP port that the page is served at. 0 takes one that is free, which the log names.",
        minimum=0, maximum=65535,
    )  # fmt: skip
    token: str = option(
        "",
        "Secret in the address of the page, at least 16 letters and digits. Empty makes a random one at "
        "every start, or asks for none where host is this machine itself.",
    )
    driver_gone: str = option(
        "continue",
        "What becomes of the run when the driver's page has been gone for driver_grace_s. continue: nothing; "
        "hold: the same as STOP, somebody has to release the robot.",
        choices=("continue", "hold"),
    )
    driver_grace_s: float = option(
        5.0,
        "Time that a driver's page may be gone, reloading or without a network, before another one may drive "
        "without taking over. Too low gives the seat away at every reload.",
        unit="s", minimum=0.0, maximum=3600.0,
    )  # fmt: skip
    viewer_timeout_s: float = option(
        6.0,
        "Time without a sign of life of a page after which its connection is ended. Too low ends those of a "
        "slow network, too high notices late that a phone is out of reach.",
        unit="s", minimum=0.5, maximum=600.0,
    )  # fmt: skip
    viewers: int = option(
        20, "Most pages that may be open at once; more are refused.", minimum=1, maximum=1000
    )
    image_hz: float = option(
        10.0,
        "Most pictures per second that are encoded and sent. Higher costs more of a processor core and of "
        "the network; the navigator takes every frame all the same.",
        unit="Hz", minimum=0.1, maximum=60.0,
    )  # fmt: skip
    image_width_px: int = option(
        640,
        "Width above which pictures are made smaller before they are sent. JPEG images of a compressed "
        "topic are sent as they are.",
        unit="px", minimum=64, maximum=4096,
    )  # fmt: skip
    jpeg_quality: int = option(
        75,
        "Quality of the JPEG pictures. Lower needs less of the network and shows blocks.",
        minimum=1, maximum=100,
    )  # fmt: skip
    pose_hz: float = option(
        10.0,
        "Most positions per second that the map shows; with fewer the robot jumps on the map.",
        unit="Hz", minimum=0.5, maximum=50.0,
    )  # fmt: skip
    trail_spacing_m: float = option(
        0.05,
        "Way after which a point is added to the trail on the map. Smaller fills the trail sooner.",
        unit="m", minimum=0.001, maximum=10.0,
    )  # fmt: skip
    trail_points: int = option(
        2000, "Most points of the trail on the map; of more the oldest go.", minimum=2, maximum=100000
    )
    examples: str = option(
        "Go to the red lamp.; Turn around and stop.; Walk through the door and stop by the table.",
        "Sentences that the page offers to choose from, separated by semicolons. Empty offers none.",
    )
