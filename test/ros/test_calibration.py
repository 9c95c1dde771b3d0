"""Which part of a camera_info holds for an image, and whether it is that image's at all."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from sensor_msgs.msg import CameraInfo, RegionOfInterest

from vln_ros.datatypes import CameraModel
from vln_ros.ros import convert
from vln_ros.ros.calibration import CALIBRATION_REASONS, CameraCalibration
from vln_ros.ros.convert import MessageError

pytestmark = pytest.mark.ros

K = [610.0, 0.0, 325.0, 0.0, 612.0, 243.0, 0.0, 0.0, 1.0]
P = [498.0, 0.0, 330.0, 0.0, 0.0, 545.0, 246.0, 0.0, 0.0, 0.0, 1.0, 0.0]
D = [-0.32, 0.11, 0.001, -0.0004, 0.0]
EYE = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
TILTED = [1.0, 0.0, 0.0, 0.0, 0.9998, -0.02, 0.0, 0.02, 0.9998]
OF_K, OF_P = 610.0, 498.0
TOPIC = "camera/color/image_raw"


def info(**changes: object) -> CameraInfo:
    """As image_proc has it beside image_raw and image_rect: D and K of the one, P of the other."""
    msg = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=D, k=K, r=EYE, p=P)
    msg.header.frame_id = "optical"
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def scaled(p: list[float], tx: float) -> list[float]:
    return [*p[:3], tx, *p[4:]]


@pytest.mark.parametrize(
    ("topic", "fx"),
    [
        ("", OF_P),
        ("camera/image_rect", OF_P),
        ("camera/image_rect_color", OF_P),
        ("zed/zed_node/rgb/color/rect/image", OF_P),
        ("camera/infra1/image_rect_raw", OF_P),
        ("Camera/Image_Rect", OF_P),
        ("camera/image_raw", OF_K),
        ("camera/color/image_raw", OF_K),
        ("direct/image_raw", OF_K),
        ("direct/image", OF_P),
        ("camera/image", OF_P),
    ],
)
def test_auto_goes_by_the_topic_and_by_what_there_is_to_rectify(topic: str, fx: float) -> None:
    assert convert.camera_from_info(info(), "auto", topic).fx == fx
    assert convert.distortion_suspicion(info(), "auto", topic) == ("distorted" if fx == OF_K else None)


@pytest.mark.parametrize(
    ("changes", "topic", "fx"),
    [
        ({"p": [0.0] * 12}, "", OF_K),  # P not filled in
        ({"p": [0.0] * 12, "d": [0.0] * 5}, "image_rect", OF_K),  # nothing to rectify
        ({"p": [math.nan] * 12}, "", OF_K),
        ({"d": [], "r": EYE}, "", OF_K),
        ({"d": [0.0] * 5, "r": [0.0] * 9}, "", OF_K),
        ({"d": [0.0] * 5, "r": TILTED}, "", OF_P),  # a stereo pair's left camera
        ({"d": [0.0] * 5}, "image_rect", OF_P),
    ],
)
def test_auto_where_parts_are_missing(changes: dict[str, object], topic: str, fx: float) -> None:
    assert convert.camera_from_info(info(**changes), "auto", topic).fx == fx


def test_the_option_decides() -> None:
    assert convert.camera_from_info(info(), "raw", "image_rect").fx == OF_K
    assert convert.camera_from_info(info(), "rectified", "image_raw").fx == OF_P
    camera = convert.camera_from_info(info(), "rectified")
    assert camera == CameraModel(640, 480, 498.0, 545.0, 330.0, 246.0)
    right_m = 3.0 * (600.0 - camera.cx) / camera.fx
    assert right_m == pytest.approx(1.63, abs=0.01)


def test_region_and_binning_hold_for_p_too() -> None:
    msg = info(
        roi=RegionOfInterest(x_offset=100, y_offset=50, width=320, height=240), binning_x=2, binning_y=2
    )
    camera = convert.camera_from_info(msg, "rectified")
    assert (camera.width, camera.height, camera.fx) == (160, 120, 249.0)
    assert (3 - camera.cx) / camera.fx == pytest.approx((106.5 - 330.0) / 498.0)


def reason_of(msg: CameraInfo, calibration: str = "auto", topic: str = "") -> str:
    with pytest.raises(MessageError) as caught:
        convert.camera_from_info(msg, calibration, topic)
    return caught.value.reason


def test_calibrations_that_cannot_be_used() -> None:
    zeros = {"k": [0.0] * 9, "p": [0.0] * 12}
    assert reason_of(info(**zeros)) == "no_calibration"
    for topic in ("", "image_raw", "image_rect"):
        assert reason_of(info(k=[0.0] * 9), "auto", topic) == "no_calibration"
    assert reason_of(info(**zeros), "rectified") == "no_calibration"
    assert reason_of(info(p=[0.0] * 12), "rectified") == "no_calibration"
    assert reason_of(info(p=[0.0] * 12), "auto", "image_rect") == "no_calibration"  # rectified by what?
    for p in (scaled(P, -59.8), [*P[:7], -40.0, *P[8:]]):
        assert reason_of(info(p=p)) == "right_camera"
    assert convert.camera_from_info(info(p=scaled(P, -59.8)), "auto", "image_raw").fx == OF_K
    assert reason_of(info(p=[-498.0, *P[1:]])) == "bad_camera_info"
    assert reason_of(info(width=0, height=0)) == "bad_camera_info"


# ------------------------------------------------------------------------------- of which image


def calibration(topic: str = TOPIC) -> CameraCalibration:
    return CameraCalibration("camera/color/camera_info", topic, "auto")


def fails(made: CameraCalibration, frame_id: str, shape: tuple[int, int]) -> str:
    with pytest.raises(MessageError) as caught:
        made.of_depth(frame_id, shape)
    assert caught.value.reason in CALIBRATION_REASONS
    return caught.value.reason


def test_a_depth_image_needs_its_own_calibration() -> None:
    made = calibration()
    assert fails(made, "optical", (480, 640)) == "no_camera_info"
    said = made.take(info())
    assert [s.reason for s in said] == ["distorted"]
    assert made.take(info()) == []  # once
    for frame_id in ("optical", "/optical", ""):
        assert made.of_depth(frame_id, (480, 640)).fx == OF_K
    assert fails(made, "camera_depth_optical_frame", (480, 640)) == "camera_info_of_another_frame"
    assert fails(made, "optical", (240, 320)) == "wrong_size"
    assert [s.reason for s in made.take(info(k=[600.0, *K[1:]], d=[]))] == ["camera_info_changed"]
    with pytest.raises(MessageError):
        made.take(info(k=[0.0] * 9, p=[0.0] * 12))
    assert fails(made, "optical", (480, 640)) == "no_calibration"  # it was good before
    made.take(info())
    assert made.of_depth("optical", (480, 640)).fx == OF_K


@pytest.mark.parametrize(
    ("color", "depth", "reason"),
    [
        ("optical", "optical", None),
        ("/optical", "optical", None),
        ("optical", "", None),
        ("", "", None),
        ("optical", "camera_depth_optical_frame", "depth_of_another_frame"),
        ("camera_infra1_optical_frame", "camera_infra1_optical_frame", "camera_info_of_another_frame"),
    ],
)
def test_colour_depth_and_camera_info_are_of_one_frame(color: str, depth: str, reason: str | None) -> None:
    made = calibration()
    made.take(info())
    if reason is None:
        made.check_frames(color, depth)
        return
    with pytest.raises(MessageError) as caught:
        made.check_frames(color, depth)
    assert caught.value.reason == reason
