"""Spans: nesting, own times, what is booked to which queue, threads, devices, failures; nothing when off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ProfilingConfig
from vln_ros.profiling import spans
from vln_ros.profiling.spans import Recorder, Track, Waits, gauge, span, waited


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    spans.stop()


def record(**options: Any) -> Recorder:
    recorder = spans.start(ProfilingConfig(level="spans", **options))
    assert recorder is not None
    return recorder


def only(recorder: Recorder) -> Track:
    (track,) = recorder.tracks
    return track


def test_nothing_is_recorded_when_off() -> None:
    assert spans.start(ProfilingConfig()) is None
    assert span("a") is span("b")
    with span("a", 1):
        waited("w", 0)
        gauge("g", 1.0)
    waits = Waits("w")
    waits.begin(1)
    waits.end(1)
    recorder = record()
    assert not recorder.tracks
    assert not recorder.waits
    assert not recorder.gauges


Tree = list["Tree"]
TREES: st.SearchStrategy[Tree] = st.recursive(st.just([]), lambda t: st.lists(t, max_size=4), max_leaves=20)


@settings(deadline=None, max_examples=50)
@given(st.lists(TREES, min_size=1, max_size=4))
def test_own_times_add_up_to_the_roots(trees: list[Tree]) -> None:
    recorder = record()

    def run(tree: Tree, depth: int) -> int:
        with span(f"depth {depth}"):
            return 1 + sum(run(inner, depth + 1) for inner in tree)

    count = sum(run(tree, 0) for tree in trees)
    track = only(recorder)
    statistics = track.statistics
    assert sum(s.count for s in statistics.values()) == count
    assert sum(s.own for s in statistics.values()) == statistics["depth 0"].total
    assert all(s.own >= 0 for s in statistics.values())
    (events,) = recorder.events().values()
    assert len(events) == count
    assert {e.name for e in events} == {f"depth {e.depth}" for e in events}


def test_what_happens_until_a_decision_is_booked_to_its_queue() -> None:
    recorder = record()

    def frame(number: int) -> None:
        with span("frame", number), span("prefill"):
            pass

    def decision(number: int) -> None:
        with span("decision", number), span("decode"):
            pass
        with span(spans.PUBLICATION):
            pass

    with span("model load"):
        pass
    for instruction, frames in ((1, (1, 3)), (2, (2,))):
        with span("instruction", instruction):
            pass
        for queue, count in enumerate(frames, start=1):
            for i in range(count):
                frame(i)
            decision(10 * instruction + queue)
    track = only(recorder)
    rows = track.chunks.first
    newest = track.decided_chunk
    assert newest is not None
    assert [(r.number, r.instruction, r.frames, r.decisions) for r in [*rows, newest]] == [
        (11, 1, 1, 1),
        (12, 1, 3, 1),
        (21, 2, 2, 1),
    ]
    assert list(newest.own_ns) == [
        "instruction",
        "prefill",
        "frame",
        "decode",
        "decision",
        spans.PUBLICATION,
    ]
    (first,) = track.instructions.first
    assert (first.number, first.frames, first.decisions) == (1, 4, 2)
    assert track.instruction is not None
    assert (track.instruction.number, track.instruction.frames) == (2, 2)
    assert sum(first.own_ns.values()) + sum(track.instruction.own_ns.values()) == sum(
        s.own for name, s in track.statistics.items() if name != "model load"
    )


def test_frames_for_a_queue_that_never_came_are_not_booked_to_the_next_instruction() -> None:
    recorder = record()
    for instruction in (1, 2):
        with span("instruction", instruction):
            pass
        with span("frame", 0):
            pass
    with span("decision", 1):
        pass
    newest = only(recorder).decided_chunk
    assert newest is not None
    assert (newest.frames, newest.instruction) == (1, 2)


def test_long_lists_keep_both_ends_and_the_sum() -> None:
    recorder = record()
    for number in range(1, 21):
        with span("frame", number):
            pass
        with span("decision", number):
            pass
    rows = only(recorder).chunks
    assert rows.count == 19  # the newest is still open
    assert [r.number for r in rows.first] == [1, 2, 3, 4, 5]
    assert [r.number for r in rows.last] == [15, 16, 17, 18, 19]
    assert rows.sum.frames == 19


def test_a_failure_ends_its_spans_and_those_left_open_inside() -> None:
    recorder = record()
    left_open = span("layer")
    with pytest.raises(RuntimeError), span("outer"):
        left_open.__enter__()
        raise RuntimeError
    track = only(recorder)
    assert not track.stack
    assert list(track.statistics) == ["outer"]
    with span("next"):
        pass
    assert track.raw_events[-1][4] == 0  # outside all others


def test_threads_do_not_mix() -> None:
    recorder = record()
    inside, release = threading.Event(), threading.Event()

    def work() -> None:
        with span("theirs"):
            inside.set()
            release.wait()

    thread = threading.Thread(target=work, name="worker")
    with span("ours"):
        thread.start()
        inside.wait()
        release.set()
        thread.join()
    assert {t.name: list(t.statistics) for t in recorder.tracks} == {
        "MainThread": ["ours"],
        "worker": ["theirs"],
    }


class SlowDevice:
    """Marks are numbered; the device has come to those before ``done``."""

    def __init__(self) -> None:
        self.marks = self.done = 0

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def between_ms(self, begin: object, end: object) -> float | None:
        assert isinstance(begin, int)
        assert isinstance(end, int)
        return 7.0 * (end - begin) if end <= self.done else None


def test_device_times_come_when_the_device_is_done_and_nobody_waits() -> None:
    recorder = record()
    recorder.device_clock = device = SlowDevice()
    for _ in range(2):
        with span("frame"), span("prefill", device=True):
            pass
    prefill = only(recorder).statistics["prefill"]
    assert device.marks == 4
    assert prefill.device_count == 0
    device.done = 2
    with span("frame"):
        pass
    assert (prefill.device_count, prefill.device_ms) == (1, 7.0)
    device.done = 4
    only(recorder).settle(device)
    assert (prefill.device_count, prefill.device_ms) == (2, 14.0)


def test_the_trace_is_bounded_and_the_sums_are_not() -> None:
    recorder = record(trace_spans=100)
    for _ in range(250):
        with span("a"):
            waited("w", 0)
    assert only(recorder).statistics["a"].count == 250
    assert len(only(recorder).raw_events) == len(recorder.wait_events()) == 100
    assert recorder.waits["w"].count == 250


def test_waits_that_never_end_are_forgotten() -> None:
    recorder = record()
    waits = Waits("sync wait", limit=3)
    for key in range(5):
        waits.begin(key)
    for key in range(5):
        waits.end(key)
    assert recorder.waits["sync wait"].count == 3


def test_gauges_keep_last_and_highest() -> None:
    recorder = record()
    for value in (1.0, 5.0, 3.0):
        gauge("cache", value)
    assert recorder.gauges == {"cache": (3.0, 5.0)}
