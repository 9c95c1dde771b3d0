"""Holds the timings of a recorder, frozen, for reports, files and comparisons."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vln_ros.config import ConfigError
from vln_ros.profiling.spans import DECISION, FRAME, UNITS, Ledger, Recorder, Rows, Statistics, Track

PROCESS_MEMORY = "process memory [B]"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SpanTimes:
    """All spans with one name in one thread, or all waits with one name.

    Attributes:
        total_ms: sum of their lengths; ``own_ms``: without what lies inside them.
        low_ms, high_ms: 95 % interval of the median, from the order of the newest samples.
        samples: how many of the newest median, interval and 95th percentile are made from.
        device_ms: mean time on the device per span; None where it was not asked for.
    """

    name: str
    count: int
    total_ms: float
    own_ms: float
    median_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    longest_ms: float
    samples: int
    device_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One instruction or one queue.

    Attributes:
        begun_s: since the recording began.
        frames, decisions: taken in and taken for it (means in an average).
        own_ms: by name of the span; they add up to the time spent.
    """

    number: int
    instruction: int
    begun_s: float
    frames: float
    decisions: float
    own_ms: dict[str, float]

    @property
    def total_ms(self) -> float:
        return sum(self.own_ms.values())


@dataclass(frozen=True)
class RowList:
    """Both ends of a list, how long it is, and the average row (None if it is empty)."""

    count: int
    first: tuple[Row, ...]
    last: tuple[Row, ...]
    average: Row | None


@dataclass(frozen=True)
class ThreadTimes:
    """One thread."""

    name: str
    spans: tuple[SpanTimes, ...]
    instructions: RowList
    chunks: RowList

    @property
    def busy_ms(self) -> float:
        return sum(s.own_ms for s in self.spans)

    def span(self, name: str) -> SpanTimes | None:
        return next((s for s in self.spans if s.name == name), None)


@dataclass(frozen=True)
class Gauge:
    """A level: the last and the highest value."""

    name: str
    last: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Timings:
    """A run of one process.

    Attributes:
        process: its name, e.g. of the node.
        began_unix_s: when; ``wall_s``: for how long it was recorded.
        waits: what waited, beside what the threads did.
    """

    process: str
    level: str
    began_unix_s: float
    wall_s: float
    threads: tuple[ThreadTimes, ...]
    waits: tuple[SpanTimes, ...]
    gauges: tuple[Gauge, ...]

    @property
    def engine(self) -> ThreadTimes | None:
        """The thread that takes in frames and decides."""
        of_units = [t for t in self.threads if any(t.span(unit) for unit in UNITS)]
        return max(of_units, key=lambda t: t.busy_ms, default=None)

    def count(self, name: str) -> int:
        return sum(s.count for t in self.threads for s in t.spans if s.name == name)

    @property
    def frames_per_s(self) -> float:
        return self.count(FRAME) / self.wall_s

    @property
    def decisions_per_s(self) -> float:
        return self.count(DECISION) / self.wall_s


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median of independent samples, by their order; of few, all of them."""
    n = len(ordered)
    half = 0.98 * math.sqrt(n)
    return ordered[max(0, math.floor(n / 2 - half))], ordered[min(n - 1, math.ceil(n / 2 + half) - 1)]


def freeze(recorder: Recorder, process: str) -> Timings:
    """A copy of what was recorded so far. May be called from any thread."""
    for track in list(recorder.tracks):
        if recorder.device_clock is not None and not track.stack:
            track.settle(recorder.device_clock)
    peak = process_peak_bytes()
    gauges = [Gauge(name, last, high) for name, (last, high) in list(recorder.gauges.items())]
    if peak is not None:
        gauges.append(Gauge(PROCESS_MEMORY, *peak))
    return Timings(
        process=process,
        level=recorder.config.level,
        began_unix_s=recorder.began_unix_s,
        wall_s=(time.monotonic_ns() - recorder.begun_ns) / 1e9,
        threads=tuple(_thread(track, recorder.begun_ns) for track in list(recorder.tracks)),
        waits=tuple(_times(name, s) for name, s in list(recorder.waits.items())),
        gauges=tuple(gauges),
    )


def process_peak_bytes() -> tuple[float, float] | None:
    """Resident memory of this process, now and at most; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return None
    sizes = {key: float(value.split()[0]) * 1024 for key, _, value in (x.partition(":") for x in lines)
             if key in ("VmRSS", "VmHWM")}  # fmt: skip
    return (sizes["VmRSS"], sizes["VmHWM"]) if len(sizes) == 2 else None


def _thread(track: Track, begun_ns: int) -> ThreadTimes:
    return ThreadTimes(
        track.name,
        tuple(_times(name, s) for name, s in list(track.statistics.items())),
        _rows(track.instructions, track.instruction, begun_ns),
        _rows(track.chunks, track.decided_chunk, begun_ns),
    )


def _times(name: str, s: Statistics) -> SpanTimes:
    recent = sorted(ns / 1e6 for ns in s.recent.copy())
    low, high = median_interval(recent)
    return SpanTimes(
        name=name,
        count=s.count,
        total_ms=s.total / 1e6,
        own_ms=s.own / 1e6,
        median_ms=recent[len(recent) // 2],
        low_ms=low,
        high_ms=high,
        p95_ms=recent[min(len(recent) - 1, math.ceil(0.95 * len(recent)) - 1)],
        longest_ms=s.longest / 1e6,
        samples=len(recent),
        device_ms=s.device_ms / s.device_count if s.device_count else None,
    )


def _rows(kept: Rows, unfinished: Ledger | None, begun_ns: int) -> RowList:
    def row(ledger: Ledger, count: int = 1) -> Row:
        return Row(
            number=ledger.number,
            instruction=ledger.instruction,
            begun_s=max(0, ledger.begun_ns - begun_ns) / 1e9,
            frames=ledger.frames / count,
            decisions=ledger.decisions / count,
            own_ms={name: ns / 1e6 / count for name, ns in list(ledger.own_ns.items())},
        )

    rows = kept.copy()
    if unfinished is not None:
        rows.append(unfinished)
    average = row(rows.sum, rows.count) if rows.count else None
    return RowList(rows.count, tuple(map(row, rows.first)), tuple(map(row, rows.last)), average)


def write_timings(timings: Timings, path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(timings)}, indent=1) + "\n", "utf-8")


def read_timings(path: Path) -> Timings:
    """What :func:`write_timings` has written. Raises ConfigError."""
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if content.pop("format") != FORMAT:
            raise ConfigError(f"{path} was written by another version: measure again")
        content["threads"] = tuple(_thread_from_json(t) for t in content["threads"])
        content["waits"] = tuple(SpanTimes(**w) for w in content["waits"])
        content["gauges"] = tuple(Gauge(**g) for g in content["gauges"])
        return Timings(**content)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} holds no timings as --profiling writes them: {error!r}") from error


def _thread_from_json(fields: dict[str, Any]) -> ThreadTimes:
    def rows(found: dict[str, Any]) -> RowList:
        average = found["average"]
        return RowList(
            found["count"],
            tuple(Row(**r) for r in found["first"]),
            tuple(Row(**r) for r in found["last"]),
            None if average is None else Row(**average),
        )

    spans = tuple(SpanTimes(**s) for s in fields["spans"])
    return ThreadTimes(fields["name"], spans, rows(fields["instructions"]), rows(fields["chunks"]))
