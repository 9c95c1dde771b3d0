"""Records spans: named, nested stretches of time, per thread. Almost free while nobody records.

    with span("decision", 17):
        with span("prefill", device=True):
            ...

A span's *own* time is what its inner spans leave over, so the own times of a tree add up to its length.
The spans named in :data:`UNITS` are what a run consists of: an instruction is begun, frames are taken in,
decisions are taken. What happens from one decision to the next is booked to the queue (chunk) that the
latter gives, and to the instruction that is followed.

One recorder serves the whole process; threads do not wait for each other. A copy taken while they run
may lack the span that ends at that moment.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol

from vln_ros.config import ProfilingConfig

INSTRUCTION, FRAME, DECISION = UNITS = ("instruction", "frame", "decision")
PUBLICATION = "queue publication"
"""Comes after the decision and still belongs to it."""
SAMPLES_KEPT = 1024
ROWS_KEPT = 5
"""Rows that are kept from the begin of a list, and from its end."""


class DeviceClock(Protocol):
    """Time on a device that computes while the host goes on. Nothing here waits for it."""

    def mark(self) -> object:
        """A point in the device's queue of work, now."""

    def between_ms(self, begin: object, end: object) -> float | None:
        """Device time between two marks; None while it has not come to the second one."""


class _Nothing(AbstractContextManager[None]):
    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_NOTHING = _Nothing()
_recorder: Recorder | None = None


def span(name: str, number: int | None = None, *, device: bool = False) -> AbstractContextManager[None]:
    """Time what happens inside.

    Args:
        name: what it is; always the same for the same work.
        number: of the frame, queue or instruction.
        device: it starts work on the device, whose time is to be measured too.
    """
    recorder = _recorder
    return _NOTHING if recorder is None else _Span(recorder, name, number, device)


def waited(name: str, begun_ns: int) -> None:
    """Something has waited since ``begun_ns`` (monotonic), whoever was at work meanwhile."""
    recorder = _recorder
    if recorder is not None:
        recorder.add_wait(name, begun_ns, time.monotonic_ns())


def gauge(name: str, value: float) -> None:
    """A level, e.g. bytes in use: the last and the highest one are kept."""
    recorder = _recorder
    if recorder is not None:
        recorder.set_gauge(name, value)


class Waits:
    """Waits that begin in one place and end in another, known by a key."""

    def __init__(self, name: str, limit: int = 256) -> None:
        self._name, self._limit = name, limit
        self._begun: dict[Hashable, int] = {}

    def begin(self, key: Hashable) -> None:
        if _recorder is None:
            return
        self._begun[key] = time.monotonic_ns()
        while len(self._begun) > self._limit:  # those that never end
            del self._begun[next(iter(self._begun))]

    def end(self, key: Hashable) -> None:
        begun_ns = self._begun.pop(key, None)
        if begun_ns is not None:
            waited(self._name, begun_ns)


def active() -> Recorder | None:
    """The recorder, while one records."""
    return _recorder


def start(config: ProfilingConfig) -> Recorder | None:
    """Record from now on, if the options say so. A recorder before it is given up."""
    global _recorder
    _recorder = None if config.level == "off" else Recorder(config)
    return _recorder


def resume(recorder: Recorder | None) -> Recorder | None:
    """Record with an earlier recorder again; None: record nothing."""
    global _recorder
    _recorder = recorder
    return recorder


def stop() -> None:
    """Spans cost nothing again."""
    global _recorder
    _recorder = None


class Statistics:
    """Of all spans with one name, in nanoseconds."""

    __slots__ = ("count", "device_count", "device_ms", "longest", "own", "recent", "total")

    def __init__(self) -> None:
        self.count = self.total = self.own = self.longest = self.device_count = 0
        self.device_ms = 0.0
        self.recent: deque[int] = deque(maxlen=SAMPLES_KEPT)

    def add(self, took: int, own: int) -> None:
        self.count += 1
        self.total += took
        self.own += own
        if took > self.longest:
            self.longest = took
        self.recent.append(took)


@dataclass(kw_only=True)
class Ledger:
    """What one instruction or one queue took.

    Attributes:
        number: of the instruction or queue; ``instruction``: the one that was followed.
        begun_ns: monotonic.
        own_ns: by name of the span.
    """

    number: int
    instruction: int
    begun_ns: int
    frames: int = 0
    decisions: int = 0
    own_ns: dict[str, int] = field(default_factory=dict)


class Rows:
    """A list of which only both ends and the sum are kept."""

    def __init__(self) -> None:
        self.first: list[Ledger] = []
        self.last: deque[Ledger] = deque(maxlen=ROWS_KEPT)
        self.count = 0
        self.sum = Ledger(number=0, instruction=0, begun_ns=0)

    def append(self, row: Ledger) -> None:
        self.count += 1
        if len(self.first) < ROWS_KEPT:
            self.first.append(row)
        else:
            self.last.append(row)
        self.sum.frames += row.frames
        self.sum.decisions += row.decisions
        for name, own in list(row.own_ns.items()):
            self.sum.own_ns[name] = self.sum.own_ns.get(name, 0) + own

    def copy(self) -> Rows:
        """An independent list of the same rows."""
        other = Rows()
        other.first, other.last, other.count = list(self.first), self.last.copy(), self.count
        other.sum = replace(self.sum, own_ns=dict(self.sum.own_ns))
        return other


@dataclass(frozen=True)
class Event:
    """A span or wait that is over; times are monotonic.

    Attributes:
        depth: how many spans it lies in.
    """

    name: str
    number: int | None
    begun_ns: int
    took_ns: int
    depth: int


_RawEvent = tuple[str, "int | None", int, int, int]


class Track:
    """One thread's spans. Written by that thread only."""

    def __init__(self, name: str, ident: int, events: int) -> None:
        self.name, self.ident = name, ident
        self.stack: list[_Span] = []
        self.statistics: dict[str, Statistics] = {}
        self.raw_events: deque[_RawEvent] = deque(maxlen=events)
        self.pending: deque[tuple[Statistics, object, object]] = deque()
        self.chunks = Rows()
        self.instructions = Rows()
        self.instruction: Ledger | None = None
        self._chunk: Ledger | None = None
        self._decided = False

    def begin_root(self, name: str, number: int | None, now_ns: int) -> None:
        """A span outside all others begins: perhaps it is the first of a new queue or instruction."""
        if self._decided and name != PUBLICATION:
            self._close_chunk()
        if name == INSTRUCTION:
            if self.instruction is not None:
                self.instructions.append(self.instruction)
            self._chunk = None  # what was taken in for a queue that never came
            self.instruction = Ledger(number=number or 0, instruction=number or 0, begun_ns=now_ns)
        if self._chunk is None:
            self._chunk = Ledger(
                number=0, instruction=self.instruction.number if self.instruction else 0, begun_ns=now_ns
            )

    def add(self, ended: _Span, took: int, own: int) -> Statistics:
        name = ended.name
        statistics = self.statistics.get(name)
        if statistics is None:
            statistics = self.statistics[name] = Statistics()
        statistics.add(took, own)
        self.raw_events.append((name, ended.number, ended.begun_ns, took, len(self.stack)))
        chunk = self._chunk
        if chunk is not None:
            chunk.own_ns[name] = chunk.own_ns.get(name, 0) + own
        instruction = self.instruction
        if instruction is not None:
            instruction.own_ns[name] = instruction.own_ns.get(name, 0) + own
        if chunk is not None and name in UNITS:
            self._end_unit(name, ended.number, chunk)
        return statistics

    def settle(self, clock: DeviceClock) -> None:
        """Take over what the device has finished."""
        while self.pending:
            statistics, begin, end = self.pending[0]
            took_ms = clock.between_ms(begin, end)
            if took_ms is None:
                return
            self.pending.popleft()
            statistics.device_count += 1
            statistics.device_ms += took_ms

    def _end_unit(self, name: str, number: int | None, chunk: Ledger) -> None:
        if name == FRAME:
            chunk.frames += 1
        elif name == DECISION:
            chunk.decisions += 1
            chunk.number, self._decided = number or 0, True
        if self.instruction is not None and name != INSTRUCTION:
            self.instruction.frames += name == FRAME
            self.instruction.decisions += name == DECISION

    def _close_chunk(self) -> None:
        if self._chunk is not None:
            self.chunks.append(self._chunk)
        self._chunk, self._decided = None, False

    @property
    def decided_chunk(self) -> Ledger | None:
        """The newest queue, while nothing has followed it."""
        return self._chunk if self._decided else None


class _Span(AbstractContextManager[None]):
    __slots__ = ("_begin", "_device", "_recorder", "_track", "begun_ns", "inner_ns", "name", "number")

    def __init__(self, recorder: Recorder, name: str, number: int | None, device: bool) -> None:
        self._recorder, self._device = recorder, device
        self.name, self.number = name, number

    def __enter__(self) -> None:
        recorder = self._recorder
        self._track = track = recorder.track()
        self.inner_ns = 0
        clock = recorder.device_clock
        self._begin = clock.mark() if self._device and clock is not None else None
        self.begun_ns = time.monotonic_ns()
        if not track.stack:
            track.begin_root(self.name, self.number, self.begun_ns)
        track.stack.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = time.monotonic_ns() - self.begun_ns
        track, clock = self._track, self._recorder.device_clock
        stack = track.stack
        while stack.pop() is not self:  # one that a failure has left open
            pass
        if stack:
            stack[-1].inner_ns += took
        statistics = track.add(self, took, took - self.inner_ns)
        if clock is not None:
            if self._begin is not None:
                track.pending.append((statistics, self._begin, clock.mark()))
            if not stack:
                track.settle(clock)


class Recorder:
    """Everything recorded since it was made."""

    def __init__(self, config: ProfilingConfig) -> None:
        self.config = config
        self.device_clock: DeviceClock | None = None
        """Set by whoever computes on a device."""
        self.begun_ns = time.monotonic_ns()
        self.began_unix_s = time.time()
        self.tracks: list[Track] = []
        self.waits: dict[str, Statistics] = {}
        self.raw_waits: deque[_RawEvent] = deque(maxlen=config.trace_spans)
        self.gauges: dict[str, tuple[float, float]] = {}
        """By name: last and highest."""
        self._local = threading.local()
        self._lock = threading.Lock()

    def track(self) -> Track:
        """The calling thread's."""
        try:
            found: Track = self._local.track
        except AttributeError:
            name = threading.current_thread().name
            with self._lock:
                others = sum(t.name == name or t.name.startswith(f"{name} #") for t in self.tracks)
                unique = f"{name} #{others + 1}" if others else name
                found = Track(unique, threading.get_native_id(), self.config.trace_spans)
                self.tracks.append(found)
            self._local.track = found
        return found

    def add_wait(self, name: str, begun_ns: int, ended_ns: int) -> None:
        with self._lock:
            statistics = self.waits.get(name)
            if statistics is None:
                statistics = self.waits[name] = Statistics()
            statistics.add(ended_ns - begun_ns, 0)
            self.raw_waits.append((name, None, begun_ns, ended_ns - begun_ns, 0))

    def set_gauge(self, name: str, value: float) -> None:
        _, highest = self.gauges.get(name, (value, value))
        self.gauges[name] = (value, max(highest, value))

    def events(self) -> dict[tuple[int, str], list[Event]]:
        """The newest spans by thread (native id, name), in the order in which they ended."""
        return {(t.ident, t.name): [Event(*raw) for raw in t.raw_events.copy()] for t in list(self.tracks)}

    def wait_events(self) -> list[Event]:
        with self._lock:
            return [Event(*raw) for raw in self.raw_waits]

    @property
    def process(self) -> int:
        return os.getpid()
