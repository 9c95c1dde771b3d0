"""From a pixel that a model points at to a place on the floor where the robot can stand."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vln_ros.datatypes import Frame, PixelGoal, PlaceGoal


class PlaceRefusal(Enum):
    """Why a pixel goal is no place, in the words of the counters and of what the robot says."""

    OUTSIDE = "the pixel is not in the picture"
    NO_FLOOR = "no depth at the pixel, and its ray meets no floor within range"
    NOTHING_FREE = "no free place before what the pixel shows"


@dataclass(frozen=True, kw_only=True)
class PixelGoalRules:
    """What counts as floor and as free.

    Attributes:
        robot_radius_m: radius of the circle that holds the robot.
        min_height_m, max_height_m: what lies between these heights above the base is an obstacle.
        max_range_m: depth readings beyond this say nothing, and no place is farther from the camera.
    """

    robot_radius_m: float
    min_height_m: float
    max_height_m: float
    max_range_m: float


def place_of_pixel(goal: PixelGoal, frame: Frame, rules: PixelGoalRules) -> PlaceGoal | PlaceRefusal:
    """Where the robot shall stand so that it is where the pixel points.

    Args:
        goal: in the picture of ``frame``.
        frame: the picture with its depth, camera and poses; without depth the floor along the ray counts.

    Raises:
        ValueError: the goal is of another frame.
    """
    raise NotImplementedError
