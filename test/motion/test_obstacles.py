"""The free way ahead, and what is remembered of obstacles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Float64Array, Pose, Velocity
from vln_ros.motion.obstacles import ObstacleMemory, clearance_m
from vln_ros.motion.tracking import predict

RADIUS_M = 0.25
CAMERA = CameraModel.from_hfov(160, 120, math.radians(79.0))
EXTRINSICS = base_from_optical(0.0, 0.0, 1.25)


def driven(points: Float64Array, velocity: Velocity, radius_m: float, longest_m: float) -> float:
    """The same by driving: small steps until a point is inside the disc and came nearer."""
    speed = math.hypot(velocity.linear_m_s, velocity.lateral_m_s)
    step_m = 0.01
    pose, before = Pose.identity(), np.hypot(points[:, 0], points[:, 1])
    for n in range(1, int(longest_m / step_m)):
        pose = predict(pose, [velocity], step_m / speed, 1.0)
        distance = np.linalg.norm(points - pose.position[:2], axis=1)
        if ((distance < radius_m) & (distance < before)).any():
            return n * step_m
        before = distance
    return math.inf


coordinate = st.floats(-2.0, 2.0)


@settings(deadline=None, max_examples=60, phases=(Phase.explicit, Phase.generate))
@given(
    st.lists(
        st.tuples(coordinate, coordinate).filter(lambda p: math.hypot(*p) > 0.27), min_size=1, max_size=5
    ),
    st.floats(0.0, 2.0 * math.pi),
    st.floats(-3.0, 3.0),
)
def test_equals_driving_until_something_is_touched(
    places: list[tuple[float, float]], direction: float, curvature: float
) -> None:
    points = np.array(places)
    velocity = Velocity(math.cos(direction), curvature, math.sin(direction))
    way = clearance_m(points, velocity, RADIUS_M)
    assert way >= 0.0
    # Points that are only just grazed are a matter of rounding: a little more or less radius decides.
    near = driven(points, velocity, RADIUS_M + 0.004, 3.0)
    far = driven(points, velocity, RADIUS_M - 0.004, 3.0)
    if way < 2.9 or near < 2.9:
        assert near - 0.02 <= way
        assert way <= far + 0.02 or far == math.inf


def test_turning_in_place_and_standing_touch_nothing() -> None:
    points = np.array([[0.1, 0.0]])
    assert clearance_m(points, Velocity(0.0, 1.0), RADIUS_M) == math.inf
    assert clearance_m(points, Velocity(), RADIUS_M) == math.inf


def test_what_is_touched_already_lets_it_out_but_not_in() -> None:
    points = np.array([[0.2, 0.0]])
    assert clearance_m(points, Velocity(0.5), RADIUS_M) == 0.0
    assert clearance_m(points, Velocity(-0.5), RADIUS_M) == math.inf


def view(base: Pose, wall_m: float | None, height_m: float = 2.0) -> np.ndarray:
    """Depth of a wall across x = ``wall_m`` up to a height, on a floor."""
    optical = base @ EXTRINSICS
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack(
        [(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], -1
    ) @ optical.rotation.T  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(rays[..., 2] < 0.0, -optical.position[2] / rays[..., 2], np.inf)
        depth = floor
        if wall_m is not None:
            wall = (wall_m - optical.position[0]) / rays[..., 0]
            z = optical.position[2] + wall * rays[..., 2]
            depth = np.where((wall > 0.0) & (z < height_m) & (z > 0.0), np.minimum(wall, floor), floor)
    return np.where(np.isfinite(depth) & (depth < 10.0), depth, 0.0).astype(np.float32)


def test_a_wall_is_seen_where_it_is_and_the_floor_is_none() -> None:
    memory = ObstacleMemory(0.1, 1.4)
    base = Pose.identity()
    memory.see(view(base, None), CAMERA, base @ EXTRINSICS, base)
    assert not len(memory.around(base))
    memory.see(view(base, 1.5), CAMERA, base @ EXTRINSICS, base)
    assert clearance_m(memory.around(base), Velocity(0.5), RADIUS_M) == pytest.approx(1.25, abs=0.02)


def test_what_goes_below_the_view_is_remembered_until_it_is_seen_through() -> None:
    memory = ObstacleMemory(0.1, 1.4)
    far, near = Pose.identity(), Pose.planar(2.0, 0.0, 0.0)
    memory.see(view(far, 2.8, 0.5), CAMERA, far @ EXTRINSICS, far)
    assert len(memory.around(far))
    memory.see(view(near, 2.8, 0.5), CAMERA, near @ EXTRINSICS, near)  # too low and too near to be seen
    free = clearance_m(memory.around(near), Velocity(0.5), RADIUS_M)
    assert free == pytest.approx(0.55, abs=0.05)
    memory.see(view(far, None), CAMERA, far @ EXTRINSICS, far)  # somebody has taken it away
    assert clearance_m(memory.around(near), Velocity(0.5), RADIUS_M) == math.inf


def test_who_steps_aside_leaves_nothing_behind() -> None:
    memory = ObstacleMemory(0.1, 1.4)
    base = Pose.identity()
    memory.see(view(base, 0.9, 1.7), CAMERA, base @ EXTRINSICS, base)
    assert clearance_m(memory.around(base), Velocity(0.5), RADIUS_M) < 0.7
    # The floor is hardly farther than the feet were; what the camera does not reach has gone with the rest.
    memory.see(view(base, None), CAMERA, base @ EXTRINSICS, base)
    assert not len(memory.around(base))


def test_no_reading_is_not_seeing_through() -> None:
    memory = ObstacleMemory(0.1, 1.4)
    base = Pose.identity()
    memory.see(view(base, 1.0), CAMERA, base @ EXTRINSICS, base)
    memory.see(np.zeros((120, 160), np.float32), CAMERA, base @ EXTRINSICS, base)
    assert len(memory.around(base))


def test_a_scan_replaces_the_one_before() -> None:
    memory = ObstacleMemory(0.1, 1.4)
    turned = Pose.planar(0.1, 0.0, math.pi / 2.0)
    memory.scan(np.array([[1.0, 0.0]]), turned)
    assert memory.around(Pose.identity()) == pytest.approx(np.array([[0.1, 1.0]]))
    memory.scan(np.zeros((0, 2)), turned)
    assert not len(memory.around(Pose.identity()))
