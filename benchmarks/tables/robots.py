"""The figures of many robots on one model as text and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.tables.engine import figure, save


def robots_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (f"`{r['decode']}`", r["robots"], r["way"], f"{r['per_s']:.2f}",
         f"{1e3 * r['latency_s']['median']:.0f}", f"{1e3 * r['latency_s']['p95']:.0f}",
         f"{r['fairness']:.2f}", f"{r['cache_bytes'] / 2**20:.1f}")
        for r in figures["rows"]
    ]  # fmt: skip
    columns = ("decode", "robots", "way", "decisions/s", "median [ms]", "p95 [ms]", "fairness", "cache [MB]")
    text = (
        f"{figures['shape']}, {figures['rounds']} decisions of each robot, asked again as soon as it is "
        "answered. From the frame in memory to the queue; Jain's fairness index over each robot's "
        "decisions.\n\n" + table(columns, rows)
    )
    gains = [
        f"{decode}: "
        + ", ".join(f"{robots} robots {gain:.2f}" for robots, gain in _gains(figures, decode).items())
        for decode in ("tokens", "tree")
    ]
    text += (
        f"\nTogether against by turns, times as many decisions per second: {'; '.join(gains)}. Queues "
        f"{'identical' if figures['same_queues'] else 'NOT IDENTICAL'}.\n"
    )
    newcomer = figures["newcomer"]
    for r in newcomer["rows"]:
        text += (
            f"\n* A robot joins {newcomer['robots'] - 1} others with {newcomer['frames']} frames to prefill, "
            f"at most {r['chunk_tokens']} tokens of them in a forward: the others wait for a token "
            f"{1e3 * r['gap_s']['median']:.0f} ms (median), {1e3 * r['longest_gap_s']:.0f} ms at most, "
            f"{1e3 * r['alone_gap_s']['median']:.0f} before it came; its own queue takes "
            f"{1e3 * r['took_s']:.0f} ms."
        )
    return text + "\n"


def _gains(figures: Any, decode: str) -> dict[int, float]:
    per_s = {(r["robots"], r["way"]): r["per_s"] for r in figures["rows"] if r["decode"] == decode}
    return {n: per_s[n, "together"] / per_s[n, "by turns"] for n in dict.fromkeys(n for n, _ in per_s)}


def plot_robots(figures: Any, path: Path) -> None:
    fig, axes = figure(1, 2, (11, 4))
    for decode in ("tokens", "tree"):
        for way, line in (("together", "-"), ("by turns", "--")):
            some = [r for r in figures["rows"] if (r["decode"], r["way"]) == (decode, way)]
            x, label = [r["robots"] for r in some], f"{decode}, {way}"
            axes[0].plot(x, [r["per_s"] for r in some], f"o{line}", label=label)
            axes[1].plot(x, [1e3 * r["latency_s"]["p95"] for r in some], f"o{line}", label=label)
    for ax, label in zip(axes, ("decisions per second", "p95 of a decision [ms]"), strict=True):
        ax.set(xlabel="robots", ylabel=label, ylim=(0, None))
        ax.legend()
    save(fig, path)
