"""``vln_ros replay``: plays a rosbag2 recording to the nodes, or to an engine alone, and reports."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json, check_model, output_folder, run_folder
from vln_ros.cli.arguments.recording import add_switch, node_parameters, print_recordings
from vln_ros.cli.graph import Graph, GraphError, NodeSpec, add_join, graph_environment
from vln_ros.cli.output.next_steps import print_report
from vln_ros.cli.output.waiting import waiting
from vln_ros.cli.talk.page import MISSING, GraphPage, graph_page
from vln_ros.config import OWN_DEPTH_INFO_TOPIC, ConfigError, QwenConfig, Scalar
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.datatypes import Pose
    from vln_ros.evaluation.runs.results import RunResult
    from vln_ros.ros.bag.reader import Bag, BagFrames

HELP = "Play a recording through the real nodes; leaves a run folder with video and report"
BASE_FRAME = "base_link"
"""Where the odometry's child_frame_id is empty and no option says otherwise."""
BASE_NAMES = {"base_link", "base_footprint", "base"}
"""Names of REP 105 and 120 for one planar base; they differ in height at most."""
SHIPPED = "shipped:"
REMAPS = {"cmd_vel": "replay/cmd_vel", "action_queue": "replay/action_queue"}
"""What would move a robot goes under names that no base and no executor of a robot listens to: the odometry
of a recording says where another robot was, and nothing looks for obstacles."""


def recording(text: str) -> Path:
    """A recording, or one that the package ships. Raises ArgumentTypeError: it ships none of that name."""
    if not text.startswith(SHIPPED):
        return Path(text)
    from importlib import resources

    folder = Path(str(resources.files("vln_ros"))) / "recordings"
    path = folder / text.removeprefix(SHIPPED)
    if not path.is_dir():
        shipped = sorted(f"{SHIPPED}{p.name}" for p in folder.iterdir()) if folder.is_dir() else []
        raise argparse.ArgumentTypeError(f"{text}: the package ships {', '.join(shipped) or 'no recording'}")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bag",
        type=recording,
        help="rosbag2 folder, or .db3 or .mcap file; shipped:flat is a small one of this package",
    )
    parser.add_argument(
        "--instruction", default="", help="instruction that the robot is told (default: the recorded one)"
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="instead: repeat the decisions of a recording of this package's recorder, and compare them",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="speed of the playback (default: 1); 0: as fast as the engine takes frames",
    )
    parser.add_argument(
        "--engine",
        choices=("qwen", "paced"),
        default="qwen",
        help="what decides: qwen, a checkpoint (default), or paced, a fixed time",
    )
    parser.add_argument(
        "--checkpoint", default="", help="folder or hub name of a checkpoint (default: a small random one)"
    )
    parser.add_argument("--profile", default="", help="profile of the checkpoint (default: tiny)")
    parser.add_argument(
        "--decision-ms", type=float, default=100.0, help="time that the paced engine takes for a decision"
    )
    parser.add_argument(
        "--reliability",
        choices=("best_effort", "reliable"),
        default="reliable",
        help="quality of service of the camera's topics",
    )
    for stream in ("color", "depth", "camera-info", "odometry"):
        parser.add_argument(
            f"--{stream}", default="", help="topic in the bag (default: the only one that fits)"
        )
    parser.add_argument(
        "--base-frame", default="", help="base of the robot (default: child_frame_id of the odometry)"
    )
    parser.add_argument(
        "--camera-frame", default="", help="optical frame of the colour images (default: their frame_id)"
    )
    parser.add_argument(
        "--extrinsics",
        nargs=6,
        type=float,
        metavar=("X", "Y", "Z", "ROLL", "PITCH_DOWN", "YAW"),
        help="where the camera sits on the base, metres and degrees (default: the recording's /tf_static, or "
        "the parameters that its navigator ran with)",
    )
    add_switch(parser)
    add_join(parser)
    parser.add_argument(
        "--web",
        action="store_true",
        help="serve the page in the browser; the recording is played once somebody looks",
    )
    parser.add_argument("--no-video", action="store_true", help="write no video")
    parser.add_argument(
        "--out", type=output_folder, default=None, help="run folder (default: runs/replay-DATE)"
    )
    add_json(parser)
    rename_options(parser, {"--rate": "--speed", "--mount": "--extrinsics"})


def run(options: argparse.Namespace) -> int:
    if options.exact:
        if options.join:
            raise ConfigError("--join: with --exact nothing talks over ROS; leave one of them out")
        if options.web:
            raise ConfigError("--web: with --exact nothing is played; leave one of them out")
        with waiting(f"loading libraries and the checkpoint of {options.bag}"):
            from vln_ros.cli.replay.reproduce import run_exact

        return run_exact(options)
    with waiting(f"reading {options.bag}"):
        from vln_ros.ros.bag.reader import Bag, BagTopics, Stream

    environment = graph_environment(join=options.join)
    out = run_folder(options.out, "replay")
    if options.engine == "qwen" and options.checkpoint:
        check_model(options.checkpoint, options.profile or QwenConfig().profile)
    topics = BagTopics(options.color, options.depth, options.camera_info, options.odometry)
    with Bag(options.bag, topics) as bag:
        options.instruction = options.instruction or recorded_instruction(bag)
        if bag.lost:
            print(f"{bag.path}: {bag.lost}", file=sys.stderr)
        frames = bag.frames()
        base_frame = options.base_frame or frames.base or BASE_FRAME
        navigator: dict[str, Scalar] = {
            "base_frame": base_frame,
            "sync.odom_frame": frames.odometry,
            "engine": options.engine,
            "decide_on": "frame",
            "reliability": options.reliability,
            "image_depth": 30,
            "color_transport": "compressed" if bag.is_compressed(Stream.COLOR) else "raw",
            "depth_transport": "compressed" if bag.is_compressed(Stream.DEPTH) else "raw",
            "paced.decision_ms": options.decision_ms,
            **_extrinsics(options, bag, base_frame, options.camera_frame or frames.camera),
            **_own_depth(bag, frames),
            **_checkpoint(options, out),
            **node_parameters(options, out),
        }
        player: dict[str, Scalar] = {
            "bag": str(options.bag),
            "report": str(out / "played.json"),
            "instruction": options.instruction,
            "rate": options.speed,
            "reliability": options.reliability,
            "color": bag.connections[Stream.COLOR].topic,
            "depth": bag.connections[Stream.DEPTH].topic,
            "camera_info": bag.connections[Stream.CAMERA_INFO].topic,
            "odometry": bag.connections[Stream.ODOMETRY].topic,
            "listeners": 2 if options.web else 1,  # the page subscribes once somebody looks
        }
        page = _page(str(navigator["color_transport"])) if options.web else None
        try:
            with Graph(out / "logs", environment) as graph:
                graph.start(NodeSpec("navigator", navigator, remaps=REMAPS))
                # There is no robot that could run into something.
                executor: dict[str, Scalar] = {
                    "base_frame": base_frame,
                    "safety.obstacles": "none",
                    **node_parameters(options, out),
                }
                graph.start(NodeSpec("executor", executor, remaps=REMAPS))
                if page is not None:
                    graph.start(page.node)
                    page.announce(graph.check, "the recording is played once somebody looks")
                graph.start(NodeSpec("bag_player", player, quiet=False, remaps=REMAPS))
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
    return _verdict(figures)


def _page(transport: str) -> GraphPage:
    """Of the replayed graph. Raises ConfigError: it cannot be served here."""
    page = graph_page({"color_transport": transport}, REMAPS)
    if page is None:
        raise ConfigError(f"--web: {MISSING}")
    return page


def recorded_instruction(bag: Bag) -> str:
    """The first that the recording has. Raises ConfigError: none."""
    from rclpy.serialization import deserialize_message
    from std_msgs.msg import String

    from vln_ros.ros import convert

    try:
        said = [data for _, data in bag.others("instruction", "std_msgs/msg/String")]
        return convert.instruction_from_string(deserialize_message(said[0], String))
    except (ConfigError, IndexError, convert.MessageError):
        raise ConfigError(
            "--instruction is missing, and the recording has none: what is the robot told?"
        ) from None


def _verdict(figures: dict[str, Any]) -> int:
    """Whether the model has seen anything; what came of the rest is in the figures."""
    frames = figures["frames"]
    refused = ", ".join(f"{n} {reason}" for reason, n in figures["refused"].items())
    if frames["processed"] == 0:
        print(
            f"no frame reached the model: {frames['published']} published, {frames['received']} received, "
            f"{frames['aligned']} with depth and odometry; refused: {refused or 'none'}",
            file=sys.stderr,
        )
        return 1
    if figures["failure"]:
        print(f"the navigator ended with an error: {figures['failure']}", file=sys.stderr)
        return 1
    if refused:
        print(f"refused and left out: {refused}", file=sys.stderr)
    return 0


def _extrinsics(options: argparse.Namespace, bag: Bag, base: str, camera: str) -> dict[str, Scalar]:
    """Camera extrinsics from the options or the recording; without it the defaults would be a guess."""
    from vln_ros.axes import extrinsics_from_optical

    extrinsics = None if options.extrinsics or not camera else _static_extrinsics(bag, base, camera)
    if options.extrinsics:
        x, y, z, roll_deg, pitch_deg, yaw_deg = options.extrinsics
    elif extrinsics is not None:
        x, y, z, *angles = extrinsics_from_optical(extrinsics)
        roll_deg, pitch_deg, yaw_deg = (math.degrees(angle) for angle in angles)
    elif (recorded := _recorded_extrinsics(bag)) is not None:
        return recorded
    else:
        raise ConfigError(
            f"{bag.path} does not say where the camera {camera or '(its images have no frame_id)'} sits on "
            f"{base}: "
            "nothing on /tf_static connects them, and there is no navigator.yaml of this package's "
            "recorder. Name the "
            "frames with --base-frame and --camera-frame, or give --extrinsics X Y Z ROLL PITCH_DOWN YAW"
        )
    return {
        "extrinsics": "parameters",
        "camera_x_m": x,
        "camera_y_m": y,
        "camera_z_m": z,
        "camera_roll_deg": roll_deg,
        "camera_pitch_down_deg": pitch_deg,
        "camera_yaw_deg": yaw_deg,
    }


def _own_depth(bag: Bag, frames: BagFrames) -> dict[str, Scalar]:
    """Of a recording whose depth is not registered to colour: by what it is to be registered.

    Raises:
        ConfigError: nothing says where the depth camera is.
    """
    from vln_ros.axes import BODY_FROM_OPTICAL, extrinsics_from_optical
    from vln_ros.ros.bag.reader import Stream

    if Stream.DEPTH_INFO not in bag.connections:
        return {}
    topic: dict[str, Scalar] = {"depth_camera_info_topic": OWN_DEPTH_INFO_TOPIC}
    color_from_depth = bag.static_transform(frames.camera, frames.depth)
    if color_from_depth is None:
        recorded = _recorded_extrinsics(bag)
        if recorded is None:
            raise ConfigError(
                f"{bag.path}: depth is in {frames.depth}, colour in {frames.camera}, and nothing on "
                "/tf_static connects them: record depth that is registered to colour, or /tf_static with it"
            )
        return {**topic, **{k: v for k, v in recorded.items() if k.startswith("depth_camera.")}}
    x, y, z, *angles = extrinsics_from_optical(BODY_FROM_OPTICAL @ color_from_depth)
    roll_deg, pitch_deg, yaw_deg = (math.degrees(angle) for angle in angles)
    return {
        **topic,
        "depth_camera.x_m": x,
        "depth_camera.y_m": y,
        "depth_camera.z_m": z,
        "depth_camera.roll_deg": roll_deg,
        "depth_camera.pitch_down_deg": pitch_deg,
        "depth_camera.yaw_deg": yaw_deg,
    }


def _static_extrinsics(bag: Bag, base: str, camera: str) -> Pose | None:
    """``base_from_optical`` on /tf_static; None if nothing there connects the two."""
    extrinsics = bag.static_transform(base, camera)
    root = bag.static_root(camera)
    if extrinsics is None and {base.lstrip("/"), root} <= BASE_NAMES:
        print(
            f"{bag.path}: the odometry is of {base}, the camera sits on {root}, and nothing connects them: "
            "taken for the same frame, so heights may be wrong; --extrinsics says where the camera sits",
            file=sys.stderr,
        )
        return bag.static_transform(root, camera)
    return extrinsics


def _recorded_extrinsics(bag: Bag) -> dict[str, Scalar] | None:
    """The extrinsics that the recorded navigator ran with; None if it took them from TF."""
    from vln_ros.cli.replay.reproduce import recorded_config
    from vln_ros.config import ExtrinsicsConfig, to_flat, walk_options

    try:
        config = recorded_config(bag.path, "", "")
    except ConfigError:
        return None
    if config.extrinsics != "parameters":
        return None
    wanted = ("extrinsics", "camera_x", "camera_y", "camera_z", "camera_r", "camera_p", "depth_camera.")
    names = [e.name for e in walk_options(ExtrinsicsConfig) if e.name.startswith(wanted)]
    recorded = to_flat(config)
    return {name: recorded[name] for name in names}


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
        "refused": _refused(played, navigator),
        "failure": played["failure"],
        "navigator_timer_latest_ms": float(navigator["heartbeat latest [ms]"]),
        "player_latest_ms": round(played["late_ms"], 2),
    }


def _refused(played: dict[str, Any], navigator: dict[str, str]) -> dict[str, int]:
    """Reason to number of messages, of the navigator and of the player."""
    mark = "refused: "
    counts = {key.removeprefix(mark): int(n) for key, n in navigator.items() if key.startswith(mark)}
    return counts | ({"unreadable": played["unreadable"]} if played["unreadable"] else {})


def _write_run(
    options: argparse.Namespace, out: Path, bag: Bag, played: dict[str, Any], config: dict[str, Scalar]
) -> RunResult:
    """The run folder: a second pass over the recording draws the video with what was decided when."""
    from nav_msgs.msg import Odometry
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CompressedImage, Image
    from tqdm import tqdm

    from vln_ros.datatypes import Action, ActionChunk, Pose
    from vln_ros.evaluation.episode.record import EpisodeInfo, Step
    from vln_ros.evaluation.runs.results import FrameCounts, Protocol, RunInfo
    from vln_ros.evaluation.runs.run_folder import RunFolder
    from vln_ros.ros import convert
    from vln_ros.ros.bag.reader import Stream

    color_type = CompressedImage if bag.is_compressed(Stream.COLOR) else Image
    depth_type = CompressedImage if bag.is_compressed(Stream.DEPTH) else Image
    chunks = {
        d["frame_stamp_ns"]: (
            ActionChunk(d["queue"], 1, d["frame_stamp_ns"], tuple(Action(*a) for a in d["actions"])),
            d["after_ms"],
        )
        for d in played["decisions"]
    }
    protocol = Protocol(
        name="replay",
        split="",
        control="real time" if options.speed else "lockstep",
        goal_radius_m=None,
        forward_m=None,
        turn_deg=None,
        max_steps=None,
    )
    info = EpisodeInfo(episode_id=bag.path.stem, scene_id=bag.path.name, instruction=options.instruction)
    fps = min(30.0, bag.count(Stream.COLOR) / max(bag.duration_s, 1e-3))
    begun_s = time.monotonic()
    fingerprint = ""
    if "qwen.checkpoint" in config:
        from vln_ros.engine.checkpoint.files import checkpoint_fingerprint

        fingerprint = checkpoint_fingerprint(str(config["qwen.checkpoint"]))
    run_info = RunInfo(tuple(sys.argv), protocol, 0, config, fingerprint)
    with RunFolder(out, run_info, resume=False, video_fps=fps) as folder:
        recorder = folder.start_episode(info, video=not options.no_video)
        depth_m, pose = None, Pose.identity()
        progress = tqdm(total=bag.count(Stream.COLOR), desc="video", unit="frame", disable=None)
        for message in bag.messages():
            try:
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
                    progress.update()
                    color = deserialize_message(message.data, color_type)
                    rgb = (
                        convert.rgb_from_compressed(color)
                        if color_type is CompressedImage
                        else convert.rgb_from_image(color)
                    )
                    stamp_ns = convert.stamp_ns_from_time(color.header.stamp)
                    recorder.step(Step.discrete(stamp_ns, pose, None, False))
                    if stamp_ns in chunks:
                        recorder.decision(*chunks[stamp_ns])
                    recorder.frame(rgb, depth_m, stamp_ns, None)
            except (convert.MessageError, RuntimeError):
                continue  # the navigator has refused it too, and counted it
        progress.close()
        folder.add(recorder.finish("end of recording", time.monotonic() - begun_s, None), None)
        counts = _figures(played)["frames"]
        return folder.finish(
            FrameCounts(counts["received"], counts["aligned"], counts["dropped"], counts["processed"])
        )
