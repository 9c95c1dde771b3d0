"""Publishes the topics of a simulated robot, as its own drivers would."""

from __future__ import annotations

from collections.abc import Callable

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vln_ros.config import OWN_DEPTH_INFO_TOPIC, BridgeConfig
from vln_ros.datatypes import Pose
from vln_ros.evaluation.episode.run import Observation
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.nodes.static_frames import RobotFrames
from vln_ros.protocols import World
from vln_ros.ros import convert, qos
from vln_ros.sim.sensors import OWN_DEPTH_FRAME, OWN_DEPTH_TOPIC, SensorRig

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
        self._rig = rig = SensorRig(world, config.sensors)
        self._published = published
        self._depth_frame = config.optical_frame if rig.depth is None else OWN_DEPTH_FRAME
        mounted = {config.optical_frame: world.base_from_optical, self._depth_frame: rig.base_from_depth}
        self._frames = RobotFrames(node, config, mounted)
        depth_topic = DEPTH_TOPIC if rig.depth is None else OWN_DEPTH_TOPIC

        def publisher(type_: type, topic: str) -> Publisher:
            sensor = qos.sensor(config.reliability, 5)
            return node.create_publisher(type_, topic, sensor, qos_overriding_options=qos.OVERRIDABLE)

        self._raw_depth_pub: Publisher | None = None
        if config.transport == "compressed":
            self._raw_depth_pub = publisher(Image, depth_topic)
            self._color_pub = publisher(CompressedImage, f"{COLOR_TOPIC}/compressed")
            self._depth_pub = publisher(CompressedImage, f"{depth_topic}/compressedDepth")
        else:
            self._color_pub = publisher(Image, COLOR_TOPIC)
            self._depth_pub = publisher(Image, depth_topic)
        self._info_pub = publisher(CameraInfo, INFO_TOPIC)
        self._depth_info_pub = None if rig.depth is None else publisher(CameraInfo, OWN_DEPTH_INFO_TOPIC)
        self._odom_pub: Publisher | None = None
        if config.sensors.odometry == "topic":
            self._odom_pub = node.create_publisher(
                Odometry, "odom", qos.sensor("reliable", 100), qos_overriding_options=qos.OVERRIDABLE
            )
        self._clock_pub = node.create_publisher(Clock, "/clock", qos.sensor("best_effort", 1))

    @property
    def heard(self) -> bool:
        """As many as are expected listen to every stream that a frame is made of."""
        odometry = self._odom_pub or self._frames.publisher
        streams = (self._color_pub, self._depth_pub, self._info_pub, self._depth_info_pub, odometry)
        listening = [p.get_subscription_count() for p in streams if p is not None]
        return min(listening) >= self._config.listeners

    def clock(self, stamp_ns: int) -> None:
        self._published(stamp_ns)
        self._clock_pub.publish(Clock(clock=convert.time_from_stamp_ns(stamp_ns)))

    def odometry(self, stamp_ns: int, pose: Pose, linear_m_s: float, angular_rad_s: float) -> None:
        """``pose`` is odom_from_base."""
        c = self._config
        self._published(stamp_ns)
        self._frames.moved(pose, stamp_ns)
        if self._odom_pub is not None:
            frames = c.odom_frame, c.base_frame
            self._odom_pub.publish(
                convert.odometry_from_pose(pose, stamp_ns, *frames, linear_m_s, angular_rad_s)
            )

    def standing(self, observation: Observation) -> None:
        """Everything of a robot that stands, as it does between discrete actions."""
        self.clock(observation.stamp_ns)
        self.odometry(observation.stamp_ns, observation.pose, 0.0, 0.0)
        self.images(observation)

    def images(self, observation: Observation) -> None:
        """Colour, depth and camera_info of one observation."""
        stamp_ns, frame = observation.stamp_ns, self._config.optical_frame
        self._info_pub.publish(convert.info_from_lens(self._rig.color, stamp_ns, frame))
        depth_frame = self._depth_frame
        if self._depth_info_pub is not None and self._rig.depth is not None:
            self._depth_info_pub.publish(convert.info_from_lens(self._rig.depth, stamp_ns, depth_frame))
        rgb, depth_m = self._rig.take(observation.rgb, observation.depth_m)
        if self._config.transport == "compressed":
            quality, compression = self._config.jpeg_quality, self._config.sensors.depth_compression
            if self._raw_depth_pub is not None and self._raw_depth_pub.get_subscription_count():
                # An executor on the robot takes it as it is, whatever goes over the network.
                self._raw_depth_pub.publish(convert.image_from_depth(depth_m, stamp_ns, depth_frame))
            self._depth_pub.publish(
                convert.compressed_from_depth(depth_m, stamp_ns, depth_frame, compression)
            )
            self._color_pub.publish(convert.compressed_from_rgb(rgb, stamp_ns, frame, quality))
            return
        self._depth_pub.publish(convert.image_from_depth(depth_m, stamp_ns, depth_frame))
        self._color_pub.publish(convert.image_from_rgb(rgb, stamp_ns, frame))
