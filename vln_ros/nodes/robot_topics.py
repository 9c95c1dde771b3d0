"""Publishes the topics of a simulated robot, as its own drivers would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vln_ros.config import OWN_DEPTH_INFO_TOPIC, BridgeConfig, LookDownConfig
from vln_ros.datatypes import Pose
from vln_ros.evaluation.episode.run import Observation
from vln_ros.lenses import Lens
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.nodes.static_frames import RobotFrames
from vln_ros.protocols import LooksFurtherDown, World
from vln_ros.ros import convert, qos
from vln_ros.sim.sensors import OWN_DEPTH_FRAME, OWN_DEPTH_TOPIC, SensorRig

ASK_AGAIN_S = 10.0
"""An instruction that nobody has answered for this long is published again: the answer may have come before
whoever waits for it could hear it."""


@dataclass(frozen=True, kw_only=True)
class CameraNames:
    """Topics and frames of one RGB-D camera.

    Attributes:
        depth_info: of the calibration of depth that is not registered; None where it is.
    """

    color: str
    depth: str
    info: str
    frame: str
    depth_frame: str
    depth_info: str | None = None


LOOK_DOWN = CameraNames(
    color=LookDownConfig.color_topic,
    depth=LookDownConfig.depth_topic,
    info=LookDownConfig.camera_info_topic,
    frame="camera_down_optical_frame",
    depth_frame="camera_down_optical_frame",
)
"""Of the second camera."""


class CameraTopics:
    """Publishes one RGB-D camera, raw or compressed."""

    def __init__(self, node: Node, config: BridgeConfig, names: CameraNames) -> None:
        self._config, self._names = config, names

        def publisher(type_: type, topic: str) -> Publisher:
            sensor = qos.sensor(config.reliability, 5)
            return node.create_publisher(type_, topic, sensor, qos_overriding_options=qos.OVERRIDABLE)

        self._raw_depth_pub: Publisher | None = None
        if config.transport == "compressed":
            self._raw_depth_pub = publisher(Image, names.depth)
            self._color_pub = publisher(CompressedImage, f"{names.color}/compressed")
            self._depth_pub = publisher(CompressedImage, f"{names.depth}/compressedDepth")
        else:
            self._color_pub = publisher(Image, names.color)
            self._depth_pub = publisher(Image, names.depth)
        self._info_pub = publisher(CameraInfo, names.info)
        self._depth_info_pub = publisher(CameraInfo, names.depth_info) if names.depth_info else None

    @property
    def listeners(self) -> int:
        """How many take every stream that a frame is made of."""
        streams = (self._color_pub, self._depth_pub, self._info_pub, self._depth_info_pub)
        return min(int(p.get_subscription_count()) for p in streams if p is not None)

    def publish(
        self,
        stamp_ns: int,
        rgb: npt.NDArray[np.uint8],
        depth_m: npt.NDArray[np.float32],
        color: Lens,
        depth: Lens | None = None,
    ) -> None:
        """Calibration and images; ``depth``: the lens of depth that is not registered."""
        names = self._names
        frame, depth_frame = names.frame, names.depth_frame
        self._info_pub.publish(convert.info_from_lens(color, stamp_ns, frame))
        if self._depth_info_pub is not None and depth is not None:
            self._depth_info_pub.publish(convert.info_from_lens(depth, stamp_ns, depth_frame))
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


class RobotTopics:
    """Publishes cameras, odometry, frames and clock of a robot in a world.

    Args:
        published: called with each stamp of clock or odometry before that is published.
    """

    def __init__(
        self, node: Node, config: BridgeConfig, world: World, published: Callable[[int], None]
    ) -> None:
        self._config = config
        self._rig = rig = SensorRig(world, config.sensors)
        self._published = published
        own = rig.depth is not None
        names = CameraNames(
            color=COLOR_TOPIC,
            depth=OWN_DEPTH_TOPIC if own else DEPTH_TOPIC,
            info=INFO_TOPIC,
            frame=config.optical_frame,
            depth_frame=OWN_DEPTH_FRAME if own else config.optical_frame,
            depth_info=OWN_DEPTH_INFO_TOPIC if own else None,
        )
        mounted = {names.frame: world.base_from_optical, names.depth_frame: rig.base_from_depth}
        self._camera = CameraTopics(node, config, names)
        self._looking_down: tuple[LooksFurtherDown, Lens, CameraTopics] | None = None
        if isinstance(world, LooksFurtherDown) and world.base_from_look_down is not None:
            mounted[LOOK_DOWN.frame] = world.base_from_look_down
            self._looking_down = world, Lens(world.camera), CameraTopics(node, config, LOOK_DOWN)
        self._frames = RobotFrames(node, config, mounted)
        self._odom_pub: Publisher | None = None
        if config.sensors.odometry == "topic":
            self._odom_pub = node.create_publisher(
                Odometry, "odom", qos.sensor("reliable", 100), qos_overriding_options=qos.OVERRIDABLE
            )
        self._clock_pub = node.create_publisher(Clock, "/clock", qos.sensor("best_effort", 1))

    @property
    def heard(self) -> bool:
        """As many as are expected listen to every stream that a frame is made of; and somebody to the second
        camera, where there is one."""
        odometry = self._odom_pub or self._frames.publisher
        listening = [self._camera.listeners]
        if odometry is not None:
            listening.append(odometry.get_subscription_count())
        below = self._looking_down is None or self._looking_down[2].listeners > 0
        return min(listening) >= self._config.listeners and below

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
        """Colour, depth and camera_info of one observation; of the second camera first, so that who has the
        frame has that, too."""
        stamp_ns = observation.stamp_ns
        if self._looking_down is not None:
            world, lens, camera = self._looking_down
            if camera.listeners:
                camera.publish(stamp_ns, *world.render_look_down(), lens)
        rgb, depth_m = self._rig.take(observation.rgb, observation.depth_m)
        self._camera.publish(stamp_ns, rgb, depth_m, self._rig.color, self._rig.depth)
