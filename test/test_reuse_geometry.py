"""Correspondences against the embedded world's ground truth, and against a slow reference."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.reuse.geometry import Fate, TokenGrid, correspond, jumped, refusal, token_anchors
from vln_ros.reuse.refusal import Refusal
from vln_ros.sim.embedded import Scene
from vln_ros.sim.flat import AGENT_RADIUS_M, scene_id

TOLERANCE = 0.05


def frame_of(depth_m, optical=None, index=0):
    height, width = depth_m.shape
    camera = CameraModel.from_hfov(width, height, math.radians(79))
    optical = optical or Pose.identity()
    rgb = np.zeros((height, width, 3), np.uint8)
    return Frame(index, index, rgb, depth_m.astype(np.float32), camera, optical, optical)


def first_hits(scene, origins, ways):
    """Distance along each ray, in lengths of its direction, by the renderer's own scene."""
    hits = scene.renderer._scene.run(
        np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(ways, np.float32), output=1
    )
    return np.where(hits["primID"] < 0, np.inf, hits["tfar"].astype(np.float64))


@pytest.mark.parametrize(
    ("seed", "pitch_down_deg", "spread_m"), [(0, 0, 0.3), (1, 15, 0.8), (2, -10, 2.0), (3, 25, 3.0)]
)
def test_against_the_rays_of_the_embedded_world(seed, pitch_down_deg, spread_m):
    """Within half a token, and nothing accepted that a wall or an object hides from the source."""
    grid = TokenGrid(17, 23)
    camera = CameraModel.from_hfov(320, 240, math.radians(79))
    mount = base_from_optical(0.05, 0.02, 1.25, pitch_down_rad=math.radians(pitch_down_deg))
    scene = Scene(scene_id(seed), AGENT_RADIUS_M)
    rng = np.random.default_rng(seed)
    checked = occluded = 0

    def look(index, x_m, y_m, yaw_rad):
        base = Pose.planar(x_m, y_m, yaw_rad)
        rgb, depth_m = scene.renderer.render(camera, base @ mount)
        return Frame(index, index, rgb, depth_m, camera, base, base @ mount)

    for k in range(8):
        x0, y0, x1, y1 = scene.flat.rooms[k % len(scene.flat.rooms)].inner
        start = scene.walkable.nearest(rng.uniform((x0, y0), (x1, y1)))
        end = scene.walkable.nearest(start + rng.normal(0.0, spread_m, 2))
        yaw = rng.uniform(-3.0, 3.0)
        old, new = look(0, *start, yaw), look(1, *end, yaw + rng.normal(0.0, 0.3))
        found = correspond(new, [old], grid, depth_tolerance=TOLERANCE)
        tokens = np.flatnonzero(found.found)
        occluded += found.counts()[Fate.OCCLUDED]
        pixel = found.anchors.pixel[tokens]
        optical = [(pixel[:, 0] - camera.cx) / camera.fx, (pixel[:, 1] - camera.cy) / camera.fy]
        ways = np.stack([*optical, np.ones(len(tokens))], 1) @ new.odom_from_optical.rotation.T
        eye = np.broadcast_to(new.odom_from_optical.position, ways.shape)
        points = eye + ways * first_hits(scene, eye, ways)[:, None]
        seen = old.odom_from_optical.inverse().transform(points)
        lens, middle = np.array([camera.fx, camera.fy]), np.array([camera.cx, camera.cy])
        there = lens * seen[:, :2] / seen[:, 2:] + middle
        true = grid.middles()[tokens] + (there - pixel) * grid.per_pixel(camera)
        said = grid.middles()[found.token[tokens]] + found.offset[tokens]
        assert (np.hypot(*(true - said).T) <= 0.5).mean() >= 0.99 if len(tokens) else True
        old_eye = np.broadcast_to(old.odom_from_optical.position, points.shape)
        assert (first_hits(scene, old_eye, points - old_eye) > 1.0 - 2 * TOLERANCE).all()
        checked += len(tokens)
    assert checked > 90
    assert occluded > 0


def slowly(frame, source, grid):
    """One token after the other, in Python numbers: source token or None, for one source."""
    camera, result = frame.camera, []
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
def test_equals_one_token_after_the_other(seed, move, holes):
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


def test_of_several_sources_the_least_displaced_one():
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


def test_what_was_not_there_or_is_hidden_is_not_found():
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


def test_a_wrong_scale_shows_in_the_ratio():
    grid, depth = TokenGrid(6, 8), np.full((48, 64), 3.0)
    ahead = Pose(np.array([0.0, 0.0, 0.5]), np.array([0.0, 0.0, 0.0, 1.0]))
    for scale, expected in ((1.0, 1.0), (2.0, 6.0 / 5.5), (0.5, 1.5 / 1.75)):
        new = frame_of((depth - 0.5) * scale, ahead)
        (ratio,) = correspond(new, [frame_of(depth * scale)], grid, depth_tolerance=0.05).depth_ratio
        assert ratio == pytest.approx(expected, rel=1e-5)


def test_refusals():
    grid, frame = TokenGrid(6, 8), frame_of(np.full((48, 64), 3.0))
    blind = replace(frame, depth_m=None)
    zoomed = replace(frame, camera=CameraModel.from_hfov(64, 48, 1.0))
    assert refusal(frame, frame) is None
    assert refusal(frame, blind) is refusal(blind, frame) is Refusal.NO_DEPTH
    assert refusal(frame, zoomed) is Refusal.CAMERA_CHANGED
    with pytest.raises(ValueError, match="camera or resolution"):
        correspond(frame, [zoomed], grid, depth_tolerance=0.05)
    with pytest.raises(ValueError, match="no depth"):
        correspond(blind, [], grid, depth_tolerance=0.05)
    with pytest.raises(ValueError, match="depth_tolerance"):
        correspond(frame, [], grid, depth_tolerance=0.0)
    with pytest.raises(ValueError, match="rows and columns"):
        TokenGrid(0, 3)
    assert jumped(Pose.identity(), Pose.planar(2.0, 0.0, 0.0), 1.0, 1.0)
    assert jumped(Pose.identity(), Pose.planar(0.0, 0.0, 1.5), 1.0, 1.0)
    assert not jumped(Pose.identity(), Pose.planar(0.5, 0.0, -0.9), 1.0, 1.0)
