"""``vln_ros bench engine``: what a decision costs, how that grows with the stream, what could be saved."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure.engine_sections import (
    FULL,
    QUICK,
    TINY_SEED,
    Setup,
    batch,
    contexts,
    counts,
    describe_network,
    flat,
    forwards,
    robots,
    stages,
)
from benchmarks.tables.engine import (
    batch_text,
    contexts_text,
    counts_text,
    flat_text,
    forwards_text,
    plot_batch,
    plot_contexts,
    plot_counts,
    plot_flat,
    plot_forwards,
)
from benchmarks.tables.robots import plot_robots, robots_text
from benchmarks.tables.stages import plot_stages, stages_text
from vln_ros.cli.arguments.places import add_json
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.evaluation.files import write_atomically

TITLE = "The engine"
HELP = "Measure the engine: cost per frame, batches, decode modes, context strategies, counts, stages"


@dataclass(frozen=True)
class Section:
    """A part of the bench.

    Attributes:
        measure: gives its figures, for JSON; ``text``: of them, in Markdown; ``plot``: draws them to a file.
    """

    title: str
    measure: Callable[[Setup], Any]
    text: Callable[[Any], str]
    plot: Callable[[Any, Path], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="sections to measure (default: all)",
    )
    parser.add_argument(
        "--checkpoint", help="folder or hub name of a checkpoint (default: a small random one, made anew)"
    )
    parser.add_argument(
        "--device", default="cpu", help="Torch device: cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="number format of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--frames", type=int, default=2000, help="flat: length of the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--token-budget", type=int, default=768, help="flat: budget of the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--shapes",
        nargs="*",
        choices=("3B", "7B"),
        default=["3B", "7B"],
        help="stages: released shapes with random weights, where there is a CUDA device; counts: released "
        "shapes without weights (default: 3B 7B)",
    )
    parser.add_argument(
        "--time-limit-s",
        type=float,
        default=420.0,
        help="stages: begin no further measurement after so many seconds, and say what is missing "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only try the command: figures are too small to mean anything; stages: the released shapes "
        "narrowed, on any device",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    for name, least in (("frames", 6), ("token_budget", 64)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} = {getattr(args, name)}: must be at least {least}")
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.tiny import build_tiny

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = args.checkpoint
        if checkpoint is None:
            build_tiny(folder / "tiny", TinyConfig(seed=TINY_SEED))
            checkpoint = str(folder / "tiny")
        model = load_model(
            checkpoint, device=args.device, dtype=args.dtype, attention="sdpa", quantisation="none"
        )
        figures: dict[str, Any] = {"network": describe_network(model, args.checkpoint)}
        print(figures["network"])
        setup = Setup(args, QUICK if args.quick else FULL, model, folder)
        for name in args.only:
            start = time.perf_counter()
            figures[name] = SECTIONS[name].measure(setup)
            print(f"\n== {name} ({time.perf_counter() - start:.0f} s)\n{SECTIONS[name].text(figures[name])}")
            if args.json:  # what has been measured is not lost with what comes after it
                write_atomically(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


def section(figures: dict[str, Any]) -> str:
    head = f"{figures['network']}. Medians, in brackets 5th to 95th percentile. Each section alone: `--only`."
    parts = [
        f"### {s.title}\n\n{s.text(figures[name]).strip()}" for name, s in SECTIONS.items() if name in figures
    ]
    return "\n\n".join([head, *parts])


def plot(figures: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in SECTIONS.items():
        if name in figures:
            part.plot(figures[name], folder / f"{name}.png")


SECTIONS: dict[str, Section] = {
    "flat": Section("Flat cost", flat, flat_text, plot_flat),
    "batch": Section("Robots together", batch, batch_text, plot_batch),
    "robots": Section("Many robots", robots, robots_text, plot_robots),
    "forwards": Section("Ways to decode", forwards, forwards_text, plot_forwards),
    "contexts": Section("Context strategies", contexts, contexts_text, plot_contexts),
    "counts": Section("Kernels and waits", counts, counts_text, plot_counts),
    "stages": Section("Stages and roofline", stages, stages_text, plot_stages),
}
