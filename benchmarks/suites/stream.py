"""``vln_ros bench stream``: the streaming engine against ``generate`` over the whole history each time."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from benchmarks.measure.stream_points import Point, StepDown, compare, measure, point_of, settings_of
from benchmarks.tables.stream import explain, plot_points, points_table
from benchmarks.tables.stream import section as section
from vln_ros.cli.arguments.parsing import SIZE
from vln_ros.cli.arguments.places import add_json, output_folder
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from benchmarks.measure.stream import Request, Result

TITLE = "Streaming against one shot"
HELP = "Compare streaming with one-shot inference: latency, memory, work, agreement"
SWEEPS = ("frames", "chunk", "resolution")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", help="folder or hub name of a checkpoint (default: a small random one, made anew)"
    )
    parser.add_argument(
        "--device", default="cpu", help="Torch device: cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="float32",
        help="number format of the weights (default: %(default)s)",
    )
    parser.add_argument("--frames", type=int, default=64, help="frames in the stream (default: %(default)s)")
    parser.add_argument(
        "--size",
        metavar=SIZE,
        default="476x364",
        help="size of the frames (default: %(default)s: 221 tokens a frame)",
    )
    parser.add_argument("--chunk", type=int, default=1, help="frames taken in at once (default: %(default)s)")
    parser.add_argument(
        "--answer-tokens", type=int, default=8, help="length of the answer (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="repetitions of the question, for the times (default: %(default)s)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        nargs="+",
        default=[1.0, 2.0, 5.0, 10.0],
        help="frame rates to compute the lag for (default: 1 2 5 10)",
    )
    parser.add_argument(
        "--sweep",
        nargs="*",
        choices=SWEEPS,
        default=[],
        help="besides the main setting: fewer frames, larger chunks (1, 2, 4, 8), smaller and larger frames",
    )
    parser.add_argument(
        "--memory-limit-mb",
        type=int,
        default=0,
        help="most main memory per process, as if the machine had no more; 0: no limit (default)",
    )
    add_json(parser)
    parser.add_argument(
        "--plots", type=output_folder, metavar="DIR", help="also draw plots (PNG) into this folder"
    )


def run(args: argparse.Namespace) -> int:
    from benchmarks.measure.stream import Request
    from vln_ros.engine.tiny import build_tiny

    width, height = _size(args.size)
    for name in ("frames", "chunk", "answer_tokens", "repeats"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} = {getattr(args, name)}: must be at least 1")
    if args.memory_limit_mb < 0:
        raise ConfigError(f"--memory-limit-mb = {args.memory_limit_mb}: must not be negative")
    if any(not rate > 0 for rate in args.fps):
        raise ConfigError(f"--fps = {args.fps}: rates must be positive")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = args.checkpoint
        if checkpoint is None:
            build_tiny(folder / "tiny", TinyConfig())
            checkpoint = str(folder / "tiny")
        main = Request(
            checkpoint, args.device, args.dtype, args.frames, width, height, args.chunk, args.answer_tokens,
            memory_limit_mb=args.memory_limit_mb, repeats=args.repeats,
        )  # fmt: skip
        settings = list(settings_of(main, args.sweep))
        others: dict[tuple[str, Request], Result] = {}
        steps: list[StepDown] = []
        points: list[Point] = []
        for sweep, request in tqdm(settings, desc="settings", disable=None):
            measured = compare(request, partial(measure, folder=folder), others, steps)
            points.append(point_of(sweep, *measured, args.fps))
    print(points_table(points))
    for step in steps:
        print(step.describe())
    print(explain(points[0]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(_report(points, steps, args.checkpoint), indent=1) + "\n")
    if args.plots:
        plot_points(points, args.plots)
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError:
        raise ConfigError(f"--size = {text!r}: expected WIDTHxHEIGHT, e.g. 476x364") from None
    if width < 28 or height < 28:
        raise ConfigError(f"--size = {text}: at least 28x28, one token")
    return width, height


def _report(points: list[Point], steps: list[StepDown], checkpoint: str | None) -> dict[str, object]:

    def figures(result: Result) -> dict[str, object]:
        return {k: v for k, v in asdict(result).items() if k != "first_logits"}

    return {
        "checkpoint": checkpoint or "tiny",
        "stepped_down": [asdict(step) for step in steps],
        "points": [
            {
                "sweep": p.sweep,
                "request": {k: v for k, v in asdict(p.request).items() if k != "checkpoint"},
                "streaming": figures(p.streaming),
                "features": figures(p.features),
                "native": figures(p.native),
                "first_token_speedup": p.first_token_speedup,
                "with_newest_speedup": p.with_newest_speedup,
                "features_speedup": p.features_speedup,
                "total_speedup": p.total_speedup,
                "peak_ratio": p.peak_ratio,
                "lag_s": p.lag_s,
                "logit_difference": p.logit_difference,
                "same_tokens": p.same_tokens,
                "flops_question_each_frame": p.flops_question_each_frame,
            }
            for p in points
        ],
    }
