"""``vln_ros bench stream``: streaming against asking `generate` with the whole history."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vln_ros.cli.arguments.places import output_file, output_folder
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from benchmarks.measure.stream import Request, Result

TITLE = "Streaming against one shot"
HELP = "streaming against native one-shot inference: latency, memory, work, agreement"
SWEEPS = ("frames", "chunk", "resolution")
CHUNKS = (1, 2, 4, 8)


class OutOfMemoryError(RuntimeError):
    """A measuring process had not enough memory."""


@dataclass(frozen=True)
class StepDown:
    """One attempt that ended for lack of memory; the next one showed every second of its frames."""

    way: str
    frames: int
    stride: int
    shown: int
    size: str
    reason: str

    def describe(self) -> str:
        return (
            f"{self.way} ran out of memory with {self.shown} of {self.frames} frames of {self.size} (stride "
            f"{self.stride}): {self.reason}; compared with stride {2 * self.stride} instead"
        )


@dataclass(frozen=True)
class Point:
    """All ways at one setting.

    Attributes:
        lag_s: per frame rate asked for, how far behind the camera the stream is when the last frame
            has come, computed from the measured time of each frame.
        logit_difference: largest difference between the scores of the first answer token and native's.
        same_tokens: share of answer tokens that agree with native's, in both other ways.
        flops_question_each_frame: decoder FLOPs, prefill and answers, had the question been put after
            every chunk of frames; ``streaming`` and ``native``.
    """

    sweep: str
    request: Request
    streaming: Result
    features: Result
    native: Result
    lag_s: dict[str, float]
    logit_difference: float
    same_tokens: float
    flops_question_each_frame: dict[str, float]

    @property
    def first_token_speedup(self) -> float:
        return self.native.first_token_s / self.streaming.first_token_s

    @property
    def with_newest_speedup(self) -> float:
        """The same where the newest frame comes with the question."""
        return self.native.with_newest_s / self.streaming.with_newest_s

    @property
    def features_speedup(self) -> float:
        """That, against a one-shot that keeps vision features."""
        return self.features.with_newest_s / self.streaming.with_newest_s

    @property
    def total_speedup(self) -> float:
        return self.native.total_s / self.streaming.total_s

    @property
    def peak_ratio(self) -> float:
        return self.streaming.peak_bytes / self.native.peak_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="folder or hub name (default: a small random one, made anew)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--dtype", default="float32", help="float32, bfloat16, float16 (default: %(default)s)"
    )
    parser.add_argument("--frames", type=int, default=64, help="frames in the stream (default: %(default)s)")
    parser.add_argument(
        "--size", default="476x364", help="pixels, WIDTHxHEIGHT (default: %(default)s: 221 tokens a frame)"
    )
    parser.add_argument("--chunk", type=int, default=1, help="frames taken in at once (default: %(default)s)")
    parser.add_argument(
        "--answer-tokens", type=int, default=8, help="length of the answer (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="of the question, for the times (default: %(default)s)"
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
        help="as if the machine had no more (main memory, per process); default 0: no limit",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write every figure")
    parser.add_argument("--plots", type=output_folder, metavar="DIR", help="write plots (PNG)")


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
        settings = list(_settings(main, args.sweep))
        others: dict[tuple[str, Request], Result] = {}
        steps: list[StepDown] = []
        points: list[Point] = []
        for sweep, request in tqdm(settings, desc="settings", disable=None):
            measured = compare(request, partial(measure, folder=folder), others, steps)
            points.append(_point(sweep, *measured, args.fps))
    print(_table(points))
    for step in steps:
        print(step.describe())
    print(_explain(points[0]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(_report(points, steps, args.checkpoint), indent=1) + "\n")
    if args.plots:
        _plot(points, args.plots)
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError:
        raise ConfigError(f"--size = {text!r}: expected WIDTHxHEIGHT, e.g. 476x364") from None
    if width < 28 or height < 28:
        raise ConfigError(f"--size = {text}: at least 28x28, one token")
    return width, height


def _settings(main: Request, sweeps: list[str]) -> list[tuple[str, Request]]:
    found = [("main", main)]
    if "frames" in sweeps:
        counts = sorted({max(1, main.frames // 2**k) for k in (1, 2, 3)} - {main.frames})
        found += [("frames", replace(main, frames=n)) for n in counts]
    if "chunk" in sweeps:
        found += [("chunk", replace(main, chunk=n)) for n in CHUNKS if n != main.chunk and n <= main.frames]
    if "resolution" in sweeps:
        found += [
            ("resolution", replace(main, width=round(main.width * f), height=round(main.height * f)))
            for f in (0.5, 0.75, 1.35)
        ]
    return found


def compare(
    request: Request,
    measure: Callable[[str, Request], Result],
    others: dict[tuple[str, Request], Result],
    steps: list[StepDown],
) -> tuple[Request, Result, Result, Result]:
    """All ways with all frames, or with every second, fourth ... where memory does not reach further.

    Args:
        others: what was measured already of the ways that have no chunks.
        steps: gets what was given up.

    Returns:
        What could be measured, streaming, features, native.

    Raises:
        ConfigError: not even a single frame fits.
    """
    while True:
        way = "native"
        try:
            key = replace(request, chunk=1)
            for way in ("native", "features"):
                if (way, key) not in others:
                    others[way, key] = measure(way, request)
            way = "streaming"
            return request, measure(way, request), others["features", key], others["native", key]
        except OutOfMemoryError as error:
            shown = len(request.shown)
            if shown == 1:
                raise ConfigError(
                    f"{way} runs out of memory with a single frame: choose a smaller checkpoint or --size"
                ) from error
            size = f"{request.width}x{request.height}"
            steps.append(StepDown(way, request.frames, request.stride, shown, size, str(error)))
            request = replace(request, stride=2 * request.stride)


def measure(way: str, request: Request, folder: Path) -> Result:
    from benchmarks.measure.stream import OUT_OF_MEMORY, Result

    asked, answered = folder / "request.json", folder / "result.json"
    asked.write_text(json.dumps(asdict(request)), "utf-8")
    command = [sys.executable, "-m", "benchmarks.measure.stream", way, str(asked), str(answered)]
    # -m finds the package from wherever this one was imported, installed or not.
    path = os.pathsep.join(p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=False, stderr=subprocess.PIPE
    )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == -signal.SIGKILL:
        raise OutOfMemoryError("killed by the system")
    if done.returncode == OUT_OF_MEMORY:
        # Where not even the message could be written, the status says it.
        raise OutOfMemoryError(lines[-1] if lines else "out of memory")
    if done.returncode and request.memory_limit_mb and any("RUST_BACKTRACE" in line for line in lines):
        # The tokenizer's library cannot say that it got no thread or no page.
        raise OutOfMemoryError("out of memory: a library gave up below the limit")
    if done.returncode:
        raise ConfigError(
            f"{way} with {request.frames} frames failed: {lines[-1] if lines else done.returncode}"
        )
    fields: dict[str, Any] = json.loads(answered.read_text("utf-8"))
    fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Result(**fields)


def _point(
    sweep: str,
    request: Request,
    streaming: Result,
    features: Result,
    native: Result,
    rates: list[float],
) -> Point:
    ours = (streaming, features)
    scores = np.abs(np.array([r.first_logits for r in ours]) - np.array(native.first_logits))
    agree = [a == b for r in ours for a, b in zip(r.answer, native.answer, strict=True)]
    # Asked after every chunk, the native way prefills everything up to there each time.
    asks = len(streaming.flops_by_frame)
    answers = asks * streaming.ask_flops
    each = {
        "streaming": streaming.flops_by_frame[-1] + answers,
        "native": sum(streaming.flops_by_frame) + answers,
    }
    lag = {f"{rate:g}": lag(streaming.frame_s, request.chunk, rate) for rate in rates}
    return Point(
        sweep, request, streaming, features, native, lag, float(scores.max()), float(np.mean(agree)), each
    )


def lag(frame_s: tuple[float, ...], chunk: int, rate: float) -> float:
    """Seconds from the arrival of the last frame until the stream holds it, at ``rate`` frames a second."""
    done = 0.0
    for first in range(0, len(frame_s), chunk):
        part = frame_s[first : first + chunk]
        arrived = (first + len(part) - 1) / rate  # a chunk can start when its last frame is there
        done = max(done, arrived) + sum(part)
    return done - (len(frame_s) - 1) / rate


def _table(points: list[Point]) -> str:
    head = (
        f"{'setting':<11}{'frames':>7}{'size':>9}{'chunk':>6}{'tokens':>8} | {'first token ms':^23} | "
        f"{'total ms':^23} | {'peak MB':^21} | {'frame ms':>8}{'cache MB':>9} | {'same':>5}{'d logit':>9}"
    )
    lines = [
        head,
        f"{'':41} | "
        + f"{'stream':>8}{'native':>9}{'x':>6} | " * 2
        + f"{'stream':>8}{'native':>7}{'%':>6} |",
    ]
    for p in points:
        s, n, r = p.streaming, p.native, p.request
        lines.append(
            f"{p.sweep:<11}{len(r.shown):>7}{f'{r.width}x{r.height}':>9}{r.chunk:>6}{s.context_tokens:>8} | "
            f"{s.first_token_s * 1e3:>8.1f}{n.first_token_s * 1e3:>9.0f}{p.first_token_speedup:>6.0f} | "
            f"{s.total_s * 1e3:>8.1f}{n.total_s * 1e3:>9.0f}{p.total_speedup:>6.1f} | "
            f"{s.peak_bytes / 1e6:>8.0f}{n.peak_bytes / 1e6:>7.0f}{p.peak_ratio * 100:>6.0f} | "
            f"{np.median(s.frame_s) * 1e3:>8.1f}{s.cache_bytes / 1e6:>9.1f} | "
            f"{p.same_tokens:>5.2f}{p.logit_difference:>9.1e}"
        )
    return "\n".join(lines)


def _explain(point: Point) -> str:
    """What of the difference is latency hiding, and what is less work."""
    s, n, each = point.streaming, point.native, point.flops_question_each_frame
    lag = ", ".join(f"{rate}/s: {seconds:.2f} s" for rate, seconds in point.lag_s.items())
    hidden = 100 * (1 - s.ask_flops / s.all_flops)
    times = each["native"] / each["streaming"]
    return "\n".join(
        (
            f"First token: {point.first_token_speedup:.0f}x sooner once the newest frame is taken in, "
            f"{point.with_newest_speedup:.0f}x where it comes with the question,",
            f"  {point.features_speedup:.1f}x against a one-shot that keeps the vision features of frames.",
            f"One question: latency hiding. Both ways spend {s.all_flops / 1e9:.1f} GFLOP in the decoder, "
            "and the same in the vision tower;",
            f"  streaming has spent {hidden:.1f} % of it ({sum(s.frame_s):.2f} s) while the frames came.",
            f"A question after every chunk: less work. {each['streaming'] / 1e9:.1f} GFLOP against "
            f"{each['native'] / 1e9:.1f}, {times:.1f}x.",
            f"Behind the camera at the last frame, computed from the measured frame times: {lag}.",
            "Peak memory is what each way needs beyond the loaded model, each in a process of its own;",
            f"  with libraries and model: {s.process_peak_bytes / 1e6:.0f} MB against "
            f"{n.process_peak_bytes / 1e6:.0f} MB.",
        )
    )


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


def _plot(points: list[Point], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    main = points[0]
    fig, ax = plt.subplots(figsize=(7, 4))
    ax.plot(np.array(main.streaming.frame_s) * 1e3, ".-")
    ax.set(
        xlabel="frame",
        ylabel="time to take it in [ms]",
        ylim=(0, None),
        title="Streaming: cost of each frame",
    )
    fig.savefig(folder / "frame_cost.png", dpi=120, bbox_inches="tight")
    plt.close(fig)
    for sweep, label in (
        ("frames", "context [tokens]"),
        ("chunk", "frames per chunk"),
        ("resolution", "context [tokens]"),
    ):
        some = [p for p in points if p.sweep in (sweep, "main")]
        if len(some) < 2:
            continue
        axis = [float(p.request.chunk if sweep == "chunk" else p.streaming.context_tokens) for p in some]
        order = np.argsort(axis)
        x = np.array(axis)[order]
        fig, axes = plt.subplots(1, 3, figsize=(15, 4))
        for way, colour in (("streaming", "tab:blue"), ("native", "tab:orange")):
            results: list[Result] = [getattr(some[i], way) for i in order]
            axes[0].plot(
                x, [r.first_token_s * 1e3 for r in results], "o-", color=colour, label=f"{way}, first token"
            )
            axes[0].plot(x, [r.total_s * 1e3 for r in results], "o--", color=colour, label=f"{way}, answer")
            axes[1].plot(x, [r.peak_bytes / 1e6 for r in results], "o-", color=colour, label=way)
        axes[2].plot(x, [float(np.median(some[i].streaming.frame_s)) * 1e3 for i in order], "o-")
        axes[0].set(yscale="log", ylabel="after the question [ms]")
        axes[1].set(ylabel="peak memory above the model [MB]", ylim=(0, None))
        axes[2].set(ylabel="streaming, per frame [ms]", ylim=(0, None))
        for ax in axes:
            ax.set_xlabel(label)
        axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
        axes[1].legend()
        fig.savefig(folder / f"sweep_{sweep}.png", dpi=120, bbox_inches="tight")
        plt.close(fig)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    main = figures["points"][0]
    s, k, n, request = main["streaming"], main.get("features"), main["native"], main["request"]
    each = main["flops_question_each_frame"]

    def seconds(values: list[float], frame_s: float) -> str:
        values = [v + frame_s for v in values]
        scale, unit, digits = (1e3, "ms", 0) if max(values) < 1 else (1.0, "s", 1)
        middle, low, high = (f"{scale * f(values):.{digits}f}" for f in (np.median, min, max))
        return f"{middle} {unit} ({low} – {high})"

    def times(name: str, key: str, *, newest: bool) -> tuple[str, ...]:
        def of(way: dict[str, Any]) -> tuple[float, str]:
            frame_s = float(np.median(way["frame_s"])) if newest and way["frame_s"] else 0.0
            return float(np.median(way[key])) + frame_s, seconds(way[key], frame_s)

        return compared(name, of)

    def memory(name: str, key: str) -> tuple[str, ...]:
        return compared(name, lambda way: (way[key], f"{way[key] / 1e6:.0f} MB"))

    def compared(name: str, of: Callable[[dict[str, Any]], tuple[float, str]]) -> tuple[str, ...]:
        (least, streaming), (most, native) = of(s), of(n)
        # Records of before this way was measured do not have it.
        kept, features = (None, "not measured") if k is None else of(k)
        ratio = "–" if kept is None else f"{kept / least:.3g}"
        return name, streaming, features, native, ratio, f"{most / least:.3g}"

    rows = [
        times("first token, the newest frame taken in before the question", "first_tokens_s", newest=False),
        times("**first token, the newest frame coming with the question**", "first_tokens_s", newest=True),
        times("whole answer, the newest frame coming with the question", "totals_s", newest=True),
        memory("peak memory above the model", "peak_bytes"),
        memory("peak memory of the process", "process_peak_bytes"),
        ("decoder, a question after every frame", f"{each['streaming'] / 1e9:.0f} GFLOP",
         f"{each['native'] / 1e9:.0f} GFLOP", f"{each['native'] / 1e9:.0f} GFLOP",
         *[f"{each['native'] / each['streaming']:.3g}"] * 2),
    ]  # fmt: skip
    shown = len(range(0, request["frames"], request["stride"]))
    before = 100 * (1 - s["ask_flops"] / s["all_flops"])
    frame_s = sorted(s["frame_s"])
    text = (
        f"{shown} frames of {request['width']}x{request['height']}, {s['context_tokens']} tokens of context, "
        f"{request['answer_tokens']} answer tokens, checkpoint {figures['checkpoint']}, {request['dtype']} "
        f"on "
        f"{request['device']}, one process per way; medians of {len(s['totals_s'])}, least to most.\n\n"
    )
    text += table(
        (
            "", "streaming", "one shot, vision features kept", "one shot (`generate` on the whole history)",
            "ratio to features kept", "ratio to `generate`",
        ),
        rows,
    )  # fmt: skip
    text += (
        f"\n{main['same_tokens']:.0%} of the answer's tokens agree; the first one's scores differ by at most "
        f"{main['logit_difference']:.1e}. **What this is:** for a single question it is latency hiding: "
        f"both ways "
        f"spend the same FLOPs, and streaming has spent {before:.1f} % of them while the frames arrived. "
        f"For a "
        "question after every frame it is less work. A robot asks about its newest frame, which streaming "
        f"takes in in {frame_s[len(frame_s) // 2]:.2f} s here (median): the second row is what it sees. "
        "Keeping vision features needs no stream, only memory; the ratio to that is what the stream brings. "
        "**These ratios are of this checkpoint on this machine**: they carry over to no other one "
        "([engine.md](engine.md#a-released-model-on-a-gpu)).\n"
    )
    for step in figures["stepped_down"]:
        text += f"\n* {StepDown(**step).describe()}"
    return text
