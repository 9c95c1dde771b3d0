"""Odometry is of the base only where it says so; of anything else it is brought there, or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from nav_msgs.msg import Odometry

from vln_ros.axes import BODY_FROM_OPTICAL, base_from_optical
from vln_ros.config import NavigatorConfig, Scalar, SyncConfig, from_flat
from vln_ros.datatypes import Pose
from vln_ros.ros import convert
from vln_ros.ros.convert import MessageError
from vln_ros.ros.extrinsics import turned
from vln_ros.ros.odometry import BaseOdometry
from vln_ros.sync.aligner import Aligner

pytestmark = pytest.mark.ros

CAMERA = Pose(np.array([0.35, -0.06, 0.9]), np.array([0.0, math.sin(0.1), 0.0, math.cos(0.1)]))
"""base_from_zed_camera_link: before the base, tilted down by 0.2 rad."""
OPTICAL = base_from_optical(0.35, 0.0, 0.9)
TURN = Pose.planar(0.0, 0.0, math.pi / 2.0)


class Tf:
    """What :class:`vln_ros.ros.extrinsics.TfExtrinsics` answers."""

    frames: Mapping[str, Pose] = {"zed_camera_link": CAMERA, "camera_pose_optical_frame": OPTICAL}

    def newest(self, frame_id: str) -> Pose | None:
        return self.frames.get(frame_id)


def reader(tf: object = None, odom_frame: str = "odom", **options: Scalar) -> BaseOdometry:
    config = from_flat(NavigatorConfig, {name.replace("__", "."): v for name, v in options.items()})
    return BaseOdometry(config, odom_frame, tf)  # type: ignore[arg-type]


def odometry(base: Pose, child: str, extrinsics: Pose = CAMERA, frame: str = "odom") -> Odometry:
    """Of what sits at ``extrinsics`` on a base at ``base``; the odometry began where the child was."""
    return convert.odometry_from_pose(extrinsics.inverse() @ base @ extrinsics, 10**9, frame, child, 0.0, 0.0)


def reason_of(made: BaseOdometry, msg: Odometry) -> str:
    with pytest.raises(MessageError) as caught:
        made.base_pose(msg)
    return caught.value.reason


@pytest.mark.parametrize("child", ["base_link", "/base_link", "base_footprint"])
@pytest.mark.parametrize("extrinsics", ["tf", "parameters"])
def test_the_bases_own_odometry_is_taken_as_it_is(child: str, extrinsics: str) -> None:
    pose = reader(extrinsics=extrinsics).base_pose(odometry(TURN, child, Pose.identity(), "/odom"))
    assert pose == TURN


@pytest.mark.parametrize(
    "child",
    [
        "zed_camera_link",
        "camera_link",
        "camera_pose_frame",
        "imu_link",
        "odom",
        "base",
        "base_link2",
        "robot/base_link",
    ],
)
@pytest.mark.parametrize("extrinsics", ["tf", "parameters"])
def test_that_of_anything_else_is_refused_with_the_remedy(child: str, extrinsics: str) -> None:
    made = reader(extrinsics=extrinsics)
    with pytest.raises(
        MessageError, match=rf"{child}.*odometry\.child_frame:={child}.*odometry\.x_m"
    ) as caught:
        made.base_pose(odometry(TURN, child))
    assert caught.value.reason == "odometry_child"


@pytest.mark.parametrize(("child", "extrinsics"), [("zed_camera_link", CAMERA), ("/zed_camera_link", CAMERA)])
def test_tf_brings_it_to_the_base(child: str, extrinsics: Pose) -> None:
    made = reader(Tf())
    start = made.base_pose(odometry(Pose.identity(), child, extrinsics))
    turned_pose = made.base_pose(odometry(TURN, child, extrinsics))
    moved = start.inverse() @ turned_pose
    assert np.allclose(moved.matrix, TURN.matrix, atol=1e-9)  # in place: 0.5 m off without it
    assert reason_of(made, odometry(TURN, "camera_link")) == "odometry_child"


def test_parameters_bring_it_to_the_base() -> None:
    named: dict[str, Any] = {
        "extrinsics": "parameters", "odometry__child_frame": "zed_camera_link", "odometry__x_m": 0.35,
        "odometry__y_m": -0.06, "odometry__z_m": 0.9, "odometry__pitch_down_deg": math.degrees(0.2),
    }  # fmt: skip
    made = reader(**named)
    start = made.base_pose(odometry(Pose.identity(), "zed_camera_link"))
    moved = start.inverse() @ made.base_pose(odometry(TURN, "zed_camera_link"))
    assert np.allclose(moved.matrix, TURN.matrix, atol=1e-9)
    assert reason_of(made, odometry(TURN, "t265_link")) == "odometry_child"  # the values are not for that
    assert made.base_pose(odometry(TURN, "base_link", Pose.identity())) == TURN
    mixed = reader(Tf(), **{**named, "extrinsics": "tf", "odometry__extrinsics": "parameters"})
    assert np.allclose(mixed.base_pose(odometry(TURN, "zed_camera_link")).matrix,
                       made.base_pose(odometry(TURN, "zed_camera_link")).matrix)  # fmt: skip


def test_an_optical_child_frame_is_no_obstacle_where_its_place_is_known() -> None:
    """As of visual odometry whose world is level: only the child has optical axes."""
    msg = convert.odometry_from_pose(TURN @ OPTICAL, 10**9, "odom", "camera_pose_optical_frame", 0.0, 0.0)
    assert np.allclose(reader(Tf()).base_pose(msg).matrix, TURN.matrix, atol=1e-9)
    by_parameters = reader(
        extrinsics="parameters", odometry__child_frame="camera_pose_optical_frame", odometry__x_m=0.35,
        odometry__z_m=0.9, odometry__roll_deg=-90.0, odometry__yaw_deg=-90.0,
    )  # fmt: skip
    assert np.allclose(by_parameters.base_pose(msg).matrix, TURN.matrix, atol=1e-9)


def test_a_world_with_optical_axes_is_refused() -> None:
    """A visual odometry that takes its first image's axes for the world's."""
    msg = convert.odometry_from_pose(BODY_FROM_OPTICAL.inverse() @ TURN, 10**9, "odom", "base_link", 0.0, 0.0)
    assert reason_of(reader(), msg) == "odometry_tilted"
    leaning = Pose.identity() @ turned((0.0, 0.0, 0.0), (0.0, 30.0, 0.0))
    assert reader().base_pose(odometry(leaning, "base_link", Pose.identity())) == leaning


@pytest.mark.parametrize("frame", ["map", "", "world", "odom_combined", "robot/odom"])
def test_odometry_in_another_frame_is_refused(frame: str) -> None:
    msg = odometry(TURN, "base_link", Pose.identity(), frame)
    with pytest.raises(MessageError, match="odom_frame") as caught:
        reader().base_pose(msg)
    assert caught.value.reason == "odometry_frame"
    assert reader(odom_frame="").base_pose(msg) == TURN
    assert reader(odom_frame=frame).base_pose(msg) == TURN


def test_an_empty_child_frame_has_to_be_named() -> None:
    msg = odometry(TURN, "", Pose.identity())
    with pytest.raises(MessageError, match=r"odometry\.child_frame, to base_link") as caught:
        reader().base_pose(msg)
    assert caught.value.reason == "odometry_child"
    assert reader(odometry__child_frame="base_link").base_pose(msg) == TURN
    made = reader(extrinsics="parameters", odometry__child_frame="cam", odometry__x_m=0.35)
    extrinsics = Pose.planar(0.35, 0.0, 0.0)
    start, end = (made.base_pose(odometry(pose, "", extrinsics)) for pose in (Pose.identity(), TURN))
    assert np.allclose((start.inverse() @ end).matrix, TURN.matrix, atol=1e-9)


def test_names_with_a_robots_prefix() -> None:
    msg = odometry(TURN, "left/base_link", Pose.identity(), "left/odom")
    assert reader(odom_frame="left/odom", base_frame="left/base_link").base_pose(msg) == TURN
    assert reader(odom_frame="/left/odom", base_frame="/left/base_link").base_pose(msg) == TURN
    left = {"odom_frame": "left/odom", "base_frame": "left/base_link"}
    below = odometry(TURN, "left/base_footprint", Pose.identity(), "left/odom")
    assert reader(**left).base_pose(below) == TURN
    for child in ("base_footprint", "right/base_footprint", "base_link", "right/base_link"):
        assert reason_of(reader(**left), odometry(TURN, child, frame="left/odom")) == "odometry_child"


@pytest.mark.parametrize(
    ("child", "taken"),
    [("base_link", True), ("base_footprint", True), ("zed_camera_link", False), ("", False)],
)
def test_the_aligner_takes_no_pose_that_says_it_is_of_something_else(child: str, taken: bool) -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig())
    aligner.add_odometry(10**9, convert.pose_from_odometry(odometry(TURN, child)), "/odom")
    assert (aligner.counts.odometry_wrong_frame == 0) is taken
    aligner.add_odometry(2 * 10**9, TURN, "odom")  # brought to the base
    assert aligner.counts.odometry_wrong_frame == (not taken)
