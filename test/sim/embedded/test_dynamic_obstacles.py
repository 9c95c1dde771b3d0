"""Boxes in the embedded world: seen where they are, solid, and gone again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.sim.embedded.dynamic_obstacles import DynamicObstacles
from vln_ros.sim.embedded.world import Box, EmbeddedWorld
from vln_ros.sim.splits import make_episodes

CAMERA = CameraModel.from_hfov(80, 60, math.radians(79.0))


@pytest.fixture(scope="module")
def world() -> EmbeddedWorld:
    episode = make_episodes("val_unseen", 1)[0]
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 0.6))
    world.load(episode.scene_id)
    world.place(episode.start)
    return world


@pytest.fixture
def ahead(world: EmbeddedWorld) -> float:
    """Facing the widest view; the free way there."""
    x, y = world.pose.position[:2]
    ways = []
    for k in range(16):
        yaw = k * math.pi / 8.0
        world.place(Pose.planar(float(x), float(y), yaw))
        _, depth_m = world.render()
        ways.append((float(depth_m[:40].min()), yaw))
    way, yaw = max(ways)
    world.place(Pose.planar(float(x), float(y), yaw))
    world.boxes = ()
    return way


def test_a_box_is_seen_and_solid(world: EmbeddedWorld, ahead: float) -> None:
    start = world.pose
    place = (start @ Pose.planar(0.8, 0.0, 0.0)).position
    free_rgb, free_m = world.render()
    world.boxes = (Box(float(place[0]), float(place[1]), 0.15, 1.0),)
    rgb, depth_m = world.render()
    assert 0.55 < depth_m[30, 40] < 0.7
    other = rgb != free_rgb
    assert other.any()
    assert (depth_m <= free_m + 1e-6)[free_m > 0.0].all()
    motion = world.drive(0.5, 0.0, 2.0)
    assert motion.collided
    assert world.touches_box
    world.boxes = ()
    assert not world.touches_box
    world.place(start)
    assert np.array_equal(world.render()[1], free_m)


def test_boxes_come_while_it_drives_and_go_again(world: EmbeddedWorld, ahead: float) -> None:
    dynamic_obstacles = DynamicObstacles(world, 0, 2)
    changes = [dynamic_obstacles.step(n * 100_000_000, 0.3) for n in range(300)]
    assert dynamic_obstacles.put == 2
    assert sum(changes) == 4
    assert world.boxes == ()
    standing = DynamicObstacles(world, 0, 2)
    assert not any(standing.step(n * 100_000_000, 0.0) for n in range(300))
