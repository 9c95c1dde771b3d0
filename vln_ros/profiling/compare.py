"""Compares two recordings: what became faster or slower, and whether that is more than noise."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.profiling.timings import SpanTimes, Timings

FEWEST = 6
"""Of fewer samples not even the least and the most hold the median with 95 %."""


@dataclass(frozen=True)
class Difference:
    """One span in both runs; its thread's name is in ``name`` if there are several threads.

    Attributes:
        first, second: None where a run has no such span.
    """

    name: str
    first: SpanTimes | None
    second: SpanTimes | None

    @property
    def ratio(self) -> float | None:
        """Second median by first."""
        if self.first is None or self.second is None or not self.first.median_ms:
            return None
        return self.second.median_ms / self.first.median_ms

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``noise``, ``too few`` samples; empty where there is nothing to compare."""
        if self.first is None or self.second is None or self.ratio is None:
            return ""
        if min(self.first.samples, self.second.samples) < FEWEST:
            return "too few"
        if not self.beyond_noise:
            return "noise"
        return "faster" if self.ratio < 1 else "slower"

    @property
    def beyond_noise(self) -> bool:
        """The 95 % intervals of the medians lie apart."""
        a, b = self.first, self.second
        return a is not None and b is not None and (a.high_ms < b.low_ms or b.high_ms < a.low_ms)


def compare(first: Timings, second: Timings) -> list[Difference]:
    """Every span and wait of either, those that take longest first."""
    a, b = _by_name(first), _by_name(second)

    def longest(name: str) -> float:
        return max((s.total_ms for s in (a.get(name), b.get(name)) if s is not None), default=0.0)

    return [
        Difference(name, a.get(name), b.get(name)) for name in sorted({*a, *b}, key=longest, reverse=True)
    ]


def _by_name(timings: Timings) -> dict[str, SpanTimes]:
    threads = {f"{s.name} ({t.name})": s for t in timings.threads for s in t.spans}
    return {**threads, **{f"{w.name} (wait)": w for w in timings.waits}}


def write_comparison(first: Timings, second: Timings) -> str:
    """The differences as a table."""
    lines = [
        f"A: {first.process}, {first.wall_s:.1f} s; B: {second.process}, {second.wall_s:.1f} s; "
        "median ms (95 % interval of the median)",
        f"  {'':<36}{'count A':>8}{'count B':>8}{'A':>26}{'B':>26}{'B / A':>8}",
    ]
    for d in compare(first, second):
        ratio = "" if d.ratio is None else f"{d.ratio:.2f}"
        counts = "".join(f"{s.count if s else '-':>8}" for s in (d.first, d.second))
        lines.append(
            f"  {d.name[:36]:<36}{counts}{_spread(d.first):>26}{_spread(d.second):>26}{ratio:>8}"
            + (f"  {d.verdict}" if d.verdict else "")
        )
    lines.append(f"  {'frames per second':<36}{first.frames_per_s:>42.2f}{second.frames_per_s:>26.2f}")
    lines.append(
        f"  {'decisions per second':<36}{first.decisions_per_s:>42.2f}{second.decisions_per_s:>26.2f}"
    )
    levels = {g.name: g for g in second.gauges}
    for g in first.gauges:
        if g.name in levels:
            scale, unit = (1e6, "MB") if g.name.endswith("[B]") else (1.0, "")
            name = f"{g.name.removesuffix(' [B]')}, highest {unit}".rstrip()
            lines.append(f"  {name:<36}{g.highest / scale:>42.1f}{levels[g.name].highest / scale:>26.1f}")
    lines.append(
        f"noise: the intervals overlap; too few: less than {FEWEST}. Samples are taken for independent."
    )
    return "\n".join(lines) + "\n"


def _spread(s: SpanTimes | None) -> str:
    return "-" if s is None else f"{s.median_ms:.2f} ({s.low_ms:.2f} - {s.high_ms:.2f})"
