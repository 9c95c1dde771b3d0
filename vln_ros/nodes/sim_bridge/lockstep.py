"""Mode ``lockstep``: the action queue moves the robot, and the world waits for the model."""

from __future__ import annotations

import time
from collections.abc import Iterator

from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.datatypes import ActionChunk
from vln_ros.evaluation.episode.run import EpisodeRun, Observation
from vln_ros.motion.action_queue import ActionQueue
from vln_ros.nodes.sim_bridge.host import Host
from vln_ros.ros import convert, qos

REPEAT_S = 1.0
"""An observation that nobody took is published again after this time; who has it drops the double."""


class Lockstep:
    """The world waits: for each frame to be processed, and for a queue after the last one.

    So every frame is seen, in order, and two runs give the same decisions.
    """

    alone = False

    def __init__(self, host: Host) -> None:
        self._host = host
        self._progress_pub = host.node.create_publisher(JointTrajectory, "queue_progress", qos.commands())
        host.node.create_subscription(Header, "frame_processed", self._on_processed, qos.commands())
        host.node.create_subscription(String, "decision_held", self._on_held, qos.events())
        self._run: EpisodeRun | None = None
        self._shown: Observation | None = None
        self._processed = False
        self._steps: Iterator[Observation] = iter(())
        self._queue: ActionChunk | None = None
        self._held = False
        self._executing: ActionChunk | None = None
        self._since_s = self._repeated_s = time.monotonic()

    def on_queue(self, run: EpisodeRun, chunk: ActionChunk) -> None:
        """A queue has come; it is executed once the frames of the one before are processed."""
        self._queue = chunk
        if self._shown is not None and chunk.frame_stamp_ns == self._shown.stamp_ns:
            self._processed = True  # who answers a frame has it
        self._advance(run)

    def another_navigator(self) -> None:
        """Show it again what the one before has taken."""
        self._processed = False

    def tick(self, run: EpisodeRun) -> None:
        """Begin the episode; repeat what was lost; give up when nobody answers."""
        if run is not self._run:
            self._run, self._queue, self._executing, self._steps = run, None, None, iter(())
            self._held = False
            self._show(run.observe())
            return
        now_s = time.monotonic()
        self._advance(run)  # what has come while the robot had to stand
        if now_s - self._since_s > self._host.config.answer_timeout_s:
            self._host.give_up("the navigator did not answer a frame")
        elif now_s - self._repeated_s > REPEAT_S and self._shown is not None and not self._processed:
            self._repeated_s = now_s
            self._publish(self._shown)

    def end(self, run: EpisodeRun) -> None:
        """Nothing is left to do."""

    def _on_processed(self, msg: Header) -> None:
        run = self._run
        if run is None or run is not self._host.run or self._shown is None:
            return
        if convert.stamp_ns_from_time(msg.stamp) == self._shown.stamp_ns:
            self._processed = True
            self._host.guard(self._advance)

    def _on_held(self, _: String) -> None:
        """The model was asked and wants no queue: the world would wait for ever."""
        if self._run is not None and self._run is self._host.run:
            self._held = True
            self._host.guard(self._advance)

    def _advance(self, run: EpisodeRun) -> None:
        """The next observation of the queue in execution, or the next queue, if it is time."""
        if not self._processed or run.ended is not None or self._host.trouble:
            return
        observation = next(self._steps, None)
        if observation is None and run.ended is None and self._queue is not None:
            self._executing, self._queue = self._queue, None
            run.decided(self._executing, (time.monotonic() - self._since_s) * 1e3)
            self._steps = run.execute(self._executing)
            observation = next(self._steps, None)
        if observation is not None:
            self._show(observation)
        elif self._held:
            run.end("hold")

    def _show(self, observation: Observation) -> None:
        self._shown, self._processed = observation, False
        self._since_s = self._repeated_s = time.monotonic()
        self._publish(observation)
        if self._run is not None:
            self._host.measures.live(self._run)

    def _publish(self, observation: Observation) -> None:
        """The report first: who sees the picture then knows already what it is that was done."""
        if self._executing is not None and self._run is not None:
            done = len(self._executing.actions) - observation.remaining
            left = ActionChunk(
                self._executing.queue,
                self._executing.instruction,
                observation.stamp_ns,
                self._executing.actions[done:],
                epoch=self._executing.epoch,
            )
            c = self._host.config
            newest = self._run.executed[-ActionQueue.HISTORY :]
            self._progress_pub.publish(convert.trajectory_from_report(left, newest, c.base_frame, 1.0, 1.0))
        self._host.topics.standing(observation)
