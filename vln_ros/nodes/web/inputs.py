"""What the page shows of the topics, apart from pictures: subscriptions, and nothing else."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import WebConfig
from vln_ros.datatypes import ActionChunk
from vln_ros.nodes.heartbeat import commands_heartbeat
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.nodes.web.reports import DiagnosticReports
from vln_ros.ros import convert, qos
from vln_ros.ros.polled import PolledSubscription
from vln_ros.ros.starts import NOT_PUT
from vln_ros.web.feed import Feed
from vln_ros.web.messages import (
    Goal,
    GoalPlace,
    Navigator,
    Obstacles,
    PathAhead,
    Place,
    Queue,
    State,
    Task,
    Trail,
)
from vln_ros.web.words import plain_state

NAVIGATOR = "navigator"
NAVIGATOR_TIMEOUT_S = EXECUTOR_TIMEOUT_S = 3.0
"""Who has said nothing for so long is not there."""
LOOK_PERIOD_S = 1.0
"""How often one looks whether one that is silent is starting."""
ANSWER_TIMEOUT_S = 2.0
OBSTACLES_PERIOD_S, OBSTACLE_M = 0.9, 0.05
TRAIL_PERIOD_S = 2.0
"""The whole trail is sent so often; between, the page adds the places that it is told."""
CARRIED_M = 1.0
"""From one odometry to the next: the robot was carried, or its odometry jumped, and no trail leads there."""
_MM = 3
NO_GOAL = Goal(None, None, "")
SILENT = State(
    "unknown",
    "The executor is silent",
    ("It has ended, is not active, or is out of reach: what the robot does is not known.",),
    False,
)


class FeedInputs:
    """Brings what nodes say into the feed. A message that cannot be used is counted and left out.

    Args:
        node: gets the subscriptions.
        config: rates and sizes.
        feed: gets what is shown.
        on_goal: is told the stamp of a picture that was answered with a point.
        on_state: is called when the executor has said its state.

    Attributes:
        state: what the executor has said last; None before it has said anything.
        executor: which one it is, as it names itself; empty: its life signs were not heard.
        refused: messages by the reason for which they were not used.
    """

    def __init__(
        self,
        node: Node,
        config: WebConfig,
        feed: Feed,
        on_goal: Callable[[int], None] = lambda _: None,
        on_state: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._feed, self._config = node, feed, config
        self._on_goal, self._on_new_state = on_goal, on_state
        self.state: State | None = None
        self.executor = ""
        self._expected_s = math.inf
        self.refused: Counter[str] = Counter()
        self._logger = node.get_logger()
        self._queue: ActionChunk | None = None
        self._trail: deque[tuple[float, float]] = deque(maxlen=config.trail_points)
        self._blocked_s = self._trailed_s = self._beaten_s = self._looked_s = -math.inf
        self._starting_s: float | None = None
        self._reports = DiagnosticReports(node.get_namespace(), feed)
        create = node.create_subscription
        hear_instructions(node, self._on_instruction, InstructionFilter())
        create(String, "executor_state", self._on_state, qos.latched())
        create(JointTrajectory, "action_queue", self._guarded(self._on_queue), qos.commands())
        create(JointTrajectory, "queue_progress", self._guarded(self._on_progress), qos.commands())
        create(Path, "predicted_path", self._guarded(self._on_path), qos.diagnostics())
        newest = qos.sensor("best_effort", 1)
        self._odometry = PolledSubscription(node, Odometry, "odom", newest)
        self._heartbeats = PolledSubscription(node, Header, "navigator_heartbeat", newest)
        self._life_signs = PolledSubscription(node, Header, commands_heartbeat(node), newest)
        self._lived_s = -math.inf
        node.create_timer(1.0 / config.pose_hz, self._poll, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._obstacles: Subscription | None = None
        self.watch(True)
        create(String, "decision_held", self._on_held, qos.events())
        create(String, "engine_failure", self._on_failure, qos.events())
        create(String, "sim_bridge/live", self._on_news, qos.events())
        create(DiagnosticArray, "/diagnostics", self._reports.hear, qos.diagnostics())

    def watch(self, wanted: bool) -> None:
        """Somebody looks from now on, or nobody any more: the executor need not tell of obstacles then."""
        if wanted and self._obstacles is None:
            self._obstacles = self._node.create_subscription(
                PointCloud2, "obstacles", self._guarded(self._on_obstacles), qos.diagnostics()
            )
        elif not wanted and self._obstacles is not None:
            self._node.destroy_subscription(self._obstacles)
            self._obstacles = None

    def expect_navigator(self) -> None:
        """An instruction is about to be published: the navigator answers it with a hold, at once."""
        self._expected_s = time.monotonic() + ANSWER_TIMEOUT_S

    def tick(self) -> None:
        """Say so where the navigator has not answered or is not ready, and where nobody is heard any more."""
        now_s = time.monotonic()
        self._reports.tick(now_s)
        if self.state is not None:
            self._feed.put(SILENT if self.is_executor_silent else self.state)
        if now_s > self._expected_s:
            self._expected_s = math.inf
            self._feed.note("refused", "the navigator has not taken the instruction up: send it again")
        if self.is_navigator_there:
            self._starting_s = None
            self._feed.put(Navigator(""))
        elif now_s - self._looked_s >= LOOK_PERIOD_S:
            self._looked_s = now_s
            self._feed.put(Navigator(self._why_no_navigator(now_s)))

    def _why_no_navigator(self, now_s: float) -> str:
        """Of one that says nothing."""
        there = (NAVIGATOR, self._node.get_namespace()) in self._node.get_node_names_and_namespaces()
        if not there:
            self._starting_s = None
            return "No navigator is running, so nobody would follow an instruction."
        if self._beaten_s > -math.inf:
            silent_s = now_s - self._beaten_s
            return f"The navigator is silent, for {silent_s:.0f} s so far: it has ended, or is not active."
        self._starting_s = now_s if self._starting_s is None else self._starting_s
        return f"The navigator is not ready: it loads its model, for {now_s - self._starting_s:.0f} s so far."

    @property
    def is_executor_silent(self) -> bool:
        """One was heard, and is not any more."""
        return bool(self.executor) and time.monotonic() - self._lived_s > EXECUTOR_TIMEOUT_S

    @property
    def is_navigator_there(self) -> bool:
        """One was heard lately."""
        return time.monotonic() - self._beaten_s < NAVIGATOR_TIMEOUT_S

    def refuse(self, error: convert.MessageError) -> None:
        """Count a message that cannot be used. From any thread."""
        self.refused[error.reason] += 1
        self._logger.warning(str(error), throttle_duration_sec=2.0)

    def _guarded(self, take: Callable[[Any], None]) -> Callable[[Any], None]:
        """``take``, with messages that cannot be used counted."""

        def guarded(msg: Any) -> None:
            try:
                take(msg)
            except convert.MessageError as error:
                self.refuse(error)

        return guarded

    def _on_instruction(self, msg: String, _: Info) -> None:
        try:
            text = convert.instruction_from_string(msg)
        except convert.MessageError as error:
            self.refuse(error)
            return
        self._trail.clear()
        self._queue = None
        self._feed.put(Trail(()))
        self._feed.put(PathAhead(()))
        self._feed.put(Queue((), 0))
        self._feed.put(NO_GOAL)
        self._feed.put(GoalPlace(None))
        self._feed.put(Task(text))
        self._feed.note("instruction", text)

    def _on_state(self, msg: String) -> None:
        self.state = plain_state(msg.data)
        self._feed.put(self.state)
        self._on_new_state()

    def _on_held(self, msg: String) -> None:
        self._feed.note("held", msg.data)

    def _on_failure(self, msg: String) -> None:
        self._feed.note("failure", msg.data)

    def _on_news(self, msg: String) -> None:
        self._feed.note("refused" if msg.data.startswith(NOT_PUT) else "world", msg.data)

    def _poll(self) -> None:
        """The newest of what comes more often than it is shown."""
        if self._heartbeats.take() is not None:
            self._beaten_s = time.monotonic()
        if (alive := self._life_signs.take()) is not None:
            self._lived_s, self.executor = time.monotonic(), alive.frame_id
        if (odometry := self._odometry.take()) is not None:
            self._guarded(self._on_odometry)(odometry)

    def _on_queue(self, msg: JointTrajectory) -> None:
        self._expected_s = math.inf
        self._queue = chunk = convert.chunk_from_trajectory(msg)
        self._feed.put(Queue(tuple(map(str, chunk.actions)), len(chunk.actions)))
        if not chunk.goes_on:  # toward the point that an answer before has named
            self._show_goal(chunk)

    def _show_goal(self, chunk: ActionChunk) -> None:
        pixel, place = chunk.pixel_goal, chunk.place
        self._feed.put(GoalPlace(None if place is None else _rounded(place.x_m, place.y_m)))
        self._feed.put(NO_GOAL if pixel is None else Goal(pixel.row, pixel.column, str(pixel.stamp_ns)))
        if pixel is not None:
            self._on_goal(pixel.stamp_ns)

    def _on_progress(self, msg: JointTrajectory) -> None:
        left = convert.chunk_from_trajectory(msg)
        queue = self._queue
        if queue is not None and (left.epoch, left.queue) == (queue.epoch, queue.queue):
            self._feed.put(Queue(tuple(map(str, queue.actions)), len(left.actions)))

    def _on_path(self, msg: Path) -> None:
        self._feed.put(
            PathAhead(tuple(_rounded(*convert.pose_from_stamped(p).position[:2]) for p in msg.poses))
        )

    def _on_odometry(self, msg: Odometry) -> None:
        now_s = time.monotonic()
        pose = convert.pose_from_odometry(msg)
        x_m, y_m = _rounded(*pose.position[:2])
        last = self._trail[-1] if self._trail else None
        if last is not None and math.hypot(x_m - last[0], y_m - last[1]) > CARRIED_M:
            self._trail.clear()
            self._feed.put(Trail(()))
        if last is None or math.hypot(x_m - last[0], y_m - last[1]) >= self._config.trail_spacing_m:
            self._trail.append((x_m, y_m))
        if now_s - self._trailed_s >= TRAIL_PERIOD_S:
            self._trailed_s = now_s
            self._feed.put(Trail(tuple(self._trail)))
        self._feed.put(Place(x_m, y_m, round(pose.yaw_rad, _MM)))

    def _on_obstacles(self, msg: PointCloud2) -> None:
        """Seen from above: what stands one above the other is one."""
        now_s = time.monotonic()
        if now_s - self._blocked_s < OBSTACLES_PERIOD_S:
            return
        points = convert.points_from_cloud(msg)
        self._blocked_s = now_s
        cells = np.unique(np.rint(points[:, :2] / OBSTACLE_M), axis=0) * OBSTACLE_M
        self._feed.put(Obstacles(tuple(_rounded(x_m, y_m) for x_m, y_m in cells)))


def _rounded(x_m: float, y_m: float) -> tuple[float, float]:
    return round(float(x_m), _MM), round(float(y_m), _MM)
