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
from vln_ros.ros.bag.encode import color_encoder, depth_encoder
from vln_ros.ros.bag.writer import BagLimits, BagWriter, Encode
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import declare_config

PARAMETERS_FILE = "navigator.yaml"
"""In the bag's folder: what the navigator ran with, as a parameter file."""
RATE_AFTER_S = 5.0
"""After so long it says how much it records."""
SENSOR = qos.sensor("best_effort", 50)


class Recorder(ProcessNode):
    """See docs/reference/nodes.md. Messages are taken as bytes and written by a thread of their own."""

    def __init__(self) -> None:
        super().__init__("recorder")
        c = declare_config(self, RecorderConfig)
        self.folder = Path(c.folder) / time.strftime("%Y%m%d-%H%M%S")
        limits = BagLimits(
            part_bytes=c.split_mb * 2**20,
            part_s=c.split_s,
            free_bytes=c.min_free_mb * 2**20,
            zstd=c.compression == "zstd",
        )
        self._writer = BagWriter(self.folder, c.storage, c.queue_mb * 2**20, limits)
        self._duration_s = c.duration_s
        self._record_images(c)
        for topic in filter(None, (c.camera_info_topic, c.depth_camera_info_topic)):
            self._record(CameraInfo, topic, SENSOR)
        self._record(Odometry, "odom", qos.sensor("best_effort", 200))
        add = self._writer.topic(self.resolve_topic_name(INSTRUCTION), String, qos.latched())
        hear_instructions(
            self, lambda data, info: add(info["received_timestamp"], data), InstructionFilter(), raw=True
        )
        for topic in ("action_queue", "queue_progress"):
            self._record(JointTrajectory, topic, qos.events())
        self._record(DiagnosticArray, "instruction_status", qos.latched())
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
        self._begun_s = time.monotonic()
        self._rate_said = False
        self._level = Level.OK
        self.get_logger().info(f"recording to {self.folder}")

    def _record_images(self, c: RecorderConfig) -> None:
        """Raw images are made small, unless they are wanted as they are."""
        color, depth = f"{c.color_topic}/compressed", f"{c.depth_topic}/compressedDepth"
        if c.color_transport == "compressed":
            self._record(CompressedImage, color, SENSOR)
        elif c.color_format == "as_published":
            self._record(Image, c.color_topic, SENSOR)
        else:
            encode = color_encoder(c.color_format, c.jpeg_quality)
            self._record(Image, c.color_topic, SENSOR, (CompressedImage, color, encode))
        if c.depth_transport == "compressed":
            self._record(CompressedImage, depth, SENSOR)
        elif c.depth_format == "as_published":
            self._record(Image, c.depth_topic, SENSOR)
        else:
            self._record(Image, c.depth_topic, SENSOR, (CompressedImage, depth, depth_encoder()))

    def _record(
        self, type_: Any, topic: str, profile: QoSProfile, form: tuple[Any, str, Encode] | None = None
    ) -> None:
        """Args: ``form``: type, topic and encoder of what is written, where that is not what is heard."""
        written, name, encode = form or (type_, topic, None)
        add = self._writer.topic(self.resolve_topic_name(name), written, profile, encode)

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
        try:
            (self.folder / PARAMETERS_FILE).write_text(yaml.safe_dump(tree), "utf-8")
        except OSError as error:  # what is recorded can be read without it
            self.get_logger().error(f"the navigator's parameters are not in the recording: {error}")

    # ------------------------------------------------------------------

    def _diagnose(self) -> None:
        w, since_s = self._writer, time.monotonic() - self._begun_s
        level, summary = Level.OK, f"recording to {self.folder}"
        if w.refused:
            level, summary = Level.WARN, f"{w.refused} images could not be encoded and are missing"
        if w.dropped:
            level, summary = Level.WARN, "the disk is too slow: messages were dropped"
        if w.failure is not None:
            level, summary = Level.ERROR, f"recording ended: {w.failure}"
        free_mb, per_min_mb = w.free_bytes / 2**20, w.bytes / 2**20 / since_s * 60.0
        values = (
            ("messages", w.written),
            ("size [MB]", w.bytes / 2**20),
            ("rate [MB/min]", per_min_mb),
            ("room on the disk [MB]", free_mb),
            ("files", w.parts),
            ("dropped messages", w.dropped),
            ("images not encoded", w.refused),
        )
        if not self._rate_said and since_s > RATE_AFTER_S and w.bytes:
            self._rate_said = True
            self.get_logger().info(
                f"{per_min_mb:.1f} MB a minute; the disk has room for {free_mb / per_min_mb / 60.0:.1f} hours"
            )
        if level > self._level:  # on the terminal, too; rclpy takes one severity a line
            self._level = level
            if level is Level.ERROR:
                self.get_logger().error(summary)
            else:
                self.get_logger().warning(summary)
        if self._duration_s and since_s >= self._duration_s and not self.done.done():
            self.done.set_result(0 if w.failure is None else 1)
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
