"""Guards: what counts as getting nowhere, what does not, and that each can be off."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import STOP, Action, Pose, apply_action
from vln_ros.motion.guards import GuardLimits, ProgressGuards

F = Action(forward_m=0.25)
L, R = Action(turn_rad=math.radians(15)), Action(turn_rad=math.radians(-15))
ALL = GuardLimits(turns_in_place=5, to_and_fro=3, stuck=4)


def after(actions: list[Action], limits: GuardLimits) -> str | None:
    guards = ProgressGuards(limits)
    for action in actions:
        guards.completed(action)
    return guards.reason


@pytest.mark.parametrize(
    ("actions", "word"),
    [
        ([L] * 4, None),
        ([L] * 5, "turning in place: 5"),
        ([R] * 7, "turning in place: 5"),
        ([L, L, F, L, L, F, L, L, L, L], None),
        ([L, R, L], None),
        ([L, R, L, R], "turning to and fro: 3"),
        ([R, R, L, R, L], "turning in place: 5"),
        ([L, R, F, L, R, F, L, R], None),
        ([F] * 50, None),
        ([STOP], None),
    ],
)
def test_turns(actions: list[Action], word: str | None) -> None:
    reason = after(actions, ALL)
    assert reason is None if word is None else (reason or "").startswith(word)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([F, L, R]), max_size=60))
def test_off_is_off_and_what_is_counted_is_what_was_done(actions: list[Action]) -> None:
    assert after(actions, GuardLimits()) is None
    row = turns = 0
    for action in actions:
        row = 0 if action is F else row + 1
        turns = max(turns, row)
    assert (after(actions, GuardLimits(turns_in_place=6)) is not None) == (turns >= 6)


def test_stuck_is_who_neither_moves_nor_turns() -> None:
    guards = ProgressGuards(ALL)
    for _ in range(4):
        guards.asked(Pose.planar(1.0, 2.0, 0.3))
    assert guards.reason is None  # three decisions after the first one
    guards.asked(Pose.planar(1.02, 2.0, 0.32))
    assert guards.reason == "stuck: 4 decisions without having moved"
    for moved in (Pose.planar(1.06, 2.0, 0.3), Pose.planar(1.0, 2.0, 0.4), Pose.planar(1.0, 2.0, 0.3 + 6.2)):
        guards.begin()
        for _ in range(4):
            guards.asked(Pose.planar(1.0, 2.0, 0.3))
        guards.asked(moved)
        assert (guards.reason is None) == (moved.yaw_rad - 0.3 > 0.05 or moved.position[0] > 1.05)


def test_a_heading_across_half_a_turn_is_no_motion() -> None:
    guards = ProgressGuards(ALL)
    for index in range(6):
        guards.asked(Pose.planar(0.0, 0.0, math.pi - 0.01 if index % 2 else -math.pi + 0.01))
    assert guards.reason is not None and guards.reason.startswith("stuck")


def test_going_to_and_fro_between_two_places() -> None:
    guards = ProgressGuards(ALL)
    for times in range(3):
        guards.asked(Pose.planar(0.0, 0.1 * times, 0.0))
        assert guards.reason is None
        guards.asked(Pose.planar(1.0, 0.0, 3.0))
    guards.asked(Pose.planar(0.1, 0.0, 0.0))
    assert guards.reason is not None and guards.reason.startswith("going to and fro: 3 times")


def test_a_way_that_does_not_come_back_is_none() -> None:
    """Nor is looking about at a place, or a drift around it."""
    guards, pose = ProgressGuards(GuardLimits(to_and_fro=1)), Pose.identity()
    for index in range(80):
        guards.asked(pose)
        pose = apply_action(pose, F if index % 9 else L)  # a wide arc, not a full circle
        if index == 40:
            pose = apply_action(pose, Action(turn_rad=-2.0))
    for _ in range(10):
        pose = apply_action(pose, L)
        guards.asked(pose)
    assert guards.reason is None


def test_a_run_begins_with_nothing_counted_and_what_tripped_is_counted() -> None:
    guards = ProgressGuards(ALL)
    for _ in range(2):
        for _ in range(9):
            guards.completed(L)
        guards.begin()
        assert guards.reason is None
    assert guards.tripped == {"turns_in_place": 2}


@pytest.mark.parametrize("name", ["turns_in_place", "to_and_fro", "stuck"])
def test_limits_below_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        GuardLimits(**{name: -1})
