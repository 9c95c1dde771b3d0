"""Stands between a simulated robot and the graph and breaks what passes, to see what happens then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.datatypes import Pose, Velocity
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos

STREAMS: dict[str, tuple[type, str]] = {
    "odom": (Odometry, "odom"),
    "color": (Image, COLOR_TOPIC),
    "depth": (Image, DEPTH_TOPIC),
    "info": (CameraInfo, INFO_TOPIC),
    "heartbeat": (Header, "navigator_heartbeat"),
    "clock": (Clock, "/clock"),
}
"""What passes through, by short name: type and topic. The source publishes under :func:`source`."""
FREE_M = 9.0


def source(topic: str) -> str:
    """The name to which whoever publishes a relayed topic is remapped."""
    return f"behind_relay/{topic.lstrip('/')}"


@dataclass(frozen=True)
class Said:
    """A diagnostics message of the executor: its summary, how many actions of which instruction are left
    (None where there is no queue to tell of), and how far the way was free when it last drove."""

    at_s: float
    summary: str
    instruction: int | None
    actions_left: int | None
    free_m: float


class FaultRelay(Node):
    """Relays, and notes what the executor does. Runs in a thread of its own; all methods may be called
    from another one.

    Attributes:
        cut: streams that do not pass.
        changed: by stream, what is done to its serialized messages.
        scan_m: range of every ray of the scan that it publishes itself, but for a scanner's noise.
        senders: when each node was first heard that has sent a heartbeat, by what it calls itself.
        forwarded_s: when the last message of each stream passed (monotonic).
        commands, poses, said, queues: what was heard, with the time it came.
    """

    def __init__(self, context: Context) -> None:
        super().__init__("fault_relay", context=context)
        self.cut: set[str] = set()
        self.changed: dict[str, Callable[[bytes], bytes]] = {}
        self.scan_m = FREE_M
        self._scans = 0
        self.senders: dict[str, float] = {}
        self.forwarded_s: dict[str, float] = {}
        self.commands: list[tuple[float, Velocity]] = []
        self.poses: list[tuple[float, Pose]] = []
        self.said: list[Said] = []
        self.queues: list[tuple[float, int]] = []
        self.instruction = ""
        self.news = threading.Condition()
        sensor, heard = qos.sensor("reliable", 20), qos.sensor("best_effort", 20)
        for name, (type_, topic) in STREAMS.items():
            publisher = self.create_publisher(type_, topic, sensor)
            self.create_subscription(
                type_, source(topic), self._passing(name, publisher.publish), heard, raw=True
            )
        self.queue_pub = self.create_publisher(JointTrajectory, "action_queue", qos.commands())
        self.instruction_pub = self.create_publisher(String, "instruction", qos.latched())
        self._scan_pub = self.create_publisher(LaserScan, "scan", sensor)
        self.create_timer(0.1, self.scan)
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.sensor("reliable", 50))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())
        self.create_subscription(String, source("instruction"), self._on_instruction, qos.latched())
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.sensor("reliable", 20))
        self.create_subscription(Header, "cmd_vel/heartbeat", self._on_heartbeat, heard)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self._thread = threading.Thread(target=self._spinner.spin, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._spinner.shutdown()
        self._thread.join()
        self.destroy_node()

    def _passing(self, name: str, publish: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def pass_on(data: bytes) -> None:
            if name == "odom":
                pose = convert.pose_from_odometry(deserialize_message(data, Odometry))
                self.note(self.poses, (time.monotonic(), pose))
            if name == "heartbeat":
                self._on_heartbeat(deserialize_message(data, Header))
            if name not in self.cut:
                change = self.changed.get(name)
                publish(data if change is None else change(data))
                self.forwarded_s[name] = time.monotonic()

        return pass_on

    def _on_heartbeat(self, msg: Header) -> None:
        with self.news:
            self.senders.setdefault(msg.frame_id, time.monotonic())
            self.news.notify_all()

    def scan(self) -> None:
        if "scan" in self.cut:
            return
        self._scans += 1
        ranges_m = [self.scan_m + 1e-3 * ((self._scans + i) % 5) for i in range(7)]
        msg = LaserScan(
            header=Header(stamp=convert.time_from_stamp_ns(time.time_ns())),
            angle_min=-0.3, angle_max=0.3, angle_increment=0.1, range_min=0.05, range_max=10.0,
            ranges=ranges_m,
        )  # fmt: skip
        data = serialize_message(msg)
        change = self.changed.get("scan")
        self._scan_pub.publish(data if change is None else change(data))
        self.forwarded_s["scan"] = time.monotonic()

    def note(self, where: list, what: object) -> None:  # type: ignore[type-arg]
        with self.news:
            where.append(what)
            self.news.notify_all()

    def _on_command(self, msg: Twist) -> None:
        self.note(self.commands, (time.monotonic(), convert.velocity_from_twist(msg)))

    def _on_queue(self, msg: JointTrajectory) -> None:
        self.note(self.queues, (time.monotonic(), len(msg.points)))

    def _on_instruction(self, msg: String) -> None:
        self.instruction = msg.data
        self.instruction_pub.publish(msg)  # one voice only: what is latched must be the newest

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "vln_ros: executor":
                values = {v.key: v.value for v in status.values}
                instruction, left = (
                    int(values[key]) if key in values else None for key in ("instruction", "actions left")
                )
                free_m = float(values.get("free way ahead [m]", "nan"))
                self.note(self.said, Said(time.monotonic(), status.message, instruction, left, free_m))

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until the condition holds; False after the time-out."""
        with self.news:
            return self.news.wait_for(condition, timeout_s)
