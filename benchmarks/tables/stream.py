"""The figures of ``vln_ros bench stream`` as text and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure.stream_points import Point, StepDown

if TYPE_CHECKING:
    from benchmarks.measure.stream import Result


def points_table(points: list[Point]) -> str:
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


def explain(point: Point) -> str:
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


def plot_points(points: list[Point], folder: Path) -> None:
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
        "([engine.md](../design/engine.md#a-released-model-on-a-gpu)).\n"
    )
    for step in figures["stepped_down"]:
        text += f"\n* {StepDown(**step).describe()}"
    return text
