"""``vln_ros replay``."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.graph import Graph, GraphError, NodeSpec, graph_environment
from vln_ros.cli.places import check_model, output_file, output_folder, print_report, run_folder
from vln_ros.cli.recording import add_switch, node_parameters, print_recordings
from vln_ros.config import ConfigError, QwenConfig, Scalar
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.evaluation.results import RunResult
    from vln_ros.ros.bag import Bag

HELP = "Play a recording through the real nodes; leaves a run folder with video and report"
BASE_FRAME, OPTICAL_FRAME = "base_link", "camera_color_optical_frame"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or .db3 or .mcap file")
    parser.add_argument("--instruction", default="", help="what the robot is told")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="instead: repeat the decisions of a recording of this package's recorder, and compare them",
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, help="speed (default: 1); 0: as fast as the engine takes frames"
    )
    parser.add_argument("--engine", choices=("qwen", "paced"), default="qwen", help="default: qwen")
    parser.add_argument("--checkpoint", default="", help="folder or hub name (default: a small random one)")
    parser.add_argument("--profile", default="", help="profile of the checkpoint (default: tiny)")
    parser.add_argument("--decision-ms", type=float, default=100.0, help="time the paced engine takes")
    parser.add_argument(
        "--reliability",
        choices=("best_effort", "reliable"),
        default="reliable",
        help="of the camera's topics",
    )
    for stream in ("color", "depth", "camera-info", "odometry"):
        parser.add_argument(
            f"--{stream}", default="", help="topic in the bag (default: the only one that fits)"
        )
    add_switch(parser)
    parser.add_argument("--no-video", action="store_true", help="write no video")
    parser.add_argument(
        "--out", type=output_folder, default=None, help="run folder (default: runs/replay-DATE)"
    )
    parser.add_argument("--json", type=output_file, default=None, help="also write the figures there")


def run(options: argparse.Namespace) -> int:
    if options.exact:
        from vln_ros.cli.reproduce import run_exact

        return run_exact(options)
    if not options.instruction:
        raise ConfigError("--instruction is missing: what is the robot told?")
    from vln_ros.ros.bag import Bag, BagTopics, Stream

    out = run_folder(options.out, "replay")
    if options.engine == "qwen" and options.checkpoint:
        check_model(options.checkpoint, options.profile or QwenConfig().profile)
    topics = BagTopics(options.color, options.depth, options.camera_info, options.odometry)
    with Bag(options.bag, topics) as bag:
        navigator: dict[str, Scalar] = {
            "engine": options.engine,
            "decide_on": "frame",
            "reliability": options.reliability,
            "image_depth": 30,
            "color_transport": "compressed" if bag.is_compressed(Stream.COLOR) else "raw",
            "depth_transport": "compressed" if bag.is_compressed(Stream.DEPTH) else "raw",
            "paced.decision_ms": options.decision_ms,
            **_extrinsics(bag),
            **_checkpoint(options, out),
            **node_parameters(options, out),
        }
        player: dict[str, Scalar] = {
            "bag": str(options.bag),
            "report": str(out / "played.json"),
            "instruction": options.instruction,
            "rate": options.rate,
            "reliability": options.reliability,
            "color": bag.connections[Stream.COLOR].topic,
            "depth": bag.connections[Stream.DEPTH].topic,
            "camera_info": bag.connections[Stream.CAMERA_INFO].topic,
            "odometry": bag.connections[Stream.ODOMETRY].topic,
        }
        try:
            with Graph(out / "logs", graph_environment()) as graph:
                graph.start(NodeSpec("navigator", navigator))
                # There is no robot that could run into something.
                executor: dict[str, Scalar] = {"safety.obstacles": "none", **node_parameters(options, out)}
                graph.start(NodeSpec("executor", executor))
                graph.start(NodeSpec("bag_player", player, quiet=False))
                if graph.wait("bag_player"):
                    return 1
        except GraphError as error:
            print(error, file=sys.stderr)
            return 1
        played: dict[str, Any] = json.loads((out / "played.json").read_text("utf-8"))
        figures = _figures(played)
        _write_run(options, out, bag, played, navigator)
    print_recordings(options, out)
    print(json.dumps(figures, indent=2))
    print_report(out)
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=2) + "\n")
    return 0


def _extrinsics(bag: Bag) -> dict[str, Scalar]:
    """Camera mounting from the recording itself; without it the defaults would be a guess."""
    from vln_ros.axes import mount_from_optical

    mount = bag.static_transform(BASE_FRAME, OPTICAL_FRAME)
    if mount is None:
        raise ConfigError(
            f"{bag.path} has no static transform from {BASE_FRAME} to {OPTICAL_FRAME} on /tf_static"
        )
    x, y, z, roll, pitch, yaw = mount_from_optical(mount)
    return {
        "extrinsics": "parameters",
        "camera_x_m": x,
        "camera_y_m": y,
        "camera_z_m": z,
        "camera_roll_deg": math.degrees(roll),
        "camera_pitch_down_deg": math.degrees(pitch),
        "camera_yaw_deg": math.degrees(yaw),
    }


def _checkpoint(options: argparse.Namespace, out: Path) -> dict[str, Scalar]:
    if options.engine != "qwen":
        return {}
    checkpoint = options.checkpoint
    if not checkpoint:
        from vln_ros.config import TinyConfig
        from vln_ros.engine.tiny import build_tiny

        checkpoint = str(out / "tiny-random")
        print(
            "no --checkpoint: a small one with random weights shows the machinery, its decisions mean nothing"
        )
        build_tiny(Path(checkpoint), TinyConfig())
    chosen: dict[str, Scalar] = {"qwen.checkpoint": checkpoint}
    if options.profile:
        chosen["qwen.profile"] = options.profile
    return chosen


def _figures(played: dict[str, Any]) -> dict[str, Any]:
    """The machine-readable figures of a replay."""
    navigator = dict(played["navigator"])

    def percentiles(values: list[float]) -> dict[str, float | int | None]:
        if not values:
            return {"n": 0, "p50": None, "p95": None, "max": None}
        p50, p95 = np.percentile(values, [50, 95])
        return {
            "n": len(values),
            "p50": round(float(p50), 2),
            "p95": round(float(p95), 2),
            "max": round(max(values), 2),
        }

    return {
        "frames": {
            "published": played["published"],
            "received": int(navigator["frames received"]),
            "aligned": int(navigator["frames aligned"]),
            "dropped": int(navigator["frames dropped before the mailbox"]),
            "replaced_by_newer": int(navigator["frames replaced by a newer one"]),
            "processed": int(navigator["frames processed"]),
        },
        "decisions": int(navigator["decisions"]),
        "latency_ms": {
            "publish_to_engine": percentiles(played["taken_ms"]),
            "publish_to_queue": percentiles([d["after_ms"] for d in played["decisions"]]),
            "decide": {
                "p50": float(navigator.get("decide p50 [ms]", "nan")),
                "p95": float(navigator.get("decide p95 [ms]", "nan")),
            },
        },
        "navigator_timer_latest_ms": float(navigator["heartbeat latest [ms]"]),
        "player_latest_ms": round(played["late_ms"], 2),
    }


def _write_run(
    options: argparse.Namespace, out: Path, bag: Bag, played: dict[str, Any], config: dict[str, Scalar]
) -> RunResult:
    """The run folder: a second pass over the recording draws the video with what was decided when."""
    from nav_msgs.msg import Odometry
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CompressedImage, Image
    from tqdm import tqdm

    from vln_ros.datatypes import Action, ActionChunk, Pose
    from vln_ros.evaluation.record import EpisodeInfo, Step
    from vln_ros.evaluation.results import FrameCounts, Protocol, RunInfo
    from vln_ros.evaluation.run_folder import RunFolder
    from vln_ros.ros import convert
    from vln_ros.ros.bag import Stream

    color_type = CompressedImage if bag.is_compressed(Stream.COLOR) else Image
    depth_type = CompressedImage if bag.is_compressed(Stream.DEPTH) else Image
    chunks = {
        d["frame_stamp_ns"]: (
            ActionChunk(d["queue"], 1, d["frame_stamp_ns"], tuple(Action(*a) for a in d["actions"])),
            d["after_ms"],
        )
        for d in played["decisions"]
    }
    protocol = Protocol("replay", "", "real time" if options.rate else "lockstep", None, None, None, None)
    info = EpisodeInfo(bag.path.stem, bag.path.name, options.instruction)
    fps = min(30.0, bag.count(Stream.COLOR) / max(bag.duration_s, 1e-3))
    begun_s = time.monotonic()
    fingerprint = ""
    if "qwen.checkpoint" in config:
        from vln_ros.engine.model import checkpoint_fingerprint

        fingerprint = checkpoint_fingerprint(str(config["qwen.checkpoint"]))
    run_info = RunInfo(tuple(sys.argv), protocol, 0, config, fingerprint)
    with RunFolder(out, run_info, resume=False, video_fps=fps) as folder:
        recorder = folder.start_episode(info, video=not options.no_video)
        depth_m, pose = None, Pose.identity()
        progress = tqdm(total=bag.count(Stream.COLOR), desc="video", unit="frame", disable=None)
        for message in bag.messages():
            if message.stream is Stream.ODOMETRY:
                pose = convert.pose_from_odometry(deserialize_message(message.data, Odometry))
            elif message.stream is Stream.DEPTH:
                depth = deserialize_message(message.data, depth_type)
                depth_m = (
                    convert.depth_from_compressed(depth)
                    if depth_type is CompressedImage
                    else convert.depth_from_image(depth)
                )
            elif message.stream is Stream.COLOR:
                color = deserialize_message(message.data, color_type)
                stamp_ns = convert.stamp_ns_from_time(color.header.stamp)
                rgb = (
                    convert.rgb_from_compressed(color)
                    if color_type is CompressedImage
                    else convert.rgb_from_image(color)
                )
                recorder.step(Step.discrete(stamp_ns, pose, None, False))
                if stamp_ns in chunks:
                    recorder.decision(*chunks[stamp_ns])
                recorder.frame(rgb, depth_m, stamp_ns, None)
                progress.update()
        progress.close()
        folder.add(recorder.finish("end of recording", time.monotonic() - begun_s, None), None)
        counts = _figures(played)["frames"]
        return folder.finish(
            FrameCounts(counts["received"], counts["aligned"], counts["dropped"], counts["processed"])
        )
