"""Nodes that tests of the graph wait with, and the drivers of a robot that they publish for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import Graph
from vln_ros.datatypes import ActionChunk, CameraModel, Pose
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos

_POLL_S = 0.1


class WaitingNode(Node):
    """It runs while a test waits for something, and says what it has heard where that does not come.

    Args:
        deadline_s: of each wait.
        graph: none of its nodes may end meanwhile.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        namespace: str = "",
        *,
        deadline_s: float = 60.0,
        graph: Graph | None = None,
    ) -> None:
        super().__init__(name, context=context, namespace=namespace)
        self._watched = graph
        self.spinner = SingleThreadedExecutor(context=context)
        self.spinner.add_node(self)
        self._deadline_s = deadline_s

    def heard(self) -> object:
        """For who reads that nothing came."""
        return ""

    def wait(self, condition: Callable[[], bool], what: str, within_s: float | None = None) -> float:
        """How long it took."""
        begun_s = time.monotonic()
        while not condition():
            if self._watched is not None:
                self._watched.check()
            late = time.monotonic() - begun_s > (within_s or self._deadline_s)
            assert not late, f"{what}; it has heard {self.heard()}"
            self.spinner.spin_once(_POLL_S)
        return time.monotonic() - begun_s

    def listen(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0:
            self.spinner.spin_once(left_s)

    def response(self, client: Any, request: object) -> Any:
        """What a service says."""
        self.wait(client.service_is_ready, f"no service {client.srv_name}")
        future = client.call_async(request)
        self.wait(future.done, f"{client.srv_name} does not answer")
        return future.result()

    def call(self, client: Any, request: object) -> bool:
        """Whether a service has done it."""
        return bool(self.response(client, request).success)


class CameraRobot(WaitingNode):
    """Publishes what the drivers of a robot would, and what it is told.

    Args:
        size: width and height of its pictures.
        depth_m: everywhere.
        queue: messages that each topic keeps.
    """

    def __init__(
        self,
        context: Context,
        name: str = "robot",
        namespace: str = "",
        *,
        size: tuple[int, int] = (64, 48),
        depth_m: float = 5.0,
        queue: int = 10,
        deadline_s: float = 60.0,
    ) -> None:
        super().__init__(context, name, namespace, deadline_s=deadline_s)
        sensor = qos.sensor("reliable", queue)
        self.color = self.create_publisher(Image, COLOR_TOPIC, sensor)
        self.depth = self.create_publisher(Image, DEPTH_TOPIC, sensor)
        self.info = self.create_publisher(CameraInfo, INFO_TOPIC, sensor)
        self.odom = self.create_publisher(Odometry, "odom", sensor)
        self.instruction = self.create_publisher(String, "instruction", qos.latched())
        width, height = size
        self.camera = CameraModel.from_hfov(width, height, 1.4)
        self.rgb = picture(0, size)
        self.depth_image_m = np.full((height, width), depth_m, np.float32)

    @property
    def now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    @property
    def inputs(self) -> tuple[Publisher, ...]:
        """All that it publishes to."""
        return self.color, self.depth, self.info, self.odom, self.instruction

    def publish_pose(self, pose: Pose, stamp_ns: int) -> None:
        self.odom.publish(convert.odometry_from_pose(pose, stamp_ns, "odom", "base_link", 0.0, 0.0))

    def publish_info(self, stamp_ns: int) -> None:
        self.info.publish(convert.info_from_camera(self.camera, stamp_ns, "optical"))

    def publish_images(
        self, stamp_ns: int, *, color: Image | None = None, depth: Image | None = None
    ) -> None:
        """With that stamp, and with whatever is given instead of what is right."""
        for publisher, message in (
            (self.depth, depth or convert.image_from_depth(self.depth_image_m, stamp_ns, "optical")),
            (self.color, color or convert.image_from_rgb(self.rgb, stamp_ns, "optical")),
        ):
            message.header.stamp = convert.time_from_stamp_ns(stamp_ns)
            publisher.publish(message)


def picture(seed: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """``[height, width, 3]`` of noise."""
    return np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)


class NavigatorsRobot(CameraRobot):
    """A robot that shows one frame after the other, and hears what the navigator says to each."""

    def __init__(self, context: Context, name: str = "robot", **options: Any) -> None:
        super().__init__(context, name, depth_m=2.0, queue=50, **options)
        self.chunks: list[ActionChunk] = []
        self.values: dict[str, str] = {}
        self.level = b"\x00"
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.sensor("reliable", 50))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())
        self.stamp_ns = 10**12

    def _on_queue(self, msg: JointTrajectory) -> None:
        self.chunks.append(convert.chunk_from_trajectory(msg))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        (status,) = msg.status
        self.values, self.level = {v.key: v.value for v in status.values}, status.level

    def heard(self) -> object:
        return self.values

    @property
    def is_heard(self) -> bool:
        """The navigator is there and listens."""
        return bool(self.values) and all(p.get_subscription_count() for p in self.inputs)

    def follow(self, text: str) -> int:
        """Tell it and wait for the hold that answers; returns the instruction's number."""
        newest = max((c.instruction for c in self.chunks), default=0)
        self.instruction.publish(convert.string_from_instruction(text))
        self.wait(lambda: any(c.instruction > newest for c in self.chunks), "the instruction was not taken")
        return self.chunks[-1].instruction

    def decided(self, stamp_ns: int) -> ActionChunk:
        """The queue that answers the frame with that stamp."""

        def answers() -> list[ActionChunk]:
            return [c for c in self.chunks if c.actions and c.frame_stamp_ns == stamp_ns]

        self.wait(lambda: bool(answers()), f"frame {stamp_ns} unanswered")
        return answers()[0]
