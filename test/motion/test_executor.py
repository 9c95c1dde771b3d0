"""The executor against a simulated unicycle: arrives, keeps its limits, stops when it must."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ExecutorConfig, SafetyConfig
from vln_ros.datatypes import STOP, Action, ActionChunk, Pose, RangeScan, Velocity, apply_action, wrap_angle
from vln_ros.motion.action_queue import Acceptance
from vln_ros.motion.executor import Executor, ExecutorState, Output
from vln_ros.motion.safety import Fault

CONFIG = replace(ExecutorConfig(), delay_s=0.0, safety=replace(SafetyConfig(), obstacles="none"))
SAFETY = CONFIG.safety
F = Action(forward_m=0.25)
L = Action(turn_rad=math.radians(15.0))
R = Action(turn_rad=-math.radians(15.0))


class Unicycle:
    """An ideal base with odometry at the control rate, and everything that it was told."""

    def __init__(self, config: ExecutorConfig = CONFIG) -> None:
        self.executor = Executor(config)
        self.period_s = 1.0 / config.rate_hz
        self.now_s = 100.0
        self.pose = Pose.identity()
        self.blocked = False
        self.outputs: list[Output] = []
        self.show()

    @property
    def stamp_ns(self) -> int:
        return round(self.now_s * 1e9)

    def show(self, odometry: bool = True, heartbeat: bool = True, frames: bool = True) -> None:
        if odometry:
            self.executor.odometry(self.stamp_ns, self.pose, self.now_s)
        if heartbeat:
            self.executor.heartbeat(self.stamp_ns if frames else 1, self.now_s)

    def offer(self, queue: int, *actions: Action, instruction: int = 1, epoch: int = 0) -> Acceptance:
        return self.executor.offer(ActionChunk(queue, instruction, self.stamp_ns, actions, epoch=epoch))

    def period(self, odometry: bool = True, heartbeat: bool = True, frames: bool = True) -> Output:
        output = self.executor.update(self.now_s)
        self.outputs.append(output)
        v, w = output.velocity.linear_m_s, output.velocity.angular_rad_s
        if not self.blocked:
            half = Pose.planar(0.0, 0.0, w * self.period_s / 2.0)
            side = output.velocity.lateral_m_s * self.period_s
            self.pose = self.pose @ half @ Pose.planar(v * self.period_s, side, 0.0) @ half
        self.now_s += self.period_s
        self.show(odometry, heartbeat, frames)
        return output

    def until(self, state: ExecutorState, limit_s: float = 60.0) -> list[Action]:
        """Runs until the executor is in ``state``; what was completed on the way."""
        completed: list[Action] = []
        for _ in range(round(limit_s / self.period_s)):
            output = self.period()
            completed += output.completed
            if output.state is state:
                return completed
        raise AssertionError(f"not {state} within {limit_s} s")


def error(pose: Pose, goal: Pose) -> tuple[float, float]:
    """Distance and heading difference."""
    return float(np.linalg.norm(pose.position - goal.position)), abs(wrap_angle(pose.yaw_rad - goal.yaw_rad))


@pytest.mark.parametrize("action", [F, L, R, Action(forward_m=3.0), Action(turn_rad=3.0)])
def test_one_action_ends_where_it_should(action: Action) -> None:
    base = Unicycle()
    base.offer(1, action)
    assert base.until(ExecutorState.IDLE) == [action]
    distance_m, heading_rad = error(base.pose, apply_action(Pose.identity(), action))
    assert distance_m <= CONFIG.position_tolerance_m + 1e-6
    assert heading_rad <= math.radians(CONFIG.heading_tolerance_deg) + 1e-6


def test_errors_do_not_add_up_over_a_hundred_actions() -> None:
    base = Unicycle()
    actions = [[F, L, R][i] for i in np.random.default_rng(3).integers(0, 3, 100)]
    base.offer(1, *actions)
    assert base.until(ExecutorState.IDLE, 400.0) == actions
    goal = Pose.identity()
    for action in actions:
        goal = apply_action(goal, action)
    distance_m, heading_rad = error(base.pose, goal)
    # One action's tolerance, and what its heading error makes across the last few steps.
    assert distance_m < 0.05
    assert heading_rad < math.radians(2.0 * CONFIG.heading_tolerance_deg)


def test_a_longer_queue_of_the_same_plan_does_not_disturb_the_action_in_progress() -> None:
    base = Unicycle()
    base.offer(1, F, F)
    frame_ns = base.stamp_ns
    base.period()
    base.period()
    assert base.executor.offer(ActionChunk(2, 1, frame_ns, (F, L))) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [F, L]
    distance_m, _ = error(base.pose, apply_action(Pose.identity(), F))
    assert distance_m <= CONFIG.position_tolerance_m + 1e-6


@settings(deadline=None, max_examples=40)
@given(
    actions=st.lists(
        st.one_of(
            st.floats(0.01, 1.0).map(lambda m: Action(forward_m=m)),
            st.floats(0.02, 3.0).map(lambda rad: Action(turn_rad=rad)),
            st.floats(-3.0, -0.02).map(lambda rad: Action(turn_rad=rad)),
        ),
        min_size=1,
        max_size=6,
    ),
    hold_after=st.integers(0, 60),
    limits=st.tuples(st.floats(0.05, 2.0), st.floats(0.1, 4.0), st.floats(0.2, 5.0), st.floats(0.5, 10.0)),
    noise_seed=st.integers(0, 100),
)
def test_limits_hold_whatever_happens(
    actions: list[Action], hold_after: int, limits: tuple[float, float, float, float], noise_seed: int
) -> None:
    linear, angular, linear_accel, angular_accel = limits
    config = replace(
        CONFIG,
        max_linear_m_s=linear,
        max_angular_rad_s=angular,
        max_linear_accel_m_s2=linear_accel,
        max_angular_accel_rad_s2=angular_accel,
    )
    base = Unicycle(config)
    base.offer(1, *actions)
    noise = np.random.default_rng(noise_seed)
    for i in range(120):
        if i == hold_after:
            base.offer(2)
        if i == hold_after + 5:
            base.offer(3, *actions)
        base.period()
        jitter = Pose.planar(*noise.normal(0.0, 0.01, 3))
        base.executor.odometry(base.stamp_ns, base.pose @ jitter, base.now_s)
    sent = Velocity()
    for output in base.outputs:
        v = output.velocity
        assert math.isfinite(v.linear_m_s)
        assert math.isfinite(v.angular_rad_s)
        assert 0.0 <= v.linear_m_s <= linear + 1e-9
        assert abs(v.angular_rad_s) <= angular + 1e-9
        if output.state is ExecutorState.MOVING:  # standing still is at once: that is its point
            assert abs(v.linear_m_s - sent.linear_m_s) <= linear_accel / config.rate_hz + 1e-9
            assert abs(v.angular_rad_s - sent.angular_rad_s) <= angular_accel / config.rate_hz + 1e-9
        else:
            assert v == Velocity()
        sent = v


def test_at_the_end_of_a_queue_it_is_nearly_standing() -> None:
    """The zero that ends a queue is no jerk: it braked before."""
    base = Unicycle()
    base.offer(1, Action(forward_m=2.0))
    base.until(ExecutorState.IDLE)
    assert max(o.velocity.linear_m_s for o in base.outputs) == pytest.approx(CONFIG.max_linear_m_s)
    last = base.outputs[-2].velocity.linear_m_s
    assert last <= CONFIG.max_linear_accel_m_s2 / CONFIG.rate_hz + CONFIG.linear_gain * 0.02 + 1e-9


def test_without_odometry_it_stands_and_forgets_the_queue() -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=5.0))
    for _ in range(20):
        assert base.period().state is ExecutorState.MOVING
    lost_s = base.now_s
    while base.now_s <= lost_s + SAFETY.odometry_timeout_s:
        assert base.period(odometry=False).state is ExecutorState.MOVING
    output = base.period(odometry=False)
    assert (output.state, output.faults) == (ExecutorState.STOPPED, (Fault.NO_ODOMETRY,))
    assert output.velocity == Velocity()
    assert base.executor.queue.current is None
    base.show()
    assert base.period().state is ExecutorState.IDLE  # it does not go on by itself
    assert base.offer(2, L) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [L]


def test_no_odometry_at_all() -> None:
    executor = Executor(CONFIG)
    executor.offer(ActionChunk(1, 1, 0, (F,)))
    output = executor.update(1.0)
    assert (output.state, output.velocity) == (ExecutorState.STOPPED, Velocity())
    assert output.faults == (Fault.NO_ODOMETRY, Fault.NO_HEARTBEAT)


def test_stop_finishes_and_a_new_instruction_begins_again() -> None:
    base = Unicycle()
    base.offer(1, F, STOP)
    assert base.until(ExecutorState.FINISHED) == [F, STOP]
    assert base.offer(2, F) is Acceptance.STALE
    assert base.period().state is ExecutorState.FINISHED
    assert base.offer(3, L, instruction=2) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [L]


def test_a_blocked_action_stops_the_robot_and_the_next_queue_starts_from_where_it_stands() -> None:
    base = Unicycle()
    base.offer(1, F, L)
    base.blocked = True
    while (output := base.period()).state is ExecutorState.MOVING:
        pass
    base.blocked = False
    assert (output.faults, output.velocity, output.report) == ((Fault.BLOCKED,), Velocity(), True)
    assert base.executor.blocked == 1
    assert base.now_s - 100.0 == pytest.approx(
        CONFIG.action_timeout_s + 0.25 / CONFIG.max_linear_m_s, abs=3 * base.period_s
    )
    assert base.executor.queue.state.queue == 0
    assert base.offer(2, L) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [L]
    distance_m, heading_rad = error(base.pose, Pose.planar(0.0, 0.0, L.turn_rad))
    assert distance_m < 1e-6 + 0.02
    assert heading_rad < math.radians(1.0) + 1e-6


def test_a_hold_stands_at_once() -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=2.0))
    for _ in range(15):
        base.period()
    base.offer(2)
    output = base.executor.check(base.now_s)  # without waiting for the next period
    assert output is not None
    assert output.velocity == Velocity()
    assert base.period().velocity == Velocity()
    assert base.executor.check(base.now_s) is None


def test_a_new_instruction_stands_at_once_before_its_first_queue() -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=2.0))
    for _ in range(15):
        base.period()
    seen_ns = base.stamp_ns - 200_000_000
    base.executor.interrupt()
    output = base.executor.check(base.now_s)
    assert output is not None
    assert (output.velocity, output.state, output.report) == (Velocity(), ExecutorState.IDLE, True)
    assert base.executor.queue.state.queue == 0
    assert base.period().velocity == Velocity()
    assert (
        base.executor.offer(ActionChunk(2, 2, seen_ns, (F,))) is Acceptance.ACCEPTED
    )  # an older frame will do
    assert base.until(ExecutorState.IDLE) == [F]
    base.executor.interrupt()  # nothing was being done
    assert base.executor.check(base.now_s) is None
    assert base.executor.queue.state.queue == 2


@pytest.mark.parametrize("hold", [False, True])
def test_between_two_instructions_it_stands_for_a_period(hold: bool) -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=2.0))
    for _ in range(15):
        assert base.period().velocity != Velocity()
    if hold:  # and the new queue comes within the same period
        base.offer(1)
    assert base.offer(2, Action(forward_m=2.0), instruction=2) is Acceptance.ACCEPTED
    standing, start = base.period(), base.pose
    assert (standing.velocity, standing.state) == (Velocity(), ExecutorState.IDLE)
    assert base.period().velocity != Velocity()
    base.until(ExecutorState.IDLE)
    assert error(base.pose, start @ Pose.planar(2.0, 0.0, 0.0))[0] < 0.03  # from here, not from the old start


def test_a_contradicted_queue_stands_at_once() -> None:
    base = Unicycle()
    base.offer(1, F, F)
    frame_ns = base.stamp_ns
    base.period()
    base.period()
    assert base.executor.offer(ActionChunk(2, 1, frame_ns, (L,))) is Acceptance.CONTRADICTED
    assert base.period().velocity == Velocity()
    assert base.executor.queue.state.queue == 0


def test_live_limits_apply_to_the_next_period() -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=3.0))
    for _ in range(30):
        base.period()
    base.executor.config = replace(CONFIG, max_linear_m_s=0.1)
    for _ in range(30):
        base.period()
    assert base.outputs[-1].velocity.linear_m_s == pytest.approx(0.1)


def test_live_time_outs_tolerances_and_heights_apply_to_what_comes_next() -> None:
    base = Unicycle(replace(CONFIG, safety=replace(SAFETY, obstacles="depth")))
    base.executor.config = replace(
        CONFIG,
        position_tolerance_m=0.2,
        safety=replace(
            SAFETY,
            obstacles="depth",
            obstacle_timeout_s=9.0,
            heartbeat_timeout_s=9.0,
            frame_timeout_s=9.0,
            max_height_m=0.3,
        ),
    )
    assert base.executor.obstacles.heights_m == (SAFETY.min_height_m, 0.3)
    base.executor.watch.came(Fault.NO_DEPTH, base.stamp_ns, base.now_s)
    base.offer(1, Action(forward_m=0.5))
    for _ in range(round(2.0 / base.period_s)):  # longer than the time-outs that it was made with
        assert base.period(heartbeat=False).state is not ExecutorState.STOPPED
    assert 0.25 < base.pose.position[0] < 0.4
    base.executor.config = replace(
        base.executor.config, safety=replace(base.executor.config.safety, heartbeat_timeout_s=1.0)
    )
    assert base.period(heartbeat=False).faults == (Fault.NO_HEARTBEAT,)


def test_late_odometry_is_ignored() -> None:
    base = Unicycle()
    base.executor.odometry(base.stamp_ns - 100_000_000, Pose.planar(9.0, 9.0, 1.0), base.now_s)
    base.offer(1, F)
    base.until(ExecutorState.IDLE)
    assert error(base.pose, Pose.planar(0.25, 0.0, 0.0))[0] < 0.03
    assert base.executor.clock_resets == 0


def test_a_clock_reset_forgets_the_queue_and_takes_the_next_one() -> None:
    base = Unicycle()
    base.offer(7, F, F)
    base.until(ExecutorState.IDLE)
    base.offer(8, F, F)
    base.period()
    base.now_s = 3.0
    base.show()
    assert base.executor.clock_resets == 1
    assert base.period().velocity == Velocity()
    # Its history is of a time that is yet to come; it must not contradict this queue.
    assert base.offer(9, L) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [L]


@pytest.mark.parametrize(
    ("missing", "fault", "timeout_s"),
    [
        ("odometry", Fault.NO_ODOMETRY, SAFETY.odometry_timeout_s),
        ("heartbeat", Fault.NO_HEARTBEAT, SAFETY.heartbeat_timeout_s),
        ("frames", Fault.NO_FRAMES, SAFETY.frame_timeout_s),
    ],
)
def test_what_stops_coming_stops_the_robot_within_one_period(
    missing: str, fault: Fault, timeout_s: float
) -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=5.0))
    for _ in range(10):
        base.period()
    begun_s = base.now_s
    while (output := base.period(**{missing: False})).state is ExecutorState.MOVING:
        pass
    assert base.outputs[-1].velocity == Velocity()
    assert output.faults == (fault,)
    assert base.now_s - begun_s <= timeout_s + 3 * base.period_s
    assert not output.report  # a decision now would be for nothing
    assert base.offer(2, L) is Acceptance.REFUSED
    reported = [base.period().report for _ in range(3)]
    assert reported.count(True) == 1
    assert base.executor.queue.state.queue == 0
    assert base.offer(3, L) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [L]


def test_repeating_the_last_message_is_not_coming() -> None:
    base = Unicycle()
    stamp_ns, pose = base.stamp_ns, base.pose
    base.offer(1, Action(forward_m=5.0))
    for _ in range(round((SAFETY.odometry_timeout_s + 0.2) / base.period_s)):
        output = base.period(odometry=False)
        base.executor.odometry(stamp_ns, pose, base.now_s)
    assert output.faults == (Fault.NO_ODOMETRY,)


def test_the_clock_of_control_stands() -> None:
    base = Unicycle()
    base.offer(1, Action(forward_m=5.0))
    for _ in range(10):
        base.period()
    assert base.executor.check(base.now_s) is None
    late_s = base.now_s + SAFETY.odometry_timeout_s + 0.1
    base.executor.odometry(base.stamp_ns + 1, base.pose, late_s)
    base.executor.heartbeat(base.stamp_ns + 1, late_s)
    output = base.executor.check(late_s)
    assert output is not None
    assert (output.velocity, output.faults) == (Velocity(), (Fault.NO_CLOCK,))
    assert base.executor.queue.current is None
    assert base.period().state is ExecutorState.STOPPED
    assert base.executor.check(base.now_s) is None
    assert base.period().state is ExecutorState.IDLE


def test_a_clock_of_control_that_never_goes_is_said() -> None:
    """Simulated time was asked for, and nobody simulates."""
    base = Unicycle()
    assert base.executor.check(base.now_s) is None
    base.offer(1, F)
    base.now_s += SAFETY.odometry_timeout_s + 0.1
    base.show()
    output = base.executor.check(base.now_s)
    assert output is not None
    assert (output.velocity, output.faults) == (Velocity(), (Fault.NO_CLOCK,))
    assert base.offer(2, F) is Acceptance.REFUSED
    base.period()
    assert base.executor.check(base.now_s) is None
    assert base.period().state is ExecutorState.IDLE
    assert base.offer(3, F) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [F]


def test_a_jump_waits_for_somebody() -> None:
    base = Unicycle()
    base.offer(1, F, F)
    base.period()
    base.pose = base.pose @ Pose.planar(0.5, 0.0, 0.0)
    base.show()
    base.now_s += base.period_s
    base.show()
    assert base.period().faults == (Fault.ODOMETRY_JUMP,)
    for _ in range(5):
        assert base.period().velocity == Velocity()
    assert base.offer(2, F) is Acceptance.REFUSED
    assert base.offer(3, F, epoch=7) is Acceptance.REFUSED  # a restart is nobody's word
    base.executor.pause(False)
    base.period()
    assert base.offer(4, F, epoch=7) is Acceptance.ACCEPTED
    base.pose = base.pose @ Pose.planar(0.5, 0.0, 0.0)
    base.now_s += base.period_s
    base.show()
    assert base.period().faults == (Fault.ODOMETRY_JUMP,)
    assert base.offer(5, F, instruction=2, epoch=7) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [F]


def test_a_clock_reset_is_nobodys_word_either() -> None:
    """The numbers of queues are forgotten with it, and the next one looks like the first of all."""
    base = Unicycle()
    base.offer(1, F, F)
    base.period()
    base.pose = base.pose @ Pose.planar(0.5, 0.0, 0.0)
    base.now_s += base.period_s
    base.show()
    assert base.period().faults == (Fault.ODOMETRY_JUMP,)
    base.now_s = 3.0
    base.show()
    assert base.executor.clock_resets == 1
    assert base.period().faults == (Fault.ODOMETRY_JUMP,)
    assert base.offer(2, F) is Acceptance.REFUSED
    assert base.period().velocity == Velocity()
    assert base.offer(3, F, instruction=2) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [F]


def test_bad_odometry_and_bad_queues_stop_it_once() -> None:
    base = Unicycle()
    for number, harm in enumerate((base.executor.bad_odometry, base.executor.bad_queue), start=1):
        assert base.offer(number, F, F) is Acceptance.ACCEPTED
        base.period()
        harm()
        assert base.period(odometry=False).velocity == Velocity()
        assert base.executor.queue.current is None
        base.show()
        base.period()
        base.period()


def test_pause() -> None:
    base = Unicycle()
    base.offer(1, F, F)
    base.period()
    base.executor.pause(True)
    output = base.period()
    assert (output.velocity, output.faults) == (Velocity(), (Fault.PAUSED,))
    assert base.offer(2, L, instruction=2) is Acceptance.REFUSED  # a new instruction ends no pause
    base.executor.pause(False)
    base.period()
    assert base.offer(3, L, instruction=2) is Acceptance.ACCEPTED


def wall(base: Unicycle, distance_m: float) -> None:
    """Across the robot's first way, seen by a scanner that looks all around."""
    angles = np.linspace(-math.pi, math.pi, 361)
    forward = np.cos(angles + base.pose.yaw_rad)
    ranges_m = np.where(forward > 0.1, distance_m / np.maximum(forward, 0.1), math.inf)
    scan = RangeScan(angles, ranges_m)
    base.executor.scan(base.stamp_ns, scan, Pose.identity(), base.now_s)


@pytest.mark.parametrize("appears_at_m", [3.0, 0.8, 0.5, 0.35])
def test_it_slows_down_and_stops_before_a_wall(appears_at_m: float) -> None:
    config = replace(CONFIG, safety=replace(SAFETY, obstacles="scan"))
    base = Unicycle(config)
    wall(base, 5.0)
    base.offer(1, Action(forward_m=5.0))
    for _ in range(20):
        wall(base, 8.0 - base.pose.position[0])
        base.period()
    at_m = base.pose.position[0] + SAFETY.robot_radius_m + appears_at_m
    while (output := base.period()).state is ExecutorState.MOVING:
        wall(base, at_m - base.pose.position[0])
    assert output.faults == (Fault.OBSTACLE,)
    left_m = at_m - base.pose.position[0] - SAFETY.robot_radius_m
    assert left_m > 0.1
    if appears_at_m > SAFETY.slow_distance_m:
        assert left_m == pytest.approx(SAFETY.stop_distance_m, abs=0.03)
        assert base.outputs[-2].velocity.linear_m_s <= SAFETY.creep_m_s + 0.05
    assert base.offer(2, Action(turn_rad=1.5)) is Acceptance.ACCEPTED  # turning away is free
    while (output := base.period()).state is ExecutorState.MOVING:
        wall(base, at_m - base.pose.position[0])
    assert output.state is ExecutorState.IDLE


def test_equal_actions_are_driven_as_one_and_the_next_queue_without_standing() -> None:
    durations = {}
    for blend in (False, True):
        base = Unicycle(replace(CONFIG, blend=blend))
        base.offer(1, F, F, F, F)
        assert base.until(ExecutorState.IDLE) == [F] * 4
        durations[blend] = base.now_s - 100.0
        slowest = min(o.velocity.linear_m_s for o in base.outputs[8:-12])
        assert (slowest > 0.4) is blend
    assert durations[True] < 0.75 * durations[False]
    base = Unicycle()
    base.offer(1, F, F)
    begun_ns = base.stamp_ns
    while len(base.executor.queue.state.remaining) == 2:
        base.period()
    base.executor.offer(ActionChunk(2, 1, begun_ns + 1, (F, F, F, F)))
    base.until(ExecutorState.IDLE)
    assert min(o.velocity.linear_m_s for o in base.outputs[8:-12]) > 0.3


def test_a_holonomic_base_returns_to_its_place_after_a_push() -> None:
    base = Unicycle(replace(CONFIG, holonomic=True))
    base.offer(1, Action(forward_m=1.0))
    for _ in range(10):
        base.period()
    base.pose = base.pose @ Pose.planar(0.0, 0.08, 0.0)
    base.period()
    output = base.period()
    assert output.velocity.lateral_m_s < 0.0
    assert output.error.beside_m == pytest.approx(-0.08, abs=0.01)
