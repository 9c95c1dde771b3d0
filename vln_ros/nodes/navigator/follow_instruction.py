"""Serves the action follow_instruction and the readable queue where vln_msgs is installed."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.node import Node
from std_msgs.msg import Header, String

from vln_ros.config import RunLimitsConfig
from vln_ros.datatypes import ActionChunk, ActionKind
from vln_ros.motion.instruction_status import AbortCause, InstructionStatus, Status
from vln_ros.ros import convert, qos

if TYPE_CHECKING:
    from vln_msgs.action import FollowInstruction

PACKAGE = "vln_msgs"
ACTION = "follow_instruction"
FEEDBACK_PERIOD_S = 0.5
"""Feedback is told when it changes, and so often for its figures."""
_LAST_RESULTS_S = 0.2
"""How long a server whose goals have just ended stays. A result leaves with the first turns of the executor,
but the client fetches it from memory that goes with this process, and ROS has no receipt for it."""

Limits = Callable[[RunLimitsConfig], RunLimitsConfig]
"""The navigator's own limits to those of a goal."""


class GoalServer(Protocol):
    """The action, as the navigator knows it."""

    def feed(self, now: InstructionStatus | None) -> None:
        """What is to be said of the instruction that is followed."""

    def end(self, status: InstructionStatus) -> None:
        """An instruction has ended; if it is the goal's, the goal has."""

    def close(self, spinning: bool) -> None:
        """No goal is taken any more, and who waits for a result gets it. ``spinning``: in a callback."""


@dataclass(frozen=True)
class GoalHooks:
    """What a goal sets off in the navigator.

    Attributes:
        active: whether instructions are taken now.
        begin: begins a run and returns the number of its instruction.
        cancel: ends the run, with the reason.
    """

    active: Callable[[], bool]
    begin: Callable[[str, Limits], int]
    cancel: Callable[[str], None]


def goal_server(node: Node, hooks: GoalHooks) -> GoalServer | None:
    """The action server ``follow_instruction``; None where vln_msgs is not installed or cannot be loaded."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    try:
        return _FollowInstructionServer(node, hooks)
    except Exception as error:  # rosidl's own are nowhere public
        node.get_logger().error(
            f"{PACKAGE} is installed and cannot be used, so there is no action {ACTION}: {error}. Source the "
            "workspace in which it was built, or build it anew for this ROS (docs/reference/nodes.md)"
        )
        return None


class _EndedFromOutside(ActionServer):
    """A server whose goals end when somebody says so, not when a function returns.

    A coroutine that waits for the end would do as well, but rclpy's executor runs what waits over and over,
    with all the processor that there is.
    """

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Any) -> None:
        if execute_callback is not None:
            super().notify_execute(goal_handle, execute_callback)


class _FollowInstructionServer:
    """See :func:`goal_server`. One goal at a time: the next, or an instruction by topic, ends it."""

    def __init__(self, node: Node, hooks: GoalHooks) -> None:
        from vln_msgs.action import FollowInstruction

        self._node, self._hooks = node, hooks
        self._type = FollowInstruction
        self._followed: tuple[int, ServerGoalHandle] | None = None
        """With the number of its instruction."""
        self._results_due = 0
        self._fed: tuple[object, ...] = ()
        self._fed_s = 0.0
        self._server = _EndedFromOutside(
            node,
            FollowInstruction,
            ACTION,
            self._nothing,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def _nothing(self, _: ServerGoalHandle) -> FollowInstruction.Result:
        raise AssertionError("goals end by end()")

    def _on_goal(self, goal: FollowInstruction.Goal) -> GoalResponse:
        """Refused goals have no words of their own in ROS: the log has."""
        try:
            if not self._hooks.active():
                raise ValueError("the navigator is not active; activate it first")
            convert.instruction_from_string(String(data=goal.instruction))
            _limits_of(goal)(RunLimitsConfig())
        except ValueError as error:
            self._node.get_logger().warning(f"goal rejected: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        text = convert.instruction_from_string(String(data=handle.request.instruction))
        handle.execute()
        number = self._hooks.begin(text, _limits_of(handle.request))
        self._followed = number, handle

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        # One that a newer instruction has ended may still wait for its result: that one goes on.
        if self._followed is not None and self._followed[1] == handle:
            self._hooks.cancel("by a cancel of the goal")
        return CancelResponse.ACCEPT

    def feed(self, now: InstructionStatus | None) -> None:
        if now is None or self._followed is None or self._followed[0] != now.instruction.number:
            return
        handle = self._followed[1]
        told = now.instruction.number, now.status, now.reason, now.left, now.unconstrained
        now_s = time.monotonic()
        if told == self._fed and now_s - self._fed_s < FEEDBACK_PERIOD_S:
            return
        self._fed, self._fed_s = told, now_s
        handle.publish_feedback(
            self._type.Feedback(
                state=now.status.value,
                reason=now.reason,
                action=str(now.left[0]) if now.left else "",
                actions_left=len(now.left),
                unconstrained_output=now.unconstrained or "",
                epoch=now.epoch,
                number=now.instruction.number,
                decisions=now.decisions,
                duration_s=now.duration_s,
                distance_m=now.distance_m,
            )
        )

    def end(self, status: InstructionStatus) -> None:
        if self._followed is None or self._followed[0] != status.instruction.number:
            return
        handle = self._followed[1]
        self._followed = None
        self._results_due += 1
        result = self._type.Result(
            outcome=_outcome(self._type.Result, status),
            reason=status.reason,
            epoch=status.epoch,
            number=status.instruction.number,
            decisions=status.decisions,
            duration_s=status.duration_s,
            distance_m=status.distance_m,
        )

        def conclude() -> None:
            if status.status is Status.SUCCEEDED:
                handle.succeed()
            elif handle.is_cancel_requested:
                handle.canceled()
            else:
                # What the service cancel ends is no cancelled goal for ROS: nobody asked to cancel that.
                handle.abort()
            self._results_due -= 1

        def execute(_: ServerGoalHandle) -> FollowInstruction.Result:
            conclude()
            return result

        self._server.notify_execute(handle, execute)

    def close(self, spinning: bool) -> None:
        executor = self._node.executor
        if self._results_due and spinning:
            return  # the results go out after this callback
        if executor is not None and self._results_due:
            # The end of a goal is a task of the executor's, and sending its result to who waits is another.
            until_s = time.monotonic() + _LAST_RESULTS_S
            while (left_s := until_s - time.monotonic()) > 0.0:
                executor.spin_once(timeout_sec=left_s)
        self._server.destroy()


def _limits_of(goal: FollowInstruction.Goal) -> Limits:
    """Raises ValueError, when called, for limits that are none."""

    def limits(own: RunLimitsConfig) -> RunLimitsConfig:
        for name in ("max_duration_s", "max_distance_m"):
            value = getattr(goal, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} = {value}: must be at least 0; 0 is the navigator's own")
        return replace(
            own,
            max_duration_s=goal.max_duration_s or own.max_duration_s,
            max_distance_m=goal.max_distance_m or own.max_distance_m,
            max_decisions=goal.max_decisions or own.max_decisions,
        )

    return limits


def _outcome(result: type[FollowInstruction.Result], status: InstructionStatus) -> int:
    if status.cause is not None:
        causes: dict[AbortCause, int] = {
            AbortCause.FAULT: result.FAULT,
            AbortCause.LIMIT: result.LIMIT,
            AbortCause.ENGINE_FAILURE: result.ENGINE_FAILURE,
        }
        return causes[status.cause]
    ends: dict[Status, int] = {
        Status.SUCCEEDED: result.STOPPED_BY_MODEL,
        Status.CANCELLED: result.CANCELLED,
        Status.SUPERSEDED: result.SUPERSEDED,
    }
    return ends[status.status]


class ActionChunkTopic:
    """``action_chunk``: what ``action_queue`` carries, readable. May be used from the engine's thread."""

    def __init__(self, node: Node, base_frame: str) -> None:
        from vln_msgs.msg import ActionChunk as ActionChunkMsg

        self._type, self._base_frame = ActionChunkMsg, base_frame
        self._kinds = {
            ActionKind.STOP: ActionChunkMsg.STOP,
            ActionKind.FORWARD: ActionChunkMsg.FORWARD,
            ActionKind.TURN_LEFT: ActionChunkMsg.LEFT,
            ActionKind.TURN_RIGHT: ActionChunkMsg.RIGHT,
        }
        self._publisher = node.create_publisher(ActionChunkMsg, "action_chunk", qos.events())

    def publish(self, chunk: ActionChunk) -> None:
        stamp = convert.time_from_stamp_ns(chunk.frame_stamp_ns)
        self._publisher.publish(
            self._type(
                header=Header(stamp=stamp, frame_id=self._base_frame),
                epoch=chunk.epoch,
                instruction=chunk.instruction,
                queue=chunk.queue,
                kinds=[self._kinds[action.kind] for action in chunk.actions],
                amounts=[action.forward_m + abs(action.turn_rad) for action in chunk.actions],
                held=chunk.held or "",
            )
        )
