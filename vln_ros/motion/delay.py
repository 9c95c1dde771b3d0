"""Measures how late a base obeys, from what it was told and what its odometry shows."""

from __future__ import annotations

from collections import deque

import numpy as np

from vln_ros.datatypes import Pose, Velocity, wrap_angle

_KEPT_S = 40.0
_LEAST_S = 10.0
"""Of driving."""
_LONGEST_S = 1.0
_LEAST_CORRELATION = 0.5
_RADIUS_M = 0.5
"""A turn counts as the way of a point this far from the axis."""


class DelayMeter:
    """The shift in time at which the velocities sent explain the odometry's motion best.

    Args:
        period_s: between two calls of :meth:`add`.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last: Pose | None = None
        self._sent: deque[tuple[float, float]] = deque(maxlen=round(_KEPT_S / period_s))
        self._driven: deque[tuple[float, float]] = deque(maxlen=round(_KEPT_S / period_s))

    def clear(self) -> None:
        """The odometry no longer continues what it said before."""
        self._last = None
        self._sent.clear()
        self._driven.clear()

    def add(self, sent: Velocity, pose: Pose) -> None:
        """One control period: what is sent in it, and the odometry at its beginning."""
        last, self._last = self._last, pose
        if last is not None:
            ahead = last.inverse() @ pose
            turned_rad = wrap_angle(ahead.yaw_rad)
            self._driven.append((float(ahead.position[0]) / self._period_s, turned_rad / self._period_s))
            self._sent.append((sent.linear_m_s, sent.angular_rad_s))

    def delay_s(self) -> float | None:
        """None until it has driven long enough, or where it does not do what it was told."""
        periods = round(_LONGEST_S / self._period_s)
        sent = np.array(self._sent).reshape(-1, 2) * (1.0, _RADIUS_M)
        driven = np.array(self._driven).reshape(-1, 2) * (1.0, _RADIUS_M)
        if np.count_nonzero(sent.any(axis=1)) < _LEAST_S / self._period_s:
            return None
        # Element i of both is of one period, so the way in it was sent one element before, and the delay.
        told = sent[: len(sent) - periods - 1]
        fits = np.array([np.sum(told * driven[k : k + len(told)]) for k in range(1, periods + 2)])
        best = int(np.argmax(fits))
        shown = driven[best + 1 : best + 1 + len(told)]
        size = float(np.linalg.norm(told) * np.linalg.norm(shown))
        if size == 0.0 or fits[best] / size < _LEAST_CORRELATION:
            return None
        between = 0.0
        if 0 < best < periods:
            before, top, after = fits[best - 1 : best + 2]
            between = 0.5 * (before - after) / (before - 2.0 * top + after)
        return float((best + between) * self._period_s)
