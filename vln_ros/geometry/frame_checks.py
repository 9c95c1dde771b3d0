"""Checks a frame against the one before: a pose that jumped, a stamp that went back, a depth in a wrong unit.

The one place that judges it, for all who ask, with the limits of each side by side:

* odometry, by the time between two samples: the aligner, which interpolates across no jump, and the executor,
  which knows how fast its base can be, and stops it;
* frames, between which anything may lie, by distance: reuse and pruning, which do not compare what is before
  a jump with what is after it, by one set of options (:class:`vln_ros.config.FrameCheckConfig`);
* stamps: what is older than the newest is late; by more than its stream can be late, the clock was set back;
* depths: what no camera measures is in another unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.config import ExecutorConfig, FrameCheckConfig, SyncConfig
from vln_ros.datatypes import Frame, Pose, wrap_angle
from vln_ros.geometry.fallback_reason import FallbackReason

DepthM = npt.NDArray[np.float32]

NEAREST_OF_ANY_M = 0.05
"""No depth camera measures nearer: half of an image that does is metres taken for millimetres."""
_SMALLEST_OF_ANY_M = FrameCheckConfig.min_depth_m
"""In no image is everything nearer than this; the same."""
_FARTHEST_OF_ANY_M = 200.0
"""No depth camera measures farther: it is millimetres taken for metres."""
_LEAST_DEPTH_SHARE = 0.05
"""Of the pixels must have a reading."""
_STRIDE = 8
"""Every such row and column of an image is looked at."""


@dataclass(frozen=True, kw_only=True)
class MotionLimits:
    """How far a pose moves from one to the next at most: a step, and more with the time between them.

    Attributes:
        step_m, step_rad: whatever the time.
        speed_m_s, speed_rad_s: besides.
        heading_only: of turns, those about z count: a base that drives over a sill tilts.
    """

    step_m: float = 0.0
    step_rad: float = math.inf
    speed_m_s: float = 0.0
    speed_rad_s: float = 0.0
    heading_only: bool = False

    @classmethod
    def of_odometry(cls, config: SyncConfig) -> MotionLimits:
        """Of odometry whose base nobody knows: by speed."""
        return cls(speed_m_s=config.max_speed_m_s)

    @classmethod
    def of_base(cls, config: ExecutorConfig) -> MotionLimits:
        """Of the base that is driven: twice what it is told at most, and a slip."""
        return cls(
            step_m=config.safety.max_jump_m,
            step_rad=math.radians(config.safety.max_jump_deg),
            speed_m_s=2.0 * config.max_linear_m_s,
            speed_rad_s=2.0 * config.max_angular_rad_s,
            heading_only=True,
        )

    @classmethod
    def of_camera(cls, config: FrameCheckConfig) -> MotionLimits:
        """Of a camera between two frames, however long apart."""
        return cls(step_m=config.max_step_m, step_rad=math.radians(config.max_turn_deg))


def pose_jumped(before: Pose, after: Pose, limits: MotionLimits, between_s: float = 0.0) -> bool:
    """Did it move further than it can have?"""
    moved_m = float(np.linalg.norm(after.position - before.position))
    if moved_m > limits.step_m + limits.speed_m_s * between_s:
        return True
    if limits.step_rad == math.inf:
        return False
    if limits.heading_only:
        turned_rad = abs(wrap_angle(after.yaw_rad - before.yaw_rad))
    else:
        between = before.inverse() @ after
        turned_rad = 2.0 * math.acos(min(1.0, abs(float(between.orientation[3]))))
    return turned_rad > limits.step_rad + limits.speed_rad_s * between_s


def clock_went_back(before_ns: int, stamp_ns: int, late_ns: int = 0) -> bool:
    """Is a stamp older than the newest before it by more than ``late_ns``, so that the clock was reset?"""
    return before_ns - stamp_ns > late_ns


def motion_fault(frame: Frame, before: Frame, limits: MotionLimits) -> FallbackReason | None:
    """Why nothing is where it was in the frame before."""
    if clock_went_back(before.stamp_ns, frame.stamp_ns):
        return FallbackReason.CLOCK
    if pose_jumped(before.odom_from_optical, frame.odom_from_optical, limits):
        return FallbackReason.POSE_JUMP
    return None


def depth_fault(
    depth_m: DepthM | None, config: FrameCheckConfig, max_depth_m: float = math.inf
) -> FallbackReason | None:
    """Why a depth image ``[H, W]`` says nothing of places: hardly a reading, or their median is not between
    ``config.min_depth_m`` and ``max_depth_m``."""
    if depth_m is None:
        return FallbackReason.NO_DEPTH
    looked_at = depth_m[::_STRIDE, ::_STRIDE]
    said_m = looked_at[(looked_at > 0) & np.isfinite(looked_at)]
    if len(said_m) < _LEAST_DEPTH_SHARE * looked_at.size:
        return FallbackReason.NO_DEPTH
    return None if config.min_depth_m <= float(np.median(said_m)) <= max_depth_m else FallbackReason.BAD_DEPTH


def depth_unit_suspicion(encoding: str, depth_m: DepthM) -> str | None:
    """Why the unit of a depth image is hardly what its encoding says, or None.

    A suspicion to be counted and shown, not an error: nothing is corrected.

    Args:
        encoding: ``encoding`` of the Image or ``format`` of the CompressedImage.
        depth_m: what it was converted to.
    """
    largest_m = float(depth_m.max(initial=0.0))
    if encoding.startswith(("16UC1", "mono16")) and 0.0 < largest_m < _SMALLEST_OF_ANY_M:
        return "metres_in_16uc1"
    if encoding.startswith("32FC1") and largest_m > _FARTHEST_OF_ANY_M:
        return "millimetres_in_32fc1"
    return None
