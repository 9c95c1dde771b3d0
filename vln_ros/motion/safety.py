"""Names the faults that make a robot stand, and watches what must keep coming."""

from __future__ import annotations

import math
from enum import Enum

from vln_ros.config import ExecutorConfig


class Fault(Enum):
    """Why the robot stands. The value is what people read on /diagnostics."""

    NO_ODOMETRY = "no odometry"
    BAD_ODOMETRY = "odometry not usable"
    ODOMETRY_FRAME = "odometry of another frame"
    ODOMETRY_JUMP = "odometry jumped"
    NO_HEARTBEAT = "no navigator heartbeat"
    NO_FRAMES = "no frames at the navigator"
    NO_DEPTH = "no depth"
    BAD_DEPTH = "depth not usable"
    NO_CALIBRATION = "depth without calibration"
    DEPTH_BLIND = "depth says nothing"
    DEPTH_UNIT = "depth in a wrong unit"
    DEPTH_COVERED = "depth camera covered"
    DEPTH_ASIDE = "depth camera does not see the way"
    DEPTH_STILL = "depth stands still"
    NO_SCAN = "no scan"
    BAD_SCAN = "scan not usable"
    SCAN_BLIND = "scan says nothing"
    SCAN_ASIDE = "scan does not cover the way"
    SCAN_STILL = "scan stands still"
    TWO_NAVIGATORS = "two navigators"
    TWO_EXECUTORS = "two executors"
    NO_CLOCK = "the control clock stands"
    BAD_QUEUE = "queue not usable"
    OBSTACLE = "obstacle"
    BLOCKED = "blocked"
    PAUSED = "paused"


STANDING = frozenset({Fault.OBSTACLE, Fault.BLOCKED, Fault.BAD_QUEUE})
"""Over as soon as the robot stands: the next queue is judged on its own."""
DEPTH_CONTENT = frozenset(
    {
        Fault.BAD_DEPTH,
        Fault.NO_CALIBRATION,
        Fault.DEPTH_BLIND,
        Fault.DEPTH_UNIT,
        Fault.DEPTH_COVERED,
        Fault.DEPTH_ASIDE,
    }
)
"""Last until a depth image comes that says something."""
BLIND_WHEN_NEAR = frozenset({Fault.DEPTH_BLIND, Fault.DEPTH_COVERED})
"""What a sound depth camera says, too, where something is nearer than it can measure."""
SCAN_CONTENT = frozenset({Fault.BAD_SCAN, Fault.SCAN_BLIND, Fault.SCAN_ASIDE})
"""The same of scans."""
LATCHED = frozenset({Fault.ODOMETRY_JUMP})
"""Stay until somebody resumes, or tells a new instruction."""


class Watch:
    """The age of every stream, on a steady clock, and the faults that follow from it.

    A stream whose stamps stand still has stopped, however often its last message is repeated.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self.config = config
        self._last_s = dict.fromkeys(self._timeouts_s, -math.inf)
        self._stamps_ns: dict[Fault, int] = {}

    @property
    def _timeouts_s(self) -> dict[Fault, float]:
        safety = self.config.safety
        timeouts_s = {
            Fault.NO_ODOMETRY: safety.odometry_timeout_s,
            Fault.NO_HEARTBEAT: safety.heartbeat_timeout_s,
            Fault.NO_FRAMES: safety.frame_timeout_s,
        }
        if safety.uses_depth:
            timeouts_s[Fault.NO_DEPTH] = safety.obstacle_timeout_s
        if safety.uses_scan:
            timeouts_s[Fault.NO_SCAN] = safety.obstacle_timeout_s
        return timeouts_s

    def came(self, missing: Fault, stamp_ns: int, now_s: float) -> None:
        """Something came of the stream that would otherwise be ``missing``."""
        if stamp_ns != self._stamps_ns.get(missing):
            self._stamps_ns[missing] = stamp_ns
            self._last_s[missing] = now_s

    def beat(self, now_s: float) -> None:
        """A heartbeat: its coming counts, whatever it says."""
        self._last_s[Fault.NO_HEARTBEAT] = now_s

    def missing(self, now_s: float) -> list[Fault]:
        late = [fault for fault, limit_s in self._timeouts_s.items() if now_s - self._last_s[fault] > limit_s]
        if Fault.NO_HEARTBEAT in late and Fault.NO_FRAMES in late:
            late.remove(Fault.NO_FRAMES)  # only the navigator can tell
        return late

    def ages_s(self, now_s: float) -> dict[Fault, float]:
        """Time since the last message of each stream that is watched; inf before the first."""
        return {fault: now_s - last_s for fault, last_s in self._last_s.items()}
