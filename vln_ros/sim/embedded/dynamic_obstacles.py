"""Puts boxes before the robot and takes them away again, like people who step in."""

from __future__ import annotations

import numpy as np

from vln_ros.datatypes import Pose
from vln_ros.sim.embedded.world import Box, EmbeddedWorld

HALF_M = 0.15
HEIGHTS_M = (0.5, 1.0, 1.7)
_NEAREST_M, _FARTHEST_M = 0.55, 1.3
_STAYS_NS = 4_000_000_000
_PAUSE_NS = 3_000_000_000
_ASIDE_M = 0.15


class DynamicObstacles:
    """Puts one box at a time in front of the robot while it drives, and takes it away after four seconds.

    Args:
        world: gets the boxes; nothing else may put any.
        seed: of when, where and how high.
        count: how many in all.
    """

    def __init__(self, world: EmbeddedWorld, seed: int, count: int) -> None:
        self._world = world
        self._random = np.random.default_rng(seed)
        self._left = count
        self._since_ns: int | None = None
        self._next_ns: int | None = None
        self._touching = False
        self.put = 0
        self.contacts = 0
        """How often the robot has come to touch a box."""
        world.boxes = ()

    def step(self, stamp_ns: int, linear_m_s: float) -> bool:
        """To be called after every movement. True if a box has come or gone."""
        touching = self._world.touches_box
        self.contacts += touching and not self._touching
        self._touching = touching
        if self._since_ns is not None:
            if stamp_ns - self._since_ns > _STAYS_NS:
                self._world.boxes = ()
                self._since_ns, self._next_ns = None, stamp_ns + _PAUSE_NS
                return True
            return False
        if self._next_ns is None:
            self._next_ns = stamp_ns + _PAUSE_NS
        if self._left and linear_m_s > 0.1 and stamp_ns > self._next_ns:
            box = self._before(self._world.pose)
            if box is not None:
                self._world.boxes = (box,)
                self._since_ns = stamp_ns
                self._left -= 1
                self.put += 1
                return True
        return False

    def _before(self, pose: Pose) -> Box | None:
        """A box ahead; None where the wall is nearer."""
        ahead, aside = self._random.uniform(_NEAREST_M, _FARTHEST_M), self._random.uniform(-1, 1) * _ASIDE_M
        place = (pose @ Pose.planar(float(ahead), float(aside), 0.0)).position
        if not self._world.scene.walkable.visible(pose.position[None, :2], place[None, :2])[0]:
            return None
        return Box(float(place[0]), float(place[1]), HALF_M, float(self._random.choice(HEIGHTS_M)))
