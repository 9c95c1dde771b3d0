"""Hands answers to Nav2 as goals, and tells the decision rule what became of them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action.client import ActionClient
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from std_msgs.msg import Header, String

from vln_ros.config import ConfigError, NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame, Pose
from vln_ros.engine.decision import Progress
from vln_ros.motion.nav_goal import GoalEnd, GoalWatch, NavGoal
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level

_UNDER_WAY = 1000
"""Actions that are reported as left while a goal is driven to: more than any ``decide_ahead``."""
_WATCH_HZ = 10.0
_STOPPED = "stopped"


def navigate_to_pose(choice: str) -> Any:
    """The action's type; None where goals go by topic.

    Raises:
        ConfigError: the action is asked for, and nav2_msgs is not there.
    """
    if choice == "topic":
        return None
    try:
        from nav2_msgs.action import NavigateToPose
    except ImportError as error:
        if choice == "action":
            raise ConfigError(
                f"nav2.goals = 'action': nav2_msgs cannot be imported ({error}); install "
                "ros-jazzy-nav2-msgs and source ROS, or set nav2.goals to topic"
            ) from error
        return None
    return NavigateToPose


class Nav2Drive:
    """One goal at a time. Whatever flushes the executor's queue elsewhere cancels the goal here.

    Methods may be called from the thread of callbacks and from the engine's. Never waits. :meth:`follow` is
    called under the worker's lock, so what it has to report is told by the next frame or tick.

    Args:
        node: gets clients, publishers and a timer.
        config: of the navigator.
        report: told how a goal stands, as an executor would report of its queue.
        now_s: a steady clock.
    """

    def __init__(
        self,
        node: Node,
        config: NavigatorConfig,
        report: Callable[[Progress], None],
        now_s: Callable[[], float],
    ) -> None:
        self._node, self._config, self._report_to, self._now_s = node, config, report, now_s
        self._reports: deque[Progress] = deque()
        self._lock = threading.RLock()
        self._watch = GoalWatch(config.nav2)
        self._action = navigate_to_pose(config.nav2.goals)
        self._client = None if self._action is None else ActionClient(node, self._action, "navigate_to_pose")
        self._goal_pub = node.create_publisher(PoseStamped, "goal_pose", qos.commands())
        self._stopped_pub = node.create_publisher(Header, "stopped", qos.commands())
        self._state_sub = node.create_subscription(String, "executor_state", self._on_executor, qos.latched())
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(1.0 / _WATCH_HZ, self._tick, clock=steady)
        self._number = 0  # of the newest goal: what is said of another one counts for nothing
        self._handle: Any = None
        self._feedback: Any = None
        self._sent_s = self._frame_s = 0.0
        self._pose: Pose | None = None
        self._stamp_ns = 0
        self.counts: Counter[str] = Counter()
        self.problem: tuple[Level, str] | None = None
        """What is wrong, for /diagnostics; None where nothing is."""

    def destroy(self) -> None:
        """Cancel, and go."""
        with self._lock:
            self._cancel("the navigator ends")
            self._node.destroy_timer(self._timer)
            self._node.destroy_subscription(self._state_sub)
            for publisher in (self._goal_pub, self._stopped_pub):
                self._node.destroy_publisher(publisher)
            if self._client is not None:
                self._client.destroy()

    @property
    def taken(self) -> bool:
        """Nav2 drives to a goal of ours and can be told to cancel it."""
        return self._handle is not None

    def observe(self, frame: Frame) -> None:
        """Where the robot is."""
        with self._lock:
            self._pose, self._stamp_ns, self._frame_s = frame.odom_from_base, frame.stamp_ns, self._now_s()
            end = self._watch.at(self._pose, self._frame_s)
            if end is GoalEnd.REACHED:
                # Nav2 may still be turning on the spot: what comes next replaces it.
                self._end(GoalEnd.REACHED)
            elif end is not None:
                self._fail(end, "it has not moved for nav2.stuck_s")
        self._pass_on()

    def follow(self, chunk: ActionChunk, frame: Frame | None) -> None:
        """A queue or a hold, as it is published."""
        with self._lock:
            self._cancel("the run holds" if chunk.is_hold else "another answer follows")
            if chunk.is_hold or frame is None:
                return
            self.problem = None
            self._pose, self._stamp_ns = frame.odom_from_base, frame.stamp_ns
            goal = NavGoal.of(chunk, frame.odom_from_base, self._config.place)
            if goal is None:
                self._tell(chunk, 0)
                self._stop(chunk)
                return
            self._watch.begin(goal)
            self._tell(chunk, _UNDER_WAY)
            self._send(goal.pose)

    def health(self, navigator: Health) -> Health:
        """The navigator's health with what became of the goals."""
        values = (*navigator.values, *self.counts.items())
        if (told := self._feedback) is not None:
            values += (
                ("Nav2: way to the goal [m]", round(told.distance_remaining, 2)),
                ("Nav2: recoveries", told.number_of_recoveries),
            )
        if self.problem is None:
            return replace(navigator, values=values)
        level, text = self.problem
        summary = text if level >= navigator.level else navigator.summary
        return replace(navigator, level=max(level, navigator.level), summary=summary, values=values)

    # ------------------------------------------------------------------ to Nav2

    def _send(self, pose: Pose) -> None:
        self.counts["goals"] += 1
        self._number += 1
        self._handle, self._feedback, self._sent_s = None, None, self._now_s()
        stamped = convert.stamped_from_pose(pose, self._stamp_ns, self._config.sync.odom_frame or "odom")
        if self._client is None:
            self._goal_pub.publish(stamped)
            return
        number = self._number
        sent = self._client.send_goal_async(
            self._action.Goal(pose=stamped), lambda message: self._on_feedback(number, message.feedback)
        )
        sent.add_done_callback(lambda future: self._on_accepted(number, future.result()))

    def _on_accepted(self, number: int, handle: Any) -> None:
        with self._lock:
            if number != self._number or self._watch.goal is None:
                if handle is not None and handle.accepted:
                    handle.cancel_goal_async()  # the answer was overtaken
                return
            if handle is None or not handle.accepted:
                self._fail(
                    GoalEnd.NOT_ACCEPTED, "Nav2 refuses it: is it active, and is the place on its map?"
                )
                return
            self._handle = handle
            handle.get_result_async().add_done_callback(
                lambda future: self._on_result(number, future.result())
            )

    def _on_feedback(self, number: int, feedback: Any) -> None:
        with self._lock:
            if number == self._number and self._watch.goal is not None:
                self._feedback = feedback

    def _on_result(self, number: int, result: Any) -> None:
        with self._lock:
            if number != self._number or self._watch.goal is None:
                return
            self._handle = None
            if result is not None and result.status == GoalStatus.STATUS_SUCCEEDED:
                self._end(GoalEnd.REACHED)
                return
            code = "" if result is None else f" (error_code {getattr(result.result, 'error_code', '?')})"
            self._fail(GoalEnd.FAILED, f"Nav2 ended it without success{code}")

    def _cancel(self, why: str) -> None:
        """No goal any more. A topic knows no cancelling: there the goal is where the robot is."""
        if self._watch.goal is None:
            return
        self._node.get_logger().info(f"goal cancelled: {why}")
        self.counts["goals cancelled"] += 1
        self._watch.drop()
        self._feedback = None
        self._number += 1
        if self._client is None:
            if self._pose is not None:
                frame_id = self._config.sync.odom_frame or "odom"
                self._goal_pub.publish(convert.stamped_from_pose(self._pose, self._stamp_ns, frame_id))
        elif self._handle is not None:
            self._handle.cancel_goal_async()
        self._handle = None

    # ------------------------------------------------------------------ what became of it

    def _end(self, end: GoalEnd) -> None:
        goal = self._watch.goal
        assert goal is not None
        self.counts[end.value] += 1
        self._watch.drop()
        self._feedback = None
        self._tell(goal.chunk, 0)
        self._stop(goal.chunk)

    def _fail(self, end: GoalEnd, why: str) -> None:
        goal = self._watch.goal
        assert goal is not None
        self.counts[end.value] += 1
        self.problem = Level.WARN, f"{end.value}: {why}"
        self._node.get_logger().warning(f"{end.value}: {why}")
        self._cancel(end.value)
        # As a queue that was flushed: the model is asked again from the next frame.
        self._reports.append(Progress(goal.chunk.instruction, 0, 0, self._stamp_ns))

    def _fault(self, why: str) -> None:
        """Something of ours is wrong: nobody shall drive on."""
        goal = self._watch.goal
        if goal is None:
            return
        self.problem = Level.ERROR, f"goal cancelled: {why}"
        self._node.get_logger().error(f"goal cancelled: {why}")
        self._cancel(why)
        self._reports.append(Progress(goal.chunk.instruction, 0, 0, self._stamp_ns))

    def _stop(self, chunk: ActionChunk) -> None:
        if chunk.actions and chunk.actions[-1].stop:
            stamp = convert.time_from_stamp_ns(self._stamp_ns)
            self._stopped_pub.publish(Header(stamp=stamp, frame_id=self._config.base_frame))

    def _tell(self, chunk: ActionChunk, remaining: int) -> None:
        self._reports.append(Progress(chunk.instruction, chunk.queue, remaining, self._stamp_ns))

    def _pass_on(self) -> None:
        """Not under the lock: who is told has one of his own, under which he calls :meth:`follow`."""
        while self._reports:
            self._report_to(self._reports.popleft())

    def _tick(self) -> None:
        self._judge()
        self._pass_on()

    def _judge(self) -> None:
        with self._lock:
            if self._watch.goal is None:
                return
            now_s, nav2 = self._now_s(), self._config.nav2
            if now_s - max(self._frame_s, self._sent_s) > nav2.frame_timeout_s:
                self._fault(f"no frame for {nav2.frame_timeout_s:g} s")
            elif (
                self._client is not None
                and self._handle is None
                and now_s - self._sent_s > nav2.accept_timeout_s
            ):
                self._fail(GoalEnd.NOT_ACCEPTED, "no answer from navigate_to_pose: is Nav2 running?")

    def _on_executor(self, msg: String) -> None:
        if msg.data.startswith(_STOPPED):
            with self._lock:
                self._fault(f"the executor says {msg.data!r}")
