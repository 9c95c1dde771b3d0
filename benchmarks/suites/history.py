"""``vln_ros bench history``: measures histories that are prefilled anew, kept, and prefilled ahead."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.places import add_json
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure.history import Decision

TITLE = "Histories without waste"
HELP = "what a history of frames costs: all anew, its beginning kept, prefilled while the robot moves"
PROFILES = ("navida", "internvla-n1-s2")
EVERY = (1, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="folder or hub name (default: random weights, 8 layers of 512)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="number format of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--profiles",
        nargs="+",
        default=list(PROFILES),
        help=f"profiles with a history (default: {' '.join(PROFILES)})",
    )
    parser.add_argument(
        "--every", type=int, nargs="+", default=list(EVERY), help="frames per question (default: 1 4)"
    )
    parser.add_argument(
        "--frames", type=int, default=48, help="length of the walk, a primitive each (default: %(default)s)"
    )
    parser.add_argument(
        "--skip", type=int, default=12, help="first frames that are not counted (default: %(default)s)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from benchmarks.measure.history import WAYS, measure_way
    from vln_ros.capacity.walk import walk
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.tiny import build_tiny

    profiles = [load_profile(name) for name in args.profiles]
    for profile in profiles:
        if profile.context.strategy != "history":
            raise ConfigError(
                f"--profiles: {profile.name} has context {profile.context.strategy}: name one with a history"
            )
    if min(args.every) < 1 or args.skip < 0 or args.frames < args.skip + 2 * max(args.every):
        raise ConfigError(
            f"--frames = {args.frames}: two questions must follow the first --skip = {args.skip} frames"
        )
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint
        if checkpoint is None:
            checkpoint = str(Path(scratch) / "random")
            shape = TinyConfig(hidden=512, layers=8, heads=4, kv_heads=2, intermediate=1408)
            build_tiny(Path(checkpoint), shape)
        model = load_model(
            checkpoint, device=args.device, dtype=args.dtype, attention="sdpa", quantisation="none"
        )
        frames = list(walk(args.frames, (640, 480)))
        rows: list[dict[str, Any]] = []
        measure_way(model, profiles[0], WAYS[0], frames[:2], every=1)  # warm up
        for profile in profiles:
            for every in args.every:
                anew: dict[str, list[Decision]] = {}
                for way in WAYS:
                    decisions = measure_way(model, profile, way, frames, every=every)
                    reference = anew.setdefault(way.choice, decisions)
                    first = -(-args.skip // every)
                    rows.append(
                        {"profile": profile.name, "every": every, "way": way.name}
                        | _figures(decisions[first:], reference[first:])
                    )
        weights = "random weights, 8 layers of 512" if args.checkpoint is None else args.checkpoint
        content = {"weights": weights, "frames": args.frames, "skip": args.skip, "rows": rows}
    print(section(content))
    if args.json:
        write_atomically(args.json, json.dumps(content, indent=1) + "\n")
    return 0


def _figures(decisions: Sequence[Decision], reference: Sequence[Decision]) -> dict[str, Any]:
    """``reference``: of the way that prefills the same pictures anew."""

    def median_ms(values: Sequence[float]) -> float:
        return float(np.median(values)) * 1e3

    apart = [
        abs(a - b)
        for x, y in zip(decisions, reference, strict=True)
        for a, b in zip(x.chunk.probabilities, y.chunk.probabilities, strict=False)
    ]
    return {
        "decisions": len(decisions),
        "rows": float(np.mean([d.rows for d in decisions])),
        "other_rows": float(np.mean([d.other_rows for d in decisions])),
        "decide_ms": median_ms([d.decide_s for d in decisions]),
        "decide_cpu_ms": median_ms([d.decide_cpu_s for d in decisions]),
        "all_cpu_ms": median_ms([d.decide_cpu_s + d.other_cpu_s for d in decisions]),
        "same_queues": sum(
            x.chunk.actions == y.chunk.actions for x, y in zip(decisions, reference, strict=True)
        ),
        "probability_difference": max(apart, default=0.0),
    }


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    text = (
        f"{figures['frames']} frames of a walk, one primitive each, {figures['weights']}; the questions "
        f"behind the first {figures['skip']} frames. Per question: the time from question to queue (the "
        "frame's vision is paid before, in every way), the rows that the decoder computes in it, and in all "
        "with those while the robot moves; *of the past*: all but the newest picture, the question and the "
        "tree of its answers. *Ratio* is of the first line's. *Same queues*: as the way that prefills them "
        "all anew; *apart*: the probabilities, at most.\n\n"
    )
    columns = ("profile", "asked every", "", "ms", "ms of processor", "ratio", "rows", "rows in all", "ratio",
               "of the past", "ratio", "ms of processor in all", "same queues", "apart")  # fmt: skip
    rows = []
    before: dict[str, Any] = {}
    for r in figures["rows"]:
        place = (r["profile"], r["every"])
        if before.get("place") != place:
            before = {**r, "place": place}
        everything = r["rows"] + r["other_rows"]
        # Where all of the past was prefilled ahead, the decision computes the rest and nothing else.
        rest = min(o["rows"] for o in figures["rows"] if (o["profile"], o["every"]) == place)
        cpu, less = before["decide_cpu_ms"] / r["decide_cpu_ms"], before["rows"] + before["other_rows"]
        rows.append(
            (
                f"`{r['profile']}`", r["every"], r["way"], f"{r['decide_ms']:.0f}",
                f"{r['decide_cpu_ms']:.0f}", f"{cpu:.2f}", f"{r['rows']:.0f}", f"{everything:.0f}",
                f"{less / everything:.2f}", f"{everything - rest:.0f}",
                f"{(less - rest) / (everything - rest):.2f}", f"{r['all_cpu_ms']:.0f}",
                f"{r['same_queues']} of {r['decisions']}", f"{r['probability_difference']:.1e}",
            )
        )  # fmt: skip
    return text + table(columns, rows)
