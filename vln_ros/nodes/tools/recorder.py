"""The recorder node: writes inputs, queues, commands and diagnostics to a bag."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import RecorderConfig
from vln_ros.nodes.instruction_input import TOPIC as INSTRUCTION
from vln_ros.nodes.instruction_input import InstructionFilter, hear_instructions
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.ros import qos
from vln_ros.ros.bag.writer import BagWriter
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import declare_config

PARAMETERS_FILE = "navigator.yaml"
"""In the bag's folder: what the navigator ran with, as a parameter file."""
SENSOR = qos.sensor("best_effort", 50)


class Recorder(ProcessNode):
    """See docs/nodes.md. Messages are taken as bytes and written by a thread of their own."""

    def __init__(self) -> None:
        super().__init__("recorder")
        c = declare_config(self, RecorderConfig)
        self.folder = Path(c.folder) / time.strftime("%Y%m%d-%H%M%S")
        self._writer = BagWriter(self.folder, c.storage, c.queue_mb * 2**20)
        color, depth = (CompressedImage, "/compressed"), (CompressedImage, "/compressedDepth")
        color = color if c.color_transport == "compressed" else (Image, "")
        depth = depth if c.depth_transport == "compressed" else (Image, "")
        self._record(color[0], f"{c.color_topic}{color[1]}", SENSOR)
        self._record(depth[0], f"{c.depth_topic}{depth[1]}", SENSOR)
        self._record(CameraInfo, c.camera_info_topic, SENSOR)
        self._record(Odometry, "odom", qos.sensor("best_effort", 200))
        add = self._writer.topic(self.resolve_topic_name(INSTRUCTION), String, qos.latched())
        hear_instructions(
            self, lambda data, info: add(info["received_timestamp"], data), InstructionFilter(), raw=True
        )
        for topic in ("action_queue", "queue_progress"):
            self._record(JointTrajectory, topic, qos.events())
        for topic in ("frame_processed", "stopped"):
            self._record(Header, topic, qos.events())
        self._record(TwistStamped if c.stamped_cmd_vel else Twist, "cmd_vel", qos.events())
        self._record(DiagnosticArray, "/diagnostics", qos.diagnostics())
        if importlib.util.find_spec("tf2_msgs") is not None:
            from tf2_msgs.msg import TFMessage

            self._record(TFMessage, "/tf", qos.sensor("best_effort", 200))
            self._record(TFMessage, "/tf_static", qos.static_frames())
        self._navigator = AsyncParameterClient(self, "navigator")
        self._asked: Future | None = None
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulated clock may stand still
        self.create_timer(1.0, self._diagnose, clock=steady)
        self._asking = self.create_timer(0.2, self._ask, clock=steady)
        self.get_logger().info(f"recording to {self.folder}")

    def _record(self, type_: Any, topic: str, profile: QoSProfile) -> None:
        add = self._writer.topic(self.resolve_topic_name(topic), type_, profile)

        def take(data: bytes, info: dict[str, int]) -> None:
            # When it reached this process: the order of what one thread published is kept.
            add(info["received_timestamp"], data)

        self.create_subscription(type_, topic, take, profile, raw=True)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ the navigator's parameters

    def _ask(self) -> None:
        """Once, as soon as the navigator is there."""
        if self._asked is None and self._navigator.services_are_ready():
            self._asked = self._navigator.list_parameters()
            self._asked.add_done_callback(self._on_names)
            self.destroy_timer(self._asking)

    def _on_names(self, future: Future) -> None:
        response: ListParameters.Response | None = future.result()
        names = list(response.result.names) if response is not None else []
        self._navigator.get_parameters(names).add_done_callback(lambda f: self._on_values(names, f))

    def _on_values(self, names: list[str], future: Future) -> None:
        response: GetParameters.Response | None = future.result()
        if response is None:
            return
        values = {n: parameter_value_to_python(v) for n, v in zip(names, response.values, strict=True)}
        tree = {"navigator": {"ros__parameters": values}}
        (self.folder / PARAMETERS_FILE).write_text(yaml.safe_dump(tree), "utf-8")

    # ------------------------------------------------------------------

    def _diagnose(self) -> None:
        w = self._writer
        level, summary = Level.OK, f"recording to {self.folder}"
        if w.dropped:
            level, summary = Level.WARN, "the disk is too slow: messages were dropped"
        if w.failure is not None:
            level, summary = Level.ERROR, f"recording ended: {w.failure}"
        values = (("messages", w.written), ("size [MB]", w.bytes / 2**20), ("dropped messages", w.dropped))
        health = Health(level, summary, values)
        stamp_ns = self.get_clock().now().nanoseconds
        hardware = self.get_namespace()
        self._diagnostics_pub.publish(
            diagnostics_from_health(health, "vln_ros: recorder", hardware, stamp_ns)
        )

    def close(self) -> None:
        self._writer.close()


def main() -> None:
    run_node(Recorder)


if __name__ == "__main__":
    main()
