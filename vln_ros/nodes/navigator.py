"""Camera, odometry and instruction in; numbered action queues out."""

from __future__ import annotations

import time
from dataclasses import replace

from nav_msgs.msg import Path
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import Image
from std_msgs.msg import Header, Int32MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ExecutorConfig, NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import Progress
from vln_ros.engine.worker import Cancel, EngineWorker, Pause, Start, Tune
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.nodes.managed import ManagedNode
from vln_ros.nodes.navigator_report import NavigatorFigures, health, reuse_images
from vln_ros.nodes.node_profiling import NodeProfiling
from vln_ros.nodes.running import run_node
from vln_ros.nodes.sensor_input import RawFrame, SensorInput
from vln_ros.pipeline import build_engine, build_loop, free_memory
from vln_ros.protocols import Engine, ShowsReuse, TellsVitals
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import bind_live_parameters, declare_config

ENDING_WAIT_S = 0.2
"""How long the end of the process waits for the call of the engine that is in progress."""
NOMINAL = ExecutorConfig()
"""Speeds from which the queue's nominal times are computed."""


class Navigator(ManagedNode):
    """See docs/nodes.md for topics, services and parameters.

    Callbacks only store; images are decoded and the engine runs in the worker's thread, which
    publishes what it decides.
    """

    def __init__(self) -> None:
        super().__init__("navigator")
        self.config = declare_config(self, NavigatorConfig)
        self._profiling = NodeProfiling(self, self.config.profiling)
        self._epoch = time.time_ns() // 1_000_000
        self._instructions = 0
        self._heard = InstructionFilter()
        self._engine: Engine | None = None
        self._worker: EngineWorker[RawFrame] | None = None
        bind_live_parameters(self, self.config, self._reconfigure)

    def configure(self) -> None:
        c = self.config
        self._queue_pub = self.create_publisher(JointTrajectory, "action_queue", qos.events())
        self._kinds_pub = self.create_publisher(Int32MultiArray, "action_ids", qos.commands())
        self._path_pub = self.create_publisher(Path, "predicted_path", qos.diagnostics())
        self._reuse_pub = self.create_publisher(Image, "~/reuse_image", qos.diagnostics())
        self._processed_pub = self.create_publisher(Header, "frame_processed", qos.events())
        self._heartbeat_pub = self.create_publisher(Header, "navigator_heartbeat", qos.commands())
        self.get_logger().info(f"loading engine '{c.engine}'")
        self._engine = build_engine(c)

    def activate(self) -> None:
        c = self.config
        assert self._engine is not None, "configured before it is activated"
        self._figures = NavigatorFigures()
        self._sensors = SensorInput(self, c, self._on_observation)
        self._worker = EngineWorker(build_loop(self._engine, c), self._sensors.decode, self)
        self._worker.start()
        self._heard.forget()
        hear_instructions(self, self._on_instruction, self._heard)
        self.create_subscription(JointTrajectory, "queue_progress", self._on_progress, qos.commands())
        self.create_service(Trigger, "~/cancel", self._on_cancel)
        self.create_service(SetBool, "~/pause", self._on_pause)
        # A simulated clock may stand still; that is no reason to seem dead.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._beat_s = time.monotonic()
        self.create_timer(1.0 / c.heartbeat_hz, self._beat, clock=steady)
        self.create_timer(1.0 / c.diagnostics_hz, self._diagnose, clock=steady)

    def deactivate(self) -> None:
        """The robot is told to stand, and the thread ends; the engine stays loaded."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.command(Cancel())
            worker.close()

    def cleanup(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            free_memory(self.config)

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.command(Cancel())
            if not worker.close(ENDING_WAIT_S):  # a process that is to end does not wait for a model
                self.computing, self._engine = True, None
        super().close()
        self._profiling.close()

    @property
    def _active(self) -> EngineWorker[RawFrame]:
        assert self._worker is not None, "callbacks exist only while the node is active"
        return self._worker

    # ------------------------------------------------------------------ callbacks: store and return

    def _on_observation(self, raw: RawFrame) -> None:
        self._active.put_frame(raw)

    def _on_instruction(self, msg: String, _: Info) -> None:
        try:
            text = convert.instruction_from_string(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        self._instructions += 1
        self._figures.failure = None
        self.get_logger().info(f"instruction {self._instructions}: {text}")
        self._active.command(Start(Instruction(self._instructions, text)))

    def _on_progress(self, msg: JointTrajectory) -> None:
        try:
            left = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        progress = Progress(left.instruction, left.queue, len(left.actions), left.frame_stamp_ns)
        self._active.put_progress(progress)

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._active.command(Cancel())
        response.success, response.message = True, "cancelled; publish an instruction to begin again"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._active.command(Pause(request.data))
        response.success, response.message = True, "paused" if request.data else "going on"
        return response

    def _reconfigure(self, config: NavigatorConfig) -> None:
        self.config = config
        if self._worker is not None:
            self._sensors.tune(config.sync)
            self._worker.command(Tune(config.decide_ahead, round(config.lost_after_s * 1e9)))

    def _beat(self) -> None:
        now_s = time.monotonic()
        late_ms = (now_s - self._beat_s - 1.0 / self.config.heartbeat_hz) * 1e3
        self._beat_s = now_s
        self._figures.latest_beat_ms = max(self._figures.latest_beat_ms, late_ms)
        newest = convert.time_from_stamp_ns(self._sensors.newest_ns)
        self._heartbeat_pub.publish(Header(stamp=newest, frame_id=self.config.base_frame))

    # ------------------------------------------------------------------ events, in the worker's thread

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        self._figures.observe_ms.append(observe_ms)
        stamp = convert.time_from_stamp_ns(frame.stamp_ns)
        self._processed_pub.publish(Header(stamp=stamp, frame_id=self.config.base_frame))

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        chunk = replace(chunk, epoch=self._epoch)
        self._queue_pub.publish(
            convert.trajectory_from_chunk(
                chunk, self.config.base_frame, NOMINAL.max_linear_m_s, NOMINAL.max_angular_rad_s
            )
        )
        self._kinds_pub.publish(convert.kinds_from_chunk(chunk))
        if frame is not None:
            self._figures.decisions += 1
            self._figures.decide_ms.append(decide_ms)
            if isinstance(self._engine, TellsVitals):
                self._figures.vitals = self._engine.vitals()
            odom_frame = self.config.sync.odom_frame or "odom"
            self._path_pub.publish(convert.path_from_chunk(chunk, frame.odom_from_base, odom_frame))
            if self._reuse_pub.get_subscription_count() and isinstance(self._engine, ShowsReuse):
                for image in reuse_images(self._engine, frame, self.config.base_frame):
                    self._reuse_pub.publish(image)

    def on_bad_frame(self, error: ValueError) -> None:
        bad = (
            error
            if isinstance(error, convert.MessageError)
            else convert.MessageError("bad_frame", str(error))
        )
        self._sensors.refuse(bad)

    def on_failure(self, error: BaseException) -> None:
        self._figures.failure = f"{type(error).__name__}: {error}"
        self.get_logger().error(f"the engine failed, the robot holds; a new instruction retries: {error!r}")

    def _diagnose(self) -> None:
        is_now = health(self._figures, self._sensors, self._active, self.get_clock().now().nanoseconds)
        self.say(replace(is_now, values=(*is_now.values, *self._profiling.values())))


def main() -> None:
    run_node(Navigator)


if __name__ == "__main__":
    main()
