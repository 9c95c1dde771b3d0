"""Places in a simulated world as messages, and everything that is no such place."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("nav_msgs", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from hypothesis import given
from hypothesis import strategies as st
from nav_msgs.msg import OccupancyGrid

from vln_ros.datatypes import Pose
from vln_ros.ros.convert import MessageError
from vln_ros.ros.starts import (
    MapArea,
    Starts,
    area_of_grid,
    estimate_from_pose,
    grid_from_free_space,
    pose_from_estimate,
    starts_from_status,
    status_from_starts,
)

METRES = st.floats(-9999.0, 9999.0)


@given(x=METRES, y=METRES, yaw=st.floats(-3.1, 3.1))
def test_an_estimate_comes_back(x: float, y: float, yaw: float) -> None:
    pose = pose_from_estimate(estimate_from_pose(Pose.planar(x, y, yaw), 7, "/odom"), "odom")
    assert pose.position[:2].tolist() == [x, y]
    assert math.isclose(pose.yaw_rad, yaw, abs_tol=1e-6)


def estimate(frame: str = "odom", **fields: float) -> PoseWithCovarianceStamped:
    msg = estimate_from_pose(Pose.planar(1.0, 2.0, 0.0), 7, frame)
    for name, value in fields.items():
        setattr(msg.pose.pose.orientation if name[0] == "q" else msg.pose.pose.position, name[-1], value)
    return msg


@pytest.mark.parametrize(
    ("msg", "reason", "words"),
    [
        (estimate(frame="map"), "frame", "'map'"),
        (estimate(frame=""), "frame", "''"),
        (estimate(px=math.nan), "not_finite", "finite"),
        (estimate(py=math.inf), "not_finite", "finite"),
        (estimate(qw=math.nan), "not_finite", "finite"),
        (estimate(qw=0.0), "bad_quaternion", "length"),
        (estimate(qx=1.0, qw=0.0), "not_upright", "upright"),
        (estimate(px=1e300), "too_far", "10000 m"),
        (PoseWithCovarianceStamped(), "frame", "'odom'"),
    ],
)
def test_what_is_no_place_of_a_robot_is_refused(
    msg: PoseWithCovarianceStamped, reason: str, words: str
) -> None:
    with pytest.raises(MessageError, match=words) as refused:
        pose_from_estimate(msg, "odom")
    assert refused.value.reason == reason


def test_a_map_has_its_first_row_below() -> None:
    free = np.array([[True, False, False], [True, True, False]])
    grid = grid_from_free_space(free, 0.5, np.array([-1.0, 4.0]), 7, "odom")
    assert list(grid.data) == [0, 0, 100, 0, 100, 100]
    assert (grid.info.width, grid.info.height) == (3, 2)
    assert (grid.info.origin.position.x, grid.info.origin.position.y) == (-1.0, 3.0)
    assert area_of_grid(grid) == MapArea("odom", -1.0, 3.0, 1.5, 1.0)


def grid_of(width: int = 4, resolution: float = 0.5, x: float = 0.0, z: float = 0.0) -> OccupancyGrid:
    grid = grid_from_free_space(np.ones((2, width), bool), 0.5, np.zeros(2), 7, "odom")
    grid.info.resolution, grid.info.origin.position.x = resolution, x
    grid.info.origin.orientation.z, grid.info.origin.orientation.w = z, math.sqrt(1.0 - z * z)
    return grid


@pytest.mark.parametrize(
    "grid",
    [
        grid_of(width=0),
        grid_of(resolution=0.0),
        grid_of(resolution=-1.0),
        grid_of(resolution=math.nan),
        grid_of(resolution=math.inf),
        grid_of(x=math.nan),
        grid_of(x=1e9),
        grid_of(z=0.5),
        OccupancyGrid(),
    ],
)
def test_what_is_no_map_is_refused(grid: OccupancyGrid) -> None:
    with pytest.raises(MessageError) as refused:
        area_of_grid(grid)
    assert refused.value.reason == "bad_map"


def test_starts_come_back_and_nothing_else_is_taken_for_them() -> None:
    starts = Starts("2", "kitchen; the red lamp", (("1", "start 1"), ("2", "start 2")))
    assert starts_from_status(status_from_starts(starts)) == starts
    with pytest.raises(MessageError, match="'vln_ros: executor'"):
        starts_from_status(DiagnosticStatus(name="vln_ros: executor"))
