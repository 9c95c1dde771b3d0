"""Every instruction has one end, and it is the right one."""

from __future__ import annotations

import math

import pytest

from vln_ros.config import RunLimitsConfig, SyncConfig
from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    Executed,
    Instruction,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
)
from vln_ros.geometry.frame_checks import MotionLimits
from vln_ros.motion.instruction_status import AbortCause, InstructionStatus, InstructionTracker, Status
from vln_ros.motion.safety import LATCHED, STANDING, Fault

EPOCH = 7
FORWARD = Action(forward_m=0.25)
NO_LIMITS = RunLimitsConfig(max_fault_s=0.0)
MENDED = sorted(STANDING | {Fault.PAUSED}, key=lambda f: f.value)


class Heard:
    """A tracker, the clocks around it, and everything that it has told."""

    def __init__(self) -> None:
        self.told: list[InstructionStatus] = []
        limits = MotionLimits.of_odometry(SyncConfig())
        self.tracker = InstructionTracker(EPOCH, limits, self.told.append)
        self.now_s = 100.0
        self.number = 0
        self.stamp_ns = 0

    def begin(self, limits: RunLimitsConfig = NO_LIMITS) -> int:
        self.number += 1
        self.tracker.begin(Instruction(self.number, "go"), limits, self.now_s, self.now_s)
        return self.number

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.tracker.tick(self.now_s, self.now_s)

    def decide(self, queue: int, *actions: Action, held: str | None = None) -> None:
        self.tracker.decided(ActionChunk(queue, self.number, 1, actions, held=held, unconstrained=held))

    def report(self, queue: int, *left: Action, done: tuple[Action, ...] = (), epoch: int = EPOCH) -> None:
        executed = tuple(Executed(i, action) for i, action in enumerate(done))
        chunk = ActionChunk(queue, self.number, 1, left, epoch=epoch)
        self.tracker.reported(chunk, executed, self.now_s)

    def move(self, x_m: float, y_m: float = 0.0, after_s: float = 0.1) -> None:
        self.stamp_ns += round(after_s * 1e9)
        self.tracker.moved(Pose.planar(x_m, y_m, 0.0), self.stamp_ns)

    @property
    def statuses(self) -> list[str]:
        return [f"{s.instruction.number} {s.status.value}" for s in self.told]

    @property
    def last(self) -> InstructionStatus:
        return self.told[-1]


def test_from_accepted_by_driving_to_the_models_stop() -> None:
    heard = Heard()
    heard.begin()
    heard.decide(1, FORWARD, STOP)
    assert heard.statuses == ["1 accepted"]
    heard.report(1, FORWARD, STOP)
    heard.report(1, STOP, done=(FORWARD,))
    heard.report(1, done=(FORWARD, STOP))
    assert heard.statuses == ["1 accepted", "1 driving", "1 succeeded"]
    assert heard.last.epoch == EPOCH
    assert heard.last.decisions == 1
    assert heard.tracker.now is None


def test_a_stop_that_is_decided_and_not_executed_is_no_end() -> None:
    heard = Heard()
    heard.begin()
    heard.decide(1, STOP)
    heard.report(1, STOP)
    assert heard.statuses == ["1 accepted", "1 driving"]


def test_what_is_left_when_the_stop_comes_first() -> None:
    heard = Heard()
    heard.begin()
    heard.report(1, done=(STOP,))
    assert heard.statuses == ["1 accepted", "1 driving", "1 succeeded"]


def test_reports_of_another_instruction_or_another_life_say_nothing() -> None:
    heard = Heard()
    heard.begin()
    heard.report(9, done=(STOP,), epoch=EPOCH - 1)
    assert heard.statuses == ["1 accepted"]
    second = heard.begin()
    heard.tracker.reported(ActionChunk(2, second - 1, 1, (), epoch=EPOCH), (Executed(1, STOP),), heard.now_s)
    heard.tracker.decided(ActionChunk(3, second - 1, 1, (FORWARD,)))
    heard.tracker.failed(second - 1, "of before")
    assert heard.statuses == ["1 accepted", "1 superseded", "2 accepted"]
    assert heard.tracker.now is not None
    assert heard.tracker.now.decisions == 0


@pytest.mark.parametrize("driven", [False, True])
def test_the_next_one_supersedes_once(driven: bool) -> None:
    heard = Heard()
    heard.begin()
    if driven:
        heard.report(1, FORWARD)
    heard.begin()
    assert heard.statuses[-2:] == ["1 superseded", "2 accepted"]
    heard.tracker.cancel("enough")
    heard.begin()
    assert heard.statuses[-2:] == ["2 cancelled", "3 accepted"], "what has ended is not superseded"


@pytest.mark.parametrize("end", ["cancel", "rest", "failed", "stop", "limit"])
def test_an_end_is_told_once_and_is_the_last_word(end: str) -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_duration_s=5.0))
    heard.report(1, FORWARD)
    tracker = heard.tracker
    ends = {
        "cancel": lambda: tracker.cancel("enough"),
        "rest": lambda: tracker.rest("deactivated"),
        "failed": lambda: tracker.failed(1, "no memory"),
        "stop": lambda: heard.report(1, done=(STOP,)),
        "limit": lambda: heard.pass_s(6.0),
    }
    ends[end]()
    told = len(heard.told)
    assert heard.last.ended
    for another in ends.values():
        another()
    assert len(heard.told) == told


def test_each_abort_says_its_cause() -> None:
    causes = []
    for number, end in enumerate(("rest", "failed", "limit"), start=1):
        heard = Heard()
        heard.begin(RunLimitsConfig(max_duration_s=5.0))
        assert number
        if end == "rest":
            heard.tracker.rest("deactivated")
        elif end == "failed":
            heard.tracker.failed(1, "no memory")
        else:
            heard.pass_s(5.0)
        causes.append(heard.last.cause)
        assert heard.last.status is Status.ABORTED
        assert heard.last.reason
    assert causes == [AbortCause.FAULT, AbortCause.ENGINE_FAILURE, AbortCause.LIMIT]


def test_who_drives_and_does_not_say_what_was_completed_has_stopped_at_the_end_of_the_last_queue() -> None:
    """As Nav2, to which answers go as goals."""
    heard = Heard()
    heard.begin()
    heard.decide(1, FORWARD)
    heard.tracker.driving(1)
    nothing = ActionChunk(1, 1, 1, (), epoch=EPOCH)
    heard.tracker.reported(nothing, None, heard.now_s)
    assert heard.statuses == ["1 accepted", "1 driving"], "the end of a queue is none of the run"
    heard.decide(2, FORWARD, STOP)
    heard.tracker.reported(nothing, None, heard.now_s)
    assert not heard.last.ended, "that was the queue before"
    heard.tracker.reported(ActionChunk(2, 1, 1, (), epoch=EPOCH), None, heard.now_s)
    assert heard.last.status is Status.SUCCEEDED


def test_the_way_to_a_place_is_one_decision() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_decisions=1))
    place = PlaceGoal(1.0, 0.0, 1, PlaceSource.DEPTH)
    for queue, pixel in ((1, PixelGoal(3, 4, 1)), (2, None), (3, None)):
        heard.tracker.decided(ActionChunk(queue, 1, 1, (FORWARD,), pixel_goal=pixel, place=place))
        heard.report(queue, done=(FORWARD,))
    assert heard.tracker.now is not None
    assert heard.tracker.now.decisions == 1
    heard.decide(4, FORWARD)
    assert heard.last.cause is AbortCause.LIMIT


# ---------------------------------------------------------------------------------------------- limits


def test_a_way_is_limited_and_noise_is_no_way() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_distance_m=1.0))
    for i in range(1000):
        heard.move(0.004 * (-1) ** i)
    heard.pass_s(1.0)
    assert not heard.last.ended
    for i in range(1, 120):
        heard.move(0.01 * i)
    heard.pass_s(0.1)
    assert heard.last.cause is AbortCause.LIMIT
    assert heard.last.distance_m == pytest.approx(1.19, abs=0.02)


def test_a_jump_of_the_odometry_was_not_driven() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_distance_m=2.0))
    heard.move(0.0)
    heard.move(0.3)
    heard.move(50.0)
    heard.move(50.2)
    heard.pass_s(0.1)
    assert heard.tracker.now is not None
    assert heard.tracker.now.distance_m == pytest.approx(0.5)


def test_a_clock_that_is_set_back_or_not_yet_known_ends_nothing() -> None:
    heard = Heard()
    tracker = heard.tracker
    tracker.begin(Instruction(1, "go"), RunLimitsConfig(max_duration_s=60.0), 0.0, 5.0)
    tracker.tick(1e9, 5.1)  # simulated time, now heard for the first time
    tracker.tick(1e9 + 10.0, 5.2)
    tracker.tick(20.0, 5.3)
    tracker.tick(30.0, 5.4)
    assert tracker.now is not None
    assert tracker.now.duration_s == pytest.approx(20.0)


def test_the_last_decision_is_driven_to_its_end() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_decisions=2))
    heard.decide(1, FORWARD)
    heard.report(1, done=(FORWARD,))
    heard.decide(2, FORWARD, FORWARD)
    heard.report(2, FORWARD, done=(FORWARD, FORWARD))
    assert not heard.last.ended
    heard.report(2, done=(FORWARD,) * 3)
    assert heard.last.cause is AbortCause.LIMIT
    assert heard.last.decisions == 2


def test_a_stop_in_the_last_decision_is_a_success() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_decisions=1))
    heard.decide(1, FORWARD, STOP)
    heard.report(1, STOP, done=(FORWARD,))
    heard.report(1, done=(FORWARD, STOP))
    assert heard.last.status is Status.SUCCEEDED


def test_decisions_ahead_and_holds_count() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_decisions=2))
    for queue in (1, 2, 3):
        heard.decide(queue, FORWARD)
    assert heard.last.cause is AbortCause.LIMIT
    heard.begin(RunLimitsConfig(max_decisions=2))
    heard.decide(4, held="TURN AROUND")
    assert heard.tracker.now is not None
    assert heard.tracker.now.unconstrained == "TURN AROUND"
    assert "TURN AROUND" in heard.tracker.now.reason
    heard.decide(5, held="TURN AROUND")
    assert heard.last.cause is AbortCause.LIMIT


def test_without_limits_nothing_ends_it() -> None:
    heard = Heard()
    heard.begin()
    heard.tracker.stands((Fault.NO_ODOMETRY,), "no odometry", heard.now_s)
    for queue in range(1, 200):
        heard.decide(queue, FORWARD)
        heard.report(queue, done=(FORWARD,))
        heard.move(float(queue), after_s=10.0)
        heard.pass_s(1000.0)
    assert heard.statuses == ["1 accepted", "1 driving"]


# ---------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", [f for f in Fault if f not in MENDED])
def test_a_fault_that_lasts_ends_it(fault: Fault) -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_fault_s=10.0))
    heard.tracker.stands((fault, Fault.PAUSED), f"{fault.value}, paused", heard.now_s)
    heard.pass_s(9.0)
    assert heard.tracker.now is not None
    assert heard.tracker.now.reason == f"{fault.value}, paused"
    heard.pass_s(1.0)
    assert heard.last.cause is AbortCause.FAULT
    assert heard.last.reason == f"{fault.value}, paused"
    assert set(Fault) - set(MENDED) >= LATCHED, "what waits for somebody ends it, too"


@pytest.mark.parametrize("fault", MENDED)
def test_a_pause_and_what_the_next_queue_ends_do_not(fault: Fault) -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_fault_s=10.0))
    for _ in range(100):
        heard.tracker.stands((fault,), fault.value, heard.now_s)
        heard.report(0)
        heard.pass_s(5.0)
    assert heard.statuses == ["1 accepted"]


def test_a_fault_that_is_over_in_time_ends_nothing() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_fault_s=10.0))
    for _ in range(5):
        heard.tracker.stands((Fault.NO_DEPTH,), "no depth", heard.now_s)
        heard.pass_s(8.0)
        heard.tracker.stands((), "", heard.now_s)
        heard.pass_s(1.0)
    assert heard.statuses == ["1 accepted"]


def test_one_fault_after_the_other_is_one_time_of_standing() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_fault_s=10.0))
    heard.tracker.stands((Fault.NO_DEPTH,), "no depth", heard.now_s)
    heard.pass_s(6.0)
    heard.tracker.stands((Fault.NO_DEPTH, Fault.NO_ODOMETRY), "no odometry, no depth", heard.now_s)
    heard.pass_s(6.0)
    assert heard.last.reason == "no odometry, no depth"


def test_a_new_instruction_does_not_pay_for_the_time_before_it() -> None:
    heard = Heard()
    heard.tracker.stands((Fault.NO_DEPTH,), "no depth", heard.now_s)
    heard.pass_s(100.0)
    heard.begin(RunLimitsConfig(max_fault_s=10.0))
    heard.pass_s(9.0)
    assert not heard.last.ended
    heard.pass_s(1.0)
    assert heard.last.reason == "no depth"


def test_an_executor_that_falls_silent_ends_it_and_one_that_was_never_heard_does_not() -> None:
    heard = Heard()
    heard.begin(RunLimitsConfig(max_fault_s=10.0))
    heard.report(1, FORWARD)  # lockstep: reports, but no executor
    heard.pass_s(1000.0)
    assert not heard.last.ended
    heard.tracker.stands((), "", heard.now_s)
    heard.pass_s(9.0)
    heard.report(1, FORWARD)
    heard.pass_s(9.0)
    assert not heard.last.ended
    heard.pass_s(1.0)
    assert heard.last.cause is AbortCause.FAULT
    assert "executor" in heard.last.reason


def test_a_pause_of_the_navigator_is_said() -> None:
    heard = Heard()
    heard.begin()
    heard.tracker.pause(True)
    assert heard.tracker.now is not None
    assert heard.tracker.now.reason == "the navigator is paused"
    heard.tracker.pause(False)
    assert heard.tracker.now.reason == ""
    assert math.isfinite(heard.tracker.now.duration_s)
