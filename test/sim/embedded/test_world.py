"""The embedded world behind the World protocol: placing, stepping, driving, scenes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poses import standing

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import STOP, Action, CameraModel, Float64Array, Pose
from vln_ros.sim.embedded.flat import scene_id
from vln_ros.sim.embedded.world import EmbeddedWorld, SceneCache


def make_world(seed: int = 3, cached_scenes: int = 2) -> EmbeddedWorld:
    camera = CameraModel.from_hfov(32, 24, 1.3)
    world = EmbeddedWorld(camera, base_from_optical(0, 0, 1.25), cached_scenes=cached_scenes)
    world.load(scene_id(seed))
    return world


def open_place(world: EmbeddedWorld, clearance: float = 0.8) -> Float64Array:
    """A free place with so much room around it."""
    rng = np.random.default_rng(0)
    while True:
        p = rng.random(2) * world.scene.flat.size_m
        ring = p + clearance * np.array([(math.cos(a), math.sin(a)) for a in np.linspace(0, 6.2, 24)])
        if world.scene.walkable.visible(np.broadcast_to(p, ring.shape), ring).all():
            return p


WORLD = make_world()
PLACE = open_place(WORLD)


def test_steps_do_what_they_say_in_the_open() -> None:
    world = WORLD
    world.place(standing(PLACE, 0.5))
    motion = world.step(Action(forward_m=0.25))
    assert motion.distance_m == pytest.approx(0.25)
    assert not motion.collided
    np.testing.assert_allclose(
        world.pose.position, [PLACE[0] + 0.25 * math.cos(0.5), PLACE[1] + 0.25 * math.sin(0.5), 0.0]
    )
    assert world.step(Action(turn_rad=math.radians(15))).distance_m == 0.0
    assert world.pose.yaw_rad == pytest.approx(0.5 + math.radians(15))
    before = world.pose
    world.step(STOP)
    assert world.pose == before


@pytest.mark.parametrize(
    ("v", "w", "t"), [(0.5, 0.0, 1.0), (0.4, 0.8, 2.0), (-0.3, 0.5, 1.0), (0.0, 1.0, 3.0)]
)
def test_drive_follows_the_exact_arc(v: float, w: float, t: float) -> None:
    WORLD.place(standing(PLACE, 0.3))
    motion = WORLD.drive(v, w, t)
    if w:
        r = v / w
        dx = r * (math.sin(0.3 + w * t) - math.sin(0.3))
        dy = -r * (math.cos(0.3 + w * t) - math.cos(0.3))
    else:
        dx, dy = v * t * math.cos(0.3), v * t * math.sin(0.3)
    np.testing.assert_allclose(WORLD.pose.position[:2], PLACE + np.array([dx, dy]), atol=1e-9)
    assert math.remainder(WORLD.pose.yaw_rad - 0.3 - w * t, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)
    assert motion.distance_m == pytest.approx(abs(v) * t, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-1.0, 2.0), st.floats(-3.0, 3.0), st.floats(0.0, 2.0)), max_size=10))
def test_a_base_never_enters_an_obstacle(commands: list[tuple[float, float, float]]) -> None:
    WORLD.place(standing(PLACE, 0.0))
    low = WORLD.scene.flat.obstacles[:, :2] - 0.18 + 1e-6
    high = WORLD.scene.flat.obstacles[:, 2:] + 0.18 - 1e-6
    for v, w, t in commands:
        before = WORLD.pose.position
        motion = WORLD.drive(v, w, t)
        p = WORLD.pose.position[:2]
        assert not ((p > low) & (p < high)).all(1).any()
        assert np.linalg.norm(WORLD.pose.position - before) <= motion.distance_m + 1e-9
        assert motion.distance_m <= abs(v) * t + 1e-9
        WORLD.place(WORLD.pose)  # wherever it ends up, it fits


def test_running_into_a_wall_reports_and_stays() -> None:
    WORLD.place(standing(PLACE, 0.0))
    hits = [WORLD.step(Action(forward_m=0.25)) for _ in range(80)]
    assert hits[-1].collided
    assert hits[-1].distance_m < 0.25


@pytest.mark.parametrize("arguments", [(math.nan, 0.0, 1.0), (0.0, math.inf, 1.0), (0.1, 0.0, -1.0)])
def test_drive_rejects_nonsense(arguments: tuple[float, float, float]) -> None:
    WORLD.place(standing(PLACE, 0.0))
    with pytest.raises(ValueError, match="cannot drive"):
        WORLD.drive(*arguments)


def test_place_rejects_walls_heights_and_tilts() -> None:
    with pytest.raises(ValueError, match="nearest free place"):
        WORLD.place(Pose.planar(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="upright"):
        WORLD.place(standing(PLACE, 0.0, 1.0))
    with pytest.raises(ValueError, match="upright"):
        WORLD.place(Pose(np.array([*PLACE, 0.0]), np.array([1.0, 0.0, 0.0, 0.0])))


def test_order_of_calls_is_checked() -> None:
    world = EmbeddedWorld(WORLD.camera, WORLD.base_from_optical)
    with pytest.raises(RuntimeError, match="load"):
        world.place(Pose.identity())
    with pytest.raises(ValueError, match="no scene 'nowhere'"):
        world.load("nowhere")
    world.load(scene_id(0))
    with pytest.raises(RuntimeError, match="place"):
        world.render()
    world.close()


def test_loading_again_keeps_the_robot_and_another_scene_does_not() -> None:
    world = make_world()
    world.place(standing(PLACE, 1.0))
    world.load(scene_id(3))
    assert world.pose.yaw_rad == pytest.approx(1.0)
    world.load(scene_id(4))
    with pytest.raises(RuntimeError):
        _ = world.pose


def test_scene_cache_is_bounded_and_drops_the_one_used_longest_ago() -> None:
    cache = SceneCache(0.18, 2)
    a, b = cache.get(scene_id(0)), cache.get(scene_id(1))
    assert cache.get(scene_id(0)) is a
    cache.get(scene_id(2))
    assert len(cache) == 2
    assert cache.get(scene_id(0)) is a
    assert cache.get(scene_id(1)) is not b
    with pytest.raises(ValueError, match="at least 1"):
        SceneCache(0.18, 0)


def test_geodesic_path_is_on_the_floor_and_as_long_as_the_distance() -> None:
    goal = WORLD.scene.walkable.nearest(np.array([0.5, 0.5]))
    path = WORLD.geodesic_path(np.array([*PLACE, 0.0]), np.array([*goal, 0.0]))
    assert path.shape[1] == 3
    assert not path[:, 2].any()
    length = WORLD.geodesic_distance(np.array([*PLACE, 0.0]), np.array([*goal, 0.0]))
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(length)
