"""Publishes what the navigator decides: action queues, predicted path, frames taken in."""

from __future__ import annotations

from nav_msgs.msg import Path
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header, Int32MultiArray
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ExecutorConfig, NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame
from vln_ros.nodes.navigator.report import reuse_images
from vln_ros.protocols import Engine, ShowsReuse
from vln_ros.ros import convert, qos

NOMINAL = ExecutorConfig()
"""Speeds from which the queue's nominal times are computed."""


class NavigatorOutput:
    """The publishers of a configured navigator. May be used from the engine's thread."""

    def __init__(self, node: Node, config: NavigatorConfig) -> None:
        self._config = config
        self._queue_pub = node.create_publisher(JointTrajectory, "action_queue", qos.events())
        self._kinds_pub = node.create_publisher(Int32MultiArray, "action_ids", qos.commands())
        self._path_pub = node.create_publisher(Path, "predicted_path", qos.diagnostics())
        self._reuse_pub = node.create_publisher(Image, "~/reuse_image", qos.diagnostics())
        self._processed_pub = node.create_publisher(Header, "frame_processed", qos.events())

    def processed(self, frame: Frame) -> None:
        """It was taken in."""
        stamp = convert.time_from_stamp_ns(frame.stamp_ns)
        self._processed_pub.publish(Header(stamp=stamp, frame_id=self._config.base_frame))

    def queue(self, chunk: ActionChunk) -> None:
        """A queue, or a hold."""
        base_frame = self._config.base_frame
        self._queue_pub.publish(
            convert.trajectory_from_chunk(
                chunk, base_frame, NOMINAL.max_linear_m_s, NOMINAL.max_angular_rad_s
            )
        )
        self._kinds_pub.publish(convert.kinds_from_chunk(chunk))

    def answer(self, chunk: ActionChunk, frame: Frame, engine: Engine | None) -> None:
        """What people see of a queue that answers ``frame``."""
        odom_frame = self._config.sync.odom_frame or "odom"
        self._path_pub.publish(convert.path_from_chunk(chunk, frame.odom_from_base, odom_frame))
        if self._reuse_pub.get_subscription_count() and isinstance(engine, ShowsReuse):
            for image in reuse_images(engine, frame, self._config.base_frame):
                self._reuse_pub.publish(image)
