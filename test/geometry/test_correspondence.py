"""Correspondences against the embedded world's ground truth, and against a slow reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure.frames import hold_against_rays, random_views
from vln_ros.datatypes import CameraModel, Float64Array, Frame, Pose
from vln_ros.geometry.correspondence import (
    Correspondence,
    Fate,
    TokenGrid,
    correspond,
    fallback_reason,
    token_anchors,
)
from vln_ros.geometry.fallback_reason import FallbackReason

TOLERANCE = 0.05


def frame_of(depth_m: Float64Array, optical: Pose | None = None, index: int = 0) -> Frame:
    height, width = depth_m.shape
    camera = CameraModel.from_hfov(width, height, math.radians(79))
    optical = optical or Pose.identity()
    rgb = np.zeros((height, width, 3), np.uint8)
    return Frame(index, index, rgb, depth_m.astype(np.float32), camera, optical, optical)


@pytest.mark.parametrize(
    ("seed", "pitch_down_deg", "spread_m"), [(0, 0, 0.3), (1, 15, 0.8), (2, -10, 2.0), (3, 25, 3.0)]
)
def test_against_the_rays_of_the_embedded_world(seed: int, pitch_down_deg: int, spread_m: float) -> None:
    """Within half a token, and nothing accepted that a wall or an object hides from the source."""
    camera = CameraModel.from_hfov(320, 240, math.radians(79))
    truths = []
    for view in random_views(
        seed, 8, camera, pitch_down_rad=math.radians(pitch_down_deg), spread_m=spread_m, spread_rad=0.3
    ):
        found = correspond(view.new, [view.old], TokenGrid(17, 23), depth_tolerance=TOLERANCE)
        truths.append(hold_against_rays(view, found))
    errors = np.concatenate([t.error for t in truths])
    assert len(errors) > 90
    assert (errors <= 0.5).mean() >= 0.99
    assert not any(t.hidden.any() for t in truths)
    assert sum(t.occluded for t in truths) > 0


def test_the_truth_finds_what_is_wrong() -> None:
    """Correspondences one token to the right are wrong, and those without an occlusion test are hidden."""
    camera = CameraModel.from_hfov(160, 120, math.radians(79))
    hidden = 0
    for view in random_views(0, 6, camera, pitch_down_rad=0.0, spread_m=1.0, spread_rad=0.3):
        found = correspond(view.new, [view.old], TokenGrid(9, 12), depth_tolerance=TOLERANCE)
        shifted = replace(found, offset=found.offset + np.array([1.0, 0.0]))
        assert hold_against_rays(view, shifted).error == pytest.approx(1.0, abs=1e-3)
        blind = replace(view.old, depth_m=np.zeros_like(view.old.depth_m))
        everywhere = through_walls(view.new, blind, found)
        hidden += int(hold_against_rays(view, everywhere).hidden.sum())
    assert hidden > 0


def through_walls(frame: Frame, source: Frame, found: Correspondence) -> Correspondence:
    """All tokens that the source's camera would show if nothing stood in the way."""
    camera = frame.camera
    z = found.anchors.depth_m
    lens, middle = np.array([camera.fx, camera.fy]), np.array([camera.cx, camera.cy])
    points = np.concatenate([(found.anchors.pixel - middle) / lens * z[:, None], z[:, None]], 1)
    seen = (source.odom_from_optical.inverse() @ frame.odom_from_optical).transform(points)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = lens * seen[:, :2] / seen[:, 2:] + middle
    inside = (
        (z > 0) & (seen[:, 2] > 0.05) & (pixel > 0).all(1) & (pixel < [camera.width, camera.height]).all(1)
    )
    return replace(found, source=np.where(inside, 0, -1), token=np.where(inside, 0, -1))


def slowly(frame: Frame, source: Frame, grid: TokenGrid) -> list[int | None]:
    """One token after the other, in Python numbers: source token or None, for one source."""
    camera = frame.camera
    result: list[int | None] = []
    assert frame.depth_m is not None and source.depth_m is not None
    anchors = token_anchors(frame.depth_m, grid, TOLERANCE)
    for token in range(grid.count):
        (u, v), z = anchors.pixel[token], anchors.depth_m[token]
        result.append(None)
        if z == 0.0:
            continue
        point = np.array([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z])
        x, y, z2 = (source.odom_from_optical.inverse() @ frame.odom_from_optical).transform(point)
        if z2 <= 0.05:
            continue
        u2, v2 = camera.fx * x / z2 + camera.cx, camera.fy * y / z2 + camera.cy
        if not (-0.5 <= u2 < camera.width - 0.5 and -0.5 <= v2 < camera.height - 0.5):
            continue
        near = []
        for row in (math.floor(v2), math.floor(v2) + 1):
            for column in (math.floor(u2), math.floor(u2) + 1):
                row_in = min(max(row, 0), camera.height - 1)
                column_in = min(max(column, 0), camera.width - 1)
                reading = float(source.depth_m[row_in, column_in])
                if reading > 0 and math.isfinite(reading):
                    near.append(reading)
        if any(r < z2 * (1 - TOLERANCE) for r in near) or not any(
            abs(r - z2) <= z2 * TOLERANCE for r in near
        ):
            continue
        column = token % grid.columns + 0.5 + (u2 - u) * grid.columns / camera.width
        row = token // grid.columns + 0.5 + (v2 - v) * grid.rows / camera.height
        if 0 <= column < grid.columns and 0 <= row < grid.rows:
            result[token] = math.floor(row) * grid.columns + math.floor(column)
    return result


MOVES = st.tuples(*[st.floats(-0.5, 0.5) for _ in range(4)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), MOVES, st.floats(0.0, 0.6))
def test_equals_one_token_after_the_other(seed: int, move: tuple[float, ...], holes: float) -> None:
    rng = np.random.default_rng(seed)
    grid = TokenGrid(4, 5)
    depths = []
    for _ in range(2):
        blocks = rng.choice([1.0, 1.03, 2.0, 4.0], (6, 8))
        depth = np.kron(blocks, np.ones((4, 4))) * rng.uniform(0.99, 1.01, (24, 32))
        depth[rng.random(depth.shape) < holes] = rng.choice([0.0, np.nan])
        depths.append(depth)
    pose = Pose.planar(move[0], move[1], move[2], move[3])
    old, new = frame_of(depths[0]), frame_of(depths[1], pose, 1)
    found = correspond(new, [old], grid, depth_tolerance=TOLERANCE)
    assert [t if s == 0 else None for s, t in zip(found.source, found.token, strict=True)] == slowly(
        new, old, grid
    )
    assert sum(found.counts().values()) == grid.count
    assert (np.abs(found.offset[found.found]) <= 0.5).all()
    assert np.isnan(found.offset[~found.found]).all()


def test_of_several_sources_the_least_displaced_one() -> None:
    grid = TokenGrid(6, 8)
    depth = np.full((48, 64), 2.0)
    per_token_m = 2.0 / frame_of(depth).camera.fx * 8
    new = frame_of(depth)
    beside = frame_of(depth, Pose.planar(0.4 * per_token_m, 0.0, 0.0), 1)
    whole = frame_of(depth, Pose.planar(per_token_m, 0.0, 0.0), 2)
    found = correspond(new, [beside, whole], grid, depth_tolerance=TOLERANCE)
    table = found.source.reshape(6, 8)
    assert (table[:, 1:] == 1).all()  # exactly on a token of the second
    assert (table[:, 0] != 1).all()  # which does not see the first column
    assert (found.token.reshape(6, 8)[:, 1:] == np.arange(48).reshape(6, 8)[:, :-1]).all()
    same = correspond(new, [new, new], grid, depth_tolerance=TOLERANCE)
    assert (same.source == 0).all()
    assert (same.token == np.arange(48)).all()
    assert np.allclose(same.offset, 0.0)
    assert same.depth_ratio == same.agreement == (1.0, 1.0)


def test_what_was_not_there_or_is_hidden_is_not_found() -> None:
    grid, far = TokenGrid(6, 8), np.full((48, 64), 3.0)
    near = far.copy()
    near[:, 32:] = 1.0
    appeared = correspond(frame_of(near), [frame_of(far)], grid, depth_tolerance=TOLERANCE)
    assert appeared.counts()[Fate.ABSENT] == 24
    hidden = correspond(frame_of(far), [frame_of(near)], grid, depth_tolerance=TOLERANCE)
    assert hidden.counts()[Fate.OCCLUDED] == 24
    assert hidden.counts()[Fate.FOUND] == 24
    unmeasured = np.zeros((48, 64))
    assert correspond(frame_of(unmeasured), [frame_of(far)], grid, depth_tolerance=0.05).counts()[
        Fate.HOLE
    ] == (grid.count)
    assert correspond(frame_of(far), [frame_of(unmeasured)], grid, depth_tolerance=0.05).counts()[
        Fate.NO_READING
    ] == (grid.count)


def test_a_wrong_scale_shows_in_the_ratio() -> None:
    grid, depth = TokenGrid(6, 8), np.full((48, 64), 3.0)
    ahead = Pose(np.array([0.0, 0.0, 0.5]), np.array([0.0, 0.0, 0.0, 1.0]))
    for scale, expected in ((1.0, 1.0), (2.0, 6.0 / 5.5), (0.5, 1.5 / 1.75)):
        new = frame_of((depth - 0.5) * scale, ahead)
        (ratio,) = correspond(new, [frame_of(depth * scale)], grid, depth_tolerance=0.05).depth_ratio
        assert ratio == pytest.approx(expected, rel=1e-5)


def test_refusals() -> None:
    grid, frame = TokenGrid(6, 8), frame_of(np.full((48, 64), 3.0))
    blind = replace(frame, depth_m=None)
    zoomed = replace(frame, camera=CameraModel.from_hfov(64, 48, 1.0))
    assert fallback_reason(frame, frame) is None
    assert fallback_reason(frame, blind) is fallback_reason(blind, frame) is FallbackReason.NO_DEPTH
    assert fallback_reason(frame, zoomed) is FallbackReason.CAMERA_CHANGED
    with pytest.raises(ValueError, match="camera or resolution"):
        correspond(frame, [zoomed], grid, depth_tolerance=0.05)
    with pytest.raises(ValueError, match="no depth"):
        correspond(blind, [], grid, depth_tolerance=0.05)
    with pytest.raises(ValueError, match="depth_tolerance"):
        correspond(frame, [], grid, depth_tolerance=0.0)
    with pytest.raises(ValueError, match="rows and columns"):
        TokenGrid(0, 3)
