"""Makes small images of raw ones, on their way into a recording."""

from __future__ import annotations

from functools import partial

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from vln_ros.ros import convert
from vln_ros.ros.bag.writer import Encode, EncodeError


def color_encoder(image_format: str, jpeg_quality: int) -> Encode:
    """Raw colour as CompressedImage. ``image_format``: jpeg or png."""
    return partial(_color, image_format, jpeg_quality)


def depth_encoder() -> Encode:
    """Raw depth as CompressedImage: ``compressedDepth`` by PNG, whole millimetres."""
    return _depth


def _color(image_format: str, jpeg_quality: int, data: bytes) -> bytes:
    msg = _image(data)
    try:
        rgb, stamp_ns = convert.rgb_from_image(msg), convert.stamp_ns_from_time(msg.header.stamp)
    except convert.MessageError as error:
        raise EncodeError(str(error)) from error
    frame_id = msg.header.frame_id
    return bytes(
        serialize_message(convert.compressed_from_rgb(rgb, stamp_ns, frame_id, jpeg_quality, image_format))
    )


def _depth(data: bytes) -> bytes:
    msg = _image(data)
    try:
        depth_m, stamp_ns = convert.depth_from_image(msg), convert.stamp_ns_from_time(msg.header.stamp)
    except convert.MessageError as error:
        raise EncodeError(str(error)) from error
    return bytes(serialize_message(convert.compressed_from_depth(depth_m, stamp_ns, msg.header.frame_id)))


def _image(data: bytes) -> Image:
    try:
        message: Image = deserialize_message(data, Image)
    except Exception as error:  # rclpy's C layer documents none
        raise EncodeError(f"{len(data)} bytes are no image: {error}") from error
    return message
