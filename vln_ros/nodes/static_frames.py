"""Publishes frames on TF: those of a recording, or of a simulated robot."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.publisher import Publisher

from vln_ros.config import BridgeConfig
from vln_ros.datatypes import Pose
from vln_ros.ros import convert, qos

if TYPE_CHECKING:
    from vln_ros.ros.bag.reader import Bag  # at run time only the player of recordings has it


def publish_static_frames(node: Node, bag: Bag) -> Publisher | None:
    """Latched; None where nobody could take them: without TF's messages there is no TF."""
    if importlib.util.find_spec("tf2_msgs") is None:
        return None
    from tf2_msgs.msg import TFMessage

    publisher = node.create_publisher(TFMessage, "/tf_static", qos.static_frames())
    for message in bag.static_frames():
        publisher.publish(message)
    return publisher


class RobotFrames:
    """/tf with every odometry: odom to base; /tf_static: base to the camera's optical frame.

    Where TF's messages cannot be imported (rclpy from wheels) nobody could take them: it is said once.
    """

    def __init__(self, node: Node, config: BridgeConfig, base_from_optical: Pose) -> None:
        self._odom_frame, self._base_frame = config.odom_frame, config.base_frame
        self._tf_pub: Publisher | None = None
        if importlib.util.find_spec("tf2_msgs") is None:
            node.get_logger().info(
                "no frames are published: tf2_msgs cannot be imported (apt install ros-jazzy-tf2-msgs). "
                "Nodes need extrinsics:=parameters, and rviz shows no cloud"
            )
            return
        from tf2_msgs.msg import TFMessage

        self._message = TFMessage
        self._tf_pub = node.create_publisher(TFMessage, "/tf", qos.frames())
        self._static_pub = node.create_publisher(TFMessage, "/tf_static", qos.static_frames())
        mounted = convert.stamped_from_transform(
            base_from_optical, node.get_clock().now().nanoseconds, self._base_frame, config.optical_frame
        )
        self._static_pub.publish(TFMessage(transforms=[mounted]))

    def moved(self, odom_from_base: Pose, stamp_ns: int) -> None:
        """The robot is there."""
        if self._tf_pub is None:
            return
        frame: TransformStamped = convert.stamped_from_transform(
            odom_from_base, stamp_ns, self._odom_frame, self._base_frame
        )
        self._tf_pub.publish(self._message(transforms=[frame]))
