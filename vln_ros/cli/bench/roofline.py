"""``vln_ros bench roofline``: stages of a decision on this machine, and what ``vln_ros plan`` expects."""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.places import add_json
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.capacity.estimate import Measured
    from vln_ros.capacity.roofline import Peak
    from vln_ros.engine.checkpoint.model import LoadedModel

TITLE = "Roofline and planner"
HELP = "Time the stages of a decision for several networks, against the roofline and what `plan` expects"
SHAPES = ("3B", "7B")
TINY = {
    "2.9 M": TinyConfig(),
    "wide": TinyConfig(hidden=384, intermediate=1024),
    "deep": TinyConfig(layers=12, vision_depth=9),
}
SIZES = ((224, 224), (476, 364))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", help="Torch device: cpu, or cuda, which measures the 3B and 7B shapes, too"
    )
    parser.add_argument(
        "--decisions", type=int, default=6, help="timed decisions per configuration (default: %(default)s)"
    )
    parser.add_argument(
        "--context-frames",
        type=int,
        default=12,
        help="frames in the stream before them (default: %(default)s)",
    )
    add_json(parser, "figures, which `plan --calibration` reads,")


def run(options: argparse.Namespace) -> int:
    if options.decisions < 2 or options.context_frames < 1:
        raise ConfigError("--decisions must be at least 2 and --context-frames at least 1")
    import torch

    from vln_ros.capacity.estimate import leave_one_out
    from vln_ros.capacity.stages import measure_peak

    device = torch.device(options.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if device.type == "cpu":
        torch.set_num_threads(1)  # then processor time is time, whatever else runs
    peak = measure_peak(device, dtype, _clock(options))
    runs = list(_configurations(options, peak))
    measured = [m for m, _ in runs]
    figures = {
        "device": options.device,
        "peak": asdict(peak),
        "decisions": options.decisions,
        "measured": [asdict(m) for m in measured],
        "intervals_s": {m.name: interval for m, interval in runs},
        "errors": [asdict(e) for e in leave_one_out(measured)],
    }
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


Run = tuple["Measured", tuple[float, float]]
"""A configuration, and the 95 % interval of the median of its decisions' times."""


def _configurations(options: argparse.Namespace, peak: Peak) -> Iterator[Run]:
    import torch

    from vln_ros.capacity.stages import published_config, random_model
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.tiny import build_tiny

    with tempfile.TemporaryDirectory() as name:
        for title, config in TINY.items():
            folder = Path(name) / title.replace(" ", "")
            build_tiny(folder, config)
            model = load_model(
                str(folder), device=options.device, dtype="auto", attention="sdpa", quantisation="none"
            )
            for size in SIZES:
                yield from _measure(title, model, size, options, peak)
        if options.device.startswith("cuda"):
            folder = Path(name) / "true-ids"
            build_tiny(folder, TinyConfig(true_ids=True))
            base = load_model(
                str(folder), device="cpu", dtype="bfloat16", attention="sdpa", quantisation="none"
            )
            for shape in SHAPES:
                model = random_model(base, published_config(shape), options.device, torch.bfloat16)
                for size in SIZES:
                    yield from _measure(shape, model, size, options, peak)
                del model
                gc.collect()
                torch.cuda.empty_cache()


def _measure(
    title: str, model: LoadedModel, size: tuple[int, int], options: argparse.Namespace, peak: Peak
) -> Iterator[Run]:
    from vln_ros.capacity.estimate import STAGES, Measured, StageTime, stage_layers
    from vln_ros.capacity.stages import measure_stages
    from vln_ros.capacity.walk import walk
    from vln_ros.engine.checkpoint.profile import ContextSpec, ImageSpec, load_profile
    from vln_ros.profiling.timings import median_interval

    layers = stage_layers(model.network.config)
    profile = replace(load_profile("tiny"), image=ImageSpec(None, None))
    frames = list(walk(options.context_frames + 1 + options.decisions, size))
    past = ContextSpec(
        "history", history_frames=8, history_choice="uniform_round", history_empty="none", history_limit=0
    )
    shown = replace(profile, context=past, next_turn="{history}{image}")
    ways = {
        "tree": ("tree", profile),
        "tokens": ("tokens", profile),
        "history, tree": ("tree", shown),
        "history, tokens": ("tokens", shown),
    }
    for name, (way, own) in ways.items():
        found = measure_stages(
            model,
            own,
            frames,
            context_frames=options.context_frames,
            decode=way,
            peak=peak,
            clock=_clock(options),
        )
        stages = {
            stage: StageTime(
                float(np.median([d.stages[stage].seconds for d in found])),
                float(np.median([d.stages[stage].forwards for d in found])) * layers[stage],
                float(np.median([d.stages[stage].least_s for d in found])),
            )
            for stage in STAGES
        }
        totals = sorted(d.total_s for d in found)
        measured = Measured(f"{title}, {size[0]}x{size[1]}, {name}", float(np.median(totals)), stages)
        yield measured, median_interval(totals)


def _clock(options: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if options.device == "cpu" else time.perf_counter


def read_measured(path: Path) -> tuple[list[Measured], Peak]:
    """What a record of this bench holds. Raises ConfigError."""
    from vln_ros.capacity.estimate import Measured, StageTime
    from vln_ros.capacity.roofline import Peak
    from vln_ros.cli.bench.record import read_record

    record = read_record(path)
    if record.bench != "roofline":
        raise ConfigError(
            f"{path} is a record of bench {record.bench}: run `vln_ros bench roofline --json FILE`"
        )
    measured = [
        Measured(m["name"], m["total_s"], {n: StageTime(**s) for n, s in m["stages"].items()})
        for m in record.figures["measured"]
    ]
    return measured, Peak(**record.figures["peak"])


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    peak, measured = figures["peak"], figures["measured"]
    errors = {e["name"]: e for e in figures["errors"]}
    names = list(measured[0]["stages"])
    rows = []
    for m in measured:
        e = errors[m["name"]]
        cells = [
            f"{1e3 * m['stages'][n]['seconds']:.1f} / {1e3 * m['stages'][n]['least_s']:.1f}" for n in names
        ]
        planned, least = (100 * (e[k] / m["total_s"] - 1) for k in ("predicted_s", "roofline_s"))
        low, high = (1e3 * s for s in figures["intervals_s"][m["name"]])
        total = f"{1e3 * m['total_s']:.1f} ({low:.1f} – {high:.1f})"
        rows.append((m["name"], *cells, total, f"{planned:+.0f} %", f"{least:+.0f} %"))
    relative = sorted(abs(e["predicted_s"] / e["measured_s"] - 1) for e in errors.values())
    return (
        f"{peak['flops_per_s'] / 1e12:.2f} TFLOP/s, {peak['bytes_per_s'] / 1e9:.0f} GB/s ({peak['source']}). "
        f"Medians of {figures['decisions']} decisions, each with its new frame, in brackets the 95 % "
        "interval; milliseconds (on a CPU of one thread's processor time), measured / roofline. *Planner*: "
        "error of its prediction of the total from all other rows; *roofline*: error of the roofline taken "
        "as a prediction.\n\n"
        + table(("configuration", *names, "total", "planner", "roofline"), rows)
        + f"\nThe planner's error is {100 * relative[len(relative) // 2]:.0f} % in the median and "
        f"{100 * relative[-1]:.0f} % at worst, over {len(relative)} configurations. `vln_ros plan "
        "--calibration FILE` takes this record; without one the planner's times are assumptions, and it says "
        "so.\n"
    )


def plot(figures: dict[str, Any], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    folder.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(6, 5))
    errors = figures["errors"]
    measured = [1e3 * e["measured_s"] for e in errors]
    ends_s = [figures["intervals_s"][e["name"]] for e in errors]
    below = [m - 1e3 * low for m, (low, _) in zip(measured, ends_s, strict=True)]
    above = [1e3 * high - m for m, (_, high) in zip(measured, ends_s, strict=True)]
    for key, marker, label in (
        ("predicted_s", "o", "planner, from all others"),
        ("roofline_s", "x", "roofline alone"),
    ):
        predicted = [1e3 * e[key] for e in errors]
        ax.errorbar(measured, predicted, xerr=[below, above], fmt=marker, capsize=3, label=label)
    ends = [min(measured) / 2, 2 * max(measured)]
    ax.plot(ends, ends, "k--", linewidth=1, label="as measured")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="measured [ms], 95 % interval",
        ylabel="predicted [ms]",
        title="Frame and decision",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.legend()
    fig.savefig(folder / "planner.png", dpi=120, bbox_inches="tight")
    plt.close(fig)
