"""When a decision that is taken again counts as the same: actions, and pixels with their places."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.cli.replay.reproduce import is_same_answer
from vln_ros.datatypes import Action, ActionChunk, PixelGoal, PlaceGoal, PlaceSource

pytestmark = pytest.mark.ros
FORWARD, TURN = Action(forward_m=0.25), Action(turn_rad=0.26)
PLACE, OTHER = PlaceGoal(1.0, 2.0, 5, PlaceSource.DEPTH), PlaceGoal(1.0, 2.1, 5, PlaceSource.DEPTH)
PIXEL = PixelGoal(3, 4, 5)


def chunk(*actions: Action, pixel: PixelGoal | None = None, place: PlaceGoal | None = None) -> ActionChunk:
    return ActionChunk(2, 1, 5, actions, pixel_goal=pixel, place=place)


@pytest.mark.parametrize(
    ("recorded", "again", "same"),
    [
        (chunk(FORWARD, TURN), chunk(FORWARD, TURN), True),
        (chunk(FORWARD, TURN), chunk(FORWARD), False),
        (chunk(FORWARD), chunk(), False),
        # a place was driven to: the queue is the planner's, pixel and place are the answer
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(pixel=PIXEL, place=PLACE), True),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(pixel=PIXEL, place=OTHER), False),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(pixel=PixelGoal(3, 5, 5), place=PLACE), False),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(FORWARD), False),
        (chunk(FORWARD), chunk(pixel=PIXEL, place=PLACE), False),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(TURN, pixel=PIXEL), False),
        # nothing led there, so something else was done
        (chunk(TURN, pixel=PIXEL), chunk(pixel=PIXEL, place=PLACE), True),
        (chunk(TURN, pixel=PIXEL), chunk(TURN, pixel=PIXEL), True),
        (chunk(TURN, pixel=PIXEL), chunk(FORWARD, pixel=PIXEL), False),
    ],
)
def test_what_is_the_same_answer(recorded: ActionChunk, again: ActionChunk, same: bool) -> None:
    assert is_same_answer(recorded, again) is same
