"""Camera, odometry and instruction in; numbered action queues out."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from std_msgs.msg import Header, Int32MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ExecutorConfig, NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import Progress
from vln_ros.engine.worker import Cancel, DecideAhead, EngineWorker, Pause, Start
from vln_ros.nodes.node_profiling import NodeProfiling
from vln_ros.nodes.running import ProcessNode, run_node
from vln_ros.nodes.sensor_input import RawFrame, SensorInput
from vln_ros.pipeline import build_engine, build_loop
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import bind_live_parameters, declare_config

LATENCIES_KEPT = 512
NOMINAL = ExecutorConfig()
"""Speeds from which the queue's nominal times are computed."""


class Navigator(ProcessNode):
    """See docs/nodes.md for topics, services and parameters.

    Callbacks only store; images are decoded and the engine runs in the worker's thread, which
    publishes what it decides.
    """

    def __init__(self) -> None:
        super().__init__("navigator")
        self.config = c = declare_config(self, NavigatorConfig)
        self._profiling = NodeProfiling(self, c.profiling)
        self._instructions = 0
        self._failure: str | None = None
        self._decisions = 0
        self._decide_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._observe_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._latest_beat_ms = 0.0

        self._queue_pub = self.create_publisher(JointTrajectory, "action_queue", qos.commands())
        self._kinds_pub = self.create_publisher(Int32MultiArray, "action_ids", qos.commands())
        self._path_pub = self.create_publisher(Path, "predicted_path", qos.diagnostics())
        self._processed_pub = self.create_publisher(Header, "frame_processed", qos.commands())
        self._heartbeat_pub = self.create_publisher(Header, "navigator_heartbeat", qos.commands())
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())

        self.get_logger().info(f"loading engine '{c.engine}'")
        loop = build_loop(build_engine(c), c)
        self._sensors = SensorInput(self, c, self._on_observation)
        self._worker: EngineWorker[RawFrame] = EngineWorker(loop, self._sensors.decode, self)
        self._worker.start()
        self.create_subscription(String, "instruction", self._on_instruction, qos.latched())
        self.create_subscription(JointTrajectory, "queue_progress", self._on_progress, qos.commands())
        self.create_service(Trigger, "~/cancel", self._on_cancel)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._beat_s = time.monotonic()
        self.create_timer(1.0 / c.heartbeat_hz, self._beat)
        self.create_timer(1.0 / c.diagnostics_hz, self._diagnose)
        bind_live_parameters(self, c, self._reconfigure)
        self.get_logger().info("ready")

    def close(self) -> None:
        self._worker.close()
        self._profiling.close()

    # ------------------------------------------------------------------ callbacks: store and return

    def _on_observation(self, raw: RawFrame) -> None:
        self._worker.put_frame(raw)

    def _on_instruction(self, msg: String) -> None:
        try:
            text = convert.instruction_from_string(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        self._instructions += 1
        self._failure = None
        self.get_logger().info(f"instruction {self._instructions}: {text}")
        self._worker.command(Start(Instruction(self._instructions, text)))

    def _on_progress(self, msg: JointTrajectory) -> None:
        try:
            left = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        progress = Progress(left.instruction, left.queue, len(left.actions), left.frame_stamp_ns)
        self._worker.put_progress(progress)

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._worker.command(Cancel())
        response.success, response.message = True, "cancelled; publish an instruction to begin again"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._worker.command(Pause(request.data))
        response.success, response.message = True, "paused" if request.data else "going on"
        return response

    def _reconfigure(self, config: NavigatorConfig) -> None:
        self._worker.command(DecideAhead(config.decide_ahead))

    def _beat(self) -> None:
        now_s = time.monotonic()
        late_ms = (now_s - self._beat_s - 1.0 / self.config.heartbeat_hz) * 1e3
        self._beat_s = now_s
        self._latest_beat_ms = max(self._latest_beat_ms, late_ms)
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self.config.base_frame)
        self._heartbeat_pub.publish(header)

    # ------------------------------------------------------------------ events, in the worker's thread

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        self._observe_ms.append(observe_ms)
        stamp = convert.time_from_stamp_ns(frame.stamp_ns)
        self._processed_pub.publish(Header(stamp=stamp, frame_id=self.config.base_frame))

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        self._queue_pub.publish(
            convert.trajectory_from_chunk(
                chunk, self.config.base_frame, NOMINAL.max_linear_m_s, NOMINAL.max_angular_rad_s
            )
        )
        self._kinds_pub.publish(convert.kinds_from_chunk(chunk))
        if frame is not None:
            self._decisions += 1
            self._decide_ms.append(decide_ms)
            odom_frame = self.config.sync.odom_frame or "odom"
            self._path_pub.publish(convert.path_from_chunk(chunk, frame.odom_from_base, odom_frame))

    def on_bad_frame(self, error: ValueError) -> None:
        bad = (
            error
            if isinstance(error, convert.MessageError)
            else convert.MessageError("bad_frame", str(error))
        )
        self._sensors.refuse(bad)

    def on_failure(self, error: BaseException) -> None:
        self._failure = f"{type(error).__name__}: {error}"
        self.get_logger().error(f"the engine failed, the robot holds; a new instruction retries: {error!r}")

    # ------------------------------------------------------------------ diagnostics

    def _diagnose(self) -> None:
        counts, mail = self._sensors.counts, self._worker.mailbox.counts
        refused = self._sensors.refused
        level, summary = Level.OK, "following" if self._worker.running else "waiting for an instruction"
        if refused or counts.dropped_color:
            level = Level.WARN
        if self._failure is not None:
            level, summary = Level.ERROR, self._failure
        values: list[tuple[str, str | int | float | bool]] = [
            ("frames received", counts.received_color),
            ("frames aligned", counts.aligned),
            ("frames dropped before the mailbox", counts.dropped_color),
            ("frames replaced by a newer one", mail.replaced),
            ("frames processed", self._worker.frames_processed),
            ("decisions", self._decisions),
            ("queues lost", self._worker.queues_lost),
            ("heartbeat latest [ms]", self._latest_beat_ms),
        ]
        for name, samples in (("decide", self._decide_ms), ("observe", self._observe_ms)):
            if samples:
                p50, p95 = np.percentile(list(samples), [50, 95])
                values += [(f"{name} p50 [ms]", float(p50)), (f"{name} p95 [ms]", float(p95))]
        values += [(f"sync: {name}", n) for name, n in asdict(counts).items() if n]
        values += [(f"refused: {reason}", n) for reason, n in sorted(refused.items())]
        values += self._profiling.values()
        stamp_ns = self.get_clock().now().nanoseconds
        health = Health(level, summary, tuple(values))
        self._diagnostics_pub.publish(diagnostics_from_health(health, "vln_ros: navigator", "", stamp_ns))


def main() -> None:
    run_node(Navigator)


if __name__ == "__main__":
    main()
