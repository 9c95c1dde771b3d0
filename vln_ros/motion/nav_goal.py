"""Watches over a goal that somebody else drives to: where to, when reached, when given up. No ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vln_ros.config import Nav2Config, PlaceConfig
from vln_ros.datatypes import ActionChunk, Pose, apply_action, wrap_angle

_MOVED_M, _MOVED_RAD = 0.05, math.radians(3.0)
"""A robot that has moved less stands."""
_QUEUE_WITHIN_M = 0.1
"""Of the end of a queue: half a primitive would be too far."""


class GoalEnd(Enum):
    """What became of a goal, in the words of the counters."""

    REACHED = "goals reached"
    STUCK = "goals given up: the robot stands"
    FAILED = "goals that Nav2 gave up"
    NOT_ACCEPTED = "goals that nobody took"


@dataclass(frozen=True, kw_only=True)
class NavGoal:
    """One goal.

    Attributes:
        chunk: the answer that it comes from.
        pose: where the base shall be, in the odometry frame.
        within_m: it is reached when the base is nearer.
        heading: its yaw counts, too.
    """

    chunk: ActionChunk
    pose: Pose
    within_m: float
    heading: bool

    @staticmethod
    def of(chunk: ActionChunk, pose: Pose, config: PlaceConfig) -> NavGoal | None:
        """The goal of an answer given at ``pose``; None where it moves nothing.

        A place is approached from where the robot is, so it shall look there. A queue is one goal: where all
        its actions lead.
        """
        if (place := chunk.place) is not None:
            x_m, y_m, _ = pose.position
            away = place.distance_m(pose) > _QUEUE_WITHIN_M
            yaw = math.atan2(place.y_m - y_m, place.x_m - x_m) if away else pose.yaw_rad
            goal = Pose.planar(place.x_m, place.y_m, yaw)
            return NavGoal(chunk=chunk, pose=goal, within_m=config.reached_within_m, heading=False)
        moves = [action for action in chunk.actions if not action.stop]
        if not moves:
            return None
        end = pose
        for action in moves:
            end = apply_action(end, action)
        return NavGoal(chunk=chunk, pose=end, within_m=_QUEUE_WITHIN_M, heading=True)


class GoalWatch:
    """Judges by the robot's own poses; what Nav2 says of its goal comes on top. One thread at a time.

    Args:
        config: when a robot that stands is stuck, and how exactly it must look where a queue leads.
    """

    def __init__(self, config: Nav2Config) -> None:
        self._config = config
        self.goal: NavGoal | None = None
        self._moved: tuple[Pose, float] | None = None

    def begin(self, goal: NavGoal) -> None:
        """From now on this one."""
        self.goal = goal
        self._moved = None

    def drop(self) -> None:
        """No goal."""
        self.goal = None

    def at(self, pose: Pose, now_s: float) -> GoalEnd | None:
        """The robot is there now: is the goal reached, or the robot stuck? ``now_s`` is of a steady clock."""
        goal = self.goal
        if goal is None:
            return None
        off_m = float(np.linalg.norm(pose.position[:2] - goal.pose.position[:2]))
        off_rad = abs(wrap_angle(pose.yaw_rad - goal.pose.yaw_rad))
        tolerance_rad = math.radians(self._config.heading_tolerance_deg)
        if off_m <= goal.within_m and (not goal.heading or off_rad <= tolerance_rad):
            return GoalEnd.REACHED
        if self._moved is None or _apart(self._moved[0], pose):
            self._moved = pose, now_s
        return GoalEnd.STUCK if now_s - self._moved[1] > self._config.stuck_s else None


def _apart(a: Pose, b: Pose) -> bool:
    moved_m = float(np.linalg.norm(a.position[:2] - b.position[:2]))
    return moved_m > _MOVED_M or abs(wrap_angle(a.yaw_rad - b.yaw_rad)) > _MOVED_RAD
