"""``vln_ros bench profiling``: what the profiler itself costs, and how much of a decision it accounts for."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import ConfigError, ProfilingConfig, TinyConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.datatypes import Frame
    from vln_ros.engine.decision import DecisionLoop

TITLE = "The profiler itself"
HELP = "Measure what profiling costs, and what share of a decision its spans account for"
LEVELS = ("off", "spans", "layers")
BURST = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=100, help="frames per level (default: %(default)s)")
    parser.add_argument(
        "--side-px", type=int, default=224, help="side of the frames in pixels (default: %(default)s)"
    )
    add_json(parser)
    rename_options(parser, {"--rounds": "--frames", "--size": "--side-px"})


def run(options: argparse.Namespace) -> int:
    if options.frames < 4 or options.side_px < 28:
        raise ConfigError(
            f"--frames = {options.frames}, --side-px = {options.side_px}: at least 4 frames of 28 pixels"
        )
    from vln_ros.engine.tiny import build_tiny

    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder), TinyConfig())
        figures = {**_measure(Path(folder), options.frames, options.side_px), "span_us": _span_us()}
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _measure(checkpoint: Path, rounds: int, size: int) -> dict[str, Any]:
    """Levels by turns, frame by frame, so that a busy machine is as busy for all of them."""
    import torch
    from tqdm import tqdm

    from vln_ros.config import NavigatorConfig, from_flat
    from vln_ros.datatypes import Instruction
    from vln_ros.engines import build_engine, build_loop
    from vln_ros.profiling import spans
    from vln_ros.profiling.spans import DECISION

    torch.set_num_threads(1)
    config = from_flat(NavigatorConfig, {"qwen.checkpoint": str(checkpoint), "decide_on": "frame"})
    loops: dict[str, DecisionLoop] = {}
    recorders: dict[str, spans.Recorder | None] = {}
    for level in LEVELS:
        recorders[level] = spans.start(ProfilingConfig(level=level))
        loops[level] = build_loop(build_engine(config), config)
        loops[level].start(Instruction(1, "walk past the red sofa and stop next to the lamp"))
    took_ms: dict[str, list[float]] = {level: [] for level in LEVELS}
    accounted: list[float] = []
    in_stages: list[float] = []
    spans_per_round = 0.0
    for i in tqdm(range(rounds + 2), desc="profiling", unit="round", disable=None, leave=False):
        frame = _frame(i, size)
        for k in range(len(LEVELS)):
            level = LEVELS[(i + k) % len(LEVELS)]  # nobody is always the first after another
            recorder = spans.resume(recorders[level])
            loop = loops[level]
            frame_s = _processor_s(partial(loop.observe, frame))
            after_frame = _own_ms(recorder)
            asked = time.perf_counter()
            decision_s = _processor_s(loop.decide)
            wall_ms = (time.perf_counter() - asked) * 1e3
            if i < 2:  # the first ones warm up
                continue
            took_ms[level].append((frame_s + decision_s) * 1e3)
            if level == "spans" and recorder is not None:
                own = {k: v - after_frame.get(k, 0.0) for k, v in _own_ms(recorder).items()}
                accounted.append(sum(own.values()) / wall_ms)
                in_stages.append(1 - own[DECISION] / wall_ms)
                spans_per_round = _count(recorder) / (i + 1)
    spans.stop()
    ratios = {
        level: [a / b for a, b in zip(took_ms[level], took_ms["off"], strict=True)] for level in LEVELS[1:]
    }
    return {
        "rounds": rounds,
        "size": size,
        "frame_and_decision_ms": {level: _spread(values) for level, values in took_ms.items()},
        "ratio_to_off": {level: _spread(values) for level, values in ratios.items()},
        "spans_per_frame_and_decision": round(spans_per_round, 1),
        "accounted": _spread(accounted),
        "in_named_stages": _spread(in_stages),
    }


def _processor_s(work: Callable[[], object]) -> float:
    """Processor time, on one thread: a busy machine does not lengthen it much."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _own_ms(recorder: Any) -> dict[str, float]:
    if recorder is None:
        return {}
    return {name: s.own / 1e6 for t in recorder.tracks for name, s in t.statistics.items()}


def _count(recorder: Any) -> int:
    return sum(s.count for t in recorder.tracks for s in t.statistics.values())


def _frame(index: int, size: int) -> Frame:
    from vln_ros.capacity.walk import make_frame
    from vln_ros.datatypes import CameraModel, Frame, Pose

    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    camera = CameraModel.from_hfov(size, size, 1.2)
    return Frame(index, index * 10**8, make_frame(index, size, size), None, camera, pose, pose)


def _span_us() -> dict[str, dict[str, float]]:
    """One span around nothing, microseconds, by bursts."""
    from vln_ros.profiling import spans

    found = {}
    for level in ("off", "spans"):
        spans.start(ProfilingConfig(level=level))

        def burst() -> None:
            for _ in range(BURST):
                with spans.span("nothing"):
                    pass

        bursts = [_processor_s(burst) / BURST * 1e6 for _ in range(7)]
        found[level] = _spread(bursts)
    spans.stop()
    return found


def _spread(values: list[float]) -> dict[str, float]:
    """Median, and a 95 % interval of it."""
    from vln_ros.profiling.timings import median_interval

    low, high = median_interval(sorted(values))
    return {"median": statistics.median(values), "low": low, "high": high}


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = []
    for level, ratio in figures["ratio_to_off"].items():
        median, low, high = (100.0 * (ratio[k] - 1.0) for k in ("median", "low", "high"))
        bars.append((level, median, low, high))
    plot_bars(folder / "profiling.png", TITLE, "% more processor time than off, 95 % interval", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    def spread(values: dict[str, float], digits: int) -> str:
        return f"{values['median']:.{digits}f} ({values['low']:.{digits}f} – {values['high']:.{digits}f})"

    times, ratios, per_span = (figures[k] for k in ("frame_and_decision_ms", "ratio_to_off", "span_us"))
    rows = [
        (level, spread(times[level], 2), spread(ratios[level], 3) if level in ratios else "1",
         spread(per_span[level], 2) if level in per_span else "")
        for level in LEVELS
    ]  # fmt: skip
    number = figures["spans_per_frame_and_decision"]
    median_us = times["off"]["median"] * 1e3
    off, on = (100 * number * per_span[level]["median"] / median_us for level in ("off", "spans"))
    return (
        f"A frame of {figures['size']}x{figures['size']} taken in and decided on by a random network of "
        f"2.9 M "
        f"parameters, {figures['rounds']} rounds, the levels by turns within each. Medians, in brackets "
        f"their 95 % "
        "intervals. The released networks take longer and have no more spans, so their shares are "
        "smaller.\n\n"
        + table(("level", "ms of processor time", "ratio to off, round by round", "one span, µs"), rows)
        + f"\n{number:.0f} spans per frame and decision: {off:.2f} % of the time when off, {on:.2f} % when "
        f"on, by "
        f"the cost of one span. Spans add up to {100 * figures['accounted']['median']:.2f} % of a "
        f"decision's wall "
        f"time as measured from outside (worst end of the interval {100 * figures['accounted']['low']:.2f} "
        f"%), and "
        f"{100 * figures['in_named_stages']['median']:.1f} % of it lies in a named stage; the rest is "
        f"shown as "
        "*rest of decision*.\n"
    )
