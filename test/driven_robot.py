"""A robot that drives as it is told, in an empty hall, with everything that its drivers would publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from rclpy.context import Context
from robots import CameraRobot
from ros_endings import gone_afterwards
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import ExecutorConfig, Scalar
from vln_ros.datatypes import Pose, Velocity
from vln_ros.ros import convert, qos

DEADLINE_S = 60.0
CONTROL_PERIOD_S = 1.0 / ExecutorConfig().rate_hz
ZERO = Velocity()
_PERIOD_S = 0.02
_STANDING_PERIODS = 20
# Time-outs that a loaded machine does not reach by itself.
EXECUTOR: dict[str, Scalar] = {
    "safety.obstacles": "scan",
    "extrinsics": "parameters",
    "safety.odometry_timeout_s": 2.0,
    "safety.heartbeat_timeout_s": 2.0,
    "safety.frame_timeout_s": 2.0,
    "safety.obstacle_timeout_s": 2.0,
    "max_linear_m_s": 1.0,
    "max_angular_rad_s": 2.0,
}
NAVIGATOR: dict[str, Scalar] = {"extrinsics": "parameters", "reliability": "reliable"}


class Told:
    """What ``instruction_status`` says of one instruction."""

    def __init__(self, values: dict[str, str]) -> None:
        self.number, self.epoch = int(values["number"]), int(values["epoch"])
        self.text, self.status = values["instruction"], values["status"]
        self.cause, self.reason = values["cause"], values["reason"]
        self.decisions = int(values["decisions"])
        self.duration_s, self.distance_m = float(values["duration [s]"]), float(values["distance [m]"])

    def __repr__(self) -> str:
        return f"{self.number} {self.status} {self.cause} {self.reason!r}"


class DrivenRobot(CameraRobot):
    """Its base, its sensors, and a person who tells it what to do and hears what becomes of that."""

    def __init__(self, context: Context, namespace: str, start: Pose) -> None:
        super().__init__(context, "robot", namespace, deadline_s=DEADLINE_S)
        self._scan = self.create_publisher(LaserScan, "scan", qos.sensor("reliable", 10))
        self.cancel = self.create_client(Trigger, "navigator/cancel")
        self.pause = self.create_client(SetBool, "navigator/pause")
        self.silent: set[str] = set()
        self.pose = start
        self.commands: list[tuple[float, Velocity]] = []
        """With the steady time of each."""
        self.told: list[list[Told]] = []
        """Every message of ``instruction_status``."""
        self.executor_says = ""
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.sensor("reliable", 50))
        self.create_subscription(DiagnosticArray, "instruction_status", self.hear_status, qos.latched())
        self.create_subscription(String, "executor_state", self._on_state, qos.latched())
        self.create_timer(_PERIOD_S, self._drive)
        self.create_timer(0.1, self._look)
        self._driven_s = time.monotonic()

    def _on_command(self, msg: Twist) -> None:
        self.commands.append((time.monotonic(), convert.velocity_from_twist(msg)))

    def hear_status(self, msg: DiagnosticArray) -> None:
        self.told.append([Told({v.key: v.value for v in status.values}) for status in msg.status])

    def _on_state(self, msg: String) -> None:
        self.executor_says = msg.data

    def _drive(self) -> None:
        now_s = time.monotonic()
        velocity = self.commands[-1][1] if self.commands else ZERO
        passed_s, self._driven_s = min(0.1, now_s - self._driven_s), now_s
        self.pose = self.pose @ Pose.planar(
            velocity.linear_m_s * passed_s, 0.0, velocity.angular_rad_s * passed_s
        )
        if "odom" not in self.silent:
            self.publish_pose(self.pose, self.now_ns)

    def _look(self) -> None:
        stamp_ns = self.now_ns
        if "scan" not in self.silent:
            self._scan.publish(
                LaserScan(
                    header=Header(stamp=convert.time_from_stamp_ns(stamp_ns)), angle_min=-0.5, angle_max=0.5,
                    angle_increment=0.1, range_min=0.1, range_max=10.0,
                    ranges=[5.0 + 1e-3 * (stamp_ns // 10**6 % 100)] * 11,
                )
            )  # fmt: skip
        if "camera" not in self.silent:
            self.publish_info(stamp_ns)
            self.publish_images(stamp_ns)

    def heard(self) -> object:
        return self.executor_says, self.told[-1:]

    def tell(self, text: str) -> int:
        """By topic. Returns the number that it has got."""
        known = len(self.told)
        self.instruction.publish(String(data=text))
        self.wait(lambda: any(t[-1].text == text for t in self.told[known:]), "it was not accepted")
        return self.told[-1][-1].number

    def becomes(self, number: int, status: str) -> Told:
        """Its newest word, once it says that."""

        def words() -> list[Told]:
            return [t for told in self.told for t in told if t.number == number]

        self.wait(lambda: [t.status for t in words()][-1:] == [status], f"{number} did not become {status}")
        return words()[-1]

    def moves(self) -> None:
        begun = self.pose.position
        self.wait(lambda: bool(np.linalg.norm(self.pose.position - begun) > 0.1), "it does not move")

    def stands(self) -> None:
        """For longer than it would between two queues of a run that goes on."""
        begun = len(self.commands)

        def still() -> bool:
            return {v for _, v in self.commands[begun:][-_STANDING_PERIODS:]} == {ZERO}

        self.wait(lambda: len(self.commands) >= begun + _STANDING_PERIODS and still(), "it does not stand")


def in_order(told: list[list[Told]], number: int) -> list[str]:
    """Every status that an instruction had, each once."""
    seen: list[str] = []
    for message in told:
        seen += [t.status for t in message if t.number == number and t.status not in seen[-1:]]
    return seen


@contextmanager
def driven_robot(
    folder: Path,
    namespace: str,
    navigator: dict[str, Scalar],
    start: Pose | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[DrivenRobot, Graph]]:
    """A robot with navigator and executor, each in its process, ready to be told something."""
    context = Context()
    context.init()
    robot = DrivenRobot(context, namespace, start or Pose.identity())
    with (
        gone_afterwards(context, robot),
        Graph(folder, environment or graph_environment()) as graph,
    ):
        graph.start(NodeSpec("executor", EXECUTOR, namespace=namespace))
        graph.start(NodeSpec("navigator", {**NAVIGATOR, **navigator}, namespace=namespace))

        def ready() -> bool:
            graph.check()
            return robot.instruction.get_subscription_count() >= 5 and robot.executor_says == "idle"

        robot.wait(ready, "the graph did not come up")
        robot.wait(robot.cancel.service_is_ready, "no navigator")
        yield robot, graph
