"""``vln_ros bench reuse``."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.config import ConfigError, ReuseConfig, StreamConfig, TinyConfig

if TYPE_CHECKING:
    from vln_ros.datatypes import Frame
    from vln_ros.engine.model import LoadedModel
    from vln_ros.reuse.planner import FramePlan

TITLE = "Reuse"
HELP = "What taking over keys and values of what was seen before saves, and where it does not"
SHARES = (0.3, 0.5, 0.7, 0.9)
GRIDS = {391: (17, 23), 1200: (30, 40)}
GAPS = (1, 3, 5, 10, 20, 40)
MOTIONS = ("static", "pan", "forward", "orbit", "teleport", "moving object")
PARTS = ("prefill", "behind", "motions")
_COLOURS = {"reused": (60, 200, 90), "refreshed": (240, 170, 40), "new": (220, 60, 60)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, help="parts (default: all)")
    parser.add_argument("--checkpoint", default="", help="of the motions (default: a small random one)")
    parser.add_argument("--profile", default="tiny", help="of the motions (default: %(default)s)")
    parser.add_argument("--bag", type=Path, default=None, help="also this recording (rosbag2)")
    parser.add_argument("--frames", type=int, default=12, help="per motion (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of every timing (default: %(default)s)")
    parser.add_argument("--min-similarity", type=float, default=ReuseConfig().min_similarity)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures there")
    parser.add_argument("--plots", type=Path, default=None, metavar="DIR", help="write pictures of the plans")


def run(options: argparse.Namespace) -> int:
    if options.frames < 2 or options.repeats < 1:
        raise ConfigError("--frames must be at least 2 and --repeats at least 1")
    import torch

    torch.set_num_threads(1)  # then processor time is time, whatever else runs
    figures: dict[str, Any] = {}
    if "prefill" in options.only:
        figures["prefill"] = _prefill(options.repeats)
    if "behind" in options.only:
        figures["behind"] = _behind()
    if "motions" in options.only:
        with tempfile.TemporaryDirectory() as name:
            model = _model(options.checkpoint, Path(name))
        figures["motions"] = []
        for motion in MOTIONS:
            frames = motion_frames(motion, options.frames)
            figures["motions"].append(_run_both(model, options, motion, frames))
        if options.bag is not None:
            frames = bag_frames(options.bag)
            figures["recording"] = _recording(model, frames, options.min_similarity)
            figures["motions"].append(_run_both(model, options, "recording", frames[::5][: options.frames]))
    print(section(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 0


def section(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    from vln_ros.cli.bench_page import table

    parts: list[str] = []
    rows: list[tuple[str, ...]]
    if "prefill" in figures:
        rows = [
            (
                str(f["tokens"]), f"{f['share']:.0%}", f"{f['whole_s'] * 1e3:.0f}",
                f"{f['sparse_s'] * 1e3:.0f}", f"{f['plan_s'] * 1e3:.1f}",
                f"{f['net']:.2f} ({f['low']:.2f}-{f['high']:.2f})",
            )
            for f in figures["prefill"]
        ]  # fmt: skip
        parts.append(
            "Prefill of one frame behind another one, processor time, 8 layers, hidden 512:\n\n"
            + table(("visual tokens", "reused", "whole ms", "sparse ms", "plan ms", "net speed-up"), rows)
        )
    if "behind" in figures:
        rows = [
            (f"{f['share']:.0%}", f"{f['rotated']:.3f}", f"{f['unrotated']:.3f}") for f in figures["behind"]
        ]
        parts.append(
            "The same picture appended behind itself, relative error of a question's states:\n\n"
            + table(("reused", "re-rotated", "not rotated"), rows)
        )
    if "recording" in figures:
        rows = [
            (str(f["gap"]), f"{f['found']:.1%}", f"{f['alike']:.1%}", f"{f['drift']:.2f}")
            for f in figures["recording"]
        ]
        parts.append(
            "Recording, tokens found in the frame so much earlier:\n\n"
            + table(("gap", "valid", "and alike", "drift (tokens)"), rows)
        )
    if "motions" in figures:
        rows = [
            (
                f["motion"], f"{f['reuse']:.0%}", f"{f['whole_ms']:.0f}", f"{f['reusing_ms']:.0f}",
                f"{f['overhead_ms']:.0f}", f"{f['same']}/{f['decisions']}",
                ", ".join(f"{k} {v}" for k, v in f["refused"].items()),
            )
            for f in figures["motions"]
        ]  # fmt: skip
        head = ("motion", "reuse", "whole ms", "reusing ms", "of it planning", "same queues", "refused")
        parts.append("Engine over a motion, every frame asked about, in all:\n\n" + table(head, rows))
    return "\n\n".join(parts)


def _prefill(repeats: int) -> list[dict[str, Any]]:
    from vln_ros.engine.reuse_bench import measure_prefill
    from vln_ros.reuse.geometry import TokenGrid

    first, *_, last = motion_frames("pan", 2)
    network = _network()
    return [
        asdict(f)
        for grid in GRIDS.values()
        for f in measure_prefill(network, TokenGrid(*grid), SHARES, (first, last), repeats)
    ]


def _behind() -> list[dict[str, Any]]:
    from vln_ros.engine.reuse_bench import measure_behind
    from vln_ros.reuse.geometry import TokenGrid

    return [asdict(f) for f in measure_behind(_network(), TokenGrid(17, 23), SHARES)]


def _network() -> Any:
    """A random decoder that is large enough for its products to be what takes the time."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 512, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.06,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 512}
    ids: dict[str, Any] = {
        "image_token_id": 5,
        "video_token_id": 6,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
    }
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    config._attn_implementation = "sdpa"
    return Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)


def _model(checkpoint: str, folder: Path) -> LoadedModel:
    from vln_ros.engine.model import load_model
    from vln_ros.engine.tiny import build_tiny

    if not checkpoint:
        checkpoint = str(folder / "checkpoint")
        build_tiny(Path(checkpoint), TinyConfig())
    return load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def motion_frames(motion: str, count: int) -> list[Frame]:
    """A generated motion through the first flat, 640x480 with depth and exact poses."""
    from vln_ros.axes import base_from_optical
    from vln_ros.datatypes import CameraModel, Frame, Pose
    from vln_ros.sim.embedded import Scene
    from vln_ros.sim.flat import AGENT_RADIUS_M, scene_id

    camera, mount = CameraModel.from_hfov(640, 480, math.radians(79.0)), base_from_optical(0.0, 0.0, 1.25)
    scene = Scene(scene_id(0), AGENT_RADIUS_M)
    x0, y0, x1, y1 = max((r.inner for r in scene.flat.rooms), key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
    x, y = (float(v) for v in scene.walkable.nearest(np.array([(x0 + x1) / 2, (y0 + y1) / 2])))
    frames = []
    for index in range(count):
        pose = Pose.planar(x, y, 0.0)
        match motion:
            case "pan":
                pose = Pose.planar(x, y, math.radians(15.0) * index)
            case "forward":
                pose = Pose.planar(x + 0.1 * index, y, 0.0)
            case "orbit":
                turn = math.radians(6.0) * index
                pose = Pose.planar(x - math.cos(turn), y - math.sin(turn), turn)
            case "teleport":
                pose = Pose.planar(x + 3.0 * (index % 2), y, math.pi * (index % 2))
        rgb, depth_m = scene.renderer.render(camera, pose @ mount)
        if motion == "moving object":  # a red plate of 120 x 160 pixels, 0.8 m ahead, comes from the left
            left = 40 * index
            near = depth_m[160:320, left : left + 120]
            hidden = (near == 0) | (near > 0.8)
            rgb[160:320, left : left + 120][hidden] = (200, 30, 30)
            near[hidden] = 0.8
        frames.append(Frame(index, index * 500_000_000, rgb, depth_m, camera, pose, pose @ mount))
    return frames


def bag_frames(path: Path) -> list[Frame]:
    """The frames of a recording that have colour, depth and pose of one stamp."""
    from vln_ros.axes import base_from_optical
    from vln_ros.cli.replay import BASE_FRAME, OPTICAL_FRAME
    from vln_ros.datatypes import CameraModel, Frame
    from vln_ros.ros.bag import Bag, BagTopics, Stream

    try:
        from nav_msgs.msg import Odometry
        from rclpy.serialization import deserialize_message
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        from vln_ros.ros import convert
    except ImportError as error:
        raise ConfigError(f"--bag needs ROS's Python packages: {error}") from error
    kinds = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
    found: dict[Stream, dict[int, Any]] = {s: {} for s in Stream}
    camera: CameraModel | None = None
    with Bag(path, BagTopics()) as bag:
        mount = bag.static_transform(BASE_FRAME, OPTICAL_FRAME) or base_from_optical(0.0, 0.0, 0.0)
        types = {s: bag.connections[s].msgtype for s in (Stream.COLOR, Stream.DEPTH)}
        for message in bag.messages():
            match message.stream:
                case Stream.CAMERA_INFO:
                    camera = convert.camera_from_info(deserialize_message(message.data, CameraInfo))
                    continue
                case Stream.ODOMETRY:
                    value = deserialize_message(message.data, Odometry)
                case _:
                    value = deserialize_message(message.data, kinds[types[message.stream]])
            found[message.stream][convert.stamp_ns_from_time(value.header.stamp)] = value
    if camera is None:
        raise ConfigError(f"bag {path} has no camera_info")
    stamps = sorted(set.intersection(*(set(found[s]) for s in found if s is not Stream.CAMERA_INFO)))
    frames = []
    for index, stamp in enumerate(stamps):
        colour, depth = found[Stream.COLOR][stamp], found[Stream.DEPTH][stamp]
        rgb = (
            convert.rgb_from_compressed(colour)
            if isinstance(colour, CompressedImage)
            else convert.rgb_from_image(colour)
        )
        depth_m = (
            convert.depth_from_compressed(depth)
            if isinstance(depth, CompressedImage)
            else convert.depth_from_image(depth)
        )
        pose = convert.pose_from_odometry(found[Stream.ODOMETRY][stamp])
        frames.append(Frame(index, stamp, rgb, depth_m, camera, pose, pose @ mount))
    return frames


def _recording(model: LoadedModel, frames: Sequence[Frame], least: float) -> list[dict[str, Any]]:
    from vln_ros.engine.reuse_bench import measure_gaps

    gaps = [g for g in GAPS if g < len(frames)]
    return [asdict(f) for f in measure_gaps(model, frames, gaps, max(1, len(frames) // 10), least)]


def _run_both(
    model: LoadedModel, options: argparse.Namespace, motion: str, frames: Sequence[Frame]
) -> dict[str, Any]:
    """The same frames through the engine with and without reuse, by turns."""
    import time

    from vln_ros.datatypes import Instruction
    from vln_ros.engine.profile import load_profile
    from vln_ros.engine.qwen import QwenEngine
    from vln_ros.engine.sparse import ReusingSession

    profile = load_profile(options.profile)
    profile = replace(profile, image=replace(profile.image, resize=(640, 480)))
    reuse = ReuseConfig(enabled=True, window=0, min_similarity=options.min_similarity)
    robots = [
        QwenEngine(model, profile, temperature=0.0, seed=0, stream=StreamConfig(), reuse=config)
        for config in (ReuseConfig(), reuse)
    ]
    for robot in robots:
        robot.start(Instruction(1, "go to the red chair"))
    spent_s, same = [0.0, 0.0], 0
    for frame in frames:
        queues = []
        for k, robot in enumerate(robots):
            begun = time.process_time()
            robot.observe(frame)
            queues.append(robot.decide(frame.index + 1).actions)
            spent_s[k] += time.process_time() - begun
        same += queues[0] == queues[1]
        session = robots[1].session
        assert isinstance(session, ReusingSession)
        if options.plots is not None and frame is frames[-1]:
            (plan,) = session.last_plans.values()
            _draw(options.plots / f"{motion.replace(' ', '_')}.png", frames, plan)
    stats = robots[1].reuse_stats()
    assert stats is not None
    return {
        "motion": motion,
        "decisions": len(frames),
        "same": same,
        "whole_ms": spent_s[0] * 1e3,
        "reusing_ms": spent_s[1] * 1e3,
        **asdict(stats),
    }


def _draw(path: Path, frames: Sequence[Frame], plan: FramePlan) -> None:
    """The last frame, its tokens coloured by what became of them, beside the source of most of them."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    from vln_ros.reuse.planner import Label

    path.parent.mkdir(parents=True, exist_ok=True)
    new = frames[-1]
    height, width = new.rgb.shape[:2]
    rows, columns = round(height / 28), round(width / 28)
    if rows * columns != len(plan.slot):
        raise ConfigError(f"{len(plan.slot)} tokens do not make a picture of {width}x{height}")
    sights = plan.source[plan.source > 0]
    source = int(np.bincount(sights).argmax()) if len(sights) else 0
    canvas = Picture.new("RGB", (2 * width + 8, height), "white")
    canvas.paste(Picture.fromarray(new.rgb), (0, 0))
    if source:
        canvas.paste(Picture.fromarray(frames[source - 1].rgb), (width + 8, 0))
    draw = ImageDraw.Draw(canvas, "RGBA")
    for token, label in enumerate(plan.label):
        row, column = divmod(token, columns)
        colour = _COLOURS[Label(int(label)).name.lower()]
        box = [column * width / columns, row * height / rows, (column + 1) * width / columns - 1,
               (row + 1) * height / rows - 1]  # fmt: skip
        draw.rectangle(box, fill=(*colour, 80), outline=(*colour, 200))
        if label == Label.REUSED and plan.source[token] == source:
            row, column = divmod(int(plan.token[token]), columns)
            left = width + 8 + column * width / columns
            box = [left, row * height / rows, left + width / columns - 1, (row + 1) * height / rows - 1]
            draw.rectangle(box, outline=(*colour, 200))
    canvas.save(path)
