"""Mode ``realtime``: cmd_vel moves the robot, and time passes on its own."""

from __future__ import annotations

import json
import time
from pathlib import Path

from geometry_msgs.msg import Twist, TwistStamped
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vln_ros.datatypes import ActionChunk, Velocity
from vln_ros.engine.execution_log import ExecutionLog, Progress
from vln_ros.evaluation.episode.run import EpisodeRun
from vln_ros.nodes.sim_bridge.host import Host
from vln_ros.ros import convert, qos
from vln_ros.sim.embedded.dynamic_obstacles import DynamicObstacles
from vln_ros.sim.embedded.world import EmbeddedWorld

CATCH_UP = 4
"""Odometry periods in one go, at most: what a picture takes longer than one is made up for. On a machine that
cannot keep up at all, simulated time is slower than real time."""


class RealTime:
    """The world goes on: the last velocity is held, whether anybody thinks or not."""

    alone = False

    def __init__(self, host: Host) -> None:
        self._host = host
        command = TwistStamped if host.config.stamped_cmd_vel else Twist
        host.node.create_subscription(command, "cmd_vel", self._on_command, qos.commands())
        host.node.create_subscription(Header, "stopped", self._on_stopped, qos.commands())
        host.node.create_subscription(JointTrajectory, "queue_progress", self._on_progress, qos.commands())
        c = host.config
        self._tick_ns = round(1e9 / c.odometry_hz)
        self._period_s = 1.0 / (c.odometry_hz * c.realtime_factor)
        self._due_s = 0.0
        self._image_ns = round(1e9 / c.image_hz)
        self._run: EpisodeRun | None = None
        self._dynamic_obstacles: DynamicObstacles | None = None
        self._velocity = Velocity()
        self._commanded_ns = 0
        self._next_image_ns = 0
        self._left: ActionChunk | None = None
        self._log = ExecutionLog()
        self._instruction: int | None = None
        self._asked_s = time.monotonic()

    def on_queue(self, run: EpisodeRun, chunk: ActionChunk) -> None:
        """For the record only: here the executor moves the robot."""
        self._instruction = chunk.instruction
        self._log.sent(chunk)
        run.decided(chunk, (time.monotonic() - self._asked_s) * 1e3)

    def another_navigator(self) -> None:
        """The next image comes by itself."""

    def tick(self, run: EpisodeRun) -> None:
        """The odometry periods that are due."""
        now_s = time.monotonic()
        if run is not self._run or now_s - self._due_s > CATCH_UP * self._period_s:
            self._due_s = now_s
        # A timer may be called a little early; what is due within half a period is due.
        while self._due_s < now_s + self._period_s / 2 and run.ended is None:
            self._due_s += self._period_s
            self._pass(run)

    def _pass(self, run: EpisodeRun) -> None:
        """One odometry period."""
        if run is not self._run:
            self._run, self._velocity, self._left = run, Velocity(), None
            self._instruction = None
            self._log.begin()
            world, count = run.world, self._host.config.surprises
            if count and isinstance(world, EmbeddedWorld):
                self._dynamic_obstacles = DynamicObstacles(world, run.stamp_ns, count)
            self._next_image_ns = run.stamp_ns
        c = self._host.config
        if run.stamp_ns - self._commanded_ns > c.command_timeout_s * 1e9:
            self._velocity = Velocity()
        linear_m_s, angular_rad_s = self._velocity.linear_m_s, self._velocity.angular_rad_s
        run.drive(linear_m_s, angular_rad_s, self._tick_ns)
        if self._dynamic_obstacles is not None and self._dynamic_obstacles.step(run.stamp_ns, linear_m_s):
            run.look_again()
        topics = self._host.topics
        topics.clock(run.stamp_ns)
        topics.odometry(run.stamp_ns, run.world.pose, linear_m_s, angular_rad_s)
        if run.stamp_ns >= self._next_image_ns:
            self._next_image_ns += self._image_ns
            run.note(linear_m_s, angular_rad_s)
            topics.images(run.observe(len(self._left.actions) if self._left else 0))
            self._host.measures.live(run)
        if run.elapsed_s > c.max_episode_s:
            run.end("time limit")

    def end(self, run: EpisodeRun) -> None:
        """Tell what came of the boxes."""
        c = self._host.config
        s = self._dynamic_obstacles
        if s is not None and c.run_folder:
            figures = {"episode": run.episode.episode_id, "put": s.put, "contacts": s.contacts}
            with (Path(c.run_folder) / "surprises.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(figures) + "\n")

    def _on_command(self, msg: Twist | TwistStamped) -> None:
        try:
            twist = msg.twist if isinstance(msg, TwistStamped) else msg
            self._velocity = convert.velocity_from_twist(twist)
        except convert.MessageError as error:
            self._velocity = Velocity()
            self._host.node.get_logger().error(str(error))
        if self._run is not None:
            self._commanded_ns = self._run.stamp_ns

    def _on_stopped(self, _: Header) -> None:
        if self._run is not None and self._run is self._host.run:
            self._run.end("stop")
            # The report of the stop may have come before this, or come later: count it once.
            self._run.completed(1 if self._left is None else len(self._left.actions))
            self._left = self._instruction = None

    def _on_progress(self, msg: JointTrajectory) -> None:
        try:
            left, executed = convert.report_from_trajectory(msg)
        except convert.MessageError as error:
            self._host.node.get_logger().warning(str(error))
            return
        self._left = left
        if self._run is None or left.instruction != self._instruction:
            return
        numbers = left.instruction, left.queue
        # What was completed before a flush counts, too: the report of the flush says it.
        new = self._log.hear(Progress(*numbers, len(left.actions), left.frame_stamp_ns, executed))
        if new:
            self._run.completed(new)
            self._asked_s = time.monotonic()
