"""Which picture the inspector shows as the answered one, and until when."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.datatypes import Action, ActionChunk, PixelGoal, PlaceGoal, PlaceSource
from vln_ros.nodes.tools.inspecting import AnsweredPicture

pytestmark = pytest.mark.ros
S = 1_000_000_000
FORWARD = Action(forward_m=0.25)


def picture(shade: int) -> np.ndarray:
    return np.full((48, 64, 3), shade, np.uint8)


def chunk(stamp_ns: int, *, pixel: bool, goes_on: bool = False) -> ActionChunk:
    place = PlaceGoal(1.0, 0.0, stamp_ns, PlaceSource.DEPTH) if pixel or goes_on else None
    goal = PixelGoal(20, 30, stamp_ns) if pixel else None
    return ActionChunk(2, 1, stamp_ns, (FORWARD,), pixel_goal=goal, place=place)


def test_the_picture_is_the_one_that_was_asked_about() -> None:
    answered = AnsweredPicture()
    for k in range(30):
        answered.shown(k * S // 10, picture(k))
    answered.told(chunk(12 * S // 10, pixel=True))
    assert answered.picture is not None
    assert answered.picture[0, 0, 0] == 12
    assert (answered.picture != picture(12)).any(), "with the pixel"
    assert answered.pixel == PixelGoal(20, 30, 12 * S // 10)


def test_it_stays_while_the_place_is_driven_to_and_goes_with_the_next_answer() -> None:
    answered = AnsweredPicture()
    answered.shown(S, picture(7))
    answered.told(chunk(S, pixel=True))
    answered.told(chunk(2 * S, pixel=False, goes_on=True))
    assert answered.picture is not None
    answered.told(chunk(3 * S, pixel=False))
    assert answered.picture is None
    assert answered.pixel is None


@pytest.mark.parametrize(("off_s", "shown"), [(0.0, True), (0.2, True), (-0.2, True), (0.4, False)])
def test_a_picture_of_another_time_is_not_shown_for_it(off_s: float, shown: bool) -> None:
    answered = AnsweredPicture()
    answered.shown(S, picture(7))
    answered.told(chunk(S + round(off_s * S), pixel=True))
    assert (answered.picture is not None) == shown


def test_without_any_picture_there_is_none() -> None:
    answered = AnsweredPicture()
    answered.told(chunk(S, pixel=True))
    assert answered.picture is None
