"""Which part of a camera_info holds for an image, and whether it is that image's at all."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from sensor_msgs.msg import CameraInfo, RegionOfInterest

from vln_ros.datatypes import CameraModel
from vln_ros.lenses import Lens, LensModel
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
BROWN = LensModel.BROWN
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
    lens = convert.lens_from_info(info(), "auto", topic)
    assert lens.camera.fx == fx
    assert lens.is_ideal == (fx == OF_P)


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
        made.of_image(frame_id, shape)
    assert caught.value.reason in CALIBRATION_REASONS
    return caught.value.reason


def test_a_depth_image_needs_its_own_calibration() -> None:
    made = calibration()
    assert fails(made, "optical", (480, 640)) == "no_camera_info"
    assert made.take(info()) == []
    for frame_id in ("optical", "/optical", ""):
        assert made.of_image(frame_id, (480, 640)).camera.fx == OF_K
    assert fails(made, "camera_depth_optical_frame", (480, 640)) == "camera_info_of_another_frame"
    assert fails(made, "optical", (240, 320)) == "wrong_size"
    assert [s.reason for s in made.take(info(k=[600.0, *K[1:]], d=[]))] == ["camera_info_changed"]
    with pytest.raises(MessageError):
        made.take(info(k=[0.0] * 9, p=[0.0] * 12))
    assert fails(made, "optical", (480, 640)) == "no_calibration"  # it was good before
    made.take(info())
    assert made.of_image("optical", (480, 640)) == Lens(made.of_image("", (480, 640)).camera, BROWN, tuple(D))


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


@pytest.mark.parametrize(
    ("model", "d", "expected"),
    [
        ("plumb_bob", D, Lens(CameraModel(640, 480, 610.0, 612.0, 325.0, 243.0), BROWN, tuple(D))),
        ("plumb_bob", D[:4], (BROWN, tuple(D[:4]))),
        ("plumb_bob", [0.0] * 5, (BROWN, ())),
        ("", [], (BROWN, ())),
        ("none", [0.0] * 5, (BROWN, ())),
        ("rational_polynomial", [*D, 0.2, 0.1, -0.1], (BROWN, (*D, 0.2, 0.1, -0.1))),
        ("rational_polynomial", [*D, *[0.01] * 7, 0.0, 0.0], (BROWN, (*D, *[0.01] * 7))),
        ("equidistant", [0.01, 0.0, 0.0, 0.0], (LensModel.EQUIDISTANT, (0.01, 0.0, 0.0, 0.0))),
        (
            "equidistant",
            [0.0] * 4,
            (LensModel.EQUIDISTANT, (0.0,) * 4),
        ),  # an ideal fisheye bends all the same
        ("fisheye", [0.02, 0.01], (LensModel.EQUIDISTANT, (0.02, 0.01))),
        ("rational_polynomial", [*D, *[0.01] * 7, 0.03, 0.0], "unsupported_distortion"),  # a tilted sensor
        ("equidistant", [0.01] * 5, "unsupported_distortion"),
        ("", D, "unsupported_distortion"),
        ("thin_prism_fisheye", [0.1] * 8, "unsupported_distortion"),
        ("plumb_bob", [math.nan, 0.0, 0.0, 0.0, 0.0], "bad_camera_info"),
        ("equidistant", [math.inf, 0.0], "bad_camera_info"),
    ],
)
def test_which_lens_a_camera_info_tells_of(model: str, d: list[float], expected: object) -> None:
    msg = info(distortion_model=model, d=d)
    if isinstance(expected, str):
        with pytest.raises(MessageError) as caught:
            convert.lens_from_info(msg, "raw")
        assert caught.value.reason == expected
        assert caught.value.reason in CALIBRATION_REASONS
        assert convert.lens_from_info(msg, "rectified").is_ideal, "of no matter to a rectified image"
        return
    lens = convert.lens_from_info(msg, "raw")
    assert lens == expected if isinstance(expected, Lens) else (lens.model, lens.coefficients) == expected


PINHOLE = CameraModel(640, 480, 610.0, 612.0, 325.0, 243.0)


@pytest.mark.parametrize(
    "lens",
    [
        Lens(PINHOLE),
        Lens(PINHOLE, BROWN, (0.1, 0.0, 0.0, 0.0, 0.02)),
        Lens(PINHOLE, BROWN, (0.1, 0.0, 0.0, 0.0, 0.0, 0.3, 0.2, 0.1)),
        Lens(PINHOLE, LensModel.EQUIDISTANT, (0.1, 0.0, 0.0, 0.0)),
    ],
)
def test_a_lens_survives_the_message(lens: Lens) -> None:
    assert convert.lens_from_info(convert.info_from_lens(lens, 0, "optical"), "raw") == lens


def test_a_region_of_a_binned_sensor_keeps_its_lens() -> None:
    """D is of directions: it does not change with the pixels."""
    roi = RegionOfInterest(x_offset=80, y_offset=40, width=320, height=240)
    lens = convert.lens_from_info(info(roi=roi, binning_x=2, binning_y=2), "raw")
    assert lens.coefficients == tuple(D)
    assert (lens.camera.width, lens.camera.height) == (160, 120)
    assert lens.camera.fx == OF_K / 2
