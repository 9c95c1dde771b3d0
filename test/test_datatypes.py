"""Geometry of poses and cameras, and what actions, chunks and frames accept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    ActionKind,
    CameraModel,
    Float64Array,
    Frame,
    Pose,
    StepSize,
    apply_action,
    wrap_angle,
)

coordinate = st.floats(-100.0, 100.0)
positions = st.tuples(coordinate, coordinate, coordinate).map(np.array)


@st.composite
def quaternions(draw: st.DrawFn) -> Float64Array:
    q = np.array([draw(st.floats(-1.0, 1.0)) for _ in range(4)])
    assume(np.linalg.norm(q) > 0.1)
    unit: Float64Array = q / np.linalg.norm(q)
    return unit


poses = st.builds(Pose, positions, quaternions())


@settings(deadline=None)
@given(poses)
def test_the_rotation_is_that_of_scipy(pose: Pose) -> None:
    expected = Rotation.from_quat(pose.orientation)
    np.testing.assert_allclose(pose.rotation, expected.as_matrix(), atol=1e-12)
    again = Pose.from_matrix(pose.matrix)
    np.testing.assert_allclose(again.matrix, pose.matrix, atol=1e-9)


@settings(deadline=None)
@given(poses, poses, positions)
def test_composition_is_that_of_matrices(a: Pose, b: Pose, point: np.ndarray) -> None:
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-9)
    np.testing.assert_allclose(a.inverse().matrix, np.linalg.inv(a.matrix), atol=1e-9)
    np.testing.assert_allclose((a @ b).transform(point), a.transform(b.transform(point)), atol=1e-9)


@settings(deadline=None)
@given(poses, poses, st.floats(0.0, 1.0))
def test_interpolation_is_slerp(a: Pose, b: Pose, fraction: float) -> None:
    dot = abs(float(a.orientation @ b.orientation))
    assume(dot > 1e-3)  # half a turn apart: both ways are the shortest
    got = a.interpolate(b, fraction)
    expected = Slerp([0, 1], Rotation.from_quat([a.orientation, b.orientation]))(fraction)
    np.testing.assert_allclose(got.rotation, expected.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(got.position, (1 - fraction) * a.position + fraction * b.position, atol=1e-9)


@given(coordinate, coordinate, st.floats(-3.1, 3.1))
def test_planar_poses(x: float, y: float, yaw: float) -> None:
    pose = Pose.planar(x, y, yaw)
    assert pose.yaw_rad == pytest.approx(yaw, abs=1e-9)
    ahead = pose.transform(np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(ahead, [x + math.cos(yaw), y + math.sin(yaw), 0.0], atol=1e-9)


@given(st.floats(-1000.0, 1000.0))
def test_wrap_angle(angle: float) -> None:
    wrapped = wrap_angle(angle)
    assert -math.pi <= wrapped <= math.pi
    assert math.isclose(math.cos(wrapped), math.cos(angle), abs_tol=1e-9)
    assert math.isclose(math.sin(wrapped), math.sin(angle), abs_tol=1e-9)


def test_poses_are_values_that_nobody_changes_afterwards() -> None:
    position = np.array([1.0, 2.0, 3.0])
    pose = Pose(position, np.array([0.0, 0.0, 0.0, 1.005]))
    position[0] = 9.0
    assert pose.position[0] == 1.0
    assert np.linalg.norm(pose.orientation) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="read-only"):
        pose.position[0] = 2.0
    assert pose == Pose(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0, 1.0]))
    assert pose != Pose.identity()


@pytest.mark.parametrize(
    ("position", "orientation", "message"),
    [
        ([0, 0], [0, 0, 0, 1], "position"),
        ([0, 0, math.nan], [0, 0, 0, 1], "not finite"),
        ([0, 0, 0], [0, 0, 0, math.inf], "not finite"),
        ([0, 0, 0], [0, 0, 0, 0], "length 0"),
        ([0, 0, 0], [0, 0, 0, 1.02], "length 1.02"),
    ],
)
def test_bad_poses(position: list[float], orientation: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pose(np.array(position), np.array(orientation))


def test_cameras() -> None:
    camera = CameraModel.from_hfov(640, 480, math.radians(90.0))
    assert camera.fx == camera.fy == pytest.approx(320.0)
    assert (camera.cx, camera.cy) == (319.5, 239.5)
    half = camera.resized(320, 160)
    # The corners of the image stay where they are in the world.
    for full_px, half_px, f, c, hf, hc in [
        (-0.5, -0.5, camera.fx, camera.cx, half.fx, half.cx),
        (479.5, 159.5, camera.fy, camera.cy, half.fy, half.cy),
    ]:
        assert (full_px - c) / f == pytest.approx((half_px - hc) / hf)
    assert half.resized(640, 480) == camera


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 480, 1.0, 1.0, 0.0, 0.0), "size must be positive"),
        ((640, 480, 0.0, 1.0, 0.0, 0.0), "is K filled in"),
        ((640, 480, 1.0, 1.0, math.nan, 0.0), "not finite"),
    ],
)
def test_bad_cameras(arguments: tuple[int, int, float, float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraModel(*arguments)


@pytest.mark.parametrize("hfov_rad", [0.0, -1.0, math.pi, math.nan, math.inf, 79.0, 90.0])
def test_a_field_of_view_is_in_radians(hfov_rad: float) -> None:
    """The tangent of half of 90 radians is a focal length like any other."""
    with pytest.raises(ValueError, match=rf"hfov_rad = {hfov_rad:g}: .*math\.radians"):
        CameraModel.from_hfov(640, 480, hfov_rad)


def test_frames_fit_their_camera() -> None:
    camera = CameraModel.from_hfov(8, 6, 1.0)
    rgb, depth = np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.float32)
    pose = Pose.identity()
    assert Frame(0, 0, rgb, None, camera, pose, pose).depth_m is None
    Frame(0, 0, rgb, depth, camera, pose, pose)
    bad: Any
    for bad in (rgb[:5], rgb.astype(np.float32), rgb[..., :1]):
        with pytest.raises(ValueError, match="rgb must be"):
            Frame(0, 0, bad, depth, camera, pose, pose)
    for bad in (depth[:, :4], depth.astype(np.float64)):
        with pytest.raises(ValueError, match="depth must be"):
            Frame(0, 0, rgb, bad, camera, pose, pose)


def test_actions_do_what_their_kind_says() -> None:
    step = StepSize(0.25, math.radians(15.0))
    start = Pose.planar(1.0, 1.0, math.pi / 2)
    expected = {
        ActionKind.STOP: (1.0, 1.0, 90.0, "stop"),
        ActionKind.FORWARD: (1.0, 1.25, 90.0, "forward 25 cm"),
        ActionKind.TURN_LEFT: (1.0, 1.0, 105.0, "left 15 deg"),
        ActionKind.TURN_RIGHT: (1.0, 1.0, 75.0, "right 15 deg"),
    }
    for kind, (x, y, yaw_deg, said) in expected.items():
        action = step.action(kind)
        assert action.kind is kind
        assert str(action) == said
        end = apply_action(start, action)
        np.testing.assert_allclose(end.position, [x, y, 0.0], atol=1e-12)
        assert math.degrees(end.yaw_rad) == pytest.approx(yaw_deg)


@pytest.mark.parametrize(
    "arguments",
    [(), (0.25, 0.1), (0.25, 0.0, True), (-0.25,), (math.nan,), (0.0, math.inf), (0.0, 0.1, True)],
)
def test_an_action_is_exactly_one_thing(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="action"):
        Action(*arguments)  # type: ignore[arg-type]


def test_chunks() -> None:
    forward = Action(forward_m=0.25)
    assert ActionChunk(0, 0, 0, ()).actions == ()
    ActionChunk(0, 0, 0, (forward, STOP), (0.5, 0.5))
    with pytest.raises(ValueError, match="stop must be the last"):
        ActionChunk(0, 0, 0, (STOP, forward))
    with pytest.raises(ValueError, match="1 probabilities for 2 actions"):
        ActionChunk(0, 0, 0, (forward, STOP), (0.5,))
