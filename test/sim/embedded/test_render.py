"""Pictures and depth against a ray caster of a few lines."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from poses import standing

from vln_ros.axes import base_from_optical
from vln_ros.cli.doctor import command as doctor
from vln_ros.config import ConfigError, WorldConfig
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, generate_flat, scene_id
from vln_ros.sim.embedded.mesh import Part, SceneMesh, build_mesh
from vln_ros.sim.embedded.render import Renderer, mip_levels
from vln_ros.sim.embedded.world import EmbeddedWorld, Scene
from vln_ros.sim.worlds import open_world


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(scene_id(2), AGENT_RADIUS_M)


def slow_depth(mesh: SceneMesh, camera: CameraModel, world_from_optical: Pose, u: int, v: int) -> float:
    """Planar depth of the pixel centre (u, v) by intersecting the ray with every triangle, float64."""
    ray = np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0])
    d, o = world_from_optical.rotation @ ray, world_from_optical.position
    a, b, c = mesh.triangles[:, 0], mesh.triangles[:, 1], mesh.triangles[:, 2]
    h = np.cross(d, c - a)
    det = ((b - a) * h).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = ((o - a) * h).sum(1) / det
        q = np.cross(o - a, b - a)
        t = (q @ d) / det
        r = ((c - a) * q).sum(1) / det
        hit = (s >= 0) & (t >= 0) & (s + t <= 1) & (r > 0)
    return r[hit].min() if hit.any() else 0.0


@pytest.mark.parametrize("pitch_deg", [0.0, 20.0, -35.0])
def test_depth_is_planar_and_exact_at_pixel_centres(scene: Scene, pitch_deg: float) -> None:
    camera = CameraModel(97, 61, 60.0, 75.0, 40.0, 35.0)  # nothing symmetric
    rng = np.random.default_rng(int(pitch_deg) + 90)
    extrinsics = base_from_optical(0.05, 0.02, 1.1, pitch_down_rad=math.radians(pitch_deg))
    wrong = 0
    for room in scene.flat.rooms[:4]:
        x0, y0, x1, y1 = room.inner
        place = scene.walkable.nearest(np.array([(x0 + x1) / 2, (y0 + y1) / 2]))
        pose = standing(place, rng.uniform(-3, 3)) @ extrinsics
        _, depth = scene.renderer.render(camera, pose)
        for u, v in rng.integers((97, 61), size=(40, 2)):
            wrong += abs(depth[v, u] - slow_depth(scene.mesh, camera, pose, u, v)) > 1e-4
    assert wrong <= 1  # a ray along an edge may fall on either side of it


def test_axis_of_the_camera_hits_what_is_straight_ahead() -> None:
    """A wall one metre ahead, two colours left and right: sides are not swapped, x/y/z are right."""
    left = [[(1, 0, -5), (1, 5, -5), (1, 5, 5)], [(1, 0, -5), (1, 5, 5), (1, 0, 5)]]
    triangles = np.array(left + [[(x, y - 5, z) for x, y, z in t] for t in left], float)
    materials = tuple(np.array(c, np.uint8).reshape(1, 1, 3) for c in ((255, 0, 0), (0, 0, 255)))
    mesh = SceneMesh(
        triangles, np.zeros((4, 3, 2)), np.array([0, 0, 1, 1]), materials, (Part("w", None, 0, 0, 4),)
    )
    camera = CameraModel.from_hfov(40, 30, math.radians(90))
    rgb, depth = Renderer(mesh).render(camera, base_from_optical(0.0, 0.0, 0.0))
    assert depth.dtype == np.float32
    assert rgb.dtype == np.uint8
    np.testing.assert_allclose(depth, 1.0, atol=1e-6)
    assert (rgb[:, :20, 0] > 100).all()
    assert (rgb[:, 20:, 2] > 100).all()
    assert not rgb[:, :20, 2].any()
    behind = Pose.planar(0, 0, math.pi) @ base_from_optical(0.0, 0.0, 0.0)
    rgb, depth = Renderer(mesh).render(camera, behind)
    assert not depth.any()
    assert not rgb.any()


def test_texels_of_every_level_are_the_rounded_mean_of_what_they_cover() -> None:
    texture = np.random.default_rng(3).integers(256, size=(512, 512, 3), dtype=np.uint8)
    levels = mip_levels(texture)
    assert [len(level) for level in levels] == [512, 256, 128, 64, 32, 16, 8]
    for level in levels:
        n = len(level)
        blocks = texture.reshape(n, 512 // n, n, 512 // n, 3).astype(np.float64)
        np.testing.assert_array_equal(level, blocks.mean((1, 3)).round())
    (plain,) = mip_levels(texture[:1, :1])
    np.testing.assert_array_equal(plain, texture[:1, :1])


def test_same_seed_same_pixels() -> None:
    camera = CameraModel.from_hfov(80, 60, 1.4)
    pictures = []
    for _ in range(2):
        world = EmbeddedWorld(camera, base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=0.2))
        world.load(scene_id(5))
        place = world.scene.walkable.nearest(np.array(world.scene.flat.size_m) / 2)
        shots = []
        for k in range(6):
            world.place(standing(place, k))
            shots.append(world.render())
        pictures.append(shots)
    for (rgb, depth), (rgb2, depth2) in zip(*pictures, strict=True):
        np.testing.assert_array_equal(rgb, rgb2)
        np.testing.assert_array_equal(depth, depth2)


def test_seen_from_inside_a_flat_is_closed(scene: Scene) -> None:
    camera = CameraModel.from_hfov(160, 120, math.radians(110))
    for k in range(8):
        room = scene.flat.rooms[k % len(scene.flat.rooms)].inner
        place = scene.walkable.nearest(np.array([(room[0] + room[2]) / 2, (room[1] + room[3]) / 2]))
        _, depth = scene.renderer.render(camera, standing(place, k) @ base_from_optical(0, 0, 1.25))
        assert depth.min() > 0.05
        assert depth.max() < math.hypot(*scene.flat.size_m)


def test_rooms_and_items_have_surfaces() -> None:
    flat = generate_flat(scene_id(8))
    mesh = build_mesh(flat)
    assert {p.item for p in mesh.parts} == {None, *range(len(flat.furniture))}
    for item in flat.furniture:
        ranges = [np.arange(p.first, p.last) for p in mesh.parts if p.item == item.number]
        corners = mesh.triangles[np.concatenate(ranges)].reshape(-1, 3)
        # What the robot bumps into is what it sees.
        bounds = [*corners[:, :2].min(0), *corners[:, :2].max(0)]
        np.testing.assert_allclose(bounds, item.footprint, atol=1e-6)
        assert corners[:, 2].min() >= -1e-9


def test_without_the_ray_caster_the_world_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = WorldConfig()
    open_world(config)
    monkeypatch.setitem(sys.modules, "embreex", None)  # makes every import of it fail
    monkeypatch.delitem(sys.modules, "embreex.rtcore_scene", raising=False)
    with pytest.raises(ConfigError, match=r"embreex.*aarch64.*Habitat"):
        open_world(config)
    (finding,) = [f for f in doctor.look_at_packages() if f.name == "embedded world"]
    assert finding.verdict == "warn" and "embreex" in finding.text
