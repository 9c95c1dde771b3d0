"""The navigator node: lifecycle, services and callbacks around the engine's thread."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import Progress
from vln_ros.engine.questions.desk import QuestionDesk
from vln_ros.engine.turns import EngineThread
from vln_ros.engine.worker import Cancel, EngineWorker, Pause, Tune
from vln_ros.engines import SharedEngines, build_loop
from vln_ros.motion.place_drive import PlaceDrive
from vln_ros.nodes.heartbeat import Heartbeat
from vln_ros.nodes.instruction_input import InstructionFilter
from vln_ros.nodes.lifecycle import ManagedNode
from vln_ros.nodes.navigator.ask_services import AskServices
from vln_ros.nodes.navigator.cameras import RawFrame
from vln_ros.nodes.navigator.instructions import InstructionHooks, Instructions
from vln_ros.nodes.navigator.nav2 import Nav2Drive
from vln_ros.nodes.navigator.output import NavigatorOutput
from vln_ros.nodes.navigator.questions import QuestionTopics
from vln_ros.nodes.navigator.report import AnswerTopics, NavigatorFigures, health, second_camera_values
from vln_ros.nodes.navigator.sensors import SensorInput, look_down_input
from vln_ros.nodes.process import run_node
from vln_ros.nodes.profiling import NodeProfiling
from vln_ros.protocols import Engine
from vln_ros.questions import QuestionAnswer
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import bind_live_parameters, declare_config

ENDING_WAIT_S = 0.2
"""How long the end of the process waits for the call of the engine that is in progress."""
DOUBLE_TIMEOUT_S = 2.0
"""A second navigator that is silent for so long is gone. Longer than any garbage collection of this one
takes."""


class Navigator(ManagedNode):
    """See docs/reference/nodes.md for topics, services and parameters.

    Callbacks only store; images are decoded and the engine runs in the engines' thread, which
    publishes what it decides.

    Args:
        engines, thread: those of a fleet, whose robots share them; None: its own.
        namespace: of a fleet's robot; empty: as the process is told.
    """

    def __init__(
        self, engines: SharedEngines | None = None, thread: EngineThread | None = None, namespace: str = ""
    ) -> None:
        super().__init__("navigator", namespace)
        self._engines, self._thread = engines or SharedEngines(), thread
        self.config = declare_config(self, NavigatorConfig)
        self._profiling = NodeProfiling(self, self.config.profiling)
        self._epoch = time.time_ns() // 1_000_000
        self._numbers = itertools.count(1)
        self._heard = InstructionFilter()
        self._instructions: Instructions | None = None
        self._ask_services: AskServices | None = None
        self._ending = False
        self._engine: Engine | None = None
        self._worker: EngineWorker[RawFrame] | None = None
        self._drive: PlaceDrive | None = None
        self._nav2: Nav2Drive | None = None
        bind_live_parameters(self, self.config, self._reconfigure)

    def configure(self) -> None:
        c = self.config
        self._output = NavigatorOutput(self, c)
        self._answers = AnswerTopics(self)
        self._instructions = Instructions(self, c, self._epoch, self._heard, self._numbers)
        self._questions = QuestionTopics(self)
        self.get_logger().info(f"loading engine '{c.engine}'")
        self._engine = self._engines.build(c)

    def activate(self) -> None:
        c = self.config
        assert self._engine is not None, "configured before it is activated"
        self._figures = NavigatorFigures()
        instructions = self._told
        # Heard before the first camera: what both have seen at once is there when the frame is answered.
        self._below = look_down_input(self, c, self._engine, self._on_look_down)
        self._sensors = SensorInput(self, c, self._on_observation, instructions.moved)
        loop = build_loop(self._engine, c)
        self._drive = loop.drive
        if self._drive is not None:
            self.create_subscription(
                PointCloud2, "obstacles", self._on_obstacles, qos.sensor("best_effort", 1)
            )
        desk = QuestionDesk(self._engine, c.questions, self._on_answer)
        self._worker = worker = EngineWorker(loop, self._sensors.decode, self, desk, self._thread)
        self._nav2 = Nav2Drive(self, c, self._on_goal_report, time.monotonic) if c.drive == "nav2" else None
        worker.start()
        instructions.open(InstructionHooks(worker.command, self._on_begin, self._sensors.refuse))
        self._questions.hear(worker.ask)
        self._ask_services = AskServices(self, worker.ask) if instructions.has_messages else None
        self.create_subscription(JointTrajectory, "queue_progress", self._on_progress, qos.commands())
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
        if self._nav2 is not None:
            self._nav2.destroy()
            self._nav2 = None
        if self._instructions is not None:
            self._instructions.close("the navigator was deactivated")

    def cleanup(self) -> None:
        if self._instructions is not None:
            self._instructions.destroy(spinning=not self._ending)
            self._instructions = None
        if self._engine is not None:
            self._engines.release(self._engine)
            self._engine = None
            self._engines.free_memory()

    def close(self) -> None:
        self._ending = True
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.command(Cancel())
            if not worker.close(ENDING_WAIT_S):  # a process that is to end does not wait for a model
                self.computing, self._engine = True, None
        if self._nav2 is not None:
            self._nav2.destroy()
            self._nav2 = None
        if self._instructions is not None:
            self._instructions.close("the navigator has ended")
            self._instructions.wait_until_told(ENDING_WAIT_S)
        super().close()
        self._profiling.close()

    @property
    def _active(self) -> EngineWorker[RawFrame]:
        assert self._worker is not None, "callbacks exist only while the node is active"
        return self._worker

    @property
    def _told(self) -> Instructions:
        assert self._instructions is not None, "configured before anything comes"
        return self._instructions

    # ------------------------------------------------------------------ callbacks: store and return

    def _on_look_down(self, raw: RawFrame) -> None:
        self._active.put_look_down(raw)

    def _on_observation(self, raw: RawFrame) -> None:
        self._active.put_frame(raw)

    def _on_begin(self, _: Instruction) -> None:
        self._figures.failure = self._figures.held = None
        for sensors in (self._sensors, self._below):
            if sensors is not None:
                sensors.begin_anew()

    def _on_progress(self, msg: JointTrajectory) -> None:
        try:
            left, executed = convert.report_from_trajectory(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        if left.epoch not in (0, self._epoch):
            executed = None  # of another life of this node: its instructions had the same numbers
        self._told.reported(left, executed)  # first: what ends here is not decided on any more
        numbers = left.instruction, left.queue
        self._active.put_progress(Progress(*numbers, len(left.actions), left.frame_stamp_ns, executed))

    def _on_goal_report(self, progress: Progress) -> None:
        """Of a goal of Nav2's, from either thread."""
        self._told.progressed(progress)
        self._active.put_progress(progress)

    def _on_obstacles(self, msg: PointCloud2) -> None:
        try:
            points = convert.points_from_cloud(msg)
        except convert.MessageError as error:
            self._sensors.refuse(error)
            return
        if self._drive is not None:
            self._drive.hear(points[:, :2])

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        self._hold_or_go_on()
        response.success, response.message = True, "paused" if request.data else "going on"
        return response

    def _hold_or_go_on(self) -> None:
        """Beside a second navigator this one plans nothing: the robot would follow the two in turns."""
        paused = self._paused or bool(self._heartbeat.doubles)
        self._active.command(Pause(paused))
        self._told.pause(paused)

    def _reconfigure(self, config: NavigatorConfig) -> None:
        self.config = config
        if self._worker is not None:
            for sensors in (self._sensors, self._below):
                if sensors is not None:
                    sensors.tune(config.sync)
            self._told.tune(config)
            self._worker.command(Tune(config.decide_ahead, round(config.lost_after_s * 1e9)))

    def _beat(self) -> None:
        now_s = time.monotonic()
        late_ms = (now_s - self._beat_s - 1.0 / self.config.heartbeat_hz) * 1e3
        self._beat_s = now_s
        self._figures.latest_beat_ms = max(self._figures.latest_beat_ms, late_ms)
        self._heartbeat.beat(self._sensors.newest_ns)
        self._told.beat()

    # ------------------------------------------------------------------ events, in the worker's thread

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        self._figures.observe_ms.append(observe_ms)
        self._output.processed(frame)
        if self._nav2 is not None:
            self._nav2.observe(frame)

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        chunk = replace(chunk, epoch=self._epoch)
        self._told.said(chunk, answers=frame is not None)  # before anybody can report of it
        if self._nav2 is not None:
            self._nav2.follow(chunk, frame)
        if self._nav2 is None or not chunk.actions:  # an executor that runs all the same stands
            self._output.queue(chunk)
        if frame is not None:
            self._answers.decided(chunk, self._figures)
            if not chunk.goes_on:
                self._figures.decided(self._engine, decide_ms)
            if self._drive is not None:
                self._figures.driving = tuple(self._drive.figures().items())
            plan = None if self._drive is None or chunk.place is None else self._drive.plan
            self._output.answer(chunk, frame, self._engine, plan)

    def _on_answer(self, answer: QuestionAnswer) -> None:
        self._questions.tell(answer)
        if self._ask_services is not None:
            self._ask_services.tell(answer)

    def on_bad_frame(self, error: ValueError) -> None:
        if not isinstance(error, convert.MessageError):
            error = convert.MessageError("bad_frame", str(error))
        self._sensors.refuse(error)

    def on_failure(self, error: BaseException) -> None:
        self._answers.failed(error, self._figures)
        self._told.failed(str(self._figures.failure))

    def _diagnose(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        is_now = health(self._figures, self._sensors, self._active, self._heartbeat.error, now_ns)
        if self._nav2 is not None:
            is_now = self._nav2.health(is_now)
        more = (
            *second_camera_values(self._below), *self._questions.values(), *self._profiling.values(),
        )  # fmt: skip
        self.say(replace(is_now, values=(*is_now.values, *more)))


def main() -> None:
    run_node(Navigator)


if __name__ == "__main__":
    main()
