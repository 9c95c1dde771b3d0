"""Watches whether a run gets anywhere: turning in place, to and fro, stuck. Pure, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Action, ActionKind, Float64Array, Pose, wrap_angle

STILL_M, STILL_RAD = 0.05, math.radians(5.0)
"""Who has moved and turned less than this between two decisions has not moved."""
SAME_PLACE_M, AWAY_M = 0.3, 0.75
"""A place is come back to when the robot is within the first of it after it was beyond the second."""
_TURNS = (ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT)


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """After how many of each a run is given up; 0 for never.

    Attributes:
        turns_in_place: completed turns in a row, without a forward action between them.
        to_and_fro: changes between left and right in a row, without a forward action between them; or times
            that the robot came back to where it had been asked before.
        stuck: decisions in a row between which the robot has neither moved nor turned.
    """

    turns_in_place: int = 0
    to_and_fro: int = 0
    stuck: int = 0

    def __post_init__(self) -> None:
        for name in ("turns_in_place", "to_and_fro", "stuck"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0, which is off")


class ProgressGuards:
    """Counts since :meth:`begin`; :attr:`reason` says when it is enough.

    Args:
        limits: they do not change in a run.
    """

    def __init__(self, limits: GuardLimits) -> None:
        self.limits = limits
        self.tripped: dict[str, int] = {}
        """How often each guard has ended a run, since this was made; the counters' names."""
        self.begin()

    def begin(self) -> None:
        """A new run."""
        self._turns = self._reversals = self._still = self._returns = 0
        self._turned: ActionKind | None = None
        self._pose: Pose | None = None
        self._asked: list[Float64Array] = []
        self._left: list[bool] = []
        self.reason: str | None = None
        """Why the run is to be given up; None while it gets on."""

    def completed(self, action: Action) -> None:
        """The robot has completed a primitive."""
        kind = action.kind
        if kind in _TURNS:
            self._turns += 1
            self._reversals += self._turned is not None and kind is not self._turned
            self._turned = kind
        elif kind is ActionKind.FORWARD:
            self._turns = self._reversals = 0
            self._turned = None
        self._judge("turns_in_place", self._turns, "turning in place: {} turns without a way between them")
        self._judge("to_and_fro", self._reversals, "turning to and fro: {} times without a way between them")

    def asked(self, pose: Pose) -> None:
        """The model is to be asked about what is seen from ``pose``, the base in the odometry frame."""
        last, self._pose = self._pose, pose
        if last is not None:
            moved_m = float(np.hypot(*(pose.position - last.position)[:2]))
            turned = abs(wrap_angle(pose.yaw_rad - last.yaw_rad))
            self._still = self._still + 1 if moved_m < STILL_M and turned < STILL_RAD else 0
        self._judge("stuck", self._still, "stuck: {} decisions without having moved")
        self._come_back(pose.position[:2])
        self._judge("to_and_fro", self._returns, "going to and fro: {} times back where it was asked before")

    def _come_back(self, place: Float64Array) -> None:
        if self.limits.to_and_fro == 0:
            return
        back = None
        for index, known in enumerate(self._asked):
            distance_m = float(np.hypot(*(place - known)))
            if distance_m > AWAY_M:
                self._left[index] = True
            elif distance_m < SAME_PLACE_M:
                back = index
        if back is None:
            self._asked.append(place)
            self._left.append(False)
        elif self._left[back]:
            self._returns += 1
            self._left = [False] * len(self._left)

    def _judge(self, name: str, count: int, words: str) -> None:
        most = getattr(self.limits, name)
        if most and count >= most and self.reason is None:
            self.reason = words.format(count)
            self.tripped[name] = self.tripped.get(name, 0) + 1
