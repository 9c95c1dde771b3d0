"""``vln_ros bench reuse``: what VLN-Cache saves, and how it changes the decisions."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.places import add_json, output_folder
from vln_ros.config import ConfigError, ReuseConfig, StreamConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.datatypes import Frame
    from vln_ros.engine.checkpoint.model import LoadedModel
    from vln_ros.engine.checkpoint.profile import Profile
    from vln_ros.reuse.frame_plan import FramePlan

TITLE = "Reuse"
HELP = "Measure what VLN-Cache saves, and where it saves nothing"
SHARES = (0.3, 0.5, 0.7, 0.9)
GRIDS = {391: (17, 23), 1200: (30, 40)}
GAPS = (1, 3, 5, 10, 20, 40)
EVERY = 5
REUSES = (1, 10, 30, 100)
MOTIONS = ("static", "pan", "forward", "orbit", "teleport", "moving object")
SIZES = ((640, 480), (224, 224))
TOWER = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}
"""Vision tower of the released 3B checkpoint."""
PARTS = ("geometry", "features", "windows", "prefill", "behind", "drift", "motions", "strategies", "walks")
WALKS = ("pan", "forward", "orbit")
_LEGEND_PX = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", nargs="+", default=list(PARTS), choices=PARTS, help="parts to measure (default: all)"
    )
    parser.add_argument(
        "--checkpoint",
        default="shipped:tiny",
        help="checkpoint, for the parts that take one (default: %(default)s)",
    )
    parser.add_argument(
        "--profile", default="tiny", help="profile, for motions and strategies (default: %(default)s)"
    )
    parser.add_argument("--bag", type=Path, default=None, help="rosbag2 recording to measure, too")
    parser.add_argument("--frames", type=int, default=12, help="frames per motion (default: %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=12, help="pairs of frames per flat (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="repetitions of every timing (default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=ReuseConfig().budget, help="share computed (default: %(default)s)"
    )
    parser.add_argument(
        "--walks", nargs="+", default=list(WALKS), choices=WALKS, help="motions of walks (default: all)"
    )
    parser.add_argument(
        "--layers", type=int, nargs=2, default=(4, 4), metavar=("LAYERS", "BLOCKS"),
        help="decoder layers and vision blocks of the network of walks (default: 4 4; all: 36 32)",
    )  # fmt: skip
    add_json(parser)
    parser.add_argument(
        "--plots",
        type=output_folder,
        default=None,
        metavar="DIR",
        help="also draw the plans (PNG) into this folder",
    )


def run(options: argparse.Namespace) -> int:
    if options.frames < 2 or options.repeats < 1 or options.pairs < 1:
        raise ConfigError("--frames must be at least 2, --pairs and --repeats at least 1")
    import torch
    from tqdm import tqdm

    from benchmarks.measure.reuse import measure_behind, measure_drift
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.geometry.correspondence import TokenGrid

    torch.set_num_threads(1)  # then processor time is time, whatever else runs
    work: dict[str, Callable[[], Any]] = {}
    if {"features", "windows", "motions", "strategies", "walks"} & set(options.only):
        from benchmarks.measure.frames import bag_frames

        model = load_model(
            options.checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none"
        )
        frames = [] if options.bag is None else bag_frames(options.bag)
        work["features"] = lambda: _features(model, frames, options.pairs)
        work["windows"] = lambda: _windows(model, frames, options)
        work["strategies"] = lambda: _strategies(model, options)
        work["motions"] = lambda: _motions(model, frames, options)
        work["walks"] = lambda: _walks(model, options)
    work["geometry"] = lambda: _geometry(options.pairs)
    work["prefill"] = lambda: _prefill(options.repeats)
    work["behind"] = lambda: [asdict(f) for f in measure_behind(bench_network(), TokenGrid(17, 23), SHARES)]
    work["drift"] = lambda: [asdict(f) for f in measure_drift(bench_network(), REUSES, 64)]
    figures = {name: work[name]() for name in tqdm([p for p in PARTS if p in options.only], disable=None)}
    if options.bag is not None and "motions" in options.only:
        figures["recording"] = _recording(model, frames)
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def section(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    from vln_ros.cli.bench.page import table

    parts: list[str] = []
    rows: list[tuple[str, ...]]
    if "geometry" in figures:
        rows = [
            (
                f["views"], str(f["accepted"]), str(f["off"]), f"{f['worst_tokens']:.4f}",
                str(f["hidden"]), str(f["occluded"]), f"{f['ms']:.1f}",
            )
            for f in figures["geometry"]
        ]  # fmt: skip
        head: tuple[str, ...] = (
            "pairs of views", "accepted", "off by over half a token", "worst (tokens)",
            "accepted though hidden", "rejected as hidden", "ms",
        )  # fmt: skip
        parts.append(
            "Correspondences in the embedded flats against rays of the scene, 640x480, 391 tokens:\n\n"
            + table(head, rows)
        )
    if "features" in figures:
        rows = [
            (
                f["of"], "{}x{}".format(*f["size"]), f["feature"], f"{f['error']:.3f}",
                f"{f['unsearched']:.3f}", "-" if math.isnan(f["rank"]) else f"{f['rank']:.2f}",
                f"{f['make_ms']:.1f}",
            )
            for f in figures["features"]
        ]  # fmt: skip
        head = (
            "frames", "size", "compared", "error", "without search", "rank correlation with the error",
            "ms per frame",
        )  # fmt: skip
        parts.append(
            "Relative error of keys and values taken over, best half of the tokens by each feature (all "
            "tokens where none is compared):\n\n" + table(head, rows)
        )
    if "windows" in figures:
        tower = figures["windows"]["tower"]
        rows = [
            (
                f["motion"], f"{f['whole']}/{f['frames']}", f"{f['untouched']:.0%}", f"{f['nearly']:.0%}",
                f"{f['saved']:.1%}",
            )
            for f in figures["windows"]["motions"]
        ]  # fmt: skip
        head = ("motion", "equal", "in untouched windows", "nearly", "of the tower's time")
        parts.append(
            "Vision tower of the 3B checkpoint at 640x480, one core: a layer with windows "
            f"{tower['window_s']:.2f} s, one without {tower['full_s']:.2f} s; {tower['before_full']:.0%} of "
            "the time lies before the first one without, where untouched windows could be taken over "
            "exactly. "
            "In frames that are not equal as a whole:\n\n" + table(head, rows)
        )
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
            (f"{f['share']:.0%}", f"{f['own']:.1e}", f"{f['rotated']:.3f}", f"{f['unrotated']:.3f}")
            for f in figures["behind"]
        ]
        parts.append(
            "The same picture again, relative error of a question's states:\n\n"
            + table(("reused", "in its own slots", "behind itself, re-rotated", "not rotated"), rows)
        )
    if "drift" in figures:
        rows = [(str(f["reuses"]), f"{f['once']:.2%}", f"{f['stepwise']:.2%}") for f in figures["drift"]]
        parts.append(
            "Keys in bfloat16 handed on so often, relative error against one exact turn:\n\n"
            + table(("times", "turned once, from the original", "step by step"), rows)
        )
    if "recording" in figures:
        rows = [
            (
                str(f["gap"]), f"{f['found']:.1%}", f"{f['of_four']:.1%}", f"{f['alike']:.1%}",
                f"{f['drift']:.2f}", f"{f['ms']:.1f}",
            )
            for f in figures["recording"]
        ]  # fmt: skip
        head = ("gap", "valid", "of four", "and alike", "drift (tokens)", "ms")
        parts.append(
            "Recording, tokens found in the frame so much earlier, and in the best of four so far apart:\n\n"
            + table(head, rows)
        )
    if "motions" in figures:
        rows = [
            (*_taking_over(f), _same(f), ", ".join(f"{k} {v}" for k, v in f["refused"].items()))
            for f in figures["motions"]
        ]
        head = ("motion", "reuse", "whole ms", "reusing ms", "of it planning", "same queues", "refused")
        parts.append(
            "Engine over a motion, 640x480, every frame asked about, in all (queues of a policy that was "
            "trained with other sizes; `bench policy` has those that count):\n\n" + table(head, rows)
        )
    if "strategies" in figures:
        rows = [
            (*_taking_over(f), f"{f['whole_ms'] / f['reusing_ms']:.2f}", _same(f))
            for f in figures["strategies"]
        ]
        head = ("context", "reuse", "whole ms", "reusing ms", "of it planning", "net", "same queues")
        parts.append(
            "Engine under each context strategy, 640x480, driving forward, prefilled on arrival, every "
            "second frame asked about, in all:\n\n" + table(head, rows)
        )
    if "walks" in figures:
        from benchmarks.measure.reuse_walks import walk_table

        parts.append(walk_table(figures["walks"]))
    return "\n\n".join(parts)


def _walks(model: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.measure.frames import motion_frames
    from benchmarks.measure.reuse_walks import measure_walk, random_model
    from vln_ros.engine.checkpoint.profile import load_profile

    layers, blocks = options.layers
    large, profile = random_model(model, layers, blocks), load_profile(options.profile)
    profile = replace(profile, image=replace(profile.image, resize=(640, 480)))
    reuse, count = ReuseConfig(budget=options.budget), options.frames
    motions = [asdict(measure_walk(large, profile, m, motion_frames(m, count), reuse)) for m in options.walks]
    return {"depth": [layers, blocks], "budget": options.budget, "motions": motions}


def _taking_over(f: dict[str, Any]) -> tuple[str, ...]:
    """What ran, the share taken over, and the milliseconds: whole, reusing, of it planning."""
    spent_ms = (f["whole_ms"], f["reusing_ms"], f["overhead_ms"])
    return f["motion"], f"{f['reuse']:.0%}", *(f"{ms:.0f}" for ms in spent_ms)


def _same(f: dict[str, Any]) -> str:
    return f"{f['same']}/{f['decisions']}"


def _geometry(pairs: int) -> list[dict[str, Any]]:
    """Near and far pairs, level and tilted cameras."""
    import time

    from tqdm import tqdm

    from benchmarks.measure.frames import hold_against_rays, random_views
    from vln_ros.datatypes import CameraModel
    from vln_ros.geometry.correspondence import TokenGrid, correspond

    camera, grid = CameraModel.from_hfov(640, 480, math.radians(79.0)), TokenGrid(*GRIDS[391])
    figures = []
    for seed, (pitch_deg, spread_m) in enumerate(((0.0, 0.3), (15.0, 0.6), (-10.0, 1.0), (25.0, 3.0))):
        views = random_views(
            seed, pairs, camera, pitch_down_rad=math.radians(pitch_deg), spread_m=spread_m, spread_rad=0.4
        )
        truths, spent_s = [], []
        for view in tqdm(views, total=pairs, desc=f"flat {seed}", disable=None, leave=False):
            begun = time.process_time()
            found = correspond(view.new, [view.old], grid, depth_tolerance=ReuseConfig().depth_tolerance)
            spent_s.append(time.process_time() - begun)
            truths.append(hold_against_rays(view, found))
        errors = np.concatenate([t.error for t in truths])
        figures.append(
            {
                "views": f"flat {seed}, {spread_m} m apart, camera {pitch_deg:+.0f} deg",
                "accepted": len(errors),
                "off": int((errors > 0.5).sum()),
                "worst_tokens": float(errors.max(initial=0.0)),
                "hidden": int(sum(t.hidden.sum() for t in truths)),
                "occluded": sum(t.occluded for t in truths),
                "ms": float(np.median(spent_s)) * 1e3,
            }
        )
    return figures


def _features(model: LoadedModel, recorded: Sequence[Frame], pairs: int) -> list[dict[str, Any]]:
    from benchmarks.measure.frames import moves
    from benchmarks.measure.reuse_features import measure_features

    shown = {"flats": moves(pairs)}
    if recorded:
        step = max(1, (len(recorded) - EVERY) // pairs)
        shown["recording"] = [
            (recorded[i], recorded[i + EVERY]) for i in range(0, len(recorded) - EVERY, step)
        ]
    return [
        {"of": name, **asdict(f)}
        for name, own in shown.items()
        for size in SIZES
        for f in measure_features(model, own, size)
    ]


def _windows(model: LoadedModel, recorded: Sequence[Frame], options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.measure.frames import motion_frames
    from benchmarks.measure.reuse_features import compare_windows, time_tower

    tower = time_tower(TOWER, SIZES[0], options.repeats)
    shown = {motion: motion_frames(motion, options.frames) for motion in MOTIONS}
    if recorded:
        shown["recording"] = list(recorded)
    motions = [
        asdict(compare_windows(model, name, frames, SIZES[0], tower.before_full))
        for name, frames in shown.items()
    ]
    return {"tower": asdict(tower), "motions": motions}


def _motions(
    model: LoadedModel, recorded: Sequence[Frame], options: argparse.Namespace
) -> list[dict[str, Any]]:
    from benchmarks.measure.frames import motion_frames

    shown = {motion: motion_frames(motion, options.frames) for motion in MOTIONS}
    if recorded:
        shown["recording"] = list(recorded[::EVERY][: options.frames])
    return [_run_both(model, options, name, frames) for name, frames in shown.items()]


def _strategies(model: LoadedModel, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The contexts among the ablations of `bench policy` under which frames are pictures."""
    from benchmarks.measure.frames import motion_frames
    from benchmarks.policy.ablations import ablations
    from vln_ros.engine.checkpoint.profile import load_profile

    contexts: dict[str, Profile] = {}
    for way in ablations(load_profile(options.profile)):
        if way.profile.context.strategy != "delayed_batch":  # where nothing is taken over
            name = (
                f"{way.profile.context.strategy}, unasked frames {way.profile.context.unasked_frames or '-'}"
            )
            contexts.setdefault(name, way.profile)
    frames = motion_frames("forward", options.frames)
    return [
        _run_both(model, options, name, frames, profile, ask_every=2) for name, profile in contexts.items()
    ]


def _prefill(repeats: int) -> list[dict[str, Any]]:
    from benchmarks.measure.frames import motion_frames
    from benchmarks.measure.reuse import measure_prefill
    from vln_ros.geometry.correspondence import TokenGrid

    first, last = motion_frames("pan", 2)
    network = bench_network()
    return [
        asdict(f)
        for grid in GRIDS.values()
        for f in measure_prefill(network, TokenGrid(*grid), SHARES, (first, last), repeats)
    ]


def bench_network() -> Any:
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


def _recording(model: LoadedModel, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    from benchmarks.measure.reuse import measure_gaps

    gaps = [g for g in GAPS if g < len(frames)]
    return [asdict(f) for f in measure_gaps(model, frames, gaps, EVERY)]


def _run_both(
    model: LoadedModel,
    options: argparse.Namespace,
    motion: str,
    frames: Sequence[Frame],
    profile: Profile | None = None,
    ask_every: int = 1,
) -> dict[str, Any]:
    """The same frames through the engine with and without reuse, by turns."""
    import time

    from vln_ros.datatypes import Instruction
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.qwen import QwenEngine

    profile = profile or load_profile(options.profile)
    profile = replace(profile, image=replace(profile.image, resize=(640, 480)))
    reuse = ReuseConfig(enabled=True, window=0, budget=options.budget)
    stream = StreamConfig(min_allowed=0.0)  # what a network of random weights answers is not meant
    robots = [
        QwenEngine(model, profile, temperature=0.0, seed=0, stream=stream, reuse=config)
        for config in (ReuseConfig(), reuse)
    ]
    for robot in robots:
        robot.start(Instruction(1, "go to the red chair"))
    spent_s, same = [0.0, 0.0], 0
    for index, frame in enumerate(frames):
        queues = []
        for k, robot in enumerate(robots):
            begun = time.process_time()
            robot.observe(frame)
            robot.prefill()  # reuse lives off the frames in between, too
            if index % ask_every == ask_every - 1:
                queues.append(robot.decide(frame.index + 1).actions)
            spent_s[k] += time.process_time() - begun
        same += bool(queues) and queues[0] == queues[1]
        if options.plots is not None and frame is frames[-1] and ask_every == 1:
            assert robots[1].reuse is not None
            (plan,) = robots[1].reuse.last_plans.values()
            _draw(options.plots / f"{motion.replace(' ', '_')}.png", frames, plan)
    stats = robots[1].reuse_stats()
    assert stats is not None
    return {
        "motion": motion,
        "decisions": len(frames) // ask_every,
        "same": same,
        "whole_ms": spent_s[0] * 1e3,
        "reusing_ms": spent_s[1] * 1e3,
        **asdict(stats),
    }


def _draw(path: Path, frames: Sequence[Frame], plan: FramePlan) -> None:
    """The last frame, its tokens coloured by what became of them, beside the source of most of them."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    from vln_ros.reuse.frame_plan import Label
    from vln_ros.reuse.overlay import COLOURS, paint

    path.parent.mkdir(parents=True, exist_ok=True)
    new = frames[-1]
    height, width = new.rgb.shape[:2]
    rows, columns = round(height / 28), round(width / 28)
    if rows * columns != len(plan.slot):
        raise ConfigError(f"{len(plan.slot)} tokens do not make a picture of {width}x{height}")
    sources = plan.source[plan.source > 0]
    source = int(np.bincount(sources).argmax()) if len(sources) else 0
    canvas = Picture.new("RGB", (2 * width + 8, height + _LEGEND_PX), "white")
    canvas.paste(Picture.fromarray(paint(new.rgb, plan.label.reshape(rows, columns))), (0, 0))
    beside = source or len(frames) - 1
    canvas.paste(Picture.fromarray(frames[beside - 1].rgb), (width + 8, 0))
    draw = ImageDraw.Draw(canvas, "RGBA")
    for token, label in enumerate(plan.label):
        if label == Label.REUSED and plan.source[token] == source:
            row, column = divmod(int(plan.token[token]), columns)
            left = width + 8 + column * width / columns
            box = [left, row * height / rows, left + width / columns - 1, (row + 1) * height / rows - 1]
            draw.rectangle(box, outline=COLOURS["reused"])
    for index, (name, colour) in enumerate(COLOURS.items()):
        left, count = 8 + 160 * index, int((plan.label == Label[name.upper()]).sum())
        draw.rectangle([left, height + 6, left + 12, height + 18], fill=colour)
        draw.text((left + 18, height + 5), f"{name}: {count} of {len(plan.label)}", fill="black")
    why = "" if plan.reason is None else f" taken over: {plan.reason.value}"
    text = f"frame {beside} of {len(frames)}, source of most" if source else f"frame before; nothing{why}"
    draw.text((width + 16, height + 5), text, fill="black")
    canvas.save(path)
