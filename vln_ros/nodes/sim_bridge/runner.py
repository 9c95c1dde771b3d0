"""Runs one episode after the other: tells the navigator, runs the mode, measures, writes down."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from std_msgs.msg import String
from tqdm import tqdm

from vln_ros.config import BridgeConfig
from vln_ros.datatypes import ActionChunk
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun
from vln_ros.nodes.process import ProcessNode
from vln_ros.nodes.robot_topics import ASK_AGAIN_S, RobotTopics
from vln_ros.nodes.sim_bridge.doubles import OtherSources
from vln_ros.nodes.sim_bridge.episodes import EpisodeOrder
from vln_ros.nodes.sim_bridge.measures import MeasureTopics
from vln_ros.nodes.sim_bridge.mode import make_mode
from vln_ros.nodes.sim_bridge.results import BridgeResults
from vln_ros.protocols import World, WorldLostError
from vln_ros.ros import convert, qos
from vln_ros.sim.episodes.episode import Episode

RESET_PAUSE_NS = 10_000_000_000
"""Simulated time between two episodes: the robot is carried to its next start, it does not jump there."""


class EpisodeRunner:
    """Runs a bridge's episodes; the mode's :class:`~vln_ros.nodes.sim_bridge.host.Host`.

    An episode begins with its instruction on the latched topic. Images flow once the navigator has
    answered it (with a hold under a new instruction number), so no frame of the new episode can be
    taken for one of the old. In manual mode nobody needs to answer, and each end waits for a reset.

    Args:
        node: its process ends when all episodes have run, or nobody answers.
        order: of the episodes to come.
        others: while they are there, nothing goes on.
    """

    def __init__(
        self,
        node: ProcessNode,
        config: BridgeConfig,
        world: World,
        *,
        limits: EpisodeLimits,
        results: BridgeResults,
        order: EpisodeOrder,
        topics: RobotTopics,
        others: OtherSources,
    ) -> None:
        self.node = node
        self.config = config
        self.topics = topics
        self._world = world
        self._limits = limits
        self._results = results
        self._order = order
        self._others = others
        self.measures = MeasureTopics(node)
        self._episode_pub = node.create_publisher(String, "~/episode", qos.latched())
        self._instruction_pub = node.create_publisher(String, "instruction", qos.latched())
        self._progress = tqdm(total=len(order), unit="episode", file=sys.stderr, disable=None)
        self.run: EpisodeRun | None = None
        self._lost: str | None = None
        self._engine_failed = self._answered = False
        self._wanted = True
        self._epoch = self._instruction = 0
        self._stamp_ns = RESET_PAUSE_NS
        self._asked_s, self._asked_again = time.monotonic(), 1
        self._mode = make_mode(self)

    @property
    def trouble(self) -> str:
        return self._others.error

    @property
    def _idle(self) -> bool:
        """Nothing begins, because nobody listens."""
        return not (self._mode.alone or self.topics.heard)

    def close(self) -> None:
        """Give up the episode under way, and let go of the run folder."""
        self._progress.close()
        if self.run is not None:
            self.run.discard()
        all_run = self._mode.alone and self.run is None and not len(self._order)
        self._results.close(complete=self.node.done.result() == 0 or all_run)

    def tick(self) -> None:
        """What is due next of the episode, if anything is."""
        if self.node.done.done() or self._idle or self.trouble:
            return
        if self.run is None:
            if self._wanted:
                self._begin()
        elif self._lost is not None:  # the next episode finds a new world
            self._skip(self.run.episode, self._lost)
            self._abandon()
            self._wanted = not self._mode.alone
        elif self.run.ended is not None:
            self.guard(self._end)
        elif self._answered:
            self.guard(self._mode.tick)
        elif (waited_s := time.monotonic() - self._asked_s) > self.config.answer_timeout_s:
            self.give_up("the navigator did not take the instruction")
        elif waited_s > self._asked_again * ASK_AGAIN_S:
            self._asked_again += 1
            self._instruction_pub.publish(convert.string_from_instruction(self.run.episode.instruction))

    def guard(self, act: Callable[[EpisodeRun], None]) -> str | None:
        assert self.run is not None
        try:
            act(self.run)
        except WorldLostError as error:
            self._lost = str(error)
        return self._lost

    def give_up(self, why: str) -> None:
        self.node.get_logger().error(f"{why} within {self.config.answer_timeout_s:g} s (answer_timeout_s)")
        self.node.done.set_result(1)

    def hear(self, chunk: ActionChunk) -> None:
        """A navigator's queue: it answers the instruction, or is for the mode."""
        if self.run is None:
            return
        if chunk.epoch != self._epoch:  # another life of the navigator: its numbers begin anew
            self._epoch, self._instruction, self._answered = chunk.epoch, chunk.instruction, True
            self._mode.another_navigator()
        elif not self._answered:
            # Any queue under a new number will do: the hold itself may have been overwritten.
            self._answered = chunk.instruction > self._instruction
            self._instruction = max(self._instruction, chunk.instruction)
        if self._answered and chunk.instruction == self._instruction and chunk.actions:
            self.guard(lambda run: self._mode.on_queue(run, chunk))

    def engine_failed(self, why: str) -> None:
        """The navigator's engine cannot go on: the episode under way is skipped."""
        if self.run is not None:
            self._lost, self._engine_failed = f"engine failure: {why}", True

    def restart(self, wanted: Episode | None) -> tuple[bool, str]:
        """Begin ``wanted``, or without one the episode under way anew, or after its end the next one.

        Returns:
            Whether it has begun, and what there is to say.
        """
        if self.run is not None and (self.run.ended is not None or self._lost is not None):
            self.tick()  # what has ended has a result
        for episode in (self._abandon(), wanted):
            if episode is not None:
                self._order.put_first(episode)
        self.tick()
        if self.run is not None:
            return True, f"episode {self.run.episode.episode_id}: {self.run.episode.instruction}"
        if self._idle:
            return True, "it begins as soon as somebody listens to camera and odometry"
        return False, "no episode is left, or this one cannot be run: the log says why"

    def _begin(self) -> None:
        episode, self._wanted = self._order.next(), not self._mode.alone
        if episode is None:
            if not self._mode.alone:
                self._results.print_summary()
                self.node.done.set_result(0)
            return
        recorder = self._results.recorder(episode)
        try:
            period_ns = round(self.config.step_period_s * 1e9)
            self.run = EpisodeRun(
                self._world, episode, start_ns=self._stamp_ns, step_period_ns=period_ns, limits=self._limits,
                recorder=recorder,
            )  # fmt: skip
        except (ValueError, WorldLostError) as error:  # scene or start are not as they should be
            recorder.discard()
            self._skip(episode, str(error))
            return
        self._answered = self._mode.alone
        self._asked_s, self._asked_again = time.monotonic(), 1
        self._episode_pub.publish(String(data=episode.episode_id))
        self._instruction_pub.publish(convert.string_from_instruction(episode.instruction))

    def _abandon(self) -> Episode | None:
        """End the episode under way without a result; which it was. The next tick may begin another."""
        run, self.run, self._lost, self._wanted, self._engine_failed = self.run, None, None, True, False
        if run is None:
            return None
        self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
        run.discard()
        return run.episode

    def _skip(self, episode: Episode, why: str) -> None:
        self.node.get_logger().error(f"episode {episode.episode_id} is skipped: {why}")
        self._results.skip(episode, why, engine_failure=self._engine_failed)
        self._progress.update()

    def _end(self, run: EpisodeRun) -> None:
        self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
        self._mode.end(run)
        self.measures.live(run)
        record = run.finish()
        assert record.metrics is not None  # an episode of a world has a goal
        self.measures.final(record.metrics)
        self._results.add(record, self._world)
        self.run = None
        self._progress.update()
        self._progress.set_postfix_str(f"{self.measures.successes} reached")
