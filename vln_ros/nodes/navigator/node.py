"""The navigator node: lifecycle, services and callbacks around the engine's thread."""

from __future__ import annotations

import time
from dataclasses import replace

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import Progress
from vln_ros.engine.worker import Cancel, EngineWorker, Pause, Start, Tune
from vln_ros.engines import build_engine, build_loop, free_memory
from vln_ros.nodes.heartbeat import Heartbeat
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.nodes.lifecycle import ManagedNode
from vln_ros.nodes.navigator.output import NavigatorOutput
from vln_ros.nodes.navigator.report import AnswerTopics, NavigatorFigures, health
from vln_ros.nodes.navigator.sensors import RawFrame, SensorInput
from vln_ros.nodes.process import run_node
from vln_ros.nodes.profiling import NodeProfiling
from vln_ros.protocols import Engine
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import bind_live_parameters, declare_config

ENDING_WAIT_S = 0.2
"""How long the end of the process waits for the call of the engine that is in progress."""
DOUBLE_TIMEOUT_S = 2.0
"""A second navigator that is silent for so long is gone. Longer than any garbage collection of this one
takes."""


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
        self._output = NavigatorOutput(self, c)
        self._answers = AnswerTopics(self)
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
        self._paused = False
        self._heartbeat = Heartbeat(
            self, "navigator_heartbeat", "navigators", DOUBLE_TIMEOUT_S, self._hold_or_go_on
        )
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
        self._figures.failure = self._figures.held = None
        self.get_logger().info(f"instruction {self._instructions}: {text}")
        self._sensors.begin_anew()
        self._active.command(Start(Instruction(self._instructions, text)))

    def _on_progress(self, msg: JointTrajectory) -> None:
        try:
            left, executed = convert.report_from_trajectory(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        if left.epoch not in (0, self._epoch):
            executed = None  # of another life of this node: its instructions had the same numbers
        numbers = left.instruction, left.queue
        self._active.put_progress(Progress(*numbers, len(left.actions), left.frame_stamp_ns, executed))

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._active.command(Cancel())
        response.success, response.message = True, "cancelled; publish an instruction to begin again"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        self._hold_or_go_on()
        response.success, response.message = True, "paused" if request.data else "going on"
        return response

    def _hold_or_go_on(self) -> None:
        """Beside a second navigator this one plans nothing: the robot would follow the two in turns."""
        self._active.command(Pause(self._paused or bool(self._heartbeat.doubles)))

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
        self._heartbeat.beat(self._sensors.newest_ns)

    # ------------------------------------------------------------------ events, in the worker's thread

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        self._figures.observe_ms.append(observe_ms)
        self._output.processed(frame)

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        chunk = replace(chunk, epoch=self._epoch)
        self._output.queue(chunk)
        if frame is not None:
            self._answers.decided(chunk, self._figures)
            self._figures.decided(self._engine, decide_ms)
            self._output.answer(chunk, frame, self._engine)

    def on_bad_frame(self, error: ValueError) -> None:
        if not isinstance(error, convert.MessageError):
            error = convert.MessageError("bad_frame", str(error))
        self._sensors.refuse(error)

    def on_failure(self, error: BaseException) -> None:
        self._answers.failed(error, self._figures)

    def _diagnose(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        is_now = health(self._figures, self._sensors, self._active, self._heartbeat.error, now_ns)
        self.say(replace(is_now, values=(*is_now.values, *self._profiling.values())))


def main() -> None:
    run_node(Navigator)


if __name__ == "__main__":
    main()
