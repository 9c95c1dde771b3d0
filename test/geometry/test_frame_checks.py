"""The one judgement of poses, stamps and units, and that nobody else judges them."""

from __future__ import annotations

import ast
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vln_ros
from vln_ros.config import (
    ExecutorConfig,
    FrameCheckConfig,
    PruneConfig,
    ReuseConfig,
    SafetyConfig,
    SyncConfig,
)
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.geometry.frame_checks import (
    MotionLimits,
    clock_went_back,
    depth_fault,
    motion_fault,
    pose_jumped,
)

HERE = Pose.identity()
STEP = MotionLimits(step_m=1.0, step_rad=1.0)


def tilted(pitch_rad: float, yaw_rad: float = 0.0) -> Pose:
    """In place, its x axis down by ``pitch_rad``, then turned about z."""
    down = Pose(np.zeros(3), np.array([0.0, math.sin(pitch_rad / 2), 0.0, math.cos(pitch_rad / 2)]))
    return Pose.planar(0.0, 0.0, yaw_rad) @ down


@pytest.mark.parametrize(
    ("after", "jumped"),
    [
        (Pose.planar(2.0, 0.0, 0.0), True),
        (Pose.planar(0.0, -1.01, 0.0), True),
        (Pose(np.array([0.0, 0.0, 1.5]), HERE.orientation), True),
        (Pose.planar(0.8, 0.8, 0.0), True),
        (Pose.planar(0.0, 0.0, 1.5), True),
        (Pose.planar(0.0, 0.0, -1.01), True),
        (Pose.planar(0.0, 0.0, math.pi), True),
        (tilted(1.2), True),
        (tilted(-0.8, 0.8), True),
        (Pose.planar(0.5, 0.0, -0.9), False),
        (Pose.planar(1.0, 0.0, 0.0), False),
        (tilted(0.9), False),
        (HERE, False),
    ],
)
def test_a_pose_that_moves_further_than_a_step_has_jumped(after: Pose, jumped: bool) -> None:
    assert pose_jumped(HERE, after, STEP) is jumped
    assert pose_jumped(after, HERE, STEP) is jumped
    there = Pose.planar(-40.0, 7.0, 3.0)  # wherever it is
    assert pose_jumped(there, there @ after, replace(STEP, step_m=1.0 + 1e-9)) is jumped


def test_with_time_it_may_move_further() -> None:
    limits = MotionLimits(step_m=0.2, step_rad=0.1, speed_m_s=1.0, speed_rad_s=2.0)
    for between_s in (0.0, 0.05, 1.0, 10.0):
        assert not pose_jumped(HERE, Pose.planar(0.199 + between_s, 0.0, 0.0), limits, between_s)
        assert pose_jumped(HERE, Pose.planar(0.201 + between_s, 0.0, 0.0), limits, between_s)
    assert not pose_jumped(HERE, Pose.planar(0.0, 0.0, 0.19), limits, 0.05)
    assert pose_jumped(HERE, Pose.planar(0.0, 0.0, 0.21), limits, 0.05)


def test_a_base_that_tilts_has_not_turned() -> None:
    heading = replace(STEP, step_rad=0.3, heading_only=True)
    assert not pose_jumped(HERE, tilted(0.5), heading)
    assert pose_jumped(HERE, tilted(0.5), replace(heading, heading_only=False))
    assert pose_jumped(HERE, tilted(0.5, 0.4), heading)
    across = Pose.planar(0.0, 0.0, math.pi - 0.1), Pose.planar(0.0, 0.0, 0.1 - math.pi)
    assert not pose_jumped(*across, heading)
    assert not pose_jumped(*across, replace(heading, heading_only=False))


def test_everybodys_limits_come_from_the_options() -> None:
    odometry = MotionLimits.of_odometry(SyncConfig(max_speed_m_s=3.0))
    assert not pose_jumped(HERE, Pose.planar(0.29, 0.0, math.pi), odometry, 0.1)
    assert pose_jumped(HERE, Pose.planar(0.31, 0.0, 0.0), odometry, 0.1)
    safety = SafetyConfig(max_jump_m=0.3, max_jump_deg=10.0)
    base = MotionLimits.of_base(ExecutorConfig(max_linear_m_s=0.5, max_angular_rad_s=1.0, safety=safety))
    assert not pose_jumped(HERE, Pose.planar(0.39, 0.0, math.radians(10.0) + 0.19), base, 0.1)
    assert pose_jumped(HERE, Pose.planar(0.41, 0.0, 0.0), base, 0.1)
    assert pose_jumped(HERE, Pose.planar(0.0, 0.0, math.radians(10.0) + 0.21), base, 0.1)
    camera = MotionLimits.of_camera(FrameCheckConfig(max_step_m=0.7, max_turn_deg=30.0))
    assert not pose_jumped(HERE, Pose.planar(0.69, 0.0, math.radians(29.0)), camera)
    assert pose_jumped(HERE, Pose.planar(0.71, 0.0, 0.0), camera)
    assert pose_jumped(HERE, Pose.planar(0.0, 0.0, math.radians(31.0)), camera)


def test_reuse_and_pruning_trust_the_same_frames() -> None:
    for f in fields(FrameCheckConfig):
        assert getattr(ReuseConfig(), f.name) == getattr(PruneConfig(), f.name)


@given(st.integers(0, 2**62), st.integers(0, 10**12), st.integers(0, 10**10))
def test_a_clock_that_went_back_is_told_from_a_late_message(
    newest_ns: int, back_ns: int, late_ns: int
) -> None:
    assert clock_went_back(newest_ns, newest_ns - back_ns, late_ns) is (back_ns > late_ns)
    assert not clock_went_back(newest_ns, newest_ns + back_ns, late_ns)
    assert clock_went_back(newest_ns, newest_ns - 1)
    assert not clock_went_back(newest_ns, newest_ns)


def frame(stamp_ns: int, optical: Pose) -> Frame:
    camera = CameraModel.from_hfov(16, 12, 1.4)
    return Frame(0, stamp_ns, np.zeros((12, 16, 3), np.uint8), None, camera, HERE, optical)


def test_of_a_frame_the_clock_is_looked_at_first_and_the_camera_counts() -> None:
    before = frame(100, HERE)
    away, tipped = Pose.planar(5.0, 0.0, 0.0), tilted(1.3)
    assert motion_fault(frame(200, HERE), before, STEP) is None
    assert motion_fault(frame(100, HERE), before, STEP) is None
    assert motion_fault(frame(99, HERE), before, STEP) is FallbackReason.CLOCK
    assert motion_fault(frame(99, away), before, STEP) is FallbackReason.CLOCK
    assert motion_fault(frame(200, away), before, STEP) is FallbackReason.POSE_JUMP
    assert motion_fault(frame(200, tipped), before, STEP) is FallbackReason.POSE_JUMP


ROOM_M = np.random.default_rng(0).uniform(0.4, 6.0, (48, 64)).astype(np.float32)


def with_readings(share: float) -> np.ndarray:
    """That share of the pixels that are looked at, the rest holes."""
    depth_m = np.zeros((80, 160), np.float32)
    seen = depth_m[::8, ::8]
    rows, columns = np.unravel_index(np.arange(round(share * seen.size)), seen.shape)
    depth_m[rows * 8, columns * 8] = 2.0
    return depth_m


@pytest.mark.parametrize(
    ("depth_m", "fault"),
    [
        (None, FallbackReason.NO_DEPTH),
        (np.zeros((48, 64), np.float32), FallbackReason.NO_DEPTH),
        (np.full((48, 64), np.nan, np.float32), FallbackReason.NO_DEPTH),
        (np.full((48, 64), np.inf, np.float32), FallbackReason.NO_DEPTH),
        (np.full((48, 64), -1.0, np.float32), FallbackReason.NO_DEPTH),
        (with_readings(0.04), FallbackReason.NO_DEPTH),
        (with_readings(0.06), None),
        (ROOM_M, None),
        (np.where(ROOM_M > 2.0, ROOM_M, np.float32(np.nan)), None),
        (np.where(ROOM_M > 2.0, ROOM_M, np.float32(0.0)), None),
        (ROOM_M * np.float32(1000.0), FallbackReason.BAD_DEPTH),
        (ROOM_M * np.float32(100.0), FallbackReason.BAD_DEPTH),
        (ROOM_M * np.float32(0.01), FallbackReason.BAD_DEPTH),
        (ROOM_M * np.float32(0.001), FallbackReason.BAD_DEPTH),
    ],
)
def test_a_depth_image_says_something_in_metres(
    depth_m: np.ndarray | None, fault: FallbackReason | None
) -> None:
    config = ReuseConfig()
    assert depth_fault(depth_m, config, config.max_depth_m) is fault


def test_without_a_farthest_depth_only_what_is_too_near_is_in_a_wrong_unit() -> None:
    assert depth_fault(ROOM_M * np.float32(1000.0), PruneConfig()) is None
    assert depth_fault(ROOM_M * np.float32(0.001), PruneConfig()) is FallbackReason.BAD_DEPTH
    assert depth_fault(ROOM_M * np.float32(0.001), PruneConfig(min_depth_m=0.0)) is None


LIMITS = {"max_step_m", "max_turn_deg", "max_jump_m", "max_jump_deg", "max_speed_m_s"}


def test_nobody_else_judges() -> None:
    """The options that say what a jump is are read here and nowhere else. What standing is has options of its
    own, and asks here."""
    readers = {
        str(path.relative_to(Path(vln_ros.__file__).parent))
        for path in Path(vln_ros.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in LIMITS
    }
    assert readers - {"geometry/standstill.py"} == {"geometry/frame_checks.py"}
