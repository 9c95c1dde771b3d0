"""The simulator bridge node: publishes and takes what a robot does, and runs episodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from std_msgs.msg import String
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import BridgeConfig, with_protocol
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.nodes.robot_topics import ASK_AGAIN_S, RobotTopics
from vln_ros.nodes.sim_bridge.doubles import OtherSources
from vln_ros.nodes.sim_bridge.episodes import EpisodeOrder, load_episodes, make_mode
from vln_ros.nodes.sim_bridge.measures import MeasureTopics
from vln_ros.nodes.sim_bridge.results import BridgeResults
from vln_ros.nodes.sim_bridge.services import EpisodeServices
from vln_ros.protocols import WorldLostError
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import declare_config
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.worlds import open_world

RESET_PAUSE_NS = 10_000_000_000
"""Simulated time between two episodes: the robot is carried to its next start, it does not jump there."""


class SimBridge(ProcessNode):
    """See docs/nodes.md for topics and parameters.

    An episode begins with its instruction on the latched topic. Images flow once the navigator has
    answered it (with a hold under a new instruction number), so no frame of the new episode can be
    taken for one of the old. In manual mode nobody needs to answer, and each end waits for a reset.
    """

    def __init__(self) -> None:
        super().__init__("sim_bridge")
        self.config = c = with_protocol(declare_config(self, BridgeConfig))
        self._limits = EpisodeLimits.of(c.max_steps, c.limits, None)
        episodes = load_episodes(c)
        self.others = OtherSources(self, clock_matters=c.mode == "realtime")
        self.world = open_world(c)
        self.others.refuse(otherwise=self.world.close)
        self.topics = RobotTopics(self, c, self.world, self.others.published)
        self._results = BridgeResults(c, episodes, self._limits)
        self.order = EpisodeOrder(episodes, self._results.is_done)
        if c.episode:
            self.order.put_first(self.order.find(c.episode))
        self.measures = MeasureTopics(self)
        self._episode_pub = self.create_publisher(String, "~/episode", qos.latched())
        self._instruction_pub = self.create_publisher(String, "instruction", qos.latched())
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        self.create_subscription(String, "engine_failure", self._on_failure, qos.events())
        self._mode = make_mode(self)
        EpisodeServices(self)
        self.others.begin()
        period_s = 1.0 / (c.odometry_hz * c.realtime_factor) if c.mode == "realtime" else 0.02
        self.create_timer(period_s, self.tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._progress = tqdm(total=len(self.order), unit="episode", file=sys.stderr, disable=None)
        self.wanted = True
        self._epoch = self._instruction = 0
        self._stamp_ns = RESET_PAUSE_NS
        self._asked_s, self._asked_again = time.monotonic(), 1
        self.run: EpisodeRun | None = None
        self.lost: str | None = None
        self._engine_failed = self.answered = False

    @property
    def idle(self) -> bool:
        """Nothing begins, because nobody listens."""
        return not (self._mode.alone or self.topics.heard)

    def close(self) -> None:
        self._progress.close()
        if self.run is not None:
            self.run.discard()
        all_run = self.done.result() == 0 or (self._mode.alone and self.run is None and not len(self.order))
        self._results.close(complete=all_run)
        self.world.close()

    # ------------------------------------------------------------------ episodes

    def _begin(self) -> None:
        episode, self.wanted = self.order.next(), not self._mode.alone
        if episode is None:
            if not self._mode.alone:
                self._results.print_summary()
                self.done.set_result(0)
            return
        recorder = self._results.recorder(episode)
        try:
            period_ns = round(self.config.step_period_s * 1e9)
            self.run = EpisodeRun(
                self.world, episode, start_ns=self._stamp_ns, step_period_ns=period_ns, limits=self._limits,
                recorder=recorder,
            )  # fmt: skip
        except (ValueError, WorldLostError) as error:  # scene or start are not as they should be
            recorder.discard()
            self._skip(episode, str(error))
            return
        self.answered = self._mode.alone
        self._asked_s, self._asked_again = time.monotonic(), 1
        self._episode_pub.publish(String(data=episode.episode_id))
        self._instruction_pub.publish(convert.string_from_instruction(episode.instruction))

    def abandon(self) -> Episode | None:
        """End the episode under way without a result; which it was. The next tick may begin another."""
        run, self.run, self.lost, self.wanted, self._engine_failed = self.run, None, None, True, False
        if run is None:
            return None
        self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
        run.discard()
        return run.episode

    def _skip(self, episode: Episode, why: str) -> None:
        self.get_logger().error(f"episode {episode.episode_id} is skipped: {why}")
        self._results.skip(episode, why, engine_failure=self._engine_failed)
        self._progress.update()

    def _end(self, run: EpisodeRun) -> None:
        self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
        self._mode.end(run)
        self.measures.live(run)
        record = run.finish()
        assert record.metrics is not None  # an episode of a world has a goal
        self.measures.final(record.metrics)
        self._results.add(record, self.world)
        self.run = None
        self._progress.update()
        self._progress.set_postfix_str(f"{self.measures.successes} reached")

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
            self._mode.another_navigator()
        elif not self.answered:
            # Any queue under a new number will do: the hold itself may have been overwritten.
            self.answered = chunk.instruction > self._instruction
            self._instruction = max(self._instruction, chunk.instruction)
        if self.answered and chunk.instruction == self._instruction and chunk.actions:
            self.guard(lambda run: self._mode.on_queue(run, chunk))

    def _on_failure(self, msg: String) -> None:
        if self.run is not None:
            self.lost, self._engine_failed = f"engine failure: {msg.data}", True

    def tick(self) -> None:
        """What is due next of the episode, if anything is."""
        if self.done.done() or self.idle or self.others.error:
            return
        if self.run is None:
            if self.wanted:
                self._begin()
        elif self.lost is not None:  # the next episode finds a new world
            self._skip(self.run.episode, self.lost)
            self.abandon()
            self.wanted = not self._mode.alone
        elif self.run.ended is not None:
            self.guard(self._end)
        elif self.answered:
            self.guard(self._mode.tick)
        elif (waited_s := time.monotonic() - self._asked_s) > self.config.answer_timeout_s:
            self.give_up("the navigator did not take the instruction")
        elif waited_s > self._asked_again * ASK_AGAIN_S:
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
