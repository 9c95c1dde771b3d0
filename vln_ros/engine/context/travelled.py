"""Counts the primitives between two frames, as the executor reports them or by odometry."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Action, Frame, Pose, wrap_angle
from vln_ros.geometry.frame_checks import clock_went_back

_SLACK = 1e-3
"""Of a primitive: so much may be missing, or rounding would decide."""


@dataclass(frozen=True)
class _Place:
    stamp_ns: int
    odom_from_base: Pose


class TravelledWay:
    """Goes along with the frames and says which of them show something new.

    Where primitives are reported (:attr:`stamps_ns`), those that follow one. Where they are not, those
    nearest to the end of each one that the odometry shows: a way of ``forward_m``, a turn of ``turn_rad``,
    or parts of both. Frames more than half a primitive apart all count. Odometry that stands still shows no
    way, so nothing new is seen then.

    Args:
        forward_m, turn_rad: what one primitive does; see :meth:`of`.
    """

    def __init__(self, forward_m: float, turn_rad: float) -> None:
        self._forward_m, self._turn_rad = forward_m, turn_rad
        self.stamps_ns: Sequence[int] | None = None
        """When primitives were completed in this run, increasing; None where nobody reports."""
        self.begin()

    @staticmethod
    def of(actions: Iterable[Action]) -> TravelledWay:
        """By the smallest way and the smallest turn of ``actions``; a kind that is not there never counts."""
        every = list(actions)
        forward_m = min((a.forward_m for a in every if a.forward_m > 0.0), default=math.inf)
        turn_rad = min((abs(a.turn_rad) for a in every if a.turn_rad != 0.0), default=math.inf)
        return TravelledWay(forward_m, turn_rad)

    def begin(self) -> None:
        """No frame yet."""
        self._kept: _Place | None = None
        self._newest: _Place | None = None
        self._apart = 0.0
        self._over = 0.0

    @property
    def is_step(self) -> bool:
        """Has the robot completed a primitive between the last such frame and the newest one?

        The first frame is one; so is the first after the clock was set back.
        """
        kept, newest = self._kept, self._newest
        if newest is None:
            return False
        if kept is None or clock_went_back(kept.stamp_ns, newest.stamp_ns):
            return True
        if self.stamps_ns is not None:
            return bisect_right(self.stamps_ns, newest.stamp_ns) > bisect_right(self.stamps_ns, kept.stamp_ns)
        if self._apart >= 0.5:
            return True
        return self._primitives(kept, newest) + self._over >= 1.0 - self._apart / 2 - _SLACK

    def go_on(self, frame: Frame) -> None:
        """The next frame."""
        place = _Place(frame.stamp_ns, frame.odom_from_base)
        if self.is_step:
            whole = 0.0
            if self._kept is not None and self._newest is not None and self._apart < 0.5:
                whole = self._primitives(self._kept, self._newest) + self._over
            # What it went too far, or not far enough, counts for the next: they stay as many as primitives.
            self._over = whole - round(whole)
            self._kept = self._newest
        self._apart = 0.0 if self._newest is None else self._primitives(self._newest, place)
        self._newest = place

    def _primitives(self, since: _Place, until: _Place) -> float:
        a, b = since.odom_from_base, until.odom_from_base
        way_m = float(np.linalg.norm(b.position - a.position))
        return way_m / self._forward_m + abs(wrap_angle(b.yaw_rad - a.yaw_rad)) / self._turn_rad
