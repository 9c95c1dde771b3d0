"""The thread that owns the engine: nothing lost, nothing of one run in another, failures survived."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from vln_ros.datatypes import STOP, Action, ActionChunk, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.engine.worker import Cancel, EngineWorker, Pause, Start, Tune

F = Action(forward_m=0.25)
CAMERA = CameraModel.from_hfov(16, 16, 1.0)
DEADLINE_S = 20.0


def decode(raw: int, index: int) -> Frame:
    """The mailbox carries stamps; a negative one is a picture that cannot be decoded."""
    if raw < 0:
        raise ValueError(f"frame {raw} is broken")
    return Frame(index, raw, np.zeros((16, 16, 3), np.uint8), None, CAMERA, Pose.identity(), Pose.identity())


class GatedEngine:
    """Waits in decide() while its gate is closed; notes every call."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.deciding = threading.Event()
        self.calls: list[tuple[str, int]] = []
        self.fail_on: tuple[str, int] | None = None
        self.actions: tuple[Action, ...] = (F,)
        self.closed = False
        self._instruction = 0
        self.stamp_ns = 0

    def note(self, what: str, number: int) -> None:
        self.calls.append((what, number))
        if (what, number) == self.fail_on:
            raise RuntimeError(f"{what} {number} fails")

    def start(self, instruction: Instruction) -> None:
        self._instruction = instruction.number
        self.note("start", instruction.number)

    def observe(self, frame: Frame) -> None:
        self.stamp_ns = frame.stamp_ns
        self.note("observe", frame.stamp_ns)

    def decide(self, queue: int) -> ActionChunk:
        self.deciding.set()
        assert self.gate.wait(DEADLINE_S)
        self.note("decide", self.stamp_ns)
        return ActionChunk(queue, self._instruction, self.stamp_ns, self.actions)

    def close(self) -> None:
        self.closed = True


class Events:
    """Collects what the worker tells; :meth:`wait` until something is true of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.frames: list[Frame] = []
        self.chunks: list[ActionChunk] = []
        self.bad: list[ValueError] = []
        self.failures: list[BaseException] = []

    def _add(self, items: list[Any], item: object) -> None:
        with self._changed:
            items.append(item)
            self._changed.notify_all()

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        self._add(self.frames, frame)

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        assert (frame is None) == (not chunk.actions)
        assert frame is None or frame.stamp_ns == chunk.frame_stamp_ns
        self._add(self.chunks, chunk)

    def on_bad_frame(self, error: ValueError) -> None:
        self._add(self.bad, error)

    def on_failure(self, error: BaseException) -> None:
        self._add(self.failures, error)

    def wait(self, condition: Callable[[Events], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), DEADLINE_S), vars(self)


class Rig:
    def __init__(self, decide_on: str) -> None:
        self.engine, self.events = GatedEngine(), Events()
        loop = DecisionLoop(self.engine, decide_on, 0, 10**12)
        self.worker: EngineWorker[int] = EngineWorker(loop, decode, self.events)

    def start(self, number: int) -> None:
        self.worker.command(Start(Instruction(number, "go")))

    def answered(self, number: int) -> None:
        self.events.wait(lambda e: any(c.instruction == number for c in e.chunks))

    def decided(self, stamp: int) -> None:
        self.events.wait(lambda e: any(c.actions and c.frame_stamp_ns == stamp for c in e.chunks))


@contextmanager
def rig(decide_on: str = "frame") -> Iterator[Rig]:
    it = Rig(decide_on)
    it.worker.start()
    try:
        yield it
    finally:
        it.engine.gate.set()
        it.worker.close()
        assert not it.engine.closed  # it is whoever's made it


def test_the_newest_frame_wins_and_every_frame_is_accounted_for() -> None:
    with rig() as it:
        it.start(1)
        it.answered(1)
        it.engine.gate.clear()
        it.worker.put_frame(1)
        assert it.engine.deciding.wait(DEADLINE_S)
        for stamp in (2, 3, 4):
            it.worker.put_frame(stamp)
        it.engine.gate.set()
        it.decided(4)
        assert [c.frame_stamp_ns for c in it.events.chunks if c.actions] == [1, 4]
        assert [f.index for f in it.events.frames] == [0, 1]
        counts = it.worker.mailbox.counts
        assert (counts.received, counts.replaced, counts.taken) == (4, 2, 2)
        assert it.worker.frames_processed == 2


def test_no_command_is_lost_while_the_engine_thinks() -> None:
    with rig() as it:
        it.start(1)
        it.answered(1)
        it.engine.gate.clear()
        it.worker.put_frame(1)
        assert it.engine.deciding.wait(DEADLINE_S)
        it.worker.command(Pause(True))
        it.start(2)
        it.worker.command(Cancel())
        it.start(3)
        it.worker.command(Pause(False))
        it.worker.put_frame(9)
        it.engine.gate.set()
        it.decided(9)
        holds = [c.instruction for c in it.events.chunks if not c.actions]
        assert holds == [1, 1, 2, 2, 3]
        assert [n for what, n in it.engine.calls if what == "start"] == [1, 2, 3]
        assert [c.queue for c in it.events.chunks] == sorted({c.queue for c in it.events.chunks})


def test_a_frame_of_the_old_run_does_not_reach_the_new_one() -> None:
    with rig() as it:
        it.start(1)
        it.answered(1)
        it.engine.gate.clear()
        it.worker.put_frame(1)
        assert it.engine.deciding.wait(DEADLINE_S)
        it.worker.put_frame(2)  # waits in the mailbox when the instruction comes
        it.start(2)
        it.engine.gate.set()
        it.answered(2)
        it.worker.put_frame(3)
        it.decided(3)
        assert ("observe", 2) not in it.engine.calls
        counts = it.worker.mailbox.counts
        assert counts.received == counts.replaced + counts.taken == 3
        assert it.events.frames[-1].index == 0


def test_a_frame_after_the_instruction_is_never_spent_on_the_old_run() -> None:
    """A race that many tries would meet: the frame must be observed after its run has started."""
    with rig() as it:
        for number in range(1, 200):
            it.start(number)
            it.worker.put_frame(number)
            it.decided(number)
        order = [call for call in it.engine.calls if call[0] != "decide"]
        assert order == [(what, n) for n in range(1, 200) for what in ("start", "observe")]


@pytest.mark.parametrize("what", ["start", "observe", "decide"])
def test_a_failing_engine_holds_says_so_and_the_next_instruction_works(what: str) -> None:
    with rig() as it:
        it.engine.fail_on = (what, 7)
        it.start(7)
        it.worker.put_frame(7)
        it.events.wait(lambda e: len(e.failures) == 1)
        assert str(it.events.failures[0]) == f"{what} 7 fails"
        assert it.events.chunks[-1].actions == ()
        assert it.events.chunks[-1].instruction == 7  # who waits for an answer to it gets one
        assert not it.worker.running
        it.start(8)
        it.worker.put_frame(8)
        it.decided(8)
        assert it.worker.running


def test_commands_behind_a_failing_one_are_carried_out() -> None:
    with rig() as it:
        it.engine.fail_on = ("start", 2)
        it.start(1)
        it.answered(1)
        it.engine.gate.clear()
        it.worker.put_frame(1)
        assert it.engine.deciding.wait(DEADLINE_S)
        it.start(2)
        it.start(3)
        it.worker.put_frame(5)
        it.engine.gate.set()
        it.decided(5)
        assert it.events.chunks[-1].instruction == 3
        assert len(it.events.failures) == 1


def test_a_broken_frame_is_told_and_survived() -> None:
    with rig() as it:
        it.start(1)
        it.answered(1)
        it.worker.put_frame(-1)
        it.events.wait(lambda e: len(e.bad) == 1)
        it.worker.put_frame(2)
        it.decided(2)
        assert it.events.frames[0].index == 0  # no gap in the numbers
        assert it.worker.frames_processed == 1
        assert not it.events.failures


def test_a_report_alone_wakes_it() -> None:
    with rig("progress") as it:
        it.start(1)
        it.worker.put_frame(1)
        it.decided(1)
        it.worker.put_frame(5)
        it.events.wait(lambda e: len(e.frames) == 2)
        chunk = it.events.chunks[-1]
        it.worker.put_progress(Progress(1, chunk.queue, 0, 4))
        it.decided(5)


def test_decide_ahead_is_live() -> None:
    with rig("progress") as it:
        it.start(1)
        it.worker.put_frame(1)
        it.decided(1)
        it.worker.put_frame(5)
        it.worker.put_progress(Progress(1, it.events.chunks[-1].queue, 2, 4))
        it.events.wait(lambda e: len(e.frames) == 2)
        it.worker.command(Tune(2, 10**9))
        it.decided(5)


def test_resume_decides_on_the_newest_frame_without_a_new_one() -> None:
    with rig("progress") as it:
        it.start(1)
        it.worker.put_frame(1)
        it.decided(1)
        it.worker.command(Pause(True))
        it.worker.put_frame(2)
        it.events.wait(lambda e: len(e.frames) == 2)
        it.worker.command(Pause(False))
        it.decided(2)


def test_after_a_stop_frames_are_taken_and_nothing_is_decided() -> None:
    with rig("progress") as it:
        it.engine.actions = (STOP,)
        it.start(1)
        it.worker.put_frame(1)
        it.decided(1)
        it.worker.put_frame(2)
        it.worker.put_frame(3)
        it.events.wait(lambda e: e.frames[-1].stamp_ns == 3)
        it.start(2)  # the answer to it comes after everything before
        it.answered(2)
        assert [c.frame_stamp_ns for c in it.events.chunks if c.actions] == [1]


def test_close_waits_for_the_call_in_progress() -> None:
    it = Rig("frame")
    it.worker.start()
    it.start(1)
    it.worker.put_frame(1)
    it.engine.gate.clear()
    assert it.engine.deciding.wait(DEADLINE_S)
    closing = threading.Thread(target=it.worker.close)
    closing.start()
    assert closing.is_alive()
    it.engine.gate.set()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    it.worker.put_frame(2)  # too late, and no harm


def test_close_before_start() -> None:
    it = Rig("frame")
    it.worker.close()


@pytest.mark.parametrize("command", [Cancel(), Pause(True), Start(Instruction(2, "elsewhere"))])
def test_the_robot_is_told_to_stand_while_the_engine_still_computes(command: Cancel | Pause | Start) -> None:
    with rig() as it:
        it.start(1)
        it.worker.put_frame(1)
        it.decided(1)
        moving = it.events.chunks[-1]
        it.engine.gate.clear()
        it.engine.deciding.clear()
        it.worker.put_frame(2)
        assert it.engine.deciding.wait(DEADLINE_S)
        it.worker.command(command)
        hold = it.events.chunks[-1]  # said by this thread: nothing to wait for
        assert (hold.actions, hold.queue, hold.instruction) == ((), moving.queue, moving.instruction)
        it.engine.gate.set()
        it.events.wait(lambda e: e.chunks[-1].queue > moving.queue)
        # What was being decided all the while is not said any more.
        assert not any(c.actions for c in it.events.chunks if c.queue > moving.queue)


def test_the_engine_works_ahead_after_a_frame_that_nobody_asks_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not after the one that is decided on, nor after a stop."""
    rig = Rig("progress")
    ahead = lambda: rig.engine.note("ahead", rig.engine.stamp_ns)  # noqa: E731
    monkeypatch.setattr(rig.engine, "work_ahead", ahead, raising=False)
    rig.engine.actions = (F, F)
    rig.worker.start()
    try:
        rig.start(1)
        rig.answered(1)
        rig.worker.put_frame(1)
        rig.events.wait(lambda e: any(c.actions for c in e.chunks))
        (queue,) = [c for c in rig.events.chunks if c.actions]
        rig.worker.put_progress(Progress(1, queue.queue, 2, 2))
        rig.worker.put_frame(2)
        rig.events.wait(lambda e: len(e.frames) == 2)
        rig.engine.actions = (STOP,)
        rig.worker.put_progress(Progress(1, queue.queue, 0, 3))
        rig.worker.put_frame(3)
        rig.events.wait(lambda e: e.chunks[-1].actions == (STOP,))
        rig.worker.put_frame(4)
        rig.events.wait(lambda e: len(e.frames) == 4)
    finally:
        rig.worker.close()
    assert rig.engine.calls == [
        ("start", 1), ("observe", 1), ("decide", 1), ("observe", 2), ("ahead", 2), ("observe", 3),
        ("decide", 3),
    ]  # fmt: skip
