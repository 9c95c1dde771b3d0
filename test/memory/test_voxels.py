"""Voxels of tokens against rays of the embedded world, and both ways to use them against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poses import standing

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Float64Array, Frame, Pose
from vln_ros.geometry.correspondence import TokenGrid
from vln_ros.memory.voxels import UNKNOWN, Shown, Surface, latest_tokens, lay_out, new_tokens
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene

GRID = TokenGrid(6, 8)


def look(depth_m: Float64Array, optical: Pose, index: int = 0) -> Frame:
    depth = np.asarray(depth_m, np.float32)
    camera = CameraModel.from_hfov(depth.shape[1], depth.shape[0], math.radians(79))
    rgb = np.zeros((*depth.shape, 3), np.uint8)
    return Frame(index, index, rgb, depth, camera, optical, optical)


def layout(frame: Frame, epoch: int = 0, voxel_m: float = 0.25, max_depth_m: float = 10.0) -> Surface:
    return lay_out(frame, GRID, epoch=epoch, voxel_m=voxel_m, max_depth_m=max_depth_m, depth_tolerance=0.05)


def test_a_wall_has_the_same_voxels_from_wherever_it_is_seen() -> None:
    """A wall at x = 3.1 m of the odometry frame, from three poses, one of them tilted."""
    for x, y, pitch in ((0.0, 0.0, 0.0), (1.0, 0.3, 0.0), (0.5, -0.2, 0.3)):
        optical = Pose.planar(x, y, 0.0) @ base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=pitch)
        camera = CameraModel.from_hfov(160, 120, math.radians(79))
        v, u = np.mgrid[0:120, 0:160]
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
        forward = (rays @ optical.rotation.T)[..., 0]
        surface = layout(look((3.1 - x) / forward, optical))
        shift = 1 << 19
        cells = np.stack(
            [surface.voxel >> 40, surface.voxel >> 20 & (1 << 20) - 1, surface.voxel & (1 << 20) - 1]
        )
        assert (surface.voxel != UNKNOWN).all()
        assert (cells[0] - shift == 12).all()  # 3.1 m / 0.25 m
        assert len(np.unique(cells[1])) > 4
        assert len(np.unique(cells[2])) > 3


def test_voxels_hold_the_points_of_the_embedded_world() -> None:
    scene = Scene(scene_id(3), AGENT_RADIUS_M)
    camera = CameraModel.from_hfov(160, 120, math.radians(79))
    x0, y0, x1, y1 = scene.flat.rooms[0].inner
    base = standing(scene.walkable.nearest(np.array([(x0 + x1) / 2, (y0 + y1) / 2])), 0.4)
    optical = base @ base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=0.2)
    rgb, depth_m = scene.renderer.render(camera, optical)
    surface = layout(Frame(0, 0, rgb, depth_m, camera, base, optical))
    known = surface.voxel != UNKNOWN
    assert known.mean() > 0.8
    z = ((surface.voxel & (1 << 20) - 1) - (1 << 19))[known] * 0.25
    assert (z >= -0.26).all()
    assert (z <= 3.5).all()  # floor to ceiling
    x = ((surface.voxel >> 40) - (1 << 19))[known] * 0.25
    assert (x >= min(r.inner[0] for r in scene.flat.rooms) - 0.5).all()
    assert (x <= max(r.inner[2] for r in scene.flat.rooms) + 0.5).all()


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -1.0, 11.0])
def test_what_cannot_be_placed_has_no_voxel(bad: float) -> None:
    depth = np.full((120, 160), 2.0)
    depth[:60] = bad
    surface = layout(look(depth, Pose.identity()))
    upper = np.arange(GRID.count) < GRID.count // 2
    assert (surface.voxel[upper] == UNKNOWN).all()
    assert (surface.depth_m[upper] == 0).all()
    assert (surface.voxel[~upper] != UNKNOWN).all()
    far = Pose(np.array([1e6, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]))
    assert (layout(look(depth, far)).voxel == UNKNOWN).all()


def test_depth_is_needed() -> None:
    frame = look(np.ones((120, 160)), Pose.identity())
    with pytest.raises(ValueError, match="no depth"):
        layout(Frame(4, 0, frame.rgb, None, frame.camera, frame.odom_from_base, frame.odom_from_optical))


@st.composite
def streams(draw: st.DrawFn) -> list[Shown]:
    """A few frames of few voxels, some of their tokens gone already."""
    shown = []
    number, epoch = 0, 0
    for _ in range(draw(st.integers(1, 6))):
        n = draw(st.integers(1, 8))
        voxel = np.array(draw(st.lists(st.integers(-1, 5), min_size=n, max_size=n)), np.int64)
        depth = np.array(draw(st.lists(st.sampled_from([1.0, 1.4, 2.0, 5.0]), min_size=n, max_size=n)))
        cells = draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1).map(sorted))
        surface = Surface(number, epoch, voxel, np.where(voxel < 0, 0.0, depth))
        shown.append(Shown(surface, np.array(cells, np.int64)))
        number += draw(st.integers(1, 3))
        epoch += draw(st.sampled_from([0, 0, 0, 1]))
    return shown


def latest_slowly(shown: list[Shown], period: int, whole: int, share: float) -> list[list[bool]]:
    latest = {}
    for i, one in enumerate(shown):
        for k, voxel in enumerate(one.voxel):
            if voxel >= 0:
                latest[(one.surface.frame // period, one.surface.epoch, int(voxel))] = (i, k)
    masks = []
    for i, one in enumerate(shown):
        mask = []
        for k, voxel in enumerate(one.voxel):
            key = (one.surface.frame // period, one.surface.epoch, int(voxel))
            mask.append(bool(voxel < 0) or latest[key] == (i, k))
        if i >= len(shown) - whole:
            mask = [True] * len(mask)
        elif sum(mask) < share * len(one.surface.voxel):
            mask = [False] * len(mask)
        masks.append(mask)
    return masks


@settings(max_examples=200, deadline=None)
@given(streams(), st.sampled_from([1, 2, 4, 100]), st.integers(0, 3), st.sampled_from([0.001, 0.4, 1.0]))
def test_latest_tokens_equal_a_loop_over_all(
    shown: list[Shown], period: int, whole: int, share: float
) -> None:
    fast = latest_tokens(shown, period_frames=period, whole=whole, least_share=share)
    assert [mask.tolist() for mask in fast] == latest_slowly(shown, period, whole, share)


def new_slowly(surface: Surface, earlier: list[Shown], age: int, nearer: float, share: float) -> list[bool]:
    worst = []
    for voxel, depth in zip(surface.voxel, surface.depth_m, strict=True):
        best = math.inf
        for one in earlier:
            gap = surface.frame - one.surface.frame
            if one.surface.epoch != surface.epoch or not 0 <= gap <= age:
                continue
            for v, d in zip(one.voxel, one.depth_m, strict=True):
                if v == voxel >= 0:
                    best = min(best, d / depth)
        worst.append(best)
    new = [w > nearer for w in worst]
    while sum(new) < share * len(new):
        left = [i for i, n in enumerate(new) if not n]
        new[max(left, key=lambda i: (worst[i], -i))] = True
    return new


@settings(max_examples=200, deadline=None)
@given(
    streams(), st.sampled_from([0, 2, 100]), st.sampled_from([1.0, 1.5]), st.sampled_from([0.001, 0.5, 1.0])
)
def test_new_tokens_equal_a_loop_over_all(shown: list[Shown], age: int, nearer: float, share: float) -> None:
    *earlier, last = shown
    fast = new_tokens(last.surface, earlier, max_age_frames=age, nearer=nearer, least_share=share)
    assert fast.tolist() == new_slowly(last.surface, earlier, age, nearer, share)


def test_nothing_to_compare() -> None:
    assert latest_tokens([], period_frames=1, whole=1, least_share=0.1) == []
