"""A simulated robot: publishes what a robot publishes, takes what a robot takes, runs episodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from std_msgs.msg import String
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import BridgeConfig, with_protocol
from vln_ros.evaluation.episode_run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.metrics import summary_table
from vln_ros.evaluation.record import EpisodeRecorder
from vln_ros.evaluation.results import Skip
from vln_ros.evaluation.run_folder import RunFolder
from vln_ros.nodes.bridge_modes import Lockstep, RealTime
from vln_ros.nodes.bridge_setup import load_episodes, run_info
from vln_ros.nodes.robot_topics import RobotTopics
from vln_ros.nodes.running import ProcessNode, run_node
from vln_ros.protocols import WorldLostError
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import declare_config
from vln_ros.sim.episodes import Episode
from vln_ros.sim.worlds import open_world, plan_of

RESET_PAUSE_NS = 10_000_000_000
"""Simulated time between two episodes: the robot is carried to its next start, it does not jump there."""

ASK_AGAIN_S = 10.0
"""An instruction that nobody has answered for this long is published again."""


class SimBridge(ProcessNode):
    """See docs/nodes.md for topics and parameters.

    An episode begins with its instruction on the latched topic. Images flow once the navigator has
    answered it (with a hold under a new instruction number), so no frame of the new episode can be
    taken for one of the old.
    """

    def __init__(self) -> None:
        super().__init__("sim_bridge")
        self.config = c = with_protocol(declare_config(self, BridgeConfig))
        self._limits = EpisodeLimits.of(c.max_steps, c.limits, None)
        self._episodes = load_episodes(c)
        self.world = open_world(c)
        self.topics = RobotTopics(self, c, self.world.camera)
        self._folder = None
        if c.run_folder:
            info = run_info(c, self._episodes, self._limits)
            self._folder = RunFolder(Path(c.run_folder), info, resume=bool(c.run_info))
            self._episodes = [e for e in self._episodes if not self._folder.is_done(e.episode_id)]
        self._instruction_pub = self.create_publisher(String, "instruction", qos.latched())
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        self._mode = Lockstep(self) if c.mode == "lockstep" else RealTime(self)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        period_s = 0.02 if c.mode == "lockstep" else 1.0 / (c.odometry_hz * c.realtime_factor)
        self.create_timer(period_s, self._tick, clock=self._steady)
        self._progress = tqdm(total=len(self._episodes), unit="episode", file=sys.stderr, disable=None)
        self._next = iter(self._episodes)
        self._epoch = self._instruction = 0
        self._stamp_ns = RESET_PAUSE_NS
        self._successes = 0
        self._asked_s, self._asked_again = time.monotonic(), 1
        self.run: EpisodeRun | None = None
        self.lost: str | None = None
        self.answered = False

    def close(self) -> None:
        self._progress.close()
        if self.run is not None:
            self.run.discard()
        if self._folder is not None:
            self._folder.finish(None, complete=self.done.result() == 0)
            self._folder.close()
        self.world.close()

    # ------------------------------------------------------------------ episodes

    def _begin(self) -> None:
        episode = next(self._next, None)
        if episode is None:
            if self._folder is not None:
                print(summary_table(self._folder.result(complete=True, frames=None).summary))
            self.done.set_result(0)
            return
        c, info = self.config, episode_info(episode)
        folder = self._folder
        recorder = folder.start_episode(info, video=c.video) if folder else EpisodeRecorder(info, None)
        try:
            self.run = EpisodeRun(
                self.world,
                episode,
                start_ns=self._stamp_ns,
                step_period_ns=round(c.step_period_s * 1e9),
                limits=self._limits,
                recorder=recorder,
            )
        except (ValueError, WorldLostError) as error:  # scene or start are not as they should be
            recorder.discard()
            self._skip(episode, str(error))
            return
        self.answered = False
        self._asked_s, self._asked_again = time.monotonic(), 1
        self._instruction_pub.publish(convert.string_from_instruction(episode.instruction))

    def _skip(self, episode: Episode, why: str) -> None:
        self.get_logger().error(f"episode {episode.episode_id} is skipped: {why}")
        if self._folder is not None:
            self._folder.skip(Skip(episode.episode_id, episode.scene_id, why))
        self._progress.update()

    def _end(self, run: EpisodeRun) -> None:
        self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
        if isinstance(self._mode, RealTime):
            self._mode.end(run)
        record = run.finish()
        assert record.metrics is not None  # an episode of a world has a goal
        self._successes += record.metrics.success
        if self._folder is not None:
            self._folder.add(record, plan_of(self.world))
        self.run = None
        self._progress.update()
        self._progress.set_postfix_str(f"{self._successes} reached")

    def _on_queue(self, msg: JointTrajectory) -> None:
        try:
            chunk = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self.get_logger().warning(str(error))
            return
        if self.run is None:
            return
        if chunk.epoch != self._epoch:  # another life of the navigator: its numbers begin anew
            self._epoch, self._instruction, self.answered = chunk.epoch, chunk.instruction, True
        elif not self.answered:
            # Any queue under a new number will do: the hold itself may have been overwritten.
            self.answered = chunk.instruction > self._instruction
            self._instruction = max(self._instruction, chunk.instruction)
        if chunk.instruction == self._instruction and chunk.actions:
            self.guard(lambda run: self._mode.on_queue(run, chunk))

    def _tick(self) -> None:
        if self.done.done() or not self.topics.heard:
            return
        if self.run is None:
            self._begin()
        elif self.lost is not None:  # the next episode finds a new world
            run, why, self.run, self.lost = self.run, self.lost, None, None
            self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
            run.discard()
            self._skip(run.episode, why)
        elif self.run.ended is not None:
            self.guard(self._end)
        elif self.answered:
            self.guard(self._mode.tick)
        elif (waited_s := time.monotonic() - self._asked_s) > self.config.answer_timeout_s:
            self.give_up("the navigator did not take the instruction")
        elif waited_s > self._asked_again * ASK_AGAIN_S:
            # Its answer may have come before this process could hear it.
            self._asked_again += 1
            self._instruction_pub.publish(convert.string_from_instruction(self.run.episode.instruction))

    def guard(self, act: Callable[[EpisodeRun], None]) -> None:
        """Do what needs the world; when it is lost, the episode is over."""
        assert self.run is not None
        try:
            act(self.run)
        except WorldLostError as error:
            self.lost = str(error)

    def give_up(self, why: str) -> None:
        """End the process: without an answer no further episode makes sense."""
        self.get_logger().error(f"{why} within {self.config.answer_timeout_s:g} s (answer_timeout_s)")
        self.done.set_result(1)


def main() -> None:
    run_node(SimBridge)


if __name__ == "__main__":
    main()
