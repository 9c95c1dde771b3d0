"""Messages and values: exact round trips, and only MessageError for whatever is wrong."""

from __future__ import annotations

import array
import contextlib
import functools
import math
import struct
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs.msg", reason="needs the ROS message packages")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose as PoseMsg
from geometry_msgs.msg import Twist
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, RegionOfInterest
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    ActionKind,
    CameraModel,
    Pose,
    Velocity,
)
from vln_ros.geometry.frame_checks import depth_unit_suspicion
from vln_ros.ros import convert
from vln_ros.ros.convert import MessageError

pytestmark = pytest.mark.ros
STAMP_NS = 1_700_000_000_123_456_789


def picture(height: int = 12, width: int = 20, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def image(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """The bytes of ``pixels`` as they are, each row followed by ``padding`` bytes of 0xAB."""
    height, width = pixels.shape[:2]
    pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = pixels.view(np.uint8).reshape(height, -1)
    rows = np.concatenate([rows, np.full((height, padding), 0xAB, np.uint8)], 1)
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def reason(convert_it: Callable[[], object]) -> str:
    with pytest.raises(MessageError) as e:
        convert_it()
    assert len(str(e.value)) > 10
    assert e.value.reason.replace("_", "").isalnum()
    return e.value.reason


# ---------------------------------------------------------------------------------------- time


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_round_trip(stamp_ns: int) -> None:
    assert convert.stamp_ns_from_time(convert.time_from_stamp_ns(stamp_ns)) == stamp_ns


def test_a_stamp_before_the_epoch_is_refused() -> None:
    assert reason(lambda: convert.stamp_ns_from_time(Time(sec=-1))) == "negative_stamp"


# ---------------------------------------------------------------------------------- colour images


def test_rgb_round_trips() -> None:
    rgb = picture()
    msg = convert.image_from_rgb(rgb, STAMP_NS, "camera_optical")
    assert (msg.encoding, msg.step, msg.header.frame_id) == ("rgb8", 60, "camera_optical")
    assert convert.stamp_ns_from_time(msg.header.stamp) == STAMP_NS
    np.testing.assert_array_equal(convert.rgb_from_image(msg), rgb)


def encoded(encoding: str, rgb: np.ndarray) -> np.ndarray:
    """``rgb`` (grey where the encoding is) as a camera would send it."""
    alpha = np.full((*rgb.shape[:2], 1), 7, np.uint8)
    wide = rgb.astype(np.uint16) * 256 + 3
    return {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "8UC3": rgb[..., ::-1],
        "rgba8": np.concatenate([rgb, alpha], 2),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], 2),
        "8UC4": np.concatenate([rgb[..., ::-1], alpha], 2),
        "mono8": rgb[..., 0],
        "8UC1": rgb[..., 0],
        "mono16": wide[..., 0],
        "rgb16": wide,
        "bgr16": wide[..., ::-1],
    }[encoding]


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    "encoding",
    ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4", "mono8", "8UC1", "mono16", "rgb16", "bgr16"],
)
def test_encodings_give_the_same_rgb(encoding: str, big_endian: bool, padding: int) -> None:
    rgb = picture(7, 9)
    if encoding in ("mono8", "8UC1", "mono16"):
        rgb = np.repeat(rgb[..., :1], 3, 2)
    got = convert.rgb_from_image(
        image(np.ascontiguousarray(encoded(encoding, rgb)), encoding, padding, big_endian)
    )
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, rgb)


@pytest.mark.parametrize(
    ("encoding", "luma_first"), [("yuv422", False), ("uyvy", False), ("yuv422_yuy2", True), ("yuyv", True)]
)
def test_yuv_422(encoding: str, luma_first: bool) -> None:
    # Pure red in BT.601 studio range: Y 82, U 90, V 240.
    quad = [82, 90, 82, 240] if luma_first else [90, 82, 240, 82]
    pixels = np.tile(np.array(quad, np.uint8).reshape(1, 2, 2), (4, 4, 1))
    got = convert.rgb_from_image(image(pixels, encoding, 3))
    assert got.shape == (4, 8, 3)
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_name_the_colour_of_the_first_pixels(pattern: str, bits: int) -> None:
    color = {"r": 200, "g": 100, "b": 30}
    cell = np.array([color[c] for c in pattern], np.uint8).reshape(2, 2)
    mosaic: npt.NDArray[Any] = np.tile(cell, (4, 6))
    if bits == 16:
        mosaic = mosaic.astype(np.uint16) * 256
    got = convert.rgb_from_image(image(mosaic, f"bayer_{pattern}{bits}"))
    np.testing.assert_array_equal(got[2:-2, 2:-2], np.broadcast_to([200, 100, 30], (4, 8, 3)))


def test_malformed_images_are_refused_with_the_reason() -> None:
    def changed(**fields: Any) -> Image:
        msg = image(picture(4, 5), "rgb8")
        for name, value in fields.items():
            setattr(msg, name, value)
        return msg

    assert reason(lambda: convert.rgb_from_image(Image(encoding="rgb8"))) == "empty_image"
    assert reason(lambda: convert.rgb_from_image(changed(width=0))) == "empty_image"
    assert reason(lambda: convert.rgb_from_image(changed(step=14))) == "bad_step"
    assert reason(lambda: convert.rgb_from_image(changed(step=0))) == "bad_step"
    assert reason(lambda: convert.rgb_from_image(changed(data=array.array("B", bytes(59))))) == "bad_size"
    assert reason(lambda: convert.rgb_from_image(changed(height=5))) == "bad_size"
    assert reason(lambda: convert.rgb_from_image(changed(encoding="bgra8"))) == "bad_step"
    assert reason(lambda: convert.rgb_from_image(image(picture(2, 3, 2), "yuyv"))) == "undecodable"
    assert reason(lambda: convert.depth_from_image(changed())) == "unsupported_encoding"


def test_an_unknown_encoding_names_itself_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(MessageError, match=r"'hsv8'.*rgb8.*install cv_bridge") as e:
        convert.rgb_from_image(image(picture(), "hsv8"))
    assert e.value.reason == "unsupported_encoding"


def test_other_encodings_go_to_cv_bridge_where_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = picture()

    class CvBridge:
        def imgmsg_to_cv2(self, msg: Image, desired_encoding: str) -> np.ndarray:
            assert desired_encoding == "rgb8"
            if msg.encoding != "nv21":
                raise TypeError("unknown encoding")
            return rgb

    module = types.ModuleType("cv_bridge")
    module.CvBridge = CvBridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    assert convert.rgb_from_image(image(picture(), "nv21")) is rgb
    assert reason(lambda: convert.rgb_from_image(image(picture(), "nonsense"))) == "unsupported_encoding"


def gradient() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x * 4], -1).astype(np.uint8)


def test_jpeg_round_trip_keeps_the_colours() -> None:
    rgb = gradient()
    msg = convert.compressed_from_rgb(rgb, STAMP_NS, "cam", 95)
    assert convert.stamp_ns_from_time(msg.header.stamp) == STAMP_NS
    got = convert.rgb_from_compressed(msg)
    assert got.shape == rgb.shape
    assert np.abs(got.astype(int) - rgb).max() < 25


@pytest.mark.parametrize(
    ("format_text", "stored_rgb"),
    [
        ("png", False),
        ("", False),
        ("rgb8; png compressed bgr8", False),
        ("bgr8; png compressed bgr8", False),
        ("rgb8; png compressed rgb8", True),
    ],
)
def test_png_is_exact_in_either_order_of_colours(format_text: str, stored_rgb: bool) -> None:
    rgb = picture()
    _, data = cv2.imencode(".png", rgb if stored_rgb else np.ascontiguousarray(rgb[..., ::-1]))
    msg = CompressedImage(format=format_text, data=array.array("B", data.tobytes()))
    np.testing.assert_array_equal(convert.rgb_from_compressed(msg), rgb)


def test_broken_compressed_images() -> None:
    def compressed(data: bytes, format_text: str = "jpeg") -> CompressedImage:
        return CompressedImage(format=format_text, data=array.array("B", data))

    assert reason(lambda: convert.rgb_from_compressed(compressed(b""))) == "undecodable"
    assert reason(lambda: convert.rgb_from_compressed(compressed(b"not an image"))) == "undecodable"
    depth = convert.compressed_from_depth(np.ones((4, 4), np.float32), 0, "")
    assert reason(lambda: convert.rgb_from_compressed(depth)) == "wrong_encoding"


# ----------------------------------------------------------------------------------- depth images


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("big_endian", [False, True])
def test_depth_of_both_encodings(big_endian: bool, padding: int) -> None:
    mm = np.array([[0, 1, 1500], [65535, 999, 40]], np.uint16)
    metres = np.array([[0, 0.001, 1.5], [65.535, 0.999, 0.04]], np.float32)
    for encoding in ("16UC1", "mono16"):
        got = convert.depth_from_image(image(mm, encoding, padding, big_endian))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, metres, rtol=1e-6)
    np.testing.assert_array_equal(
        convert.depth_from_image(image(metres, "32FC1", padding, big_endian)), metres
    )


def test_no_reading_is_zero() -> None:
    bad = np.array([[np.nan, np.inf, -np.inf, -1.0, -0.0, 2.5]], np.float32)
    got = convert.depth_from_image(image(bad, "32FC1"))
    np.testing.assert_array_equal(got, [[0, 0, 0, 0, 0, 2.5]])
    assert not np.signbit(got).any()
    mm = convert.depth_from_image(convert.image_from_depth_mm(np.array([[70.0, 2.5]], np.float32), 0, ""))
    np.testing.assert_array_equal(mm, np.array([[0, 2.5]], np.float32))


def test_depth_round_trips() -> None:
    rng = np.random.default_rng(1)
    metres = rng.uniform(0.0, 20.0, (9, 13)).astype(np.float32)
    np.testing.assert_array_equal(
        convert.depth_from_image(convert.image_from_depth(metres, STAMP_NS, "d")), metres
    )
    every_mm = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    whole = convert.depth_from_image(image(every_mm, "16UC1"))
    for msg in (convert.image_from_depth_mm(whole, 0, ""),):
        np.testing.assert_array_equal(convert.depth_from_image(msg), whole)
        np.testing.assert_array_equal(np.frombuffer(msg.data, "<u2").reshape(256, 256), every_mm)
    np.testing.assert_array_equal(
        convert.depth_from_compressed(convert.compressed_from_depth(whole, 0, "")), whole
    )


def png16(values: np.ndarray, header: bytes, format_text: str) -> CompressedImage:
    _, data = cv2.imencode(".png", values)
    return CompressedImage(format=format_text, data=array.array("B", header + data.tobytes()))


def test_quantised_float_depth() -> None:
    """What compressed_depth_image_transport's encoder does with 32FC1, undone."""
    depth_m = np.linspace(0.3, 9.5, 120, dtype=np.float32).reshape(10, 12)
    depth_m[0, 0] = 0.0
    z0, farthest_m = 100.0, 10.0
    a = z0 * (z0 + 1.0)
    b = 1.0 - a / farthest_m
    with np.errstate(divide="ignore"):
        stored = np.where(depth_m > 0, a / depth_m + b, 0).astype(np.uint16)
    msg = png16(stored, struct.pack("<iff", 0, a, b), "32FC1; compressedDepth png")
    got = convert.depth_from_compressed(msg)
    assert got[0, 0] == 0.0
    # One step of inverse depth is depth^2 / A metres.
    assert (np.abs(got - depth_m) <= depth_m**2 / a + 1e-5).all()
    no_header = png16(stored, struct.pack("<iff", 0, 0.0, 0.0), "32FC1; compressedDepth png")
    assert reason(lambda: convert.depth_from_compressed(no_header)) == "undecodable"


@pytest.mark.parametrize(
    "format_text", ["16UC1; compressedDepth png", "16UC1; compressedDepth", "16UC1; png compressed "]
)
@pytest.mark.parametrize("header", [b"", struct.pack("<iff", 0, 0, 0)])
def test_millimetre_png_with_and_without_header(format_text: str, header: bytes) -> None:
    mm = np.array([[0, 1500], [2000, 65535]], np.uint16)
    got = convert.depth_from_compressed(png16(mm, header, format_text))
    np.testing.assert_array_equal(got, convert.depth_from_image(image(mm, "16UC1")))


def test_broken_compressed_depth() -> None:
    header = struct.pack("<iff", 0, 0, 0)
    ok = convert.compressed_from_depth(np.ones((8, 8), np.float32), 0, "")

    def depth(data: bytes, format_text: str = ok.format) -> str:
        msg = CompressedImage(format=format_text, data=array.array("B", data))
        return reason(lambda: convert.depth_from_compressed(msg))

    assert depth(b"") == "undecodable"
    assert depth(header) == "undecodable"
    assert depth(header + b"\xff\xd8\xff\xe0 jpeg") == "undecodable"
    assert depth(bytes(ok.data)[:30]) == "undecodable"
    assert depth(bytes(ok.data), "16UC1; compressedDepth rvl") == "unsupported_encoding"
    assert depth(bytes(ok.data), "8UC3; compressedDepth png") == "wrong_encoding"
    _, color = cv2.imencode(".png", picture())
    assert depth(header + color.tobytes()) == "wrong_encoding"


def test_a_depth_in_the_wrong_unit_is_suspected_not_corrected() -> None:
    near = np.array([[0, 1, 4]], np.uint16)
    depth_m = convert.depth_from_image(image(near, "16UC1"))
    assert depth_m.max() == np.float32(0.004)
    assert depth_unit_suspicion("16UC1", depth_m) == "metres_in_16uc1"
    assert depth_unit_suspicion("16UC1; compressedDepth png", depth_m) == "metres_in_16uc1"
    assert depth_unit_suspicion("16UC1", np.zeros((2, 2), np.float32)) is None
    assert depth_unit_suspicion("16UC1", np.full((2, 2), 0.4, np.float32)) is None
    assert depth_unit_suspicion("32FC1", np.full((2, 2), 0.05, np.float32)) is None
    assert depth_unit_suspicion("32FC1", np.full((2, 2), 1500.0, np.float32)) == "millimetres_in_32fc1"


# ----------------------------------------------------------------------------------------- fuzzing

text = st.text(max_size=12)
encodings = st.sampled_from([*sorted(convert.LAYOUTS), "16UC1", "32FC1", "64FC2", ""]) | text
small = st.integers(0, 6)
uint32 = small | st.integers(0, 2**32 - 1)


@st.composite
def images(draw: st.DrawFn) -> Image:
    height, width = draw(uint32), draw(uint32)
    step = draw(st.sampled_from([width, 2 * width, 3 * width, 4 * width, 4 * width + 1]) | uint32) % 2**32
    sized = height * step if height * step <= 400 and draw(st.booleans()) else draw(st.integers(0, 64))
    return Image(
        height=height,
        width=width,
        step=step,
        encoding=draw(encodings),
        is_bigendian=draw(st.integers(0, 255)),
        data=array.array("B", draw(st.binary(min_size=sized, max_size=sized))),
    )


@settings(deadline=None, max_examples=400)
@given(images())
def test_any_image_gives_a_picture_or_a_message_error(msg: Image) -> None:
    try:
        rgb = convert.rgb_from_image(msg)
    except MessageError:
        pass
    else:
        assert rgb.dtype == np.uint8
        assert rgb.shape == (msg.height, msg.width, 3)
    try:
        depth_m = convert.depth_from_image(msg)
    except MessageError:
        pass
    else:
        assert depth_m.dtype == np.float32
        assert depth_m.shape == (msg.height, msg.width)
        assert np.isfinite(depth_m).all()
        assert (depth_m >= 0).all()


@functools.cache
def streams() -> list[bytes]:
    jpeg = bytes(convert.compressed_from_rgb(picture(), 0, "", 80).data)
    depth = bytes(convert.compressed_from_depth(np.full((5, 6), 1.5, np.float32), 0, "").data)
    _, png = cv2.imencode(".png", picture())
    return [jpeg, depth, depth[12:], png.tobytes()]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_compressed_image_gives_a_picture_or_a_message_error(data: st.DataObject) -> None:
    good = bytearray(data.draw(st.sampled_from(streams())))
    for i in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        # Sizes are left alone: a picture that claims 100,000 x 10,000 pixels is legal, only slow.
        if i >= 45:
            good[i] = data.draw(st.integers(0, 255))
    payload = bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good)
    payload = data.draw(st.sampled_from([payload]) | st.binary(max_size=64))
    formats = [
        "jpeg",
        "png",
        "rgb8; jpeg compressed bgr8",
        "16UC1; compressedDepth png",
        "32FC1; compressedDepth",
    ]
    msg = CompressedImage(format=data.draw(st.sampled_from(formats) | text), data=array.array("B", payload))
    with contextlib.suppress(MessageError):
        assert convert.rgb_from_compressed(msg).shape[2] == 3
    with contextlib.suppress(MessageError):
        assert np.isfinite(convert.depth_from_compressed(msg)).all()


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0, math.nan, 1e308])


@settings(deadline=None, max_examples=300)
@given(st.lists(numbers, min_size=7, max_size=7))
def test_any_pose_gives_a_pose_or_a_message_error(values: list[float]) -> None:
    msg = PoseMsg()
    msg.position.x, msg.position.y, msg.position.z = values[:3]
    msg.orientation.x, msg.orientation.y, msg.orientation.z, msg.orientation.w = values[3:]
    try:
        pose = convert.pose_from_pose(msg)
    except MessageError:
        pass
    else:
        assert np.isfinite(pose.matrix).all()
        assert abs(np.linalg.norm(values[3:]) - 1) <= 0.01


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_camera_info_gives_a_camera_or_a_message_error(data: st.DataObject) -> None:
    roi = RegionOfInterest(
        x_offset=data.draw(uint32),
        y_offset=data.draw(uint32),
        width=data.draw(uint32),
        height=data.draw(uint32),
    )
    k = data.draw(st.just([500.0, 0, 3, 0, 500.0, 3, 0, 0, 1]) | st.lists(numbers, min_size=9, max_size=9))
    msg = CameraInfo(
        width=data.draw(uint32),
        height=data.draw(uint32),
        k=[float(v) for v in k],
        roi=roi,
        binning_x=data.draw(uint32),
        binning_y=data.draw(uint32),
    )
    try:
        camera = convert.camera_from_info(msg)
    except MessageError:
        return
    assert camera.width <= msg.width
    assert camera.fx > 0


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_trajectory_gives_a_chunk_or_a_message_error(data: st.DataObject) -> None:
    names = data.draw(st.permutations(convert.CHUNK_JOINTS) | st.lists(text, max_size=6))
    values = st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.25]) | numbers, min_size=5, max_size=5)
    points = data.draw(st.lists(values | st.lists(numbers, max_size=6), max_size=4))
    msg = JointTrajectory(joint_names=list(names), points=[JointTrajectoryPoint(positions=p) for p in points])
    msg.header.stamp.sec = data.draw(st.integers(-(2**31), 2**31 - 1))
    try:
        chunk = convert.chunk_from_trajectory(msg)
    except MessageError:
        return
    assert chunk == convert.chunk_from_trajectory(convert.trajectory_from_chunk(chunk, "b", 0.3, 0.6))


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_string_gives_an_instruction_or_a_message_error(value: str) -> None:
    try:
        got = convert.instruction_from_string(String(data=value))
    except MessageError:
        return
    assert got == got.strip() != ""
    assert got.isprintable() or any(ord(c) > 126 or c in "\t\n\r" for c in got)


# ----------------------------------------------------------------------------------- camera model


def test_camera_round_trips() -> None:
    camera = CameraModel(640, 480, 500.5, 501.25, 318.75, 241.5)
    msg = convert.info_from_camera(camera, STAMP_NS, "cam")
    assert convert.camera_from_info(msg) == camera
    assert convert.distortion_suspicion(msg) is None
    msg.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    assert convert.distortion_suspicion(msg) == "distorted"


def test_region_and_binning_see_the_same_rays() -> None:
    full = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)
    msg = convert.info_from_camera(full, 0, "")
    msg.roi = RegionOfInterest(x_offset=100, y_offset=50, width=321, height=241)
    msg.binning_x, msg.binning_y = 2, 4
    got = convert.camera_from_info(msg)
    assert (got.width, got.height) == (160, 60)
    # Binned pixel (3, 5) covers columns 106-107 and rows 70-73 of the full image.
    assert (3 - got.cx) / got.fx == pytest.approx((106.5 - full.cx) / full.fx)
    assert (5 - got.cy) / got.fy == pytest.approx((71.5 - full.cy) / full.fy)


def test_unusable_camera_infos() -> None:
    assert reason(lambda: convert.camera_from_info(CameraInfo(width=640, height=480))) == "no_calibration"
    good = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
    for change in (
        {"k": [math.nan] * 9},
        {"k": [-50.0, 0, 31.5, 0, 50.0, 23.5, 0, 0, 1]},
        {"width": 0},
        {"roi": RegionOfInterest(x_offset=60, width=10)},
        {"binning_x": 100},
    ):
        msg = convert.info_from_camera(good, 0, "")
        for name, value in change.items():
            setattr(msg, name, value)
        assert reason(partial(convert.camera_from_info, msg)) == "bad_camera_info"


# ------------------------------------------------------------------------- poses, odometry, twist

POSE = Pose(np.array([1.5, -2.25, 0.125]), np.array([0.5, -0.5, 0.5, 0.5]))


def test_poses_and_odometry_round_trip() -> None:
    assert convert.pose_from_pose(convert.pose_to_pose(POSE)) == POSE
    stamped = convert.stamped_from_pose(POSE, STAMP_NS, "odom")
    assert (convert.pose_from_stamped(stamped), stamped.header.frame_id) == (POSE, "odom")
    odometry = convert.odometry_from_pose(POSE, STAMP_NS, "odom", "base_link", 0.25, -0.5)
    assert convert.pose_from_odometry(odometry) == POSE
    assert convert.stamp_ns_from_time(odometry.header.stamp) == STAMP_NS
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")
    assert convert.velocity_from_twist(odometry.twist.twist) == Velocity(0.25, -0.5)


def test_bad_poses_and_twists() -> None:
    msg = convert.pose_to_pose(POSE)
    msg.position.y = math.nan
    assert reason(lambda: convert.pose_from_pose(msg)) == "not_finite"
    for w in (0.0, 0.9):  # the first: what a message has when nobody filled it in, in older distributions
        zero = PoseMsg()
        zero.orientation.w = w
        assert reason(partial(convert.pose_from_pose, zero)) == "bad_quaternion"
    twist = Twist()
    twist.angular.z = math.inf
    assert reason(lambda: convert.velocity_from_twist(twist)) == "not_finite"


# ---------------------------------------------------------------------------------- action queues

moves = st.one_of(
    st.floats(1e-6, 10.0).map(lambda v: Action(forward_m=v)),
    st.floats(1e-6, 7.0).map(lambda v: Action(turn_rad=v)),
    st.floats(-7.0, -1e-6).map(lambda v: Action(turn_rad=v)),
)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**31 * 10**9 - 1),
    st.lists(moves, max_size=6),
    st.booleans(),
)
def test_chunks_round_trip(
    queue: int, instruction: int, stamp: int, actions: list[Action], stop: bool
) -> None:
    chunk = ActionChunk(queue, instruction, stamp, (*actions, *([STOP] if stop else [])))
    msg = convert.trajectory_from_chunk(chunk, "base_link", 0.3, 0.6)
    assert msg.header.frame_id == "base_link"
    assert len(msg.points) == max(1, len(chunk.actions))
    assert convert.chunk_from_trajectory(msg) == chunk


CHUNK = ActionChunk(
    7,
    3,
    STAMP_NS,
    (Action(forward_m=0.25), Action(turn_rad=-math.pi / 2), Action(forward_m=0.5), STOP),
    epoch=5,
)


def test_points_are_displacements_with_nominal_completion_times() -> None:
    msg = convert.trajectory_from_chunk(CHUNK, "base_link", 0.25, math.pi / 4)
    assert list(msg.joint_names) == ["forward", "turn", "stop", "instruction", "queue", "epoch"]
    assert [list(p.positions) for p in msg.points] == [
        [0.25, 0, 0, 3, 7, 5],
        [0, -math.pi / 2, 0, 3, 7, 5],
        [0.5, 0, 0, 3, 7, 5],
        [0, 0, 1, 3, 7, 5],
    ]
    assert [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in msg.points] == [1, 3, 5, 5]


@pytest.mark.parametrize(
    ("expected", "joint", "value"),
    [
        ("bad_action", 0, -0.1),
        ("bad_action", 0, math.nan),
        ("bad_action", 1, 0.5),  # forward and turn at once
        ("bad_action", 2, 0.5),
        ("bad_action", 2, 1.0),  # stop while driving, and not last
        ("bad_number", 3, 4.0),  # differs from the other points
        ("bad_number", 4, math.nan),
        ("bad_number", 4, 7.5),
        ("bad_number", 3, -1.0),
    ],
)
def test_bad_queues(expected: str, joint: int, value: float) -> None:
    msg = convert.trajectory_from_chunk(CHUNK, "base_link", 0.3, 0.6)
    msg.points[0].positions[joint] = value
    assert reason(lambda: convert.chunk_from_trajectory(msg)) == expected


def test_queues_of_another_make() -> None:
    assert reason(lambda: convert.chunk_from_trajectory(JointTrajectory())) == "bad_joints"
    msg = convert.trajectory_from_chunk(CHUNK, "base_link", 0.3, 0.6)
    msg.points = []
    assert reason(lambda: convert.chunk_from_trajectory(msg)) == "bad_point"
    msg = convert.trajectory_from_chunk(CHUNK, "base_link", 0.3, 0.6)
    msg.points[1].positions = msg.points[1].positions[:4]
    assert reason(lambda: convert.chunk_from_trajectory(msg)) == "bad_point"
    msg = convert.trajectory_from_chunk(CHUNK, "base_link", 0.3, 0.6)
    msg.points = [msg.points[3], msg.points[0]]
    assert reason(lambda: convert.chunk_from_trajectory(msg)) == "bad_action"


def test_kinds_and_path() -> None:
    kinds = convert.kinds_from_chunk(CHUNK)
    assert list(kinds.data) == [
        ActionKind.FORWARD,
        ActionKind.TURN_RIGHT,
        ActionKind.FORWARD,
        ActionKind.STOP,
    ]
    assert [d.label for d in kinds.layout.dim] == ["instruction 3", "queue 7"]
    path = convert.path_from_chunk(CHUNK, Pose.planar(1.0, 2.0, math.pi / 2), "odom")
    xy = [(p.pose.position.x, p.pose.position.y) for p in path.poses]
    np.testing.assert_allclose(xy, [(1, 2), (1, 2.25), (1, 2.25), (1.5, 2.25), (1.5, 2.25)], atol=1e-12)
    assert {p.header.frame_id for p in path.poses} | {path.header.frame_id} == {"odom"}
    assert convert.stamp_ns_from_time(path.header.stamp) == STAMP_NS


# ------------------------------------------------------------------------------------ instructions


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", "empty_instruction"),
        (" \n\t", "empty_instruction"),
        ("x" * 4097, "long_instruction"),
        ("go " * 400_000, "long_instruction"),
        ("go \x00 there", "control_characters"),
        ("go \x1b[31m", "control_characters"),
        ("go \ufffd\ufffd", "not_utf8"),
    ],
)
def test_unusable_instructions(data: str, expected: str) -> None:
    assert reason(lambda: convert.instruction_from_string(String(data=data))) == expected


@pytest.mark.parametrize("said", ["go to the sofa", "दरवाज़े से क्‍या", "leave,\nthen turn left", "x" * 4096])
def test_usable_instructions(said: str) -> None:
    assert convert.instruction_from_string(convert.string_from_instruction(f"  {said}\n")) == said


def test_bytes_that_are_not_utf8_arrive_as_something_that_is_refused() -> None:
    pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message, serialize_message

    wire = serialize_message(String(data="go NOW")).replace(b"NOW", b"\xff\xfeW")
    assert reason(lambda: convert.instruction_from_string(deserialize_message(wire, String))) == "not_utf8"


def test_scans() -> None:
    scan = LaserScan(angle_min=0.0, angle_max=math.pi, angle_increment=math.pi / 8.0, range_min=0.1)
    scan.range_max = 5.0
    scan.ranges = [1.0, math.nan, math.inf, 0.0, 2.0, 9.0, 0.05, -1.0, -math.inf]
    got = convert.points_from_scan(scan)
    assert got.points == pytest.approx(np.array([[1.0, 0.0], [0.0, 2.0]]), abs=1e-6)
    assert np.isposinf(got.ranges_m).nonzero()[0].tolist() == [2]
    assert np.isneginf(got.ranges_m).nonzero()[0].tolist() == [8]
    assert np.isnan(got.ranges_m).nonzero()[0].tolist() == [1, 3, 5, 6, 7]
    for no_return, ray in (("zero", 3), ("beyond", 5)):
        free = np.isposinf(convert.points_from_scan(scan, no_return).ranges_m)
        assert free.nonzero()[0].tolist() == sorted([2, ray])
    scan.angle_increment = math.nan
    assert reason(lambda: convert.points_from_scan(scan)) == "bad_scan"


@pytest.mark.parametrize(
    "change",
    [
        {"angle_min": math.nan},
        {"angle_max": math.nan},
        {"angle_max": 0.0},
        {"angle_max": 1.0},
        {"angle_increment": 0.0},
        {"angle_increment": -0.01},
        {"angle_increment": 0.02},
        {"angle_min": -180.0, "angle_max": 180.0, "angle_increment": 1.0},  # degrees
        {"ranges": [1.0] * 180},
        {"ranges": [1.0] * 722},
        {"range_min": -0.1},
        {"range_min": 9.0},
        {"range_max": math.inf},
        {"range_min": 120.0, "range_max": 8000.0},  # millimetres
    ],
)
def test_scans_that_contradict_themselves(change: dict[str, object]) -> None:
    def scan() -> LaserScan:
        step = 2.0 * math.pi / 360
        return LaserScan(
            angle_min=-math.pi, angle_max=math.pi, angle_increment=step, range_min=0.12, range_max=8.0,
            ranges=[1.0] * 361,
        )  # fmt: skip

    for off in (-2, -1, 0, 1, 2):  # as drivers do
        good = scan()
        good.ranges = [1.0] * (361 + off)
        assert len(convert.points_from_scan(good).points) == 361 + off
    bad = scan()
    for name, value in change.items():
        setattr(bad, name, value)
    assert reason(lambda: convert.points_from_scan(bad)) == "bad_scan"


def test_scans_without_ranges_and_clockwise_ones() -> None:
    scan = LaserScan(angle_min=-1.0, angle_max=1.0, angle_increment=0.1, range_min=0.1, range_max=5.0)
    assert len(convert.points_from_scan(scan).angles_rad) == 0
    scan.angle_min, scan.angle_max, scan.angle_increment = 1.0, -1.0, -0.1
    scan.ranges = [1.0] * 21
    got = convert.points_from_scan(scan)
    assert got.angles_rad[[0, 20]] == pytest.approx([1.0, -1.0], abs=1e-5)


def test_stamped_velocity() -> None:
    msg = convert.stamped_from_velocity(Velocity(0.1, 0.2, 0.3), STAMP_NS, "base_link")
    assert convert.velocity_from_twist(msg.twist) == Velocity(0.1, 0.2, 0.3)
    assert (convert.stamp_ns_from_time(msg.header.stamp), msg.header.frame_id) == (STAMP_NS, "base_link")


def test_a_transform_carries_stamp_frames_and_pose() -> None:
    pose = Pose.planar(1.0, -2.0, 0.7, 0.3)
    msg = convert.stamped_from_transform(pose, 1_500_000_001, "odom", "base_link")
    assert (msg.header.frame_id, msg.child_frame_id) == ("odom", "base_link")
    assert convert.stamp_ns_from_time(msg.header.stamp) == 1_500_000_001
    assert np.allclose(convert.pose_from_transform(msg.transform).matrix, pose.matrix, atol=1e-12)
