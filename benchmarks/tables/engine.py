"""The figures of ``vln_ros bench engine`` as text and pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.engine_sections import ASKED, FLAT_LISTS, spread


def cell(spread: dict[str, float], scale: float = 1e3) -> str:
    """``median (p5 – p95)``, in milliseconds if not said otherwise."""
    p5, median, p95 = (scale * spread[k] for k in ("p5", "median", "p95"))
    return f"{median:.1f} ({p5:.1f} – {p95:.1f})"


FLAT_WITHIN = 0.1
BY_TURNS = "by turns, wall clock [ms]"


def flat_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    part = figures["part"]
    named = {FLAT_LISTS[name]: row for name, row in figures["rows"].items()}
    named[BY_TURNS, 1e3] = figures["by_turns"]
    rows = [
        (label, cell(row["early"], scale), cell(row["late"], scale), f"{row['ratio']:.2f}")
        for (label, scale), row in named.items()
    ]
    off = [label for (label, _), row in named.items() if abs(row["ratio"] - 1.0) > FLAT_WITHIN]
    return (
        f"{figures['frames']} frames of 16 tokens, each decided on, within {figures['token_budget']} tokens; "
        f"{figures['evicted']} turns evicted.\n\n"
        + table(("", f"frames {part} to {2 * part}", f"last {part}", "ratio"), rows)
        + f"\nBy turns: afterwards a new stream and the old one, {part} frames each, frame by frame, so that "
        "the machine's load is the same for both. "
        + ("Flat: all within 10 %.\n" if not off else f"Not within 10 %: {'; '.join(off)}.\n")
    )


def plot_flat(figures: Any, path: Path) -> None:
    fig, axes = figure(1, 2, (12, 4))
    drawn = figures["drawn"]
    x = figures["every"] * np.arange(len(drawn["frame_s"]))
    for ax, names in zip(axes, (("frame_s", "cpu_s"), ("resident_bytes", "cache_bytes")), strict=True):
        for name in names:
            label, scale = FLAT_LISTS[name]
            ax.plot(x, np.array(drawn[name]) * scale, ".", markersize=3, label=label)
        ax.set(xlabel="frame", ylim=(0, None))
        ax.legend(loc="center right")
    save(fig, path)


def _rates(figures: Any) -> dict[str, list[float]]:
    ways = {"together": figures["together_s"], "one by one": figures["separate_s"]}
    return {way: [figures["robots"] / s for s in seconds] for way, seconds in ways.items()}


def batch_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    rows = [(way, cell(spread(rates), 1.0)) for way, rates in _rates(figures).items()]
    return (
        f"{figures['robots']} robots on one model, {figures['rounds']} frames each, {figures['repeats']} "
        "repeats.\n\n"
        + table(("", "decisions per second"), rows)
        + f"\nTogether is {cell(figures['gain'], 1.0)} times as fast. Queues "
        f"{'identical' if figures['same_queues'] else 'NOT IDENTICAL'}, probabilities differ by at most "
        f"{figures['probability_difference']:.1e}. Expect more where reading the weights is what takes the "
        "time (a GPU).\n"
    )


def plot_batch(figures: Any, path: Path) -> None:
    fig, (ax,) = figure(1, 1, (5, 4))
    rates = _rates(figures)
    ax.boxplot(list(rates.values()), tick_labels=[f"{figures['robots']} robots, {way}" for way in rates])
    ax.set(ylabel="decisions per second", ylim=(0, None))
    save(fig, path)


def forwards_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (f"`{r['way']}`", r["decisions"], f"{r['forwards']:.1f}", f"{r['tokens']:.0f}",
         f"{r['flops'] / 1e6:.0f}", cell(spread(r["seconds"])))
        for r in figures["rows"]
    ]  # fmt: skip
    ways = list(dict.fromkeys(r["way"] for r in figures["rows"] if r["way"] != "free"))
    different = [way for way, same in figures["same_queues"].items() if not same]
    return (
        f"{figures['decisions']} decisions, sampled at {figures['temperature']}, frame and question "
        f"included; {figures['four_actions']} have four actions.\n\n"
        + table(("way to decode", "decisions", "forwards", "query tokens", "decoder MFLOP", "ms"), rows)
        + f"\nQueues of {', '.join(ways[:-1])} and {ways[-1]} are {'NOT ' if different else ''}identical"
        f"{' (' + ', '.join(different) + ')' if different else ''}, {figures['different_queues']} different "
        f"ones; probabilities differ by at most {figures['probability_difference']:.1e}. What a random "
        "network says freely is no queue: that row is only the cost of as many tokens.\n"
    )


def plot_forwards(figures: Any, path: Path) -> None:
    rows: dict[str, Any] = {}
    for r in figures["rows"]:
        rows.setdefault(r["way"], r)  # four actions, if there are any
    ways = list(rows)
    fig, axes = figure(1, 3, (13, 4))
    axes[0].bar(ways, [r["forwards"] for r in rows.values()])
    axes[1].bar(ways, [r["flops"] / 1e6 for r in rows.values()])
    axes[2].boxplot([[1e3 * s for s in r["seconds"]] for r in rows.values()], tick_labels=ways)
    for ax, label in zip(axes, ("forwards", "decoder MFLOP", "ms"), strict=True):
        ax.set(ylabel=f"{label} per decision", ylim=(0, None))
    save(fig, path)


def counts_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    width, height = figures["size"]
    rows = [
        (f"{r['shape']}, `{r['profile']}`", f"{sum(_kernels(r).values()):,}",
         ", ".join(f"{name} {n}" for name, n in _kernels(r).most_common(5)),
         ", ".join(f"{n} {way}" for way, n in r["copies"].items()))
        for r in figures["rows"]
    ]  # fmt: skip
    return (
        f"One {width}x{height} frame and its decision in a stream that has begun, all queues in one forward, "
        "as a GPU is asked in bfloat16; counted on shapes without numbers. RMS norm and attention are one "
        "kernel each.\n\n"
        + table(("network, profile", "kernels", "most of them", "copies that are waited for"), rows)
        + _recorded_text(figures["recorded"])
        + _ways_text(figures["ways"])
    )


def _recorded_text(recorded: list[int]) -> str:
    if not recorded:
        return ""
    counts = ", ".join(map(str, recorded))
    return (
        f"\nShapes recorded after each 100 of {100 * len(recorded)} frames, with evictions, questions, "
        f"pictures of two sizes and other instructions: {counts}.\n"
    )


def _ways_text(ways: list[Any]) -> str:
    from vln_ros.cli.bench.page import table

    released = {tuple(w["size"]): float(np.median(w["seconds"])) for w in ways if w["way"] == "released"}
    rows = [
        (f"{w['size'][0]}x{w['size'][1]}", w["way"], cell(spread(w["seconds"])),
         f"{released[tuple(w['size'])] / float(np.median(w['seconds'])):.2f}x",
         f"{w['same']} of {len(w['seconds'])}", f"{w['difference']:.0e}", w["shapes"] or "")
        for w in ways
    ]  # fmt: skip
    return (
        "\nThe shipped policy on a processor in float32, by turns: processor time of frame and decision.\n\n"
        + table(("frames", "way", "ms", "against released", "same actions", "largest difference of a "
                 "probability", "shapes compiled"), rows)
    )  # fmt: skip


def _kernels(row: Any) -> Counter[str]:
    return Counter(row["frame"]) + Counter(row["decision"])


def plot_counts(figures: Any, path: Path) -> None:
    names = [f"{r['shape']} {r['profile']}" for r in figures["rows"]]
    fig, axes = figure(1, 2, (10, 4))
    axes[0].bar(names, [sum(_kernels(r).values()) for r in figures["rows"]])
    axes[1].bar(names, [sum(r["copies"].values()) for r in figures["rows"]])
    for ax, label in zip(axes, ("kernels", "copies that are waited for"), strict=True):
        ax.set(ylabel=label, ylim=(0, None))
        ax.tick_params(axis="x", labelrotation=20)
    save(fig, path)


def contexts_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    def flops(r: Any) -> float:
        return float(r["flops"]) / len(r["decide_s"])

    def late_s(r: Any) -> float:
        return float(np.median(r["decide_s"]))

    rows = [
        (r["every"], f"`{r['strategy']}`", cell(r["observe_s"]), cell(spread(r["decide_s"])),
         f"{r['total_s']:.1f}", f"{r['tokens']:,}", f"{flops(r) / 1e9:.2f}", f"{r['patches']:,}",
         f"{r['cached_tokens']:,}", "-" if r["compression"] is None else f"{r['compression']:.2f}")
        for r in figures["rows"]
    ]  # fmt: skip
    columns = ("asked every", "strategy", "ms per frame", "ms per decision", "s in all", "tokens",
               "GFLOP per decision", "patches", "largest cache", "compression")  # fmt: skip
    text = (
        f"{figures['frames']} frames of 224x224 (64 tokens), the same for all; history of 8 frames, reset "
        "every 16 actions, delayed batch of 16 recent frames and up to 8 important ones.\n\n"
    ) + table(columns, rows)
    for every in ASKED:
        some = {r["strategy"]: r for r in figures["rows"] if r["every"] == every}
        batch, append = some["delayed_batch"], some["append"]
        work, late = max(some, key=lambda s: flops(some[s])), max(some, key=lambda s: late_s(some[s]))
        total = min(some, key=lambda s: float(some[s]["total_s"]))
        text += (
            f"\n* Asked every {every}: most decoder work per decision: `{work}`; longest wait for one: "
            f"`{late}`; least time in all: `{total}`. `delayed_batch` against `append`: wait "
            f"{late_s(batch) / late_s(append):.1f}x, decoder work {flops(batch) / flops(append):.1f}x, "
            f"patches {batch['patches'] / append['patches']:.1f}x, time in all "
            f"{batch['total_s'] / append['total_s']:.1f}x."
        )
    return text + "\n"


def plot_contexts(figures: Any, path: Path) -> None:
    fig, axes = figure(1, 2, (13, 4))
    for ax, every in zip(axes, ASKED, strict=True):
        for r in (r for r in figures["rows"] if r["every"] == every):
            ax.plot(np.array(r["decide_s"]) * 1e3, ".-", label=r["strategy"])
        ax.set(
            xlabel="decision", ylabel="question to queue [ms]", ylim=(0, None), title=f"asked every {every}"
        )
        ax.legend()
    save(fig, path)


def figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    return fig, list(axes.flat)


def save(fig: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    fig.tight_layout()
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)
