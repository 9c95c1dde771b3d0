"""Converts ROS messages to values of this package and back; no other module does.

From a message: whatever is wrong with it raises :class:`MessageError` and nothing else. To a
message: the values are valid by construction.

Encodings that cameras really use are converted here; ``cv_bridge`` is asked for the others where
it imports (Jazzy's is compiled against NumPy 1 and does not beside NumPy 2).
"""

from __future__ import annotations

import array
import itertools
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    PoseStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Twist,
    TwistStamped,
    Vector3,
)
from geometry_msgs.msg import Pose as PoseMsg
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, PointCloud2, PointField
from std_msgs.msg import Header, Int32MultiArray, MultiArrayDimension, MultiArrayLayout, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vln_ros.datatypes import (
    Action,
    ActionChunk,
    CameraModel,
    Executed,
    Float64Array,
    OdometryPose,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
    RangeScan,
    Velocity,
    apply_action,
)
from vln_ros.lenses import Lens, LensModel
from vln_ros.ros.rvl import RvlError, decode_rvl, encode_rvl
from vln_ros.words import MAX_INSTRUCTION_CHARACTERS, WordsError, WordsFault, check_words

Rgb = npt.NDArray[np.uint8]
DepthM = npt.NDArray[np.float32]


class MessageError(ValueError):
    """A message that cannot be used.

    Attributes:
        reason: short and stable, for counting: ``unsupported_encoding``, ``truncated`` ...
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


# ---------------------------------------------------------------------------------------- time


def stamp_ns_from_time(msg: Time) -> int:
    """Nanoseconds. Errors: ``negative_stamp``."""
    if msg.sec < 0:
        raise MessageError("negative_stamp", f"stamp {msg.sec} s is negative: is the sensor's clock set?")
    return int(msg.sec) * 1_000_000_000 + int(msg.nanosec)


def time_from_stamp_ns(stamp_ns: int) -> Time:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def same_frame(one: str, other: str) -> bool:
    """Two frame ids name one frame, or one of them names none. A leading slash means nothing (tf2)."""
    one, other = one.lstrip("/"), other.lstrip("/")
    return one == other or not one or not other


def _header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=time_from_stamp_ns(stamp_ns), frame_id=frame_id)


# ---------------------------------------------------------------------------------- colour images


@dataclass(frozen=True)
class _Layout:
    """How the bytes of an encoding become 8-bit RGB."""

    bits: int
    channels: int
    to_rgb: int | None
    """cv2 colour conversion; None where the bytes are RGB already."""


LAYOUTS = {
    "rgb8": _Layout(8, 3, None),
    "bgr8": _Layout(8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(8, 4, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(8, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": _Layout(16, 3, None),
    "bgr16": _Layout(16, 3, cv2.COLOR_BGR2RGB),
    "mono16": _Layout(16, 1, cv2.COLOR_GRAY2RGB),
    # The generic ones say nothing of colour; cv_bridge hands them on as OpenCV's order, BGR.
    "8UC1": _Layout(8, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Layout(8, 3, cv2.COLOR_BGR2RGB),
    "8UC4": _Layout(8, 4, cv2.COLOR_BGRA2RGB),
    "yuv422": _Layout(8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout(8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout(8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Layout(8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": _Layout(8, 1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": _Layout(8, 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": _Layout(8, 1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": _Layout(8, 1, cv2.COLOR_BayerGRBG2RGB),
    "bayer_rggb16": _Layout(16, 1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr16": _Layout(16, 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg16": _Layout(16, 1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg16": _Layout(16, 1, cv2.COLOR_BayerGRBG2RGB),
}


def rgb_from_image(msg: Image) -> Rgb:
    """``[H, W, 3]`` uint8 RGB. 16-bit encodings keep their high byte. May share the message's memory.

    Errors: ``empty_image``, ``bad_step``, ``bad_size``, ``unsupported_encoding``, ``undecodable``.
    """
    layout = LAYOUTS.get(msg.encoding)
    if layout is None:
        return _rgb_by_cv_bridge(msg)
    pixels = _pixels(msg, np.dtype(f"u{layout.bits // 8}"), layout.channels)
    if layout.bits == 16:
        pixels = (pixels >> 8).astype(np.uint8)
    if layout.to_rgb is None:
        return np.ascontiguousarray(pixels)
    try:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), layout.to_rgb), np.uint8)
    except cv2.error as e:
        # An odd width in a format that stores pixels in pairs, or a mosaic of a single row.
        raise MessageError(
            "undecodable",
            f"{msg.encoding} image of {msg.width}x{msg.height} pixels cannot be converted: {e.err}",
        ) from e


def image_from_rgb(rgb: Rgb, stamp_ns: int, frame_id: str) -> Image:
    """An ``rgb8`` image from ``[H, W, 3]`` uint8."""
    return _image(rgb, "rgb8", stamp_ns, frame_id)


def _image(pixels: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> Image:
    height, width = pixels.shape[:2]
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    return Image(
        header=_header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // height,
        data=_bytes(pixels.tobytes()),
    )


def _bytes(data: bytes) -> array.array[int]:
    # The setter of a uint8[] field walks anything but an array.array element by element (180 ms for
    # a 640x480 image instead of 0.15).
    return array.array("B", data)


def _pixels(msg: Image, dtype: np.dtype[Any], channels: int) -> npt.NDArray[Any]:
    """``[H, W]`` or, for several channels, ``[H, W, C]`` view of the data, row padding cut off."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    name = f"{msg.encoding} image of {width}x{height} pixels"
    if height == 0 or width == 0:
        raise MessageError("empty_image", f"{name}: there is nothing in it")
    row = width * channels * dtype.itemsize
    if step < row:
        raise MessageError("bad_step", f"{name}: step is {step} bytes, a row needs {row}")
    if len(msg.data) != step * height:
        raise MessageError(
            "bad_size", f"{name}: has {len(msg.data)} bytes of data, step x height is {step * height}"
        )
    dtype = dtype.newbyteorder(">" if msg.is_bigendian else "<")
    rows = np.frombuffer(msg.data, np.uint8).reshape(height, step)[:, :row]
    if dtype.itemsize > 1:
        rows = np.ascontiguousarray(rows).view(dtype)
    return rows.reshape(height, width, channels) if channels > 1 else rows


def _rgb_by_cv_bridge(msg: Image) -> Rgb:
    remedy = f"publish one of {', '.join(LAYOUTS)}"
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError) as e:  # AttributeError: compiled against NumPy 1
        raise MessageError(
            "unsupported_encoding",
            f"colour image has encoding {msg.encoding!r}: {remedy}, or install cv_bridge",
        ) from e
    try:
        rgb = np.asarray(CvBridge().imgmsg_to_cv2(msg, "rgb8"))
    except Exception as e:  # cv_bridge documents none: TypeError, ValueError, cv2.error were all seen
        raise MessageError(
            "unsupported_encoding", f"cv_bridge cannot convert encoding {msg.encoding!r} ({e}): {remedy}"
        ) from e
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0 or rgb.dtype != np.uint8:
        raise MessageError(
            "unsupported_encoding", f"cv_bridge made {rgb.dtype} {rgb.shape} of {msg.encoding!r}"
        )
    return rgb


def rgb_from_compressed(msg: CompressedImage) -> Rgb:
    """``[H, W, 3]`` uint8 RGB of a JPEG or PNG.

    ``format`` is only looked at for the order of the colours: image_transport writes
    ``"rgb8; jpeg compressed bgr8"``, where the last word tells in which order the encoder was fed.

    Errors: ``wrong_encoding`` (a depth image), ``undecodable``.
    """
    if "compresseddepth" in msg.format.lower():
        raise MessageError(
            "wrong_encoding", f"format {msg.format!r} is a depth image: remap the colour topic"
        )
    # The camera model belongs to the pixels as stored: no turning by EXIF.
    pixels = _decode(msg.data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, msg.format)
    if "compressed rgb" in msg.format.lower():
        return np.ascontiguousarray(pixels)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def compressed_from_rgb(
    rgb: Rgb, stamp_ns: int, frame_id: str, jpeg_quality: int, image_format: str = "jpeg"
) -> CompressedImage:
    """A JPEG (quality 1 to 100) or, by ``image_format``, a PNG of ``[H, W, 3]`` uint8."""
    suffix, settings = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    if image_format == "png":
        suffix, settings = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
    _, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)
    return CompressedImage(
        header=_header(stamp_ns, frame_id),
        format=f"rgb8; {image_format} compressed bgr8",
        data=_bytes(data.tobytes()),
    )


def rgb_from_message(msg: Image | CompressedImage) -> Rgb:
    """Either kind. Errors: as of :func:`rgb_from_image` and :func:`rgb_from_compressed`."""
    return rgb_from_compressed(msg) if isinstance(msg, CompressedImage) else rgb_from_image(msg)


def _decode(data: Any, flags: int, what: str) -> npt.NDArray[Any]:
    buffer = np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
    try:
        pixels = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error as e:
        raise MessageError("undecodable", f"{what!r} image of {buffer.size} bytes: {e.err}") from e
    if pixels is None:
        raise MessageError(
            "undecodable", f"{what!r} image of {buffer.size} bytes is not a JPEG or PNG, or cut off"
        )
    return np.asarray(pixels)


# ----------------------------------------------------------------------------------- depth images


def depth_from_image(msg: Image, too_near_m: float = 0.0) -> DepthM:
    """``[H, W]`` float32 metres; 0 where there is no reading (0, NaN, infinite, negative).

    ``16UC1`` and ``mono16`` are millimetres, ``32FC1`` is metres (REP 118).

    Args:
        too_near_m: what ``-inf`` becomes, which means nearer than can be measured (REP 117). Who brakes
            must not take that for no reading.

    Errors: ``empty_image``, ``bad_step``, ``bad_size``, ``unsupported_encoding``.
    """
    match msg.encoding:
        case "16UC1" | "mono16":
            return _metres(_pixels(msg, np.dtype("u2"), 1))
        case "32FC1":
            pixels = _pixels(msg, np.dtype("f4"), 1)
            depth_m = _without_invalid(pixels)
            if too_near_m > 0.0:
                depth_m[np.isneginf(pixels)] = too_near_m
            return depth_m
    raise MessageError(
        "unsupported_encoding",
        f"depth image has encoding {msg.encoding!r}: publish 16UC1 (millimetres) or 32FC1 (metres)",
    )


def image_from_depth(depth_m: DepthM, stamp_ns: int, frame_id: str) -> Image:
    """A ``32FC1`` image from ``[H, W]`` float32 metres."""
    return _image(depth_m, "32FC1", stamp_ns, frame_id)


def image_from_depth_mm(depth_m: DepthM, stamp_ns: int, frame_id: str) -> Image:
    """A ``16UC1`` image: whole millimetres; what lies beyond 65.535 m is no reading."""
    return _image(_millimetres(depth_m), "16UC1", stamp_ns, frame_id)


def _metres(depth_mm: npt.NDArray[np.uint16]) -> DepthM:
    return np.multiply(depth_mm, np.float32(0.001), dtype=np.float32)


def _millimetres(depth_m: DepthM) -> npt.NDArray[np.uint16]:
    depth_mm = np.rint(depth_m * np.float32(1000.0))
    return np.where((depth_mm > 0) & (depth_mm <= 65535), depth_mm, 0).astype(np.uint16)


def _without_invalid(depth_m: npt.NDArray[np.float32]) -> DepthM:
    valid = (depth_m > 0.0) & (depth_m < np.inf)  # both are false for NaN
    return np.where(valid, depth_m, np.float32(0.0)).astype(np.float32, copy=False)


_DEPTH_HEADER = struct.Struct("<iff")
"""compressed_depth_image_transport's ConfigHeader: format (ignored by its decoder too), A, B."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_RVL_SIZE = struct.Struct("<ii")
"""Columns and rows, before what RVL itself writes."""


def depth_from_compressed(msg: CompressedImage) -> DepthM:
    """``[H, W]`` float32 metres from ``compressedDepth`` (PNG or RVL), or a plain 16-bit PNG.

    ``32FC1; compressedDepth`` holds inverse depth in 16 bits: ``depth = A / (value - B)``, with A and
    B in the header (compressed_depth_image_transport, codec.cpp).

    Errors: ``wrong_encoding``, ``undecodable``.
    """
    encoding, _, compression = msg.format.lower().partition(";")
    encoding = encoding.strip()
    data = bytes(msg.data)
    a = b = 0.0
    is_rvl = "rvl" in compression
    if is_rvl or not data.startswith(_PNG_MAGIC):
        if len(data) <= _DEPTH_HEADER.size:
            raise MessageError("undecodable", f"{msg.format!r} depth image has only {len(data)} bytes")
        _, a, b = _DEPTH_HEADER.unpack_from(data)
        data = data[_DEPTH_HEADER.size :]
        if not is_rvl and not data.startswith(_PNG_MAGIC):
            raise MessageError("undecodable", f"{msg.format!r} depth image holds no PNG")
    stored = _rvl(data, msg.format) if is_rvl else _decode(data, cv2.IMREAD_UNCHANGED, msg.format)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise MessageError(
            "wrong_encoding",
            f"{msg.format!r} image is {stored.dtype} {stored.shape}, depth is 16 bit in one channel",
        )
    match encoding:
        case "16uc1" | "mono16" | "png":
            return _metres(stored)
        case "32fc1" if a > 0.0 and math.isfinite(a) and math.isfinite(b):
            with np.errstate(divide="ignore", over="ignore"):
                depth_m = np.float32(a) / (stored.astype(np.float32) - np.float32(b))
            return _without_invalid(np.where(stored == 0, np.float32(0.0), depth_m))
        case "32fc1":
            raise MessageError("undecodable", f"{msg.format!r}: header has no quantisation (A {a}, B {b})")
    raise MessageError(
        "wrong_encoding", f"depth format {msg.format!r}: expected 16UC1 or 32FC1; compressedDepth png or rvl"
    )


def _rvl(data: bytes, what: str) -> npt.NDArray[np.uint16]:
    if len(data) < _RVL_SIZE.size:
        raise MessageError("undecodable", f"{what!r} depth image does not say its size")
    width, height = _RVL_SIZE.unpack_from(data)
    try:
        return decode_rvl(data[_RVL_SIZE.size :], width, height)
    except RvlError as e:
        raise MessageError("undecodable", f"{what!r} depth image is no RVL: {e}") from e


def depth_from_message(msg: Image | CompressedImage) -> DepthM:
    """Either kind. Errors: as of :func:`depth_from_image` and :func:`depth_from_compressed`."""
    return depth_from_compressed(msg) if isinstance(msg, CompressedImage) else depth_from_image(msg)


def compressed_from_depth(
    depth_m: DepthM, stamp_ns: int, frame_id: str, compression: str = "png"
) -> CompressedImage:
    """``16UC1; compressedDepth``: whole millimetres, lossless from there on. ``compression``: png or rvl."""
    stored = _millimetres(depth_m)
    if compression == "rvl":
        height, width = stored.shape
        data = _RVL_SIZE.pack(width, height) + encode_rvl(stored)
    else:
        data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    return CompressedImage(
        header=_header(stamp_ns, frame_id),
        format=f"16UC1; compressedDepth {compression}",
        data=_bytes(_DEPTH_HEADER.pack(0, 0.0, 0.0) + data),
    )


# ----------------------------------------------------------------------------------- camera model


def camera_from_info(msg: CameraInfo, calibration: str = "auto", topic: str = "") -> CameraModel:
    """The pinhole of the image that comes with ``msg``, from ``K`` or ``P``, region of interest and binning.

    Args:
        calibration, topic: which of the two, see :func:`is_rectified`.

    Errors: ``no_calibration`` (K of zeros, or P where that is needed), ``right_camera`` (P of a stereo pair's
    other camera), ``bad_camera_info``.
    """
    k, p = [float(v) for v in msg.k], [float(v) for v in msg.p]
    if not any(k) and calibration != "rectified":
        raise MessageError("no_calibration", "camera_info has K of zeros: calibrate the camera or fill in K")
    if is_rectified(msg, calibration, topic):
        if not (p[0] and p[5]):
            raise MessageError(
                "no_calibration", "camera_info has P of zeros: rectified images need it filled in"
            )
        if p[3] or p[7]:
            raise MessageError(
                "right_camera",
                f"camera_info is of a stereo pair's other camera (P has Tx {p[3]:g}, Ty {p[7]:g}): its "
                "images are not taken from where their frame is; use the left or the colour camera",
            )
        intrinsics = (p[0], p[5], p[2], p[6])
    else:
        intrinsics = (k[0], k[4], k[2], k[5])
    return _region_of(msg, *intrinsics)


def is_rectified(msg: CameraInfo, calibration: str = "auto", topic: str = "") -> bool:
    """Whether the images that come with ``msg`` are those of ``P``, not those of ``K``.

    A driver's camera_info is the same for its raw images and for those that image_proc made of them.

    Args:
        calibration: ``raw``: K; ``rectified``: P; ``auto``: where the two differ, P for a topic whose name
            says ``rect``, K for one whose name says ``raw``; else P where there is something to rectify.
        topic: of the images.
    """
    if calibration != "auto":
        return calibration == "rectified"
    p = np.array(msg.p, np.float64).reshape(3, 4)
    rotated = any(msg.r) and not np.allclose(np.array(msg.r).reshape(3, 3), np.eye(3), atol=1e-6)
    to_rectify = rotated or any(v != 0.0 for v in msg.d)
    says_rect = _says_rectified(topic)
    if not (p[0, 0] and p[1, 1]) or not np.isfinite(p).all():  # not filled in
        return says_rect and to_rectify
    return says_rect or (to_rectify and "raw" not in topic.lower())


def _says_rectified(topic: str) -> bool:
    return re.search(r"(^|[/_])rect", topic.lower()) is not None


def names_calibration(topic: str) -> bool:
    """Whether the name of a topic of images says what they are: raw, or rectified."""
    return _says_rectified(topic) or "raw" in topic.lower()


def _region_of(msg: CameraInfo, fx: float, fy: float, cx: float, cy: float) -> CameraModel:
    """Intrinsics of the whole sensor to those of the image: region of interest, then binning."""
    bin_x, bin_y = max(1, int(msg.binning_x)), max(1, int(msg.binning_y))
    roi = msg.roi
    width, height = int(roi.width or msg.width), int(roi.height or msg.height)
    if roi.x_offset + width > msg.width or roi.y_offset + height > msg.height:
        raise MessageError(
            "bad_camera_info",
            f"region of interest {width}x{height}+{roi.x_offset}+{roi.y_offset} "
            f"does not fit in {msg.width}x{msg.height}",
        )
    try:
        region = CameraModel(width, height, fx, fy, cx - roi.x_offset, cy - roi.y_offset)
        if bin_x == bin_y == 1:
            return region
        # Pixels that do not fill a bin are cut off before the rest is averaged.
        whole = CameraModel(
            width - width % bin_x, height - height % bin_y, region.fx, region.fy, region.cx, region.cy
        )
        return whole.resized(width // bin_x, height // bin_y)
    except ValueError as e:
        raise MessageError("bad_camera_info", f"camera_info: {e}") from e


def info_from_camera(camera: CameraModel, stamp_ns: int, frame_id: str) -> CameraInfo:
    """Of an ideal camera: no distortion, nothing to rectify."""
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    return CameraInfo(
        header=_header(stamp_ns, frame_id),
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


_LENS_MODELS = {
    "plumb_bob": LensModel.BROWN,
    "rational_polynomial": LensModel.BROWN,
    "equidistant": LensModel.EQUIDISTANT,
    "fisheye": LensModel.EQUIDISTANT,
}
_PLUMB_BOB = 5
"""Coefficients of that model; with more it is called rational_polynomial."""
_MOST_COEFFICIENTS = {LensModel.BROWN: 12, LensModel.EQUIDISTANT: 4}


def lens_from_info(msg: CameraInfo, calibration: str = "auto", topic: str = "") -> Lens:
    """The camera of the images that come with ``msg``, as it is: an ideal pinhole where they are rectified.

    Args:
        calibration, topic: see :func:`is_rectified`.

    Errors: those of :func:`camera_from_info`; ``unsupported_distortion`` (a model that is not known here, or
    coefficients that it does not have).
    """
    camera = camera_from_info(msg, calibration, topic)
    coefficients = tuple(float(k) for k in msg.d)
    model = _LENS_MODELS.get(msg.distortion_model)
    bends = any(coefficients) or (model is LensModel.EQUIDISTANT and bool(coefficients))
    if not bends or is_rectified(msg, calibration, topic):
        return Lens(camera)
    remedy = "subscribe to the rectified image, or set calibration to rectified if it is"
    if model is None:
        raise MessageError(
            "unsupported_distortion",
            f"camera_info has distortion by the model {msg.distortion_model!r}, known are "
            f"{', '.join(_LENS_MODELS)}: {remedy}",
        )
    most = _MOST_COEFFICIENTS[model]
    if any(coefficients[most:]):  # a tilted sensor
        raise MessageError(
            "unsupported_distortion",
            f"camera_info has {len(coefficients)} coefficients, {most} of {msg.distortion_model} are known "
            f"here: {remedy}",
        )
    try:
        return Lens(camera, model, coefficients[:most])
    except ValueError as e:
        raise MessageError("bad_camera_info", f"camera_info: {e}") from e


def info_from_lens(lens: Lens, stamp_ns: int, frame_id: str) -> CameraInfo:
    """As a driver has it beside its raw images: K and D; P is that of the pinhole."""
    msg = info_from_camera(lens.camera, stamp_ns, frame_id)
    if lens.is_ideal:
        return msg
    msg.d = [*lens.coefficients]
    if lens.model is LensModel.EQUIDISTANT:
        msg.distortion_model = "equidistant"
    elif len(msg.d) > _PLUMB_BOB:
        msg.distortion_model = "rational_polynomial"
    return msg


# ------------------------------------------------------------------------- poses, odometry, twist


def pose_from_pose(msg: PoseMsg) -> Pose:
    """Errors: ``not_finite``, ``bad_quaternion`` (length off by more than 1 %)."""
    p, q = msg.position, msg.orientation
    values = (p.x, p.y, p.z, q.x, q.y, q.z, q.w)
    if not all(math.isfinite(v) for v in values):
        raise MessageError("not_finite", f"pose is not finite: {values}")
    try:
        with np.errstate(over="ignore"):
            return Pose(np.array(values[:3]), np.array(values[3:]))
    except ValueError as e:
        raise MessageError("bad_quaternion", str(e)) from e


def pose_to_pose(pose: Pose) -> PoseMsg:
    x, y, z = pose.position.tolist()
    qx, qy, qz, qw = pose.orientation.tolist()
    return PoseMsg(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def pose_from_transform(msg: Transform) -> Pose:
    """``parent_from_child``. Errors: as of :func:`pose_from_pose`."""
    t = msg.translation
    return pose_from_pose(PoseMsg(position=Point(x=t.x, y=t.y, z=t.z), orientation=msg.rotation))


def transform_from_pose(pose: Pose) -> Transform:
    message = pose_to_pose(pose)
    p = message.position
    return Transform(translation=Vector3(x=p.x, y=p.y, z=p.z), rotation=message.orientation)


def stamped_from_transform(pose: Pose, stamp_ns: int, parent: str, child: str) -> TransformStamped:
    """``pose`` is parent_from_child."""
    header = _header(stamp_ns, parent)
    return TransformStamped(header=header, child_frame_id=child, transform=transform_from_pose(pose))


def pose_from_stamped(msg: PoseStamped) -> Pose:
    """The pose in ``msg.header.frame_id``. Errors as :func:`pose_from_pose`."""
    return pose_from_pose(msg.pose)


def stamped_from_pose(pose: Pose, stamp_ns: int, frame_id: str) -> PoseStamped:
    return PoseStamped(header=_header(stamp_ns, frame_id), pose=pose_to_pose(pose))


def pose_from_odometry(msg: Odometry) -> OdometryPose:
    """``odom_from_child`` with the names of both frames: :mod:`vln_ros.ros.odometry` makes it the base's.

    Errors as :func:`pose_from_pose`.
    """
    pose = pose_from_pose(msg.pose.pose)
    names = msg.header.frame_id.lstrip("/"), msg.child_frame_id.lstrip("/")
    return OdometryPose(pose.position, pose.orientation, *names)


def odometry_from_pose(
    pose: Pose,
    stamp_ns: int,
    frame_id: str,
    child_frame_id: str,
    linear_m_s: float,
    angular_rad_s: float,
) -> Odometry:
    """``pose`` is frame_from_child; the velocities are forward and about z, in the child frame."""
    msg = Odometry(header=_header(stamp_ns, frame_id), child_frame_id=child_frame_id)
    msg.pose.pose = pose_to_pose(pose)
    msg.twist.twist = twist_from_velocity(Velocity(linear_m_s, angular_rad_s))
    return msg


def odometry_from_stamped(msg: TransformStamped) -> Odometry:
    """What odometry would say of a transform from its frame; no velocities."""
    odometry = Odometry(header=msg.header, child_frame_id=msg.child_frame_id)
    t = msg.transform.translation
    odometry.pose.pose = PoseMsg(position=Point(x=t.x, y=t.y, z=t.z), orientation=msg.transform.rotation)
    return odometry


def velocity_from_twist(msg: Twist) -> Velocity:
    """Of a planar base. Errors: ``not_finite``."""
    velocity = Velocity(float(msg.linear.x), float(msg.angular.z), float(msg.linear.y))
    if not all(math.isfinite(v) for v in (msg.linear.x, msg.linear.y, msg.angular.z)):
        raise MessageError("not_finite", f"twist is not finite: {velocity}")
    return velocity


def twist_from_velocity(velocity: Velocity) -> Twist:
    return Twist(
        linear=Vector3(x=float(velocity.linear_m_s), y=float(velocity.lateral_m_s)),
        angular=Vector3(z=float(velocity.angular_rad_s)),
    )


def stamped_from_velocity(velocity: Velocity, stamp_ns: int, frame_id: str) -> TwistStamped:
    return TwistStamped(header=_header(stamp_ns, frame_id), twist=twist_from_velocity(velocity))


# ------------------------------------------------------------------------------------- laser scans


_LONGEST_RANGE_M = 500.0
"""No scanner of a robot measures farther: it is millimetres or centimetres."""
_OFF_RAD = math.radians(3.0)
"""How far the last ray may be from ``angle_max``: 5 cm at one metre. Drivers are off by a ray or two."""


def points_from_scan(msg: LaserScan, no_return: str = "inf") -> RangeScan:
    """What a scan says in each direction, by REP 117.

    ``inf``: no return, free as far as it measures. ``-inf``: nearer than can be measured, an obstacle. NaN,
    and ranges out of ``[range_min, range_max]``, say nothing; a scan without ranges says nothing at all.

    Args:
        no_return: what besides ``inf`` means no return. ``inf``: nothing else; ``zero``: 0.0;
            ``beyond``: any range above range_max.

    Errors: ``bad_scan`` (angles or limits that are not finite, that contradict each other or the number of
    ranges, or cannot be radians and metres).
    """
    limits = (msg.angle_min, msg.angle_increment, msg.range_min, msg.range_max)
    if not all(math.isfinite(v) for v in limits) or msg.angle_increment == 0.0:
        raise MessageError("bad_scan", f"scan has angles and ranges {limits}")
    if not 0.0 <= msg.range_min < msg.range_max <= _LONGEST_RANGE_M:
        raise MessageError(
            "bad_scan",
            f"scan has range_min {msg.range_min:g} and range_max {msg.range_max:g}: metres from 0 to "
            f"{_LONGEST_RANGE_M:g} are expected, in this order",
        )
    ranges_m = np.asarray(msg.ranges, np.float64)
    angles_rad = msg.angle_min + msg.angle_increment * np.arange(len(ranges_m))
    if len(ranges_m):
        _check_angles(msg, len(ranges_m))
    with np.errstate(invalid="ignore"):
        out = (ranges_m < msg.range_min) | (ranges_m > msg.range_max)
    said_m = np.where(out & np.isfinite(ranges_m), np.nan, ranges_m)
    if no_return == "zero":
        said_m[ranges_m == 0.0] = np.inf
    elif no_return == "beyond":
        said_m[ranges_m > msg.range_max] = np.inf
    return RangeScan(angles_rad, said_m)


def _check_angles(msg: LaserScan, rays: int) -> None:
    span_rad = msg.angle_increment * (rays - 1)
    off_rad = abs(msg.angle_min + span_rad - msg.angle_max)
    if not off_rad <= max(_OFF_RAD, 1.5 * abs(msg.angle_increment)):  # NaN, too
        raise MessageError(
            "bad_scan",
            f"scan has {rays} ranges from {msg.angle_min:g} rad by {msg.angle_increment:g} rad, which do not "
            f"end at its angle_max {msg.angle_max:g} rad",
        )
    if abs(span_rad) > 2.0 * math.pi + max(_OFF_RAD, 1.5 * abs(msg.angle_increment)):
        raise MessageError("bad_scan", f"scan goes round {span_rad:g} rad: more than once; are they degrees?")


# ---------------------------------------------------------------------------------- action queues

_MOTION_JOINTS = ("forward", "turn", "stop")
_NUMBER_JOINTS = ("instruction", "queue", "epoch")
CHUNK_JOINTS = _MOTION_JOINTS + _NUMBER_JOINTS
"""Joints of the queue's trajectory: metres, radians, 0 or 1, and three constant numbers."""
PLACE_JOINTS = ("place_x", "place_y", "place_moved", "place_source", "place_age")
"""Those of a queue toward a place, besides: metres in the odometry frame, index of its source, by how many
nanoseconds the frame that it was seen in is older than the queue's. Constant, too."""
PIXEL_JOINTS = ("pixel_row", "pixel_column", "pixel_age")
"""Those of one that answers with a pixel, besides: pixels, and as above."""
_PLACE_SOURCES = tuple(PlaceSource)
_EXECUTED_JOINT = "executed"
REPORT_JOINTS = (*CHUNK_JOINTS, _EXECUTED_JOINT)
"""Joints of the executor's report: one more, 1 for what is done and 0 for what is left."""


def chunk_from_trajectory(msg: JointTrajectory) -> ActionChunk:
    """The inverse of :func:`trajectory_from_chunk`; the joints may come in any order.

    Of an executor's report it is what is left; see :func:`report_from_trajectory`.

    Errors: ``negative_stamp``, ``bad_joints``, ``bad_point``, ``bad_number``, ``bad_action``, ``bad_place``.
    """
    names = list(msg.joint_names)
    if sorted(names) == sorted(REPORT_JOINTS):
        return report_from_trajectory(msg)[0]
    stamp_ns = stamp_ns_from_time(msg.header.stamp)
    shown = [n for joints in (PLACE_JOINTS, PIXEL_JOINTS) if joints[0] in names for n in joints]
    if sorted(names) != sorted([*CHUNK_JOINTS, *shown]):
        raise MessageError("bad_joints", f"queue has joints {names}, expected {[*CHUNK_JOINTS, *shown]}")
    if not msg.points:
        raise MessageError("bad_point", "queue has no point; one of zeros means: stop what you do and wait")
    columns = [names.index(name) for name in (*CHUNK_JOINTS, *shown)]
    rows: list[list[float]] = []
    for i, point in enumerate(msg.points):
        if len(point.positions) != len(names):
            raise MessageError(
                "bad_point", f"point {i} has {len(point.positions)} values for {len(names)} joints"
            )
        rows.append([float(point.positions[c]) for c in columns])
    numbers = rows[0][len(_MOTION_JOINTS) : len(CHUNK_JOINTS)]
    if any(not (0.0 <= n < 2.0**53 and n.is_integer()) for n in numbers):
        raise MessageError("bad_number", f"{_NUMBER_JOINTS} must be whole numbers from 0, got {numbers}")
    if any(row[len(_MOTION_JOINTS) :] != rows[0][len(_MOTION_JOINTS) :] for row in rows):
        raise MessageError("bad_number", f"{[*_NUMBER_JOINTS, *shown]} must be the same in every point")
    place, pixel = _shown(dict(zip(shown, rows[0][len(CHUNK_JOINTS) :], strict=True)), stamp_ns)
    actions = []
    for i, (forward_m, turn_rad, stop, *_) in enumerate(rows):
        if len(rows) == 1 and forward_m == turn_rad == stop == 0.0:
            break  # hold
        if stop not in (0.0, 1.0):
            raise MessageError("bad_action", f"point {i}: stop must be 0 or 1, got {stop}")
        try:
            actions.append(Action(forward_m, turn_rad, stop == 1.0))
        except ValueError as e:
            raise MessageError("bad_action", f"point {i}: {e}") from e
    try:
        instruction, queue, epoch = (int(n) for n in numbers)
        return ActionChunk(
            queue, instruction, stamp_ns, tuple(actions), epoch=epoch, place=place, pixel_goal=pixel
        )
    except ValueError as e:
        raise MessageError("bad_action", str(e)) from e


def _shown(joints: Mapping[str, float], stamp_ns: int) -> tuple[PlaceGoal | None, PixelGoal | None]:
    """The place and the pixel that joints name."""
    if not all(math.isfinite(v) for v in joints.values()):
        raise MessageError("bad_number", f"the queue's place or pixel is not finite: {dict(joints)}")
    whole = {n: v for n, v in joints.items() if n in PIXEL_JOINTS or n in PLACE_JOINTS[-2:]}
    if any(not (abs(v) < 2.0**53 and v.is_integer()) for v in whole.values()):
        raise MessageError("bad_number", f"{list(whole)} must be whole numbers, got {list(whole.values())}")
    place, pixel = None, None
    try:
        if PLACE_JOINTS[0] in joints:
            x_m, y_m, moved_m, source, age_ns = (joints[n] for n in PLACE_JOINTS)
            if not 0 <= source < len(_PLACE_SOURCES):
                raise ValueError(f"place_source must be from 0 to {len(_PLACE_SOURCES) - 1}, got {source:g}")
            place = PlaceGoal(x_m, y_m, stamp_ns - int(age_ns), _PLACE_SOURCES[int(source)], moved_m)
        if PIXEL_JOINTS[0] in joints:
            row, column, age_ns = (int(joints[n]) for n in PIXEL_JOINTS)
            pixel = PixelGoal(row, column, stamp_ns - age_ns)
    except ValueError as e:
        raise MessageError("bad_place", str(e)) from e
    return place, pixel


def trajectory_from_chunk(
    chunk: ActionChunk, base_frame: str, linear_m_s: float, angular_rad_s: float
) -> JointTrajectory:
    """One point per action; the positions are that action's own displacement, not the sum so far.

    ``header.stamp`` is the stamp of the frame that the queue answers, in ``base_frame``. The numbers
    travel as joints that do not move, because the message has no other room for them. An empty
    chunk is one point of zeros. So do the place that a queue leads to and the pixel that it answers, where
    there are any. Probabilities and ``wanted`` do not travel.

    Args:
        linear_m_s: speed from which the nominal ``time_from_start`` of each completion is computed.
        angular_rad_s: the same for turns.
    """
    names, numbers = list(CHUNK_JOINTS), [float(chunk.instruction), float(chunk.queue), float(chunk.epoch)]
    if (place := chunk.place) is not None:
        names += PLACE_JOINTS
        source, age_ns = _PLACE_SOURCES.index(place.source), chunk.frame_stamp_ns - place.stamp_ns
        numbers += [place.x_m, place.y_m, place.moved_m, float(source), float(age_ns)]
    if (pixel := chunk.pixel_goal) is not None:
        names += PIXEL_JOINTS
        numbers += [float(pixel.row), float(pixel.column), float(chunk.frame_stamp_ns - pixel.stamp_ns)]
    msg = JointTrajectory(header=_header(chunk.frame_stamp_ns, base_frame), joint_names=names)
    elapsed_s = 0.0
    points = []
    for action in chunk.actions:
        elapsed_s += action.forward_m / linear_m_s + abs(action.turn_rad) / angular_rad_s
        point = JointTrajectoryPoint(
            positions=[float(action.forward_m), float(action.turn_rad), float(action.stop), *numbers]
        )
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(
            round(elapsed_s * 1e9), 1_000_000_000
        )
        points.append(point)
    msg.points = points or [JointTrajectoryPoint(positions=[0.0, 0.0, 0.0, *numbers])]
    return msg


def trajectory_from_report(
    left: ActionChunk,
    executed: Sequence[Executed],
    base_frame: str,
    linear_m_s: float,
    angular_rad_s: float,
) -> JointTrajectory:
    """What is left of a queue, as :func:`trajectory_from_chunk`, behind what was completed lately.

    ``time_from_start`` of what was completed is negative or 0: when it was, seen from the header's stamp.
    """
    msg = trajectory_from_chunk(left, base_frame, linear_m_s, angular_rad_s)
    msg.joint_names = list(REPORT_JOINTS)
    for point in msg.points:
        point.positions = [*point.positions, 0.0]
    numbers = [float(left.instruction), float(left.queue), float(left.epoch)]
    past = []
    for e in executed:
        a = e.action
        point = JointTrajectoryPoint(positions=[a.forward_m, a.turn_rad, float(a.stop), *numbers, 1.0])
        since_ns = min(e.stamp_ns - left.frame_stamp_ns, 0)
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(since_ns, 1_000_000_000)
        past.append(point)
    msg.points = [*past, *msg.points]
    return msg


def report_from_trajectory(msg: JointTrajectory) -> tuple[ActionChunk, tuple[Executed, ...] | None]:
    """The inverse of :func:`trajectory_from_report`: what is left, and what was completed lately.

    A report without the joint ``executed`` only says what is left; the second is None then.

    Errors: as :func:`chunk_from_trajectory`.
    """
    names = list(msg.joint_names)
    if sorted(names) != sorted(REPORT_JOINTS):
        return chunk_from_trajectory(msg), None
    column = names.index(_EXECUTED_JOINT)
    order = [i for i in range(len(names)) if i != column]
    past: list[JointTrajectoryPoint] = []
    left: list[JointTrajectoryPoint] = []
    for i, point in enumerate(msg.points):
        if len(point.positions) != len(names):
            raise MessageError(
                "bad_point", f"point {i} has {len(point.positions)} values for {len(names)} joints"
            )
        flag = float(point.positions[column])
        if flag not in (0.0, 1.0):
            raise MessageError("bad_action", f"point {i}: executed must be 0 or 1, got {flag}")
        plain = JointTrajectoryPoint(
            positions=[float(point.positions[k]) for k in order], time_from_start=point.time_from_start
        )
        (past if flag else left).append(plain)
    reduced = JointTrajectory(header=msg.header, joint_names=[names[k] for k in order], points=left)
    chunk = chunk_from_trajectory(reduced)
    executed = []
    columns = [reduced.joint_names.index(name) for name in CHUNK_JOINTS]
    for i, point in enumerate(past):
        forward_m, turn_rad, stop, *_ = (point.positions[k] for k in columns)
        since_ns = point.time_from_start.sec * 1_000_000_000 + point.time_from_start.nanosec
        stamp_ns = chunk.frame_stamp_ns + since_ns
        try:
            if stop not in (0.0, 1.0) or since_ns > 0 or stamp_ns < 0:
                raise ValueError(f"stop {stop}, {since_ns} ns from the header's stamp")
            executed.append(Executed(stamp_ns, Action(forward_m, turn_rad, stop == 1.0)))
        except ValueError as e:
            raise MessageError("bad_action", f"executed point {i}: {e}") from e
    if any(a.stamp_ns > b.stamp_ns for a, b in itertools.pairwise(executed)):
        raise MessageError("bad_action", "what was executed is not in the order of its stamps")
    return chunk, tuple(executed)


def kinds_from_chunk(chunk: ActionChunk) -> Int32MultiArray:
    """For people: the VLN-CE numbers of the actions; the labels say whose they are."""
    n = len(chunk.actions)
    return Int32MultiArray(
        layout=MultiArrayLayout(
            dim=[
                MultiArrayDimension(label=f"instruction {chunk.instruction}", size=1, stride=n),
                MultiArrayDimension(label=f"queue {chunk.queue}", size=n, stride=n),
            ]
        ),
        data=[int(a.kind) for a in chunk.actions],
    )


def path_from_chunk(chunk: ActionChunk, start: Pose, frame_id: str) -> Path:
    """``start`` and the pose after each undisturbed action, in ``frame_id``, at the frame's stamp."""
    poses = [start]
    for action in chunk.actions:
        poses.append(apply_action(poses[-1], action))
    return Path(
        header=_header(chunk.frame_stamp_ns, frame_id),
        poses=[stamped_from_pose(p, chunk.frame_stamp_ns, frame_id) for p in poses],
    )


def path_from_places(places: Float64Array, stamp_ns: int, frame_id: str) -> Path:
    """A way over the floor ``[N, 2]`` metres, in ``frame_id``."""
    poses = [Pose.planar(float(x), float(y), 0.0) for x, y in places]
    return Path(
        header=_header(stamp_ns, frame_id), poses=[stamped_from_pose(p, stamp_ns, frame_id) for p in poses]
    )


# --------------------------------------------------------------------------------------- obstacles

_CLOUD_FIELDS = tuple(
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate("xyz")
)


def cloud_from_points(points: Float64Array, stamp_ns: int, frame_id: str) -> PointCloud2:
    """``[N, 3]`` metres, as 32-bit floats x, y, z."""
    msg = PointCloud2(
        header=_header(stamp_ns, frame_id),
        height=1,
        width=len(points),
        fields=list(_CLOUD_FIELDS),
        point_step=12,
        row_step=12 * len(points),
        is_dense=True,
    )
    msg.data = array.array("B", np.ascontiguousarray(points, "<f4").tobytes())
    return msg


def points_from_cloud(msg: PointCloud2) -> Float64Array:
    """The inverse of :func:`cloud_from_points`: ``[N, 3]`` metres; of other makes, too, if x, y and z are
    32-bit floats. Points that are not finite are left out.

    Errors: ``bad_cloud``.
    """
    at = {f.name: f.offset for f in msg.fields if f.datatype == PointField.FLOAT32 and f.count == 1}
    count, step = msg.width * msg.height, msg.point_step
    if not {"x", "y", "z"} <= at.keys() or any(at[n] + 4 > step for n in "xyz"):
        raise MessageError("bad_cloud", "a cloud of obstacles needs x, y and z as 32-bit floats")
    if (msg.height > 1 and msg.row_step != msg.width * step) or len(msg.data) != count * step:
        raise MessageError(
            "bad_cloud", f"cloud of {msg.width}x{msg.height} points of {step} bytes has {len(msg.data)} bytes"
        )
    rows = np.frombuffer(msg.data, np.uint8).reshape(count, step)
    order = ">f4" if msg.is_bigendian else "<f4"
    columns = [np.ascontiguousarray(rows[:, at[n] : at[n] + 4]).view(order)[:, 0] for n in "xyz"]
    points = np.stack(columns, 1).astype(np.float64)
    return np.asarray(points[np.isfinite(points).all(1)])


# ------------------------------------------------------------------------------------ instructions


def instruction_from_string(msg: String) -> str:
    """The text without the blanks around it.

    Errors: ``empty_instruction``, ``long_instruction``, ``not_utf8``, ``control_characters``.
    """
    text = str(msg.data).strip()
    if not text:
        raise MessageError("empty_instruction", "instruction is empty; to stop, call the cancel service")
    try:
        check_words("instruction", text, MAX_INSTRUCTION_CHARACTERS)
    except WordsError as error:
        long = error.fault is WordsFault.LONG
        raise MessageError("long_instruction" if long else error.fault.value, str(error)) from error
    return text


def string_from_instruction(text: str) -> String:
    return String(data=text)
