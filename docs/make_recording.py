"""Writes the recording that the package ships: a robot on its way through a flat of the embedded world.

Run by hand, with the folder that is to be written: `python docs/make_recording.py vln_ros/recordings/flat`.
`vln_ros replay shipped:flat` plays it. Equal code gives equal messages.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vln_ros.config import CameraConfig
from vln_ros.datatypes import Pose, StepSize
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.oracle.expert import Expert
from vln_ros.sim.splits import first_seeds, make_scene_episodes
from vln_ros.sim.worlds import camera_and_extrinsics

SPLIT = "val_unseen"
SIZE = CameraConfig(width=256, height=192)
STEP = StepSize(0.125, math.radians(7.5))
BEGIN_NS, PERIOD_NS = 10**18, 250_000_000
JPEG_QUALITY = 85
MOST_FRAMES = 150
FRAME = "camera_color_optical_frame"
TYPES = {
    f"{COLOR_TOPIC}/compressed": "sensor_msgs/msg/CompressedImage",
    f"{DEPTH_TOPIC}/compressedDepth": "sensor_msgs/msg/CompressedImage",
    INFO_TOPIC: "sensor_msgs/msg/CameraInfo",
    "odom": "nav_msgs/msg/Odometry",
    "instruction": "std_msgs/msg/String",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


def static_transform(store: Any, pose: Pose) -> bytes:
    """``base_from_optical`` as /tf_static has it (CDR)."""
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](10**9, 0), "base_link")
    place = types["geometry_msgs/msg/Vector3"](*pose.position.tolist())
    turn = types["geometry_msgs/msg/Quaternion"](*pose.orientation.tolist())
    stamped = types["geometry_msgs/msg/TransformStamped"](
        header, FRAME, types["geometry_msgs/msg/Transform"](place, turn)
    )
    name = TYPES["/tf_static"]
    return bytes(store.serialize_cdr(types[name]([stamped]), name))


def main(folder: Path) -> None:
    camera, extrinsics = camera_and_extrinsics(SIZE)
    every = make_scene_episodes(SPLIT, first_seeds(SPLIT, 1)[0])
    episode = min(every, key=lambda e: abs(e.geodesic_distance_m - 8.0))
    world = EmbeddedWorld(camera, extrinsics)
    world.load(episode.scene_id)
    world.place(episode.start)
    expert = Expert(world.scene.walkable, episode.goal, STEP)
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {name: writer.add_connection(name, type_, typestore=store) for name, type_ in TYPES.items()}
        writer.write(topics["/tf_static"], BEGIN_NS, static_transform(store, extrinsics))
        said = serialize_message(convert.string_from_instruction(episode.instruction))
        writer.write(topics["instruction"], BEGIN_NS, said)
        for number in range(MOST_FRAMES):
            stamp_ns = BEGIN_NS + number * PERIOD_NS
            rgb, depth_m = world.render()
            messages = (
                convert.compressed_from_rgb(rgb, stamp_ns, FRAME, JPEG_QUALITY),
                convert.compressed_from_depth(depth_m, stamp_ns, FRAME),
                convert.info_from_camera(camera, stamp_ns, FRAME),
                convert.odometry_from_pose(world.pose, stamp_ns, "odom", "base_link", 0.0, 0.0),
            )
            for name, message in zip(TYPES, messages, strict=False):
                writer.write(topics[name], stamp_ns, serialize_message(message))
            action = expert.next_action(world.pose)
            if action.stop:
                break
            world.step(action)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
