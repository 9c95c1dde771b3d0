"""The executor in its own process: what the base hears from it, to the last message."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.datatypes import STOP, Action, ActionChunk, Pose
from vln_ros.ros import convert, qos

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 30.0
FAR = Action(forward_m=9.0)


class Base(Node):
    """A base that notes what it is told and says that it stands where it is."""

    def __init__(self, context: Context) -> None:
        super().__init__("base", context=context)
        self.odom = self.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))
        self.queue = self.create_publisher(JointTrajectory, "action_queue", qos.commands())
        self.commands: list[tuple[float, float]] = []
        self.progress: list[ActionChunk] = []
        self.stopped = 0
        self.values: dict[str, str] = {}
        self.summary = ""
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.sensor("reliable", 50))
        self.create_subscription(
            JointTrajectory, "queue_progress", self._on_progress, qos.sensor("reliable", 50)
        )
        self.create_subscription(Header, "stopped", self._on_stopped, qos.commands())
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())
        self.odometry_on = True
        self.create_timer(0.02, self._on_timer)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def _on_command(self, msg: Twist) -> None:
        self.commands.append(convert.velocity_from_twist(msg))

    def _on_progress(self, msg: JointTrajectory) -> None:
        self.progress.append(convert.chunk_from_trajectory(msg))

    def _on_stopped(self, _: Header) -> None:
        self.stopped += 1

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        (status,) = msg.status
        self.values, self.summary = {v.key: v.value for v in status.values}, status.message

    def _on_timer(self) -> None:
        if self.odometry_on:
            now_ns = self.get_clock().now().nanoseconds
            self.odom.publish(convert.odometry_from_pose(Pose.identity(), now_ns, "odom", "base", 0.0, 0.0))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what}; {self.summary} {self.values} {self.commands[-3:]}"
            self._executor.spin_once(0.1)

    def offer(self, queue: int, *actions: Action, instruction: int = 1) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        chunk = ActionChunk(queue, instruction, stamp_ns, actions)
        self.queue.publish(convert.trajectory_from_chunk(chunk, "base_link", 0.5, 1.0))

    def moves(self) -> None:
        begun = len(self.commands)
        self.wait(lambda: any(v > 0.1 for v, _ in self.commands[begun:]), "it does not move")

    def stands(self) -> None:
        begun = len(self.commands)
        self.wait(lambda: (0.0, 0.0) in self.commands[begun:], "it does not stand")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[tuple[Base, Graph]]:
    context = Context()
    context.init()
    node = Base(context)
    with Graph(tmp_path, graph_environment()) as graph:
        graph.start(NodeSpec("executor", {"diagnostics_hz": 10.0, "action_timeout_s": 60.0}))

        def connected() -> bool:
            graph.check()
            found = node.odom.get_subscription_count() and node.queue.get_subscription_count()
            return bool(found and node.commands and node.summary == "idle")

        node.wait(connected, "the executor did not come up")
        yield node, graph
    node.destroy_node()
    context.shutdown()


def test_queue_stop_hold_and_lost_odometry(base: tuple[Base, Graph]) -> None:
    node, _ = base
    node.offer(1, FAR)
    node.moves()
    node.offer(2)  # a hold
    node.stands()
    node.offer(3, FAR)
    node.moves()
    node.odometry_on = False
    node.wait(lambda: node.summary == "no odometry", "lost odometry was not reported")
    node.stands()
    node.odometry_on = True
    node.wait(lambda: node.summary == "idle", "it does not recover")
    node.offer(4, STOP)
    node.wait(lambda: node.stopped == 1, "stop was not told")
    node.wait(lambda: node.summary == "finished", "stop is not shown")
    assert [c.queue for c in node.progress if not c.actions][-1] == 4


def test_bad_messages_are_counted_and_do_not_move_it(base: tuple[Base, Graph]) -> None:
    node, _ = base
    good = convert.trajectory_from_chunk(ActionChunk(1, 1, 0, (FAR,)), "base_link", 0.5, 1.0)
    for n, value in enumerate((math.nan, math.inf, -1.0), start=1):
        good.points[0].positions[0] = value
        node.queue.publish(good)
        node.wait(lambda n=n: int(node.values["refused messages"]) == n, "a bad queue was not counted")
    nan = convert.odometry_from_pose(Pose.identity(), 1, "odom", "base", 0.0, 0.0)
    nan.pose.pose.position.y = math.nan
    node.odom.publish(nan)
    node.wait(lambda: int(node.values["refused messages"]) == 4, "bad odometry was not counted")
    assert set(node.commands) == {(0.0, 0.0)}
    node.offer(5, FAR)
    node.moves()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_thing_the_base_hears_is_zero(base: tuple[Base, Graph], number: signal.Signals) -> None:
    node, graph = base
    node.offer(1, FAR)
    node.moves()
    os.kill(graph.pid("executor"), number)
    node.wait(lambda: node.commands[-1] == (0.0, 0.0), "the base was left moving")
    assert graph.wait("executor") == 0
