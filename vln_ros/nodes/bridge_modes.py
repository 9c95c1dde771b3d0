"""How simulated time passes: step by step with the queue, or on its own with cmd_vel."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from geometry_msgs.msg import Twist
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vln_ros.datatypes import ActionChunk, Velocity
from vln_ros.evaluation.episode_run import EpisodeRun, Observation
from vln_ros.ros import convert, qos
from vln_ros.sim.embedded import EmbeddedWorld
from vln_ros.sim.surprises import Surprises

if TYPE_CHECKING:
    from vln_ros.nodes.sim_bridge import SimBridge

REPEAT_S = 1.0
"""An observation that nobody took is published again after this time; who has it drops the double."""


class Lockstep:
    """The world waits: for each frame to be processed, and for a queue after the last one.

    So every frame is seen, in order, and two runs give the same decisions.
    """

    def __init__(self, bridge: SimBridge) -> None:
        self._bridge = bridge
        self._progress_pub = bridge.create_publisher(JointTrajectory, "queue_progress", qos.commands())
        bridge.create_subscription(Header, "frame_processed", self._on_processed, qos.commands())
        self._run: EpisodeRun | None = None
        self._shown: Observation | None = None
        self._processed = False
        self._steps: Iterator[Observation] = iter(())
        self._queue: ActionChunk | None = None
        self._executing: ActionChunk | None = None
        self._since_s = self._repeated_s = time.monotonic()

    def on_queue(self, run: EpisodeRun, chunk: ActionChunk) -> None:
        """A queue has come; it is executed once the frames of the one before are processed."""
        self._queue = chunk
        self._advance(run)

    def tick(self, run: EpisodeRun) -> None:
        """Begin the episode; repeat what was lost; give up when nobody answers."""
        if run is not self._run:
            self._run, self._queue, self._executing, self._steps = run, None, None, iter(())
            self._show(run.observe())
            return
        now_s = time.monotonic()
        if now_s - self._since_s > self._bridge.config.answer_timeout_s:
            self._bridge.give_up("the navigator did not answer a frame")
        elif now_s - self._repeated_s > REPEAT_S and self._shown is not None and not self._processed:
            self._repeated_s = now_s
            self._publish(self._shown)

    def _on_processed(self, msg: Header) -> None:
        run = self._run
        if run is None or run is not self._bridge.run or self._shown is None:
            return
        if convert.stamp_ns_from_time(msg.stamp) == self._shown.stamp_ns:
            self._processed = True
            self._bridge.guard(self._advance)

    def _advance(self, run: EpisodeRun) -> None:
        """The next observation of the queue in execution, or the next queue, if it is time."""
        if not self._processed or run.ended is not None:
            return
        observation = next(self._steps, None)
        if observation is None and run.ended is None and self._queue is not None:
            self._executing, self._queue = self._queue, None
            run.decided(self._executing, (time.monotonic() - self._since_s) * 1e3)
            self._steps = run.execute(self._executing)
            observation = next(self._steps, None)
        if observation is not None:
            self._show(observation)

    def _show(self, observation: Observation) -> None:
        self._shown, self._processed = observation, False
        self._since_s = self._repeated_s = time.monotonic()
        self._publish(observation)

    def _publish(self, observation: Observation) -> None:
        bridge, stamp_ns = self._bridge, observation.stamp_ns
        bridge.topics.clock(stamp_ns)
        bridge.topics.odometry(stamp_ns, observation.pose, 0.0, 0.0)
        bridge.topics.images(observation)
        if self._executing is not None:
            done = len(self._executing.actions) - observation.remaining
            left = ActionChunk(
                self._executing.queue,
                self._executing.instruction,
                stamp_ns,
                self._executing.actions[done:],
            )
            c = bridge.config
            self._progress_pub.publish(convert.trajectory_from_chunk(left, c.base_frame, 1.0, 1.0))


class RealTime:
    """The world goes on: the last velocity is held, whether anybody thinks or not."""

    def __init__(self, bridge: SimBridge) -> None:
        self._bridge = bridge
        bridge.create_subscription(Twist, "cmd_vel", self._on_command, qos.commands())
        bridge.create_subscription(Header, "stopped", self._on_stopped, qos.commands())
        bridge.create_subscription(JointTrajectory, "queue_progress", self._on_progress, qos.commands())
        c = bridge.config
        self._tick_ns = round(1e9 / c.odometry_hz)
        self._image_ns = round(1e9 / c.image_hz)
        self._run: EpisodeRun | None = None
        self._surprises: Surprises | None = None
        self._velocity = Velocity()
        self._commanded_ns = 0
        self._next_image_ns = 0
        self._left: ActionChunk | None = None
        self._asked_s = time.monotonic()

    def on_queue(self, run: EpisodeRun, chunk: ActionChunk) -> None:
        """For the record only: here the executor moves the robot."""
        run.decided(chunk, (time.monotonic() - self._asked_s) * 1e3)

    def tick(self, run: EpisodeRun) -> None:
        """One odometry period."""
        if run is not self._run:
            self._run, self._velocity, self._left = run, Velocity(), None
            world, count = self._bridge.world, self._bridge.config.surprises
            if count and isinstance(world, EmbeddedWorld):
                self._surprises = Surprises(world, run.stamp_ns, count)
            self._next_image_ns = run.stamp_ns
        c = self._bridge.config
        if run.stamp_ns - self._commanded_ns > c.command_timeout_s * 1e9:
            self._velocity = Velocity()
        linear_m_s, angular_rad_s = self._velocity.linear_m_s, self._velocity.angular_rad_s
        run.drive(linear_m_s, angular_rad_s, self._tick_ns)
        if self._surprises is not None and self._surprises.step(run.stamp_ns, linear_m_s):
            run.look_again()
        topics = self._bridge.topics
        topics.clock(run.stamp_ns)
        topics.odometry(run.stamp_ns, run.world.pose, linear_m_s, angular_rad_s)
        if run.stamp_ns >= self._next_image_ns:
            self._next_image_ns += self._image_ns
            run.note(linear_m_s, angular_rad_s)
            topics.images(run.observe(len(self._left.actions) if self._left else 0))
        if run.elapsed_s > c.max_episode_s:
            run.end("time limit")

    def end(self, run: EpisodeRun) -> None:
        """Tell what came of the boxes."""
        c = self._bridge.config
        s = self._surprises
        if s is not None and c.run_folder:
            figures = {"episode": run.episode.episode_id, "put": s.put, "contacts": s.contacts}
            with (Path(c.run_folder) / "surprises.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(figures) + "\n")

    def _on_command(self, msg: Twist) -> None:
        try:
            self._velocity = convert.velocity_from_twist(msg)
        except convert.MessageError as error:
            self._velocity = Velocity()
            self._bridge.get_logger().error(str(error))
        if self._run is not None:
            self._commanded_ns = self._run.stamp_ns

    def _on_stopped(self, _: Header) -> None:
        if self._run is not None and self._run is self._bridge.run:
            self._run.end("stop")
            # The report of the stop may have come before this, or come later: count it once.
            self._run.completed(1 if self._left is None else len(self._left.actions))
            self._left = None

    def _on_progress(self, msg: JointTrajectory) -> None:
        try:
            left = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self._bridge.get_logger().warning(str(error))
            return
        before, self._left = self._left, left
        if self._run is not None and before is not None and before.queue == left.queue:
            self._run.completed(max(0, len(before.actions) - len(left.actions)))
            self._asked_s = time.monotonic()
