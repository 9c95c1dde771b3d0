"""Axis conventions: the one place where they are converted, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros import axes
from vln_ros.datatypes import Pose

unit = st.floats(-1.0, 1.0)


@pytest.mark.parametrize(
    ("habitat", "ros"), [((0, 0, -1), (1, 0, 0)), ((1, 0, 0), (0, -1, 0)), ((0, 1, 0), (0, 0, 1))]
)
def test_habitat_forward_right_up_become_ros_axes(
    habitat: tuple[int, int, int], ros: tuple[int, int, int]
) -> None:
    np.testing.assert_array_equal(axes.ros_from_habitat_points(np.array(habitat)), ros)
    np.testing.assert_array_equal(axes.habitat_from_ros_points(np.array(ros)), habitat)


def test_conversion_keeps_handedness() -> None:
    assert np.linalg.det(axes.ROS_FROM_HABITAT) == pytest.approx(1.0)


@pytest.mark.parametrize("angle_deg", [-170, -15, 0, 15, 90, 179])
def test_left_turn_about_habitat_up_is_positive_yaw(angle_deg: int) -> None:
    half = math.radians(angle_deg) / 2
    pose = axes.pose_from_habitat(np.zeros(3), np.array([0.0, math.sin(half), 0.0, math.cos(half)]))
    assert math.degrees(pose.yaw_rad) == pytest.approx(angle_deg)


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(unit, unit, unit, unit).filter(lambda q: np.linalg.norm(q) > 0.1), st.tuples(unit, unit, unit)
)
def test_poses_survive_the_round_trip_and_move_points_alike(
    quaternion: tuple[float, ...], position: tuple[float, ...]
) -> None:
    q = np.array(quaternion) / np.linalg.norm(quaternion)
    pose = axes.pose_from_habitat(np.array(position), q)
    back_position, back_q = axes.habitat_from_pose(pose)
    np.testing.assert_allclose(back_position, position, atol=1e-12)
    np.testing.assert_allclose(back_q, q, atol=1e-12)
    point = np.array([0.3, -0.7, 1.1])
    in_habitat = Pose(np.array(position), q).transform(point)
    np.testing.assert_allclose(
        axes.ros_from_habitat_points(in_habitat),
        pose.transform(axes.ros_from_habitat_points(point)),
        atol=1e-9,
    )


def test_level_camera_looks_along_base_x() -> None:
    extrinsics = axes.base_from_optical(0.1, 0.2, 1.25)
    np.testing.assert_allclose(extrinsics.transform(np.array([0.0, 0.0, 2.0])), [2.1, 0.2, 1.25], atol=1e-12)
    np.testing.assert_allclose(extrinsics.transform(np.array([1.0, 0.0, 0.0])), [0.1, -0.8, 1.25], atol=1e-12)
    np.testing.assert_allclose(extrinsics.transform(np.array([0.0, 1.0, 0.0])), [0.1, 0.2, 0.25], atol=1e-12)


def test_downward_tilt_lowers_the_view_and_does_not_roll() -> None:
    rotation = axes.base_from_optical(0.0, 0.0, 1.0, pitch_down_rad=math.radians(30)).rotation
    np.testing.assert_allclose(rotation[:, 2], [math.cos(math.pi / 6), 0.0, -0.5], atol=1e-12)
    np.testing.assert_allclose(rotation[:, 0], [0.0, -1.0, 0.0], atol=1e-12)
