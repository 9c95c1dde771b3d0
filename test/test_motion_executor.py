"""The executor against a simulated unicycle: arrives, keeps its limits, stops when it must."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import STOP, Action, ActionChunk, Pose, apply_action, wrap_angle
from vln_ros.motion.action_queue import Acceptance
from vln_ros.motion.executor import Executor, ExecutorState, Output, Velocity

CONFIG = ExecutorConfig()
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

    def show(self) -> None:
        self.executor.odometry(self.stamp_ns, self.pose, self.now_s)

    def offer(self, queue: int, *actions: Action, instruction: int = 1) -> Acceptance:
        return self.executor.offer(ActionChunk(queue, instruction, self.stamp_ns, actions))

    def period(self, odometry: bool = True) -> Output:
        output = self.executor.update(self.now_s)
        self.outputs.append(output)
        v, w = output.velocity.linear_m_s, output.velocity.angular_rad_s
        if not self.blocked:
            half = Pose.planar(0.0, 0.0, w * self.period_s / 2.0)
            self.pose = self.pose @ half @ Pose.planar(v * self.period_s, 0.0, 0.0) @ half
        self.now_s += self.period_s
        if odometry:
            self.show()
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
    while base.now_s <= lost_s + CONFIG.odometry_timeout_s:
        assert base.period(odometry=False).state is ExecutorState.MOVING
    output = base.period(odometry=False)
    assert output.state is ExecutorState.NO_ODOMETRY
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
    assert (output.state, output.velocity) == (ExecutorState.NO_ODOMETRY, Velocity())


def test_stop_finishes_and_a_new_instruction_begins_again() -> None:
    base = Unicycle()
    base.offer(1, F, STOP)
    assert base.until(ExecutorState.FINISHED) == [F, STOP]
    assert base.offer(2, F) is Acceptance.STALE
    assert base.period().state is ExecutorState.FINISHED
    assert base.offer(3, L, instruction=2) is Acceptance.ACCEPTED
    assert base.until(ExecutorState.IDLE) == [L]


def test_a_blocked_action_is_given_up_and_the_next_starts_from_where_it_stands() -> None:
    base = Unicycle()
    base.offer(1, F, L)
    base.blocked = True
    while not base.period().completed:
        pass
    base.blocked = False
    assert base.executor.blocked == 1
    assert base.now_s - 100.0 == pytest.approx(
        CONFIG.action_timeout_s + 0.25 / CONFIG.max_linear_m_s, abs=3 * base.period_s
    )
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
    assert base.period().velocity == Velocity()


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


def test_old_odometry_is_not_fresh_because_the_node_clock_jumped_back() -> None:
    base = Unicycle()
    base.offer(1, F)
    base.period()
    output = base.executor.update(base.now_s - 50.0)
    assert (output.state, output.velocity) == (ExecutorState.NO_ODOMETRY, Velocity())
