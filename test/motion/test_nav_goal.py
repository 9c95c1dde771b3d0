"""Goals for somebody else who drives: where to, when reached, when the robot is stuck."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vln_ros.config import Nav2Config, PlaceConfig, from_flat
from vln_ros.datatypes import STOP, Action, ActionChunk, PlaceGoal, PlaceSource, Pose
from vln_ros.motion.nav_goal import GoalEnd, GoalWatch, NavGoal

PLACES = PlaceConfig()
CONFIG = from_flat(Nav2Config, {"stuck_s": 5.0})
HERE = Pose.planar(1.0, 1.0, 0.5)


def chunk(*actions: Action) -> ActionChunk:
    return ActionChunk(2, 1, 7, actions)


def to_place(x_m: float, y_m: float) -> ActionChunk:
    return ActionChunk(2, 1, 7, (), place=PlaceGoal(x_m, y_m, 7, PlaceSource.DEPTH))


def goal_of(answer: ActionChunk, pose: Pose = HERE) -> NavGoal:
    goal = NavGoal.of(answer, pose, PLACES)
    assert goal is not None
    return goal


def test_a_place_is_approached_from_where_the_robot_is() -> None:
    goal = goal_of(to_place(1.0, 4.0))
    assert goal.pose.position[:2].tolist() == [1.0, 4.0]
    assert goal.pose.yaw_rad == pytest.approx(math.pi / 2)
    assert goal.within_m == PLACES.reached_within_m
    assert not goal.heading, "from where it is reached does not matter"
    assert goal_of(to_place(1.0, 1.05)).pose.yaw_rad == pytest.approx(0.5), "so near it need not turn"


def test_a_queue_is_one_goal_where_all_its_actions_lead() -> None:
    goal = goal_of(chunk(Action(turn_rad=math.pi / 2), Action(forward_m=0.5), Action(turn_rad=-0.2), STOP))
    expected = HERE @ Pose.planar(0.0, 0.5, math.pi / 2 - 0.2)
    np.testing.assert_allclose(goal.pose.position, expected.position)
    assert goal.pose.yaw_rad == pytest.approx(expected.yaw_rad)
    assert goal.heading


@pytest.mark.parametrize("answer", [chunk(), chunk(STOP)])
def test_what_moves_nothing_is_no_goal(answer: ActionChunk) -> None:
    assert NavGoal.of(answer, HERE, PLACES) is None


def test_reached_is_judged_by_distance_and_of_a_queue_by_heading_too() -> None:
    watch = GoalWatch(CONFIG)
    assert watch.at(HERE, 0.0) is None, "no goal, nothing to reach"
    watch.begin(goal_of(to_place(3.0, 1.0)))
    assert watch.at(HERE, 0.0) is None
    assert watch.at(Pose.planar(2.8, 1.1, -2.0), 0.1) is GoalEnd.REACHED
    watch.begin(goal_of(chunk(Action(turn_rad=0.26))))
    assert watch.at(HERE, 0.2) is None, "it is there but looks elsewhere"
    assert watch.at(HERE @ Pose.planar(0.0, 0.0, 0.2), 0.3) is GoalEnd.REACHED
    watch.drop()
    assert watch.at(HERE, 0.4) is None


def test_a_robot_that_stands_is_stuck_and_one_that_moves_is_not() -> None:
    watch = GoalWatch(CONFIG)
    watch.begin(goal_of(to_place(9.0, 1.0)))
    for k in range(100):
        assert watch.at(HERE @ Pose.planar(0.02 * k, 0.0, 0.0), 1.0 * k) is None
    last = HERE @ Pose.planar(2.2, 0.0, 0.0)
    assert watch.at(last, 100.0) is None
    assert watch.at(last, 104.9) is None
    assert watch.at(last @ Pose.planar(0.0, 0.0, 0.1), 104.95) is None, "it turns"
    assert watch.at(last @ Pose.planar(0.01, 0.0, 0.1), 110.0) is GoalEnd.STUCK
    watch.begin(goal_of(to_place(9.0, 1.0)))
    assert watch.at(last, 110.1) is None, "a new goal, a new time"
