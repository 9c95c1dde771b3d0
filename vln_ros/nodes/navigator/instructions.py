"""Takes instructions by topic, action and service, and tells what becomes of each."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from vln_ros.config import NavigatorConfig, RunLimitsConfig
from vln_ros.datatypes import ActionChunk, Executed, Instruction, Pose
from vln_ros.engine.decision import Progress
from vln_ros.engine.worker import Cancel, Command, Start
from vln_ros.geometry.frame_checks import MotionLimits
from vln_ros.motion.instruction_status import AbortCause, InstructionStatus, InstructionTracker, Status
from vln_ros.nodes import executor_state
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.nodes.navigator.follow_instruction import (
    ActionChunkTopic,
    GoalHooks,
    GoalServer,
    Limits,
    goal_server,
)
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health

TOPIC = "instruction_status"
ENDED_KEPT = 8
"""Of so many instructions that have ended the status is told along with the newest one's: who comes late, or
missed a message, finds the end of his."""


@dataclass(frozen=True)
class InstructionHooks:
    """What a new instruction and its end set off in the node.

    Attributes:
        command: hands a command to the engine's thread.
        begun: an instruction begins.
        refuse: counts and reports a message that cannot be used.
    """

    command: Callable[[Command], None]
    begun: Callable[[Instruction], None]
    refuse: Callable[[convert.MessageError], None]


class Instructions:
    """Numbers the instructions, hands them to the engine's thread, and tells what becomes of each.

    Made when the navigator is configured, :meth:`open` while it is active. Everything but :meth:`said`,
    :meth:`failed` and :meth:`progressed` is of the thread of the callbacks.

    Args:
        heard, numbers: outlive the configuration: what was heard and counted before.
    """

    def __init__(
        self,
        node: Node,
        config: NavigatorConfig,
        epoch: int,
        heard: InstructionFilter,
        numbers: itertools.count[int],
    ) -> None:
        self._node, self._config, self._epoch = node, config, epoch
        self._heard, self._numbers = heard, numbers
        self._hooks: InstructionHooks | None = None
        self._ended: deque[InstructionStatus] = deque(maxlen=ENDED_KEPT)
        self._tracker = InstructionTracker(epoch, MotionLimits.of_odometry(config.sync), self._told)
        self._of_thread: deque[Callable[[], None]] = deque()
        self._said_last = 0
        self._status_pub = node.create_publisher(DiagnosticArray, TOPIC, qos.latched())
        hooks = GoalHooks(lambda: self._hooks is not None, self._on_goal, self._cancel)
        self._server: GoalServer | None = goal_server(node, hooks)
        self._chunks = ActionChunkTopic(node, config.base_frame) if self._server is not None else None

    @property
    def has_messages(self) -> bool:
        """vln_msgs is installed and works."""
        return self._server is not None

    # ------------------------------------------------------------------ while the node is active

    def open(self, hooks: InstructionHooks) -> None:
        """From now on instructions are taken, the latched one anew."""
        self._hooks = hooks
        self._heard.forget()
        node = self._node
        hear_instructions(node, self._on_instruction, self._heard)
        node.create_subscription(String, executor_state.TOPIC, self._on_executor_state, qos.latched())
        node.create_service(Trigger, "~/cancel", self._on_cancel)

    def close(self, reason: str) -> None:
        """From now on none is; the one that is followed ends. The engine's thread has ended before."""
        self._hooks = None
        self._take_news()
        self._tracker.rest(reason)

    def destroy(self, spinning: bool) -> None:
        """The action server goes, too, once who waits for a result has it. ``spinning``: in a callback."""
        if self._server is not None:
            self._server.close(spinning)
            self._server = None

    def tune(self, config: NavigatorConfig) -> None:
        """Limits of the instructions that come may have changed."""
        self._config = config

    def beat(self) -> None:
        """To be called at the rate of the heartbeat: limits are judged and feedback is told."""
        self._take_news()
        self._tracker.tick(self._clock_s(), time.monotonic())
        if self._server is not None:
            self._server.feed(self._tracker.now)

    def reported(self, left: ActionChunk, executed: tuple[Executed, ...] | None) -> None:
        """A report of the executor."""
        self._take_news()
        self._tracker.reported(left, executed, time.monotonic())

    def moved(self, pose: Pose, stamp_ns: int) -> None:
        """Odometry."""
        self._tracker.moved(pose, stamp_ns)

    def pause(self, paused: bool) -> None:
        """Nothing is decided meanwhile; no instruction ends by that."""
        self._tracker.pause(paused)

    # ------------------------------------------------------------------ from the engine's thread

    def said(self, chunk: ActionChunk, answers: bool) -> None:
        """A queue or a hold; ``answers``: a frame."""
        self._said_last = chunk.instruction
        if answers:
            self._of_thread.append(partial(self._tracker.decided, chunk))
        if self._chunks is not None:
            self._chunks.publish(chunk)

    def progressed(self, progress: Progress) -> None:
        """How a goal stands that Nav2 drives to: nobody says which actions are left of it."""
        if progress.remaining:
            self._of_thread.append(partial(self._tracker.driving, progress.instruction))
            return
        left = ActionChunk(progress.queue, progress.instruction, progress.stamp_ns, (), epoch=self._epoch)
        self._of_thread.append(partial(self._tracker.reported, left, progress.executed, time.monotonic()))

    def failed(self, reason: str) -> None:
        """The engine cannot go on with what was said last: before this, a hold was."""
        self._of_thread.append(partial(self._tracker.failed, self._said_last, reason))

    def _take_news(self) -> None:
        while self._of_thread:
            self._of_thread.popleft()()

    # ------------------------------------------------------------------ what is wanted

    def _on_instruction(self, msg: String, _: Info) -> None:
        assert self._hooks is not None, "subscriptions exist only while the node is active"
        try:
            text = convert.instruction_from_string(msg)
        except convert.MessageError as error:
            self._hooks.refuse(error)
            return
        self._begin(text, self._config.limits)

    def _on_goal(self, text: str, limits: Limits) -> int:
        return self._begin(text, limits(self._config.limits))

    def _begin(self, text: str, limits: RunLimitsConfig) -> int:
        assert self._hooks is not None, "asked for while the node is active"
        instruction = Instruction(next(self._numbers), text)
        self._node.get_logger().info(f"instruction {instruction.number}: {text}")
        self._hooks.begun(instruction)
        self._hooks.command(Start(instruction))  # the robot stands before anybody is told
        self._take_news()
        self._tracker.begin(instruction, limits, self._clock_s(), time.monotonic())
        return instruction.number

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._cancel("by the service cancel")
        response.success, response.message = True, "cancelled; publish an instruction to begin again"
        return response

    def _cancel(self, reason: str) -> None:
        if self._hooks is not None:
            self._hooks.command(Cancel())
        self._take_news()
        self._tracker.cancel(reason)

    def _on_executor_state(self, msg: String) -> None:
        self._tracker.stands(*executor_state.faults_named(msg.data), time.monotonic())

    # ------------------------------------------------------------------ what is told

    def _told(self, status: InstructionStatus) -> None:
        if status.cause in (AbortCause.FAULT, AbortCause.LIMIT) and self._hooks is not None:
            self._hooks.command(Cancel())  # what has ended does not go on when the fault is over
        if status.status is Status.ABORTED:
            self._node.get_logger().warning(f"instruction {status.instruction.number} ends: {status.reason}")
        followed = () if status.ended else (status,)
        if status.ended:
            self._ended.append(status)
        now_ns = self._node.get_clock().now().nanoseconds
        self._status_pub.publish(
            status_message((*self._ended, *followed), self._node.get_namespace(), now_ns)
        )
        if self._server is not None and status.ended:
            self._server.end(status)

    def wait_until_told(self, timeout_s: float) -> None:
        """Before the process ends: a message that is on its way would go with it."""
        self._status_pub.wait_for_all_acked(Duration(nanoseconds=round(timeout_s * 1e9)))

    def _clock_s(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) / 1e9


def status_message(statuses: tuple[InstructionStatus, ...], namespace: str, stamp_ns: int) -> DiagnosticArray:
    """The newest instruction last."""
    message = DiagnosticArray(header=Header(stamp=convert.time_from_stamp_ns(stamp_ns)))
    for s in statuses:
        level = Level.ERROR if s.status is Status.ABORTED else Level.OK
        summary = f"{s.status.value}: {s.reason}" if s.reason else s.status.value
        values = (
            ("epoch", s.epoch),
            ("number", s.instruction.number),
            ("instruction", s.instruction.text),
            ("status", s.status.value),
            ("cause", "" if s.cause is None else s.cause.value),
            ("reason", s.reason),
            ("decisions", s.decisions),
            ("duration [s]", s.duration_s),
            ("distance [m]", s.distance_m),
        )
        name = f"instruction {s.instruction.number}"
        one = diagnostics_from_health(Health(level, summary, values), name, namespace, stamp_ns)
        message.status.extend(one.status)
    return message
