"""Hears from outside how often several robots are answered, after how long, and when their bases stand."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from geometry_msgs.msg import Twist
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from trajectory_msgs.msg import JointTrajectory

from vln_ros.datatypes import Velocity
from vln_ros.nodes.navigator.sensors import INFO_TOPIC
from vln_ros.ros import convert, qos

POLL_S = 0.02
MOVING_S = 0.2
"""Who was told to drive so short a time ago is driving."""


class FleetListener(Node):
    """In a thread of its own.

    Attributes:
        answers: by robot, when each queue came (monotonic), and how long after its frame, in milliseconds.
        commands: by robot, when the base was told what.
    """

    def __init__(self, context: Context, robots: Sequence[str]) -> None:
        super().__init__("fleet_listener", context=context)
        self.answers: Mapping[str, list[tuple[float, float]]] = {robot: [] for robot in robots}
        self.commands: Mapping[str, list[tuple[float, Velocity]]] = {robot: [] for robot in robots}
        self._frames_s: Mapping[str, dict[int, float]] = {robot: {} for robot in robots}
        for robot in robots:
            for type_, topic, hear in (
                (CameraInfo, INFO_TOPIC, self._on_frame),
                (JointTrajectory, "action_queue", self._on_queue),
                (Twist, "cmd_vel", self._on_command),
            ):
                profile = qos.sensor("best_effort" if type_ is CameraInfo else "reliable", 100)
                self.create_subscription(type_, f"/{robot}/{topic}", partial(hear, robot), profile)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self._thread = threading.Thread(target=self._spin, name="listener", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._spinner.spin()
        except ExternalShutdownException:
            return

    def close(self) -> None:
        self._spinner.shutdown()
        self._thread.join()
        self.destroy_node()

    def _on_frame(self, robot: str, msg: CameraInfo) -> None:
        self._frames_s[robot][convert.stamp_ns_from_time(msg.header.stamp)] = time.monotonic()

    def _on_queue(self, robot: str, msg: JointTrajectory) -> None:
        chunk, now_s = convert.chunk_from_trajectory(msg), time.monotonic()
        begun_s = self._frames_s[robot].get(chunk.frame_stamp_ns)
        if chunk.actions and begun_s is not None:
            self.answers[robot].append((now_s, (now_s - begun_s) * 1e3))

    def _on_command(self, robot: str, msg: Twist) -> None:
        self.commands[robot].append((time.monotonic(), convert.velocity_from_twist(msg)))

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came true."""
        until_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until_s:
                return False
            time.sleep(POLL_S)
        return True

    def moving(self) -> list[str]:
        """The robots that are told to drive."""
        now_s = time.monotonic()
        last = {robot: commands[-1] for robot, commands in self.commands.items() if commands}
        return [r for r, (at_s, v) in last.items() if v != Velocity() and now_s - at_s < MOVING_S]

    def stood_ms(self, robot: str, since_s: float) -> float:
        """From then until its base heard the zero that nothing but zeros followed; inf: it drives still."""
        after = [(at_s, v) for at_s, v in self.commands[robot] if at_s > since_s]
        driven_s = max((at_s for at_s, v in after if v != Velocity()), default=since_s)
        zero_s = next((at_s for at_s, v in after if at_s > driven_s and v == Velocity()), math.inf)
        return (zero_s - since_s) * 1e3
