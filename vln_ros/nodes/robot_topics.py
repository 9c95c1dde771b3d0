"""Publishes the topics of a simulated robot, as its own drivers would."""

from __future__ import annotations

from collections.abc import Callable

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vln_ros.config import BridgeConfig
from vln_ros.datatypes import Pose
from vln_ros.evaluation.episode.run import Observation
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.nodes.static_frames import RobotFrames
from vln_ros.protocols import World
from vln_ros.ros import convert, qos

ASK_AGAIN_S = 10.0
"""An instruction that nobody has answered for this long is published again: the answer may have come before
whoever waits for it could hear it."""


class RobotTopics:
    """Publishes camera, odometry, frames and clock of a robot in a world.

    Args:
        published: called with each stamp of clock or odometry before that is published.
    """

    def __init__(
        self, node: Node, config: BridgeConfig, world: World, published: Callable[[int], None]
    ) -> None:
        self._config = config
        self._camera = world.camera
        self._published = published
        self._frames = RobotFrames(node, config, world.base_from_optical)
        sensor = qos.sensor(config.reliability, 5)
        if config.transport == "compressed":
            color, depth = f"{COLOR_TOPIC}/compressed", f"{DEPTH_TOPIC}/compressedDepth"
            self._color_pub = node.create_publisher(CompressedImage, color, sensor)
            self._depth_pub = node.create_publisher(CompressedImage, depth, sensor)
        else:
            self._color_pub = node.create_publisher(Image, COLOR_TOPIC, sensor)
            self._depth_pub = node.create_publisher(Image, DEPTH_TOPIC, sensor)
        self._info_pub = node.create_publisher(CameraInfo, INFO_TOPIC, sensor)
        self._odom_pub = node.create_publisher(Odometry, "odom", qos.sensor("reliable", 100))
        self._clock_pub = node.create_publisher(Clock, "/clock", qos.sensor("best_effort", 1))

    @property
    def heard(self) -> bool:
        """As many as are expected listen to every stream that a frame is made of."""
        publishers = (self._color_pub, self._depth_pub, self._info_pub, self._odom_pub)
        return all(p.get_subscription_count() >= self._config.listeners for p in publishers)

    def clock(self, stamp_ns: int) -> None:
        self._published(stamp_ns)
        self._clock_pub.publish(Clock(clock=convert.time_from_stamp_ns(stamp_ns)))

    def odometry(self, stamp_ns: int, pose: Pose, linear_m_s: float, angular_rad_s: float) -> None:
        """``pose`` is odom_from_base."""
        c = self._config
        self._published(stamp_ns)
        self._frames.moved(pose, stamp_ns)
        self._odom_pub.publish(
            convert.odometry_from_pose(pose, stamp_ns, c.odom_frame, c.base_frame, linear_m_s, angular_rad_s)
        )

    def standing(self, observation: Observation) -> None:
        """Everything of a robot that stands, as it does between discrete actions."""
        self.clock(observation.stamp_ns)
        self.odometry(observation.stamp_ns, observation.pose, 0.0, 0.0)
        self.images(observation)

    def images(self, observation: Observation) -> None:
        """Colour, depth and camera_info of one observation."""
        stamp_ns, frame = observation.stamp_ns, self._config.optical_frame
        self._info_pub.publish(convert.info_from_camera(self._camera, stamp_ns, frame))
        rgb, depth_m = observation.rgb, observation.depth_m
        if self._config.transport == "compressed":
            quality = self._config.jpeg_quality
            self._depth_pub.publish(convert.compressed_from_depth(depth_m, stamp_ns, frame))
            self._color_pub.publish(convert.compressed_from_rgb(rgb, stamp_ns, frame, quality))
            return
        self._depth_pub.publish(convert.image_from_depth(depth_m, stamp_ns, frame))
        self._color_pub.publish(convert.image_from_rgb(rgb, stamp_ns, frame))
