"""A base on an empty plain with a camera: drives as cmd_vel says and publishes what a robot publishes."""

from __future__ import annotations

import threading
import time

import numpy as np
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

from vln_ros.datatypes import Action, CameraModel, Pose, apply_action
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos

ODOMETRY_HZ, IMAGE_HZ = 50.0, 10.0
HFOV_RAD = 1.38
SHIFT_PX = 3
"""By so much the picture moves from one to the next: no encoder may take it for the same."""


class PlainBase(Node):
    """Stamps are of the wall clock, so that a page can say how old a picture is. Has a thread of its own.

    Args:
        context: of ROS.
        width, height: of the pictures.

    Attributes:
        pose: where it is.
        commands: wall time of each velocity that has come, seconds, and whether it was zero.
        instructions: every text that was published.
    """

    def __init__(self, context: Context, width: int, height: int) -> None:
        super().__init__("plain_base", context=context)
        sensor = qos.sensor("reliable", 5)
        self._odom_pub = self.create_publisher(Odometry, "odom", sensor)
        self._info_pub = self.create_publisher(CameraInfo, INFO_TOPIC, sensor)
        self._color_pub = self.create_publisher(Image, COLOR_TOPIC, sensor)
        self._depth_pub = self.create_publisher(Image, DEPTH_TOPIC, sensor)
        self._instruction_pub = self.create_publisher(String, "instruction", qos.latched())
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.events())
        self.create_subscription(String, "instruction", self._on_instruction, qos.events())
        self._pause = self.create_client(SetBool, "executor/pause")
        self.pose = Pose.planar(0.0, 0.0, 0.0)
        self.commands: list[tuple[float, bool]] = []
        self.instructions: list[str] = []
        self._velocity = Twist()
        self._moved_s = time.monotonic()
        self._camera = CameraModel.from_hfov(width, height, HFOV_RAD)
        self._rgb = _picture(width, height)
        self._depth = np.full((height, width), 5.0, np.float32)
        self.create_timer(1.0 / ODOMETRY_HZ, self._move)
        self.create_timer(1.0 / IMAGE_HZ, self._look)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._spin, name="plain base", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread; the node can be destroyed then."""
        self._executor.shutdown()
        self._thread.join()

    def tell(self, text: str) -> None:
        """Publish an instruction, for whoever is there or comes."""
        self._instruction_pub.publish(String(data=text))

    def release(self) -> None:
        """As somebody does who does not use the page."""
        self._pause.call_async(SetBool.Request(data=False))

    @property
    def is_moving(self) -> bool:
        """The last velocity that has come was not zero."""
        return bool(self.commands) and not self.commands[-1][1]

    @property
    def is_watched(self) -> bool:
        """Somebody takes the pictures."""
        return bool(self._depth_pub.get_subscription_count())

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _on_command(self, msg: Twist) -> None:
        self._velocity = msg
        self.commands.append((time.time(), msg.linear.x == 0.0 and msg.angular.z == 0.0))

    def _on_instruction(self, msg: String) -> None:
        self.instructions.append(msg.data)

    def _move(self) -> None:
        now_s = time.monotonic()
        passed_s, self._moved_s = now_s - self._moved_s, now_s
        v = self._velocity
        if v.angular.z:
            self.pose = apply_action(self.pose, Action(turn_rad=v.angular.z * passed_s))
        if v.linear.x > 0.0:
            self.pose = apply_action(self.pose, Action(forward_m=v.linear.x * passed_s))
        self._odom_pub.publish(
            convert.odometry_from_pose(
                self.pose, time.time_ns(), "odom", "base_link", v.linear.x, v.angular.z
            )
        )

    def _look(self) -> None:
        stamp_ns, frame = time.time_ns(), "camera_color_optical_frame"
        self._rgb = np.roll(self._rgb, SHIFT_PX, 1)
        self._info_pub.publish(convert.info_from_camera(self._camera, stamp_ns, frame))
        self._color_pub.publish(convert.image_from_rgb(self._rgb, stamp_ns, frame))
        self._depth_pub.publish(convert.image_from_depth(self._depth, stamp_ns, frame))


def _picture(width: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Smooth shapes with edges and a little noise: as hard to encode as a room."""
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(u / 37.0 + k) + np.cos(v / 23.0 - k) + np.sign(np.sin((u + v) / 61.0)) for k in range(3)]
    noise = np.random.default_rng(1).normal(0.0, 6.0, (height, width, 3))
    return np.clip(np.stack(waves, 2) * 35.0 + 128.0 + noise, 0, 255).astype(np.uint8)
