"""A drive straight on, as a recording."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.ros import convert
from vln_ros.ros.bag.reader import COMPRESSED, IMAGE

FRAMES = 12
CAMERA = CameraModel.from_hfov(64, 48, 1.4)
EXTRINSICS = base_from_optical(0.1, 0.0, 1.2, pitch_down_rad=0.2)
PERIOD_NS = 100_000_000
BEGIN_NS = 1_700_000_000_000_000_000
TYPES = get_typestore(Stores.ROS2_JAZZY)
TRANSPORTS: dict[bool, dict[str, tuple[str, str]]] = {
    False: {"color": ("/cam/color/image_raw", IMAGE), "depth": ("/cam/depth/image_raw", IMAGE)},
    True: {
        "color": ("/cam/color/image_raw/compressed", COMPRESSED),
        "depth": ("/cam/depth/image_raw/compressedDepth", COMPRESSED),
    },
}


def static_transform() -> bytes:
    t = TYPES.types
    x, y, z = (float(v) for v in EXTRINSICS.position)
    qx, qy, qz, qw = (float(v) for v in EXTRINSICS.orientation)
    stamp = t["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
    transform = t["geometry_msgs/msg/TransformStamped"](
        header=t["std_msgs/msg/Header"](stamp=stamp, frame_id="base_link"),
        child_frame_id="optical",
        transform=t["geometry_msgs/msg/Transform"](
            translation=t["geometry_msgs/msg/Vector3"](x=x, y=y, z=z),
            rotation=t["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
        ),
    )
    message = t["tf2_msgs/msg/TFMessage"](transforms=[transform])
    return bytes(TYPES.serialize_cdr(message, "tf2_msgs/msg/TFMessage"))


def write_bag(path: Path, *, compressed: bool, mcap: bool, second_color: bool = False) -> Path:
    """A drive of FRAMES frames straight on, odometry at twice their rate."""
    rng = np.random.default_rng(1)
    plugin = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connect: Callable[[str, str], Any] = lambda topic, type_: writer.add_connection(  # noqa: E731
            topic, type_, typestore=TYPES
        )
        color = connect(*TRANSPORTS[compressed]["color"])
        depth = connect(*TRANSPORTS[compressed]["depth"])
        info = connect("/cam/color/camera_info", "sensor_msgs/msg/CameraInfo")
        odometry = connect("/odom", "nav_msgs/msg/Odometry")
        if second_color:
            writer.write(connect("/other/color/image_raw", IMAGE), BEGIN_NS, b"\x00" * 64)
        writer.write(connect("/tf_static", "tf2_msgs/msg/TFMessage"), BEGIN_NS, static_transform())
        for i in range(2 * FRAMES + 1):
            stamp = BEGIN_NS + i * PERIOD_NS // 2
            pose = Pose.planar(0.01 * i, 0.0, 0.0)
            message = convert.odometry_from_pose(pose, stamp, "odom", "base_link", 0.1, 0.0)
            writer.write(odometry, stamp, serialize_message(message))
            if i % 2 == 0 or i == 2 * FRAMES:
                continue
            rgb = rng.integers(0, 255, (48, 64, 3), np.uint8)
            depth_m = rng.uniform(0.5, 5.0, (48, 64)).astype(np.float32)
            messages = (
                (info, convert.info_from_camera(CAMERA, stamp, "optical")),
                (depth, (convert.compressed_from_depth if compressed else convert.image_from_depth)(
                    depth_m, stamp, "optical")),
                (color, convert.compressed_from_rgb(rgb, stamp, "optical", 90) if compressed
                 else convert.image_from_rgb(rgb, stamp, "optical")),
            )  # fmt: skip
            for connection, sensor_message in messages:
                writer.write(connection, stamp, serialize_message(sensor_message))
    return path


def replay_command(bag: Path, out: Path, *options: str) -> list[str]:
    """`vln_ros replay` of a recording, with an engine that only ever goes on."""
    command = [
        sys.executable,
        "-m",
        "vln_ros",
        "replay",
        str(bag),
        "--instruction",
        "go",
        "--engine",
        "paced",
    ]
    return [*command, "--no-video", "--out", str(out), *options]
