"""When the engine is asked: every rule of DecisionLoop.due(), without threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vln_ros.config import PlaceConfig, from_flat
from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    CameraModel,
    Frame,
    Instruction,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
    StepSize,
)
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.motion.guards import GuardLimits, ProgressGuards
from vln_ros.motion.place_drive import PlaceDrive

F = Action(forward_m=0.25)
CAMERA = CameraModel.from_hfov(16, 16, 1.0)
LOST_NS = 1000


def frame(stamp: int) -> Frame:
    return Frame(0, stamp, np.zeros((16, 16, 3), np.uint8), None, CAMERA, Pose.identity(), Pose.identity())


class Scripted:
    """Answers with ``actions``; notes what it was told."""

    def __init__(self) -> None:
        self.actions: tuple[Action, ...] = (F, F)
        self.started: list[Instruction] = []
        self.seen: list[int] = []
        self.fails = False

    def start(self, instruction: Instruction) -> None:
        if self.fails:
            raise RuntimeError("out of memory")
        self.started.append(instruction)
        self.seen = []

    def observe(self, frame: Frame) -> None:
        self.seen.append(frame.stamp_ns)

    def decide(self, queue: int) -> ActionChunk:
        return ActionChunk(queue, self.started[-1].number, self.seen[-1], self.actions)

    def close(self) -> None:
        pass


class Run:
    """A loop with its engine, started, and helpers that are short to read."""

    def __init__(self, decide_on: str = "progress", ahead: int = 0) -> None:
        self.engine = Scripted()
        self.loop = DecisionLoop(self.engine, decide_on, ahead, LOST_NS)
        self.loop.start(Instruction(1, "go"))

    def see(self, stamp: int) -> bool:
        self.loop.observe(frame(stamp))
        return self.loop.due()

    def report(self, chunk: ActionChunk, remaining: int, stamp: int, queue: int | None = None) -> bool:
        number = chunk.queue if queue is None else queue
        self.loop.progress(Progress(chunk.instruction, number, remaining, stamp))
        return self.loop.due()


def test_not_without_instruction_or_frame() -> None:
    loop = DecisionLoop(Scripted(), "progress", 0, LOST_NS)
    loop.observe(frame(1))
    assert not loop.due()
    loop.start(Instruction(1, "go"))
    assert not loop.due()  # a frame from before the instruction does not count
    loop.observe(frame(2))
    assert loop.due()


def test_once_per_frame_however_often_it_is_asked() -> None:
    run = Run("frame")
    assert run.see(1)
    run.loop.decide()
    assert not run.loop.due()
    assert run.see(2)


def test_on_every_frame_no_report_is_needed() -> None:
    run = Run("frame")
    for stamp in range(1, 6):
        assert run.see(stamp)
        assert run.loop.decide().queue == stamp + 1  # the first number was the hold's


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_when_at_most_so_many_actions_are_left(ahead: int) -> None:
    run = Run(ahead=ahead)
    run.engine.actions = (F,) * 4
    run.see(1)
    chunk = run.loop.decide()
    for remaining in (4, 3, 2, 1, 0):
        run.report(chunk, remaining, 10 - remaining)
        assert run.see(10 - remaining) == (remaining <= ahead)


def test_a_frame_older_than_the_report_does_not_show_what_was_reported() -> None:
    run = Run()
    run.see(1)
    chunk = run.loop.decide()
    assert not run.see(10)
    assert not run.report(chunk, 0, 20)
    assert not run.see(19)
    assert run.see(20)


def test_a_late_report_makes_the_newest_frame_do() -> None:
    run = Run()
    run.see(1)
    chunk = run.loop.decide()
    assert not run.see(30)
    assert run.report(chunk, 0, 20)


def test_an_early_report_of_another_queue_or_run_counts_for_nothing() -> None:
    run = Run()
    run.see(1)
    chunk = run.loop.decide()
    run.loop.progress(Progress(0, chunk.queue, 0, 2))
    assert not run.see(5)
    assert not run.report(chunk, 0, 2, queue=chunk.queue - 1)
    assert not run.see(6)


def test_a_lost_queue_is_decided_again_also_if_nobody_ever_reported() -> None:
    run = Run()
    run.see(1)
    run.loop.decide()
    assert not run.see(10)
    assert not run.see(10 + LOST_NS)
    assert run.see(11 + LOST_NS)
    assert run.loop.lost == 1
    again = run.loop.decide()
    run.see(12 + LOST_NS)
    run.report(again, 2, 12 + LOST_NS)
    assert not run.see(20 + 3 * LOST_NS)  # now it is known to be executed
    assert run.loop.lost == 1


def test_a_slow_engine_does_not_take_its_queue_for_lost() -> None:
    """While it thought, more sensor time went by than a queue may take; the report is still on its way."""
    run = Run()
    run.see(1)
    chunk = run.loop.decide()
    assert not run.see(1 + 10 * LOST_NS)
    assert not run.report(chunk, 2, 2 + 10 * LOST_NS)
    assert run.loop.lost == 0


def test_a_contradicted_queue_is_decided_again_at_the_next_frame() -> None:
    run = Run()
    run.see(1)
    chunk = run.loop.decide()
    run.report(chunk, 0, 10, queue=0)
    assert not run.see(9)
    assert run.see(10)


def test_on_every_frame_a_stop_ends_nothing() -> None:
    """Open loop, as with a recording: it goes on whatever is decided."""
    run = Run("frame")
    run.engine.actions = (STOP,)
    run.see(1)
    run.loop.decide()
    assert run.loop.running
    assert run.see(2)


def test_a_stop_ends_the_run() -> None:
    run = Run()
    run.engine.actions = (F, STOP)
    run.see(1)
    chunk = run.loop.decide()
    assert not run.loop.running
    assert not run.see(2)
    assert not run.report(chunk, 1, 3)
    assert not run.report(chunk, 0, 4)
    assert not run.see(5 + 5 * LOST_NS)


def test_a_stop_that_was_contradicted_or_lost_does_not_end_it() -> None:
    run = Run()
    run.engine.actions = (STOP,)
    run.see(1)
    chunk = run.loop.decide()
    run.see(2)
    assert run.report(chunk, 0, 2, queue=0)
    lost = run.loop.decide()
    assert not run.see(3)
    assert run.see(4 + LOST_NS)
    assert run.loop.decide().queue == lost.queue + 1


def test_cancel_holds_once_and_nothing_follows() -> None:
    run = Run()
    run.see(5)
    chunk = run.loop.decide()
    hold = run.loop.cancel()
    assert hold is not None
    assert (hold.actions, hold.instruction, hold.queue) == ((), 1, chunk.queue + 1)
    assert run.loop.cancel() is None
    assert not run.see(6)
    assert not run.loop.running
    assert run.engine.seen == [5]  # no computation for nobody
    assert run.loop.pause(True) is None


def test_pause_holds_and_resume_decides_afresh() -> None:
    run = Run()
    run.see(5)
    chunk = run.loop.decide()
    hold = run.loop.pause(True)
    assert hold is not None
    assert hold.actions == ()
    assert hold.queue == chunk.queue + 1
    assert run.loop.pause(True) is None
    assert not run.see(6)
    assert not run.report(chunk, 0, 6)
    assert run.loop.pause(False) is None
    assert run.loop.due()
    assert run.loop.decide().queue == hold.queue + 1
    assert run.engine.seen == [5, 6]  # the stream has no hole


def test_a_pause_during_the_way_to_the_stop_does_not_lose_the_stop() -> None:
    run = Run()
    run.engine.actions = (F, F, STOP)
    run.see(1)
    chunk = run.loop.decide()
    run.report(chunk, 2, 2)
    run.loop.pause(True)
    run.loop.pause(False)
    assert run.see(3)


def test_a_pause_after_the_stop_does_not_revive_the_run() -> None:
    run = Run()
    run.engine.actions = (STOP,)
    run.see(1)
    run.report(run.loop.decide(), 0, 2)
    assert run.loop.pause(True) is None
    assert run.loop.pause(False) is None
    assert not run.see(3)


def test_a_new_instruction_in_a_pause_waits_for_its_end() -> None:
    run = Run()
    run.loop.pause(True)
    run.loop.start(Instruction(2, "go there"))
    assert not run.see(1)
    run.loop.pause(False)
    assert run.loop.due()


def test_the_same_text_twice_is_two_runs() -> None:
    run = Run()
    run.see(1)
    chunk = run.loop.decide()
    hold = run.loop.start(Instruction(2, "go"))
    assert (hold.instruction, hold.actions, hold.queue) == (2, (), chunk.queue + 1)
    assert [i.number for i in run.engine.started] == [1, 2]
    assert not run.report(chunk, 0, 9)  # a report of the run before
    assert run.see(2)
    assert run.loop.decide().instruction == 2


def test_a_start_that_fails_leaves_the_new_instruction_to_be_cancelled() -> None:
    """Who waits for an answer to instruction 2 gets a hold with that number."""
    run = Run()
    run.engine.fails = True
    with pytest.raises(RuntimeError):
        run.loop.start(Instruction(2, "go"))
    hold = run.loop.cancel()
    assert hold is not None
    assert hold.instruction == 2


def test_a_clock_that_jumps_back_makes_the_next_decision_due() -> None:
    run = Run()
    run.see(10**9)
    run.loop.decide()
    run.see(10**9 + 1)
    assert run.see(5)
    run.loop.decide()
    assert not run.see(6)


def test_queue_numbers_only_grow() -> None:
    run = Run("frame")
    numbers = []
    for i in range(1, 12):
        if i % 3 == 0:
            numbers.append(run.loop.start(Instruction(i, "go")).queue)
        if i % 4 == 0:
            hold = run.loop.pause(True)
            assert hold is not None
            numbers.append(hold.queue)
            run.loop.pause(False)
        if run.see(i):
            numbers.append(run.loop.decide().queue)
    assert len(numbers) > 10
    assert numbers == sorted(set(numbers))


class Eager(Scripted):
    """Can work ahead, and notes after which frame it did."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: list[int] = []

    def work_ahead(self) -> None:
        self.ahead.append(self.seen[-1])


def test_the_frames_of_a_pause_are_not_shown_but_for_the_newest() -> None:
    run = Run()
    run.see(5)
    run.loop.decide()
    run.loop.pause(True)
    for stamp in (6, 7, 8):
        assert not run.see(stamp)
        run.loop.work_ahead()
    assert run.engine.seen == [5]
    run.loop.pause(False)
    assert run.loop.due()
    assert run.loop.decide().frame_stamp_ns == 8
    assert run.engine.seen == [5, 8]


def test_a_frame_after_the_pause_takes_the_place_of_those_within() -> None:
    run = Run()
    run.see(5)
    run.loop.pause(True)
    run.see(6)
    run.loop.pause(False)
    assert run.see(7)
    run.loop.decide()
    assert run.engine.seen == [5, 7]


def test_once_a_stop_is_decided_no_frame_is_shown_unless_it_was_contradicted() -> None:
    run = Run()
    run.engine.actions = (F, STOP)
    run.see(1)
    chunk = run.loop.decide()
    run.report(chunk, 1, 2)
    for stamp in (2, 3):
        assert not run.see(stamp)
    assert run.engine.seen == [1]
    run.report(chunk, 0, 4, queue=0)  # the executor could not use it
    assert run.see(4)
    assert run.loop.decide().frame_stamp_ns == 4
    assert run.engine.seen == [1, 4]


def test_a_new_instruction_knows_nothing_of_the_frames_before() -> None:
    run = Run()
    run.engine.actions = (STOP,)
    run.see(1)
    run.loop.decide()
    run.see(2)
    run.loop.start(Instruction(2, "go"))
    assert not run.loop.due()
    run.see(3)
    run.loop.decide()
    assert run.engine.seen == [3]


def test_the_engine_works_ahead_only_while_it_drives() -> None:
    run = Run()
    run.engine = engine = Eager()
    run.loop = DecisionLoop(engine, "progress", 0, LOST_NS)
    run.loop.work_ahead()
    run.loop.start(Instruction(1, "go"))
    run.loop.work_ahead()
    run.see(1)
    chunk = run.loop.decide()
    run.report(chunk, 1, 2)
    run.see(2)
    run.loop.work_ahead()
    assert engine.ahead == [2]
    run.loop.pause(True)
    run.loop.work_ahead()
    run.loop.pause(False)
    engine.actions = (STOP,)
    run.see(3)
    run.loop.decide()
    run.loop.work_ahead()
    run.loop.cancel()
    run.loop.work_ahead()
    assert engine.ahead == [2]


class Pointing(Scripted):
    """Answers with a place three metres ahead of where the world began, if it has no ``actions``."""

    def __init__(self) -> None:
        super().__init__()
        self.actions = ()
        self.asked = 0

    def decide(self, queue: int) -> ActionChunk:
        self.asked += 1
        chunk = super().decide(queue)
        if chunk.actions:
            return chunk
        stamp = self.seen[-1]
        place = PlaceGoal(3.0, 0.0, stamp, PlaceSource.DEPTH)
        return replace(chunk, pixel_goal=PixelGoal(8, 8, stamp), place=place)


class Drive:
    """A loop that drives to places; every action is done at once, in a world without obstacles."""

    def __init__(self, **options: int) -> None:
        self.engine = Pointing()
        drive = PlaceDrive(from_flat(PlaceConfig, {"max_actions": 0, **options}), StepSize(0.25, 0.25))
        self.loop = DecisionLoop(self.engine, "progress", 0, LOST_NS, drive)
        self.loop.start(Instruction(1, "go"))
        self.pose, self.stamp = Pose.identity(), 0

    def see(self) -> bool:
        self.stamp += 1
        self.loop.observe(replace(frame(self.stamp), odom_from_base=self.pose, odom_from_optical=self.pose))
        return self.loop.due()

    def execute(self, chunk: ActionChunk) -> bool:
        for action in chunk.actions:
            self.pose = self.pose @ Pose.planar(action.forward_m, 0.0, action.turn_rad)
        self.loop.progress(Progress(chunk.instruction, chunk.queue, 0, self.stamp))
        return self.see()


def test_on_the_way_to_a_place_nobody_is_asked() -> None:
    run = Drive()
    assert run.see()
    chunks = [run.loop.decide()]
    while run.execute(chunks[-1]) and run.engine.asked == 1:
        chunks.append(run.loop.decide())
    assert chunks[0].pixel_goal is not None
    way = [c for c in chunks if c.place is not None and c.place.stamp_ns == 1]
    assert all(c.goes_on for c in way[1:])
    assert [len(c.actions) for c in way] == [4, 4, 3], "until it is reached, planned anew after four"
    assert run.engine.asked == 2, "then the engine is asked again"
    assert [c.queue for c in chunks] == list(range(2, 2 + len(chunks)))


def test_another_answer_ends_the_way() -> None:
    run = Drive(max_actions=4)
    run.see()
    chunk = run.loop.decide()
    run.engine.actions = (F, STOP)
    run.execute(chunk)
    last = run.loop.decide()
    assert last.actions == (F, STOP)
    assert last.place is None
    assert not run.execute(last)
    assert not run.loop.running


@pytest.mark.parametrize("what", ["pause", "cancel", "instruction", "clock"])
def test_what_interrupts_a_run_ends_the_way(what: str) -> None:
    run = Drive()
    run.see()
    chunk = run.loop.decide()
    run.execute(chunk)
    match what:
        case "pause":
            run.loop.pause(True)
            run.see()
            run.loop.pause(False)
        case "cancel":
            run.loop.cancel()
            run.loop.start(Instruction(2, "go"))
        case "instruction":
            run.loop.start(Instruction(2, "stay"))
        case "clock":
            run.stamp = -1
    assert run.see()
    run.loop.decide()
    assert run.engine.asked == 2


def test_what_cannot_be_driven_to_holds_and_the_engine_is_asked_with_the_next_frame() -> None:
    run = Drive(max_distance_m=1)
    run.see()
    chunk = run.loop.decide()
    assert chunk.is_hold
    assert "too far away" in (chunk.held or "")
    assert run.execute(chunk), "the executor reports that nothing is left"
    run.loop.decide()
    assert run.engine.asked == 2


def test_an_executor_that_was_stopped_gets_a_new_way_and_nobody_is_asked() -> None:
    run = Drive()
    run.see()
    chunk = run.loop.decide()
    run.pose = Pose.planar(0.6, 0.0, 0.0)
    run.loop.progress(Progress(1, 0, 0, run.stamp))  # an obstacle, say: the queue was flushed
    assert run.see()
    again = run.loop.decide()
    assert again.goes_on
    assert again.place == chunk.place
    assert run.engine.asked == 1


def test_with_actions_left_the_next_queue_begins_with_them() -> None:
    run = Drive()
    run.loop.decide_ahead = 2
    run.see()
    chunk = run.loop.decide()
    run.pose = Pose.planar(0.6, 0.0, 0.0)  # the third is under way
    run.loop.progress(Progress(1, chunk.queue, 2, run.stamp))
    assert run.see()
    again = run.loop.decide()
    assert again.actions == (F,) * 6
    assert run.engine.asked == 1


# -- guards --------------------------------------------------------------------------------------


def guarded(**limits: int) -> tuple[Scripted, DecisionLoop]:
    engine = Scripted()
    loop = DecisionLoop(engine, "progress", 0, LOST_NS, guards=ProgressGuards(GuardLimits(**limits)))
    loop.start(Instruction(1, "go"))
    return engine, loop


def turn_until_given_up(engine: Scripted, loop: DecisionLoop) -> ActionChunk:
    """Each queue is two turns to the left, which the executor reports as done."""
    left = Action(turn_rad=0.2)
    engine.actions = (left, left)
    chunk = None
    for stamp in range(1, 100):
        loop.observe(frame(10 * stamp))
        if not loop.due():
            break
        chunk = loop.decide()
        loop.progress(Progress(1, chunk.queue, 0, 10 * stamp + 5))
    assert chunk is not None
    return chunk


def test_a_run_that_turns_in_place_is_given_up_with_a_reason_and_stays_so() -> None:
    engine, loop = guarded(turns_in_place=6)
    chunk = turn_until_given_up(engine, loop)
    assert chunk.is_hold and chunk.held == (
        "the run is given up: turning in place: 6 turns without a way between them"
    )
    assert loop.ended_by is not None and not loop.running
    seen = list(engine.seen)
    loop.observe(frame(5000))
    loop.work_ahead()
    assert not loop.due() and engine.seen == seen  # nothing is computed for it any more
    assert loop.pause(True) is None and loop.pause(False) is None and not loop.due()
    loop.start(Instruction(2, "again"))
    loop.observe(frame(6000))
    assert loop.ended_by is None and loop.running and loop.due()
    assert loop.decide().actions == engine.actions


def test_a_robot_that_stands_is_given_up_and_one_without_guards_is_not() -> None:
    for limits, given_up in (({"stuck": 3}, True), ({}, False)):
        engine, loop = guarded(**limits)
        engine.actions = ()
        held = []
        for stamp in range(1, 10):
            loop.observe(frame(10 * stamp))
            if loop.due():
                chunk = loop.decide()
                held.append(chunk.held)
                loop.progress(Progress(1, chunk.queue, 0, 10 * stamp + 5))
        assert (loop.ended_by is not None) is given_up
        assert len(held) == (4 if given_up else 9)
        if given_up:
            assert held[-1] == "the run is given up: stuck: 3 decisions without having moved"


def test_open_loop_has_no_guards() -> None:
    engine = Scripted()
    loop = DecisionLoop(engine, "frame", 0, LOST_NS, guards=ProgressGuards(GuardLimits(stuck=1)))
    loop.start(Instruction(1, "go"))
    for stamp in range(1, 9):
        loop.observe(frame(10 * stamp))
        assert loop.due() and loop.decide().actions
    assert loop.ended_by is None
