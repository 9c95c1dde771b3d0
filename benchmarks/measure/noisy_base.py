"""Simulates a planar base with delay, slip and noisy odometry, to measure the controller with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Pose, Velocity


@dataclass(frozen=True)
class Disturbance:
    """What separates a base from an ideal one.

    Attributes:
        delay_s: from a command to its effect.
        slip: share of a commanded velocity that is lost, at most; drawn anew for each axis and second.
        noise_m, noise_rad: standard deviation of position (per axis) and heading in the odometry.
    """

    delay_s: float = 0.0
    slip: float = 0.0
    noise_m: float = 0.0
    noise_rad: float = 0.0


class DisturbedBase:
    """Integrates commanded velocities. Time passes by :meth:`advance` only.

    Args:
        disturbance: see there.
        seed: of everything random.
        step_s: of the integration; commands are delayed by whole steps.
    """

    def __init__(self, disturbance: Disturbance, seed: int, step_s: float = 0.01) -> None:
        self.pose = Pose.identity()
        self.time_s = 0.0
        self._moved = False
        self._d = disturbance
        self._random = np.random.default_rng(seed)
        self._step_s = step_s
        late = round(disturbance.delay_s / step_s)
        self._line: deque[Velocity] = deque([Velocity()] * (late + 1), maxlen=late + 1)
        self._grip = self._draw()
        self._next_draw_s = 1.0

    def _draw(self) -> tuple[float, float, float]:
        forward, side, turn = 1.0 - self._d.slip * self._random.random(3)
        return float(forward), float(side), float(turn)

    def odometry(self) -> Pose:
        """The pose as the base's sensors give it: exact until it has moved, for its frame begins there."""
        if not self._moved:
            return self.pose
        x, y, yaw = self._random.normal(0.0, 1.0, 3) * (self._d.noise_m, self._d.noise_m, self._d.noise_rad)
        return Pose.planar(float(self.pose.position[0] + x), float(self.pose.position[1] + y),
                           self.pose.yaw_rad + float(yaw))  # fmt: skip

    def advance(self, command: Velocity, duration_s: float) -> None:
        """Hold a command for a time, metres per second in the base frame."""
        for _ in range(round(duration_s / self._step_s)):
            self._line.append(command)
            v = self._line[0]
            self._moved |= v != Velocity()
            forward, side, turn = self._grip
            half = Pose.planar(0.0, 0.0, turn * v.angular_rad_s * self._step_s / 2.0)
            way = Pose.planar(forward * v.linear_m_s * self._step_s, side * v.lateral_m_s * self._step_s, 0.0)
            self.pose = self.pose @ half @ way @ half
            self.time_s += self._step_s
            if self.time_s >= self._next_draw_s:
                self._grip, self._next_draw_s = self._draw(), self._next_draw_s + 1.0
