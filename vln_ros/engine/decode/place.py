"""From the point that was said to what is done: drive to its place, or what is done where it has none."""

from __future__ import annotations

import math
from dataclasses import replace

from vln_ros.datatypes import Action, ActionChunk, Frame, PixelGoal
from vln_ros.engine.checkpoint.profile import PixelGoalSpec
from vln_ros.geometry.pixel_goal import PixelGoalLocator, PlaceRefusal


def with_place(
    chunk: ActionChunk, goal: PixelGoal, frame: Frame, locator: PixelGoalLocator, spec: PixelGoalSpec
) -> ActionChunk:
    """``chunk``, an answer without actions, as the pixel goal that it is.

    Args:
        frame: the picture that the goal lies in.
    """
    place = locator.locate(goal, frame)
    if isinstance(place, PlaceRefusal):
        why = f"{goal}: {place.value}"
    elif place.distance_m(frame.odom_from_base) < spec.already_there_m:
        why = f"{goal}: the robot is there already"
        locator.note_already_there()
    else:
        return replace(chunk, pixel_goal=goal, place=place)
    if spec.nowhere_turn_deg == 0.0:
        return replace(chunk, pixel_goal=goal, held=why)
    turn = Action(turn_rad=math.radians(spec.nowhere_turn_deg))
    return replace(chunk, pixel_goal=goal, actions=(turn,), unconstrained=why)
