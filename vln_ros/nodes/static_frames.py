"""The static frames of a recording, for nodes that take the camera's mounting from TF."""

from __future__ import annotations

import importlib.util

from rclpy.node import Node
from rclpy.publisher import Publisher

from vln_ros.ros import qos
from vln_ros.ros.bag import Bag


def publish_static_frames(node: Node, bag: Bag) -> Publisher | None:
    """Latched; None where nobody could take them: without TF's messages there is no TF."""
    if importlib.util.find_spec("tf2_msgs") is None:
        return None
    from tf2_msgs.msg import TFMessage

    publisher = node.create_publisher(TFMessage, "/tf_static", qos.static_frames())
    for message in bag.static_frames():
        publisher.publish(message)
    return publisher
