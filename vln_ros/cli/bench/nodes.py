"""``vln_ros bench nodes``: frames lost and latency from a camera's topic through the nodes."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.evaluation.files import write_atomically
from vln_ros.ros.terminal.environment import FAST_DDS_LOCALHOST_PROFILE, SOCKET_BUFFER_BYTES

TITLE = "Camera streams and recordings through the nodes"
HELP = "Measure the graph: camera streams with and without the shipped Fast DDS profile, and replays"
FRAMES = 240
FRAME_HZ = 30.0
SHIPPED, UNTUNED, NONE = "shipped", "shipped, untuned kernel", "none"
UNTUNED_BUFFER_BYTES = 212992
"""What Linux lets a process have, at most, where nobody has raised net.core.rmem_max."""


@dataclass(frozen=True, kw_only=True)
class StreamFigures:
    """One camera stream as a second process sees it.

    Attributes:
        profile: :data:`SHIPPED`, :data:`UNTUNED` (the same with the buffer that such a kernel grants) or
            :data:`NONE` (Fast DDS as it comes).
        published: frames that the bridge sent in the window, by their stamps.
        received: of those, how many arrived complete (colour and depth).
        lost_percent: the rest.
        achieved_hz: rate of arrival, wall clock.
        p50_ms, p95_ms: from the publication of the colour image to its callback.
    """

    profile: str
    reliability: str
    published: int
    received: int
    lost_percent: float
    achieved_hz: float
    p50_ms: float
    p95_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--duration-s",
        type=float,
        default=10.0,
        help="length of each camera stream, seconds (default: %(default)g)",
    )
    add_json(parser)
    rename_options(parser, {"--seconds": "--duration-s"})


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        streams = [
            _stream(folder / f"stream-{number}-{reliability}", profile, reliability, options.duration_s)
            for number, profile in enumerate((SHIPPED, UNTUNED, NONE))
            for reliability in ("best_effort", "reliable")
        ]
        bag = _record(folder / "recording")
        replays = {
            f"{decision_ms} ms, {reliability}": _replay(folder, bag, decision_ms, reliability)
            for decision_ms in (50, 400)
            for reliability in ("best_effort", "reliable")
        }
    _print_streams(streams)
    _print_replays(replays)
    if options.json is not None:
        figures = {"streams": [asdict(s) for s in streams], "replays": replays}
        write_atomically(options.json, json.dumps(figures, indent=2) + "\n")
    return 0


PLAIN_PROFILE = """<?xml version="1.0" encoding="UTF-8" ?>
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"><profiles>
<participant profile_name="plain" is_default_profile="true"><rtps/></participant>
</profiles></dds>
"""
"""Fast DDS as it comes; a profile file that the user names is not replaced by the shipped one."""


def _environment(folder: Path, profile: str) -> dict[str, str]:
    environment = graph_environment()
    own = folder / "profile.xml"
    if profile == UNTUNED:
        shipped = FAST_DDS_LOCALHOST_PROFILE.read_text("utf-8")
        own.write_text(shipped.replace(str(SOCKET_BUFFER_BYTES), str(UNTUNED_BUFFER_BYTES)), "utf-8")
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(own)
    elif profile == NONE:
        own.write_text(PLAIN_PROFILE, "utf-8")
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(own)
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment


def _stream(folder: Path, profile: str, reliability: str, seconds: float) -> StreamFigures:
    """640x480 RGB-D at 30 Hz from the bridge to this process."""
    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.splits import make_episodes

    folder.mkdir()
    environment = _environment(folder, profile)
    episodes = write_episodes(folder, "val_unseen", make_episodes("val_unseen", 1))
    navigator: dict[str, Scalar] = {
        "engine": "paced",
        "extrinsics": "parameters",
        "reliability": reliability,
        "use_sim_time": True,
    }
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes),
        "mode": "realtime",
        "image_hz": FRAME_HZ,
        "odometry_hz": 2.0 * FRAME_HZ,
        "reliability": reliability,
        "max_episode_s": 10.0 * seconds + 60.0,
    }
    with Graph(folder / "logs", environment) as graph:
        graph.start(NodeSpec("sim_bridge", bridge))
        graph.start(NodeSpec("navigator", navigator))
        probe = [  # its own process: the environment of the DDS library is read once
            "-c",
            f"from vln_ros.cli.bench.nodes import probe; probe({reliability!r}, {seconds})",
        ]
        seen = json.loads(graph.output_of(probe))
    return StreamFigures(profile=profile, reliability=reliability, **seen)


def probe(reliability: str, seconds: float) -> None:
    """Listen to the bridge's camera and print what arrived, as JSON. Runs in a process of its own."""
    from vln_ros.ros.terminal.environment import prepare_environment

    prepare_environment()
    import rclpy
    from sensor_msgs.msg import Image

    from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC
    from vln_ros.ros import convert, qos

    rclpy.init()
    node = rclpy.create_node("probe")
    color: dict[int, tuple[float, float]] = {}
    depth: set[int] = set()

    def on_color(msg: Image, info: dict[str, int]) -> None:
        now_ns = time.time_ns()
        color[convert.stamp_ns_from_time(msg.header.stamp)] = (
            (now_ns - info["source_timestamp"]) / 1e6,
            now_ns / 1e9,
        )

    def on_depth(msg: Image) -> None:
        depth.add(convert.stamp_ns_from_time(msg.header.stamp))

    sensor = qos.sensor(reliability, 5)
    node.create_subscription(Image, COLOR_TOPIC, on_color, sensor)  # type: ignore[arg-type]
    node.create_subscription(Image, DEPTH_TOPIC, on_depth, sensor)
    settled = 30  # the first frames come while the processes still find each other
    until_s = math.inf
    while time.monotonic() < until_s:
        rclpy.spin_once(node, timeout_sec=0.1)
        if len(color) >= settled and until_s == math.inf:
            until_s = time.monotonic() + seconds
    stamps = sorted(color)[settled:-2]
    published = round((stamps[-1] - stamps[0]) / 1e9 * FRAME_HZ) + 1
    received = sum(s in depth for s in stamps)
    latencies = [color[s][0] for s in stamps]
    arrivals = [color[s][1] for s in stamps]
    p50, p95 = np.percentile(latencies, [50, 95])
    print(
        json.dumps(
            {
                "published": published,
                "received": received,
                "lost_percent": 100.0 * (published - received) / published,
                "achieved_hz": (len(stamps) - 1) / (arrivals[-1] - arrivals[0]),
                "p50_ms": float(p50),
                "p95_ms": float(p95),
            }
        )
    )
    node.destroy_node()
    rclpy.shutdown()


def _record(path: Path) -> Path:
    """A recording like a camera's: 240 frames of a walk through a flat, 640x480, JPEG and compressedDepth."""
    from rclpy.serialization import serialize_message
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore
    from tqdm import tqdm

    from vln_ros.axes import base_from_optical
    from vln_ros.datatypes import CameraModel
    from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
    from vln_ros.ros import convert
    from vln_ros.sim.embedded.world import EmbeddedWorld
    from vln_ros.sim.splits import make_episodes

    episode = make_episodes("val_unseen", 1)[0]
    camera = CameraModel.from_hfov(640, 480, math.radians(79.0))
    extrinsics = base_from_optical(0.0, 0.0, 1.25)
    world = EmbeddedWorld(camera, extrinsics)
    world.load(episode.scene_id)
    world.place(episode.start)
    store = get_typestore(Stores.ROS2_JAZZY)
    frame = "camera_color_optical_frame"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {
            topic: writer.add_connection(topic, type_, typestore=store)
            for topic, type_ in (
                (f"{COLOR_TOPIC}/compressed", "sensor_msgs/msg/CompressedImage"),
                (f"{DEPTH_TOPIC}/compressedDepth", "sensor_msgs/msg/CompressedImage"),
                (INFO_TOPIC, "sensor_msgs/msg/CameraInfo"),
                ("odom", "nav_msgs/msg/Odometry"),
                ("/tf_static", "tf2_msgs/msg/TFMessage"),
            )
        }
        transform = _static_transform(store, extrinsics, frame)
        writer.write(
            connections["/tf_static"], 10**18, store.serialize_cdr(transform, "tf2_msgs/msg/TFMessage")
        )
        for i in tqdm(range(FRAMES), desc="recording", unit="frame", disable=None):
            stamp_ns = 10**18 + round(i * 1e9 / FRAME_HZ)
            rgb, depth_m = world.render()
            messages = {
                "odom": convert.odometry_from_pose(world.pose, stamp_ns, "odom", "base_link", 0.0, 0.0),
                f"{COLOR_TOPIC}/compressed": convert.compressed_from_rgb(rgb, stamp_ns, frame, 90),
                f"{DEPTH_TOPIC}/compressedDepth": convert.compressed_from_depth(depth_m, stamp_ns, frame),
                INFO_TOPIC: convert.info_from_camera(camera, stamp_ns, frame),
            }
            for topic, message in messages.items():
                writer.write(connections[topic], stamp_ns, serialize_message(message))
            world.drive(0.3, 0.3 * math.sin(i / 20.0), 1.0 / FRAME_HZ)
    return path


def _static_transform(store: Any, extrinsics: Any, frame: str) -> Any:
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](10**9, 0), "base_link")
    x, y, z = (float(v) for v in extrinsics.position)
    rotation = types["geometry_msgs/msg/Quaternion"](*(float(v) for v in extrinsics.orientation))
    transform = types["geometry_msgs/msg/Transform"](types["geometry_msgs/msg/Vector3"](x, y, z), rotation)
    stamped = types["geometry_msgs/msg/TransformStamped"](header, frame, transform)
    return types["tf2_msgs/msg/TFMessage"]([stamped])


def _replay(folder: Path, bag: Path, decision_ms: int, reliability: str) -> dict[str, Any]:
    """The same as typing ``vln_ros replay`` with the paced engine."""
    from vln_ros.cli import build_parser

    out = folder / f"replay-{decision_ms}-{reliability}"
    figures = folder / f"{out.name}.json"
    options = build_parser().parse_args(
        ["replay", str(bag), "--instruction", "walk through the flat", "--engine", "paced", "--no-video",
         "--decision-ms", str(decision_ms), "--reliability", reliability,
         "--out", str(out), "--json", str(figures)]
    )  # fmt: skip
    if options.run(options):
        raise RuntimeError(f"the replay failed, see {out / 'logs'}")
    result: dict[str, Any] = json.loads(figures.read_text("utf-8"))
    return result


def _print_streams(streams: list[StreamFigures]) -> None:
    print("\n640x480 RGB-D at 30 Hz, bridge to another process (navigator listening too)")
    print(f"{'profile':<25}{'reliability':<14}{'sent':>6}{'lost %':>8}{'Hz':>7}{'p50 ms':>9}{'p95 ms':>9}")
    for s in streams:
        print(
            f"{s.profile:<25}{s.reliability:<14}{s.published:>6}{s.lost_percent:>8.1f}"
            f"{s.achieved_hz:>7.1f}{s.p50_ms:>9.1f}{s.p95_ms:>9.1f}"
        )


def _print_replays(replays: dict[str, dict[str, Any]]) -> None:
    print(f"\n{FRAMES} recorded frames at 30 Hz through the nodes, engine of fixed time")
    columns = f"{'aligned':>8}{'lost':>6}{'processed':>11}{'to engine p50/p95 ms':>22}{'timer ms':>10}"
    print(f"{'engine':<22}{columns}")
    for name, r in replays.items():
        frames, taken = r["frames"], r["latency_ms"]["publish_to_engine"]
        print(
            f"{name:<22}{frames['aligned']:>8}{frames['published'] - frames['aligned']:>6}"
            f"{frames['processed']:>11}{taken['p50']:>14.1f} /{taken['p95']:>6.1f}"
            f"{r['navigator_timer_latest_ms']:>10.1f}"
        )


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = [
        (f"profile {s['profile']}, {s['reliability'].replace('_', ' ')}",
         s["p50_ms"], s["p50_ms"], s["p95_ms"])
        for s in figures["streams"]
    ]  # fmt: skip
    for name, r in figures["replays"].items():
        taken = r["latency_ms"]["publish_to_engine"]
        bars.append((f"replay, {name.replace('_', ' ')}", taken["p50"], taken["p50"], taken["p95"]))
    title = "A frame to a second process, or to the engine"
    plot_bars(folder / "nodes.png", title, "ms, median to 95th percentile", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    streams = [
        (
            s["profile"],
            s["reliability"].replace("_", " "),
            s["published"],
            f"{s['lost_percent']:.1f} %",
            f"{s['p50_ms']:.1f} ms",
            f"{s['p95_ms']:.1f} ms",
        )
        for s in figures["streams"]
    ]
    replays = []
    for name, r in figures["replays"].items():
        frames, taken = r["frames"], r["latency_ms"]["publish_to_engine"]
        replays.append(
            (
                name.replace("_", " "),
                f"{frames['aligned']}/{frames['published']}",
                frames["processed"],
                f"{taken['p50']:.0f} / {taken['p95']:.0f} ms",
                f"{r['navigator_timer_latest_ms']:.0f} ms",
            )
        )
    return "\n".join(
        (
            "640x480 RGB-D at 30 Hz from the simulator bridge to a second process, while the navigator "
            "listens too. *Shipped* is the Fast DDS profile that the nodes set (`vln_ros/ros/fastdds.xml`): "
            "UDP, without shared memory, with "
            f"{SOCKET_BUFFER_BYTES // 2**20} MB of socket buffer, of which the kernel grants what "
            "`net.core.rmem_max` allows. *Untuned kernel* is the same profile with the "
            f"{UNTUNED_BUFFER_BYTES} bytes that Linux grants where nobody has raised that: `vln_ros doctor` "
            "prints the line that does. *None* is Fast DDS as it comes, with shared memory.\n",
            table(("profile", "reliability", "sent", "lost", "p50", "p95"), streams),
            f"{FRAMES} recorded frames (640x480, JPEG and compressedDepth, {FRAME_HZ:g} Hz) at their own "
            f"rate; an "
            "engine that computes for a fixed time per decision and decides on every frame it gets. *To "
            "engine* "
            "runs from the publication of a frame to the news that the engine has taken it in; *timer* is "
            "by how "
            "much the navigator's 10 Hz heartbeat was ever late. What is not processed was replaced by a "
            "newer "
            "frame: the newest wins.\n",
            table(("engine, camera", "aligned", "processed", "to engine p50 / p95", "timer, worst"), replays),
        )
    )
