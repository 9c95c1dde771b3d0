"""A base on an empty plain with a camera, the real executor, navigator and web node around it, and pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Action, CameraModel, Pose, apply_action
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos

DEADLINE_S = 60.0
ODOMETRY_HZ, IMAGE_HZ = 50.0, 10.0
CAMERA = CameraModel.from_hfov(160, 120, 1.38)


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls what no event tells of: other processes."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not happen within {deadline_s} s"
        time.sleep(0.01)


class Plain(Node):
    """Drives as cmd_vel says, and publishes what a robot publishes; remembers what it heard.

    Attributes:
        pose: where it is.
        commands: wall time of each velocity, seconds, and whether it was zero.
        instructions: every text that was published.
    """

    def __init__(self, context: Context) -> None:
        super().__init__("plain", context=context)
        sensor = qos.sensor("reliable", 5)
        self._odom_pub = self.create_publisher(Odometry, "odom", sensor)
        self._info_pub = self.create_publisher(CameraInfo, INFO_TOPIC, sensor)
        self._color_pub = self.create_publisher(Image, COLOR_TOPIC, sensor)
        self._depth_pub = self.create_publisher(Image, DEPTH_TOPIC, sensor)
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.events())
        self.create_subscription(String, "instruction", self._on_instruction, qos.events())
        self.pose = Pose.planar(0.0, 0.0, 0.0)
        self.commands: list[tuple[float, bool]] = []
        self.instructions: list[str] = []
        self._velocity = Twist()
        self._moved_s = time.monotonic()
        noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)
        self._rgb = np.asarray(noise)
        self._depth = np.full((120, 160), 5.0, np.float32)
        self.create_timer(1.0 / ODOMETRY_HZ, self._move)
        self.create_timer(1.0 / IMAGE_HZ, self._look)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def end(self) -> None:
        self._executor.shutdown()
        self._thread.join()

    @property
    def is_moving(self) -> bool:
        return bool(self.commands) and not self.commands[-1][1]

    def _on_command(self, msg: Twist) -> None:
        self._velocity = msg
        self.commands.append((time.time(), msg.linear.x == 0.0 and msg.angular.z == 0.0))

    def _on_instruction(self, msg: String) -> None:
        self.instructions.append(msg.data)

    def _move(self) -> None:
        now_s = time.monotonic()
        passed_s, self._moved_s = now_s - self._moved_s, now_s
        if self._velocity.angular.z:
            self.pose = apply_action(self.pose, Action(turn_rad=self._velocity.angular.z * passed_s))
        if self._velocity.linear.x > 0.0:
            self.pose = apply_action(self.pose, Action(forward_m=self._velocity.linear.x * passed_s))
        stamp_ns = self.get_clock().now().nanoseconds
        v = self._velocity
        self._odom_pub.publish(
            convert.odometry_from_pose(self.pose, stamp_ns, "odom", "base_link", v.linear.x, v.angular.z)
        )

    def _look(self) -> None:
        stamp_ns, frame = self.get_clock().now().nanoseconds, "camera_color_optical_frame"
        self._rgb = np.roll(self._rgb, 1, 1)
        self._info_pub.publish(convert.info_from_camera(CAMERA, stamp_ns, frame))
        self._color_pub.publish(convert.image_from_rgb(self._rgb, stamp_ns, frame))
        self._depth_pub.publish(convert.image_from_depth(self._depth, stamp_ns, frame))


class Robot:
    """The plain, and the graph on it.

    Attributes:
        address: of the page.
        killed: nodes that a test has ended.
    """

    def __init__(self, plain: Plain, graph: Graph, address: str) -> None:
        self.plain, self.graph, self.address = plain, graph, address
        self.killed: set[str] = set()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until it holds; a node that ends meanwhile ends the test."""

        def holds() -> bool:
            self.graph.check(but=self.killed)
            return condition()

        wait_for(holds, what)


def printed_address(log: Path) -> str:
    """What the node has told a person to open; empty: nothing yet."""
    for line in log.read_text("utf-8", "replace").splitlines() if log.exists() else []:
        if "the page: " in line:
            return line.split("the page: ", 1)[1].split()[0]
    return ""


@contextmanager
def robot_on_a_plain(
    folder: Path, web: dict[str, Scalar], executor: dict[str, Scalar] | None = None
) -> Iterator[Robot]:
    """Everything runs and the page is served when the block begins."""
    context = Context()
    context.init(args=[])
    plain = Plain(context)
    try:
        with Graph(folder, graph_environment()) as graph:
            graph.start(NodeSpec("web", {"port": 0, **web}))
            graph.start(
                NodeSpec(
                    "executor", {"safety.obstacles": "none", "extrinsics": "parameters", **(executor or {})}
                )
            )
            graph.start(NodeSpec("navigator", {"engine": "paced", "extrinsics": "parameters"}))
            robot = Robot(plain, graph, "")
            log = graph.log_path("web")
            robot.wait(lambda: bool(printed_address(log)), "a page that is served")
            robot.address = printed_address(log)
            robot.wait(lambda: plain._color_pub.get_subscription_count() > 0, "a navigator that looks")
            robot.wait(lambda: bool(plain.commands), "an executor that commands")
            yield robot
            graph.check(but=robot.killed)
    finally:
        plain.end()
        plain.destroy_node()
        context.try_shutdown()
