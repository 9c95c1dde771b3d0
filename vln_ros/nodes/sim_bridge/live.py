"""Runs a world that waits for people: each sentence is an episode, from where the robot then stands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vln_ros.config import BridgeConfig
from vln_ros.datatypes import ActionChunk, Pose
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.nodes.plan_topics import PlanTopics
from vln_ros.nodes.process import ProcessNode
from vln_ros.nodes.robot_topics import RobotTopics
from vln_ros.nodes.sim_bridge.doubles import OtherSources
from vln_ros.nodes.sim_bridge.episodes import StartList
from vln_ros.nodes.sim_bridge.live_words import (
    ROOM_RADIUS_M,
    understood,
    verdict,
    why_not_at,
)
from vln_ros.nodes.sim_bridge.measures import MeasureTopics
from vln_ros.nodes.sim_bridge.mode import make_mode
from vln_ros.nodes.sim_bridge.results import BridgeResults
from vln_ros.nodes.sim_bridge.runner import RESET_PAUSE_NS
from vln_ros.protocols import World, WorldLostError
from vln_ros.ros import convert, qos
from vln_ros.ros.starts import INITIAL_POSE_TOPIC, NOT_PUT, Starts, pose_from_estimate
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.episodes.sentences import ANOTHER_SENTENCE, Goal, RoomGoal, inventory
from vln_ros.sim.splits import GOAL_RADIUS_M

_NEVER = EpisodeLimits(steps=2**31)
"""A person ends a run, or the time limit."""
PUT_ELSEWHERE = "put elsewhere"
"""Why a run ends whose robot a person puts somewhere else."""
CANCEL_S = 2.0
"""How long a navigator may take to end its run before the robot is put elsewhere all the same."""


class LiveRunner:
    """The mode's :class:`~vln_ros.nodes.sim_bridge.host.Host` where instructions come from people.

    The world never waits and never ends. A sentence that ends at a thing or in a room of an embedded flat is
    scored: the nearest of that name is its goal. Other sentences are followed just as well, and are not.

    Args:
        starts: where the robot stands at first, and may be put.
        results: get the sentences that are scored.
        others: while they are there, nothing goes on.
    """

    def __init__(
        self,
        node: ProcessNode,
        config: BridgeConfig,
        world: World,
        *,
        starts: StartList,
        results: BridgeResults,
        topics: RobotTopics,
        others: OtherSources,
    ) -> None:
        self.node = node
        self.config = config
        self.topics = topics
        self._world = world
        self._starts = starts
        self._results = results
        self._others = others
        self.measures = MeasureTopics(node)
        self._news_pub = node.create_publisher(String, "~/live", qos.events())
        self.run: EpisodeRun | None = None
        self._goal: Goal | RoomGoal | None = None
        self._sentences = 0
        self._followed: tuple[int, int] | None = None
        self._stamp_ns = RESET_PAUSE_NS
        self._next: Episode | None = None
        self._cancel = node.create_client(Trigger, "navigator/cancel")
        self._cancelling: Future | None = None
        self._asked_s = 0.0
        self._plan = PlanTopics(node, config.odom_frame)
        self._mode = make_mode(self)
        hear_instructions(node, self._on_instruction, InstructionFilter(), latched=False)
        node.create_subscription(
            PoseWithCovarianceStamped, INITIAL_POSE_TOPIC, self._on_initial_pose, qos.commands()
        )

    @property
    def trouble(self) -> str:
        return self._others.error

    def close(self) -> None:
        """Give up the sentence under way, and let go of the run folder."""
        if self.run is not None:
            self.run.discard()
        self._results.close(complete=True)

    def tick(self) -> None:
        """The simulated time that is due, once somebody listens."""
        if self.node.done.done() or not self.topics.heard or self.trouble:
            return
        if self._cancelling is not None and time.monotonic() - self._asked_s > CANCEL_S:
            self._arrive()
        if self.run is None:
            if self._begin(self._idle(self._starts.current), None):
                self.guard(self._show)
        elif self.run.ended is not None:
            self.guard(self._end)
        else:
            self.guard(self._mode.tick)

    def guard(self, act: Callable[[EpisodeRun], None]) -> str | None:
        assert self.run is not None
        try:
            act(self.run)
        except WorldLostError as error:
            self.give_up(str(error))
            return str(error)
        return None

    def give_up(self, why: str) -> None:
        self.node.get_logger().error(why)
        self.node.done.set_result(1)

    def hear(self, chunk: ActionChunk) -> None:
        """A navigator's queue. It answers a sentence with a hold under its number; before that, one under the
        number before may end what was going on."""
        if self.run is None:
            return
        number = chunk.epoch, chunk.instruction
        if not chunk.actions:
            self._followed = max(self._followed or number, number)
        elif number == self._followed:
            self.guard(lambda run: self._mode.on_queue(run, chunk))

    def engine_failed(self, why: str) -> None:
        """The sentence under way is over."""
        if self.run is not None:
            self.run.end(f"engine failure: {why}")

    def restart(self, wanted: Episode | None) -> tuple[bool, str]:
        """Put the robot at the start of ``wanted``, or where it was put last.

        Returns:
            Whether it will stand there, and what there is to say.
        """
        start = wanted or self._starts.current
        why = self._carry(start)
        if why:
            return False, why
        return True, f"the robot is put at the start of episode {start.episode_id}; it waits for a sentence"

    def _on_initial_pose(self, msg: PoseWithCovarianceStamped) -> None:
        try:
            pose = pose_from_estimate(msg, self.config.odom_frame)
        except convert.MessageError as error:
            self._tell(f"{NOT_PUT}{error}")
            return
        if self.run is None:
            self._tell(f"{NOT_PUT}the world begins once somebody listens to camera and odometry")
            return
        self.guard(lambda _: self._put_at(pose))

    def _put_at(self, pose: Pose) -> None:
        """On the floor that the robot is on: a map is flat. A wrong place changes nothing."""
        x, y = (float(c) for c in pose.position[:2])
        upright = Pose.planar(x, y, pose.yaw_rad, float(self._world.pose.position[2]))
        if why := self._why_not_at(upright):
            self._tell(f"{NOT_PUT}{why}")
        else:
            self._carry(replace(self._starts.current, start=upright))

    def _why_not_at(self, pose: Pose) -> str:
        """Empty: the robot fits there."""
        if isinstance(self._world, EmbeddedWorld):
            return why_not_at(self._world.scene, pose)
        here = self._world.pose
        try:
            self._world.place(pose)
        except ValueError as error:
            return str(error)
        finally:
            self._world.place(here)
        return ""

    def _carry(self, start: Episode) -> str:
        """Put the robot there as soon as its navigator has ended the run: until then somebody may drive it.

        Returns:
            Why not; empty: it is there, or will be.
        """
        self._next = start
        if not self._cancel.service_is_ready():
            return self._arrive()
        if self._cancelling is None:
            self._asked_s = time.monotonic()
            self._cancelling = self._cancel.call_async(Trigger.Request())
            self._cancelling.add_done_callback(self._on_cancelled)
        return ""

    def _on_cancelled(self, future: Future) -> None:
        if future is self._cancelling:
            self._arrive()

    def _arrive(self) -> str:
        start = self._next
        self._stay()
        if start is None or self.node.done.done():
            return ""
        back: Episode | None = None
        if self.run is not None:
            self.run.end(PUT_ELSEWHERE)
            if (lost := self.guard(self._end)) is not None:
                return lost
            back = self.run.episode
            self.run.discard()
            self._stamp_ns = self.run.stamp_ns + RESET_PAUSE_NS
        try:
            self._enter(self._idle(start), None)
        except (ValueError, WorldLostError) as error:
            if back is None or isinstance(error, WorldLostError):
                self.give_up(str(error))
            else:
                self._begin(back, None)
                self._tell(f"{NOT_PUT}{error}")
            return str(error)
        self._starts.current = start
        x, y = (float(c) for c in self._world.pose.position[:2])
        self._tell(f"the robot was put at ({x:.2f}, {y:.2f}) in {start.scene_id}; it waits for a sentence")
        return self.guard(self._show) or ""

    def _stay(self) -> None:
        """Whatever was asked for, the robot is put nowhere by it any more."""
        if self._cancelling is not None:
            self._cancel.remove_pending_request(self._cancelling)
        self._next = self._cancelling = None

    def _show(self, run: EpisodeRun) -> None:
        """What the scene looks like from above, and where the robot may be put."""
        self._starts.is_put = True
        here = inventory(self._world.scene) if isinstance(self._world, EmbeddedWorld) else ""
        starts = Starts(self._starts.current_id, here, self._starts.offered())
        self._plan.show(self._world, starts, run.stamp_ns)

    def _begin(self, episode: Episode, goal: Goal | RoomGoal | None) -> bool:
        try:
            self._enter(episode, goal)
        except (ValueError, WorldLostError) as error:  # scene or start are not as they should be
            self.give_up(str(error))
            return False
        return True

    def _enter(self, episode: Episode, goal: Goal | RoomGoal | None) -> None:
        """Raises ValueError or WorldLostError: there is no such scene or start, or no world."""
        self._goal, self._followed = goal, None
        recorder = self._results.recorder(episode) if goal is not None else self._results.unrecorded(episode)
        try:
            self.run = EpisodeRun(
                self._world, episode, start_ns=self._stamp_ns, step_period_ns=0, limits=_NEVER,
                recorder=recorder, basic=True,
            )  # fmt: skip
        except (ValueError, WorldLostError):
            recorder.discard()
            raise

    def _on_instruction(self, msg: String, _: Info) -> None:
        try:
            text = convert.instruction_from_string(msg)
        except convert.MessageError:  # the navigator says so
            return
        if self.run is None:
            return
        if self._next is not None:  # what the navigator follows now began where the robot stands
            self._stay()
            self._tell(f"{NOT_PUT}a sentence came first")
        if self.run.ended is None:
            self.run.end(ANOTHER_SENTENCE)
        self.guard(self._end)
        self._hear_sentence(text)

    def _hear_sentence(self, text: str) -> None:
        """The run that begins with it, and what is understood of it."""
        assert self.run is not None, "after an end the world goes on"
        world, news, goal = self._world, "", None
        if isinstance(world, EmbeddedWorld):
            goal, news = understood(text, world.scene, self._standing().position)
        self.run.discard()
        self._stamp_ns = self.run.stamp_ns
        self._sentences += 1
        self._begin(self._episode(text, goal), goal)
        if news:
            self._tell(news)

    def _idle(self, start: Episode) -> Episode:
        """There, and nothing is told: what the episode itself would tell is no person's sentence."""
        return replace(start, instruction="")

    def _episode(self, text: str, goal: Goal | RoomGoal | None) -> Episode:
        """From where the robot stands. Without a goal nothing of it is measured."""
        pose = self._standing()
        position = pose.position
        return replace(
            self._starts.current,
            episode_id=str(self._sentences),
            trajectory_id=str(self._sentences),
            start=pose,
            instruction=text,
            goal=position if goal is None else goal.place,
            goal_radius_m=ROOM_RADIUS_M if isinstance(goal, RoomGoal) else GOAL_RADIUS_M,
            goal_area=goal.room.inner if isinstance(goal, RoomGoal) else None,
            reference_path=np.array([position, position]) if goal is None else goal.path,
            geodesic_distance_m=math.nan if goal is None else goal.distance_m,
            actions=None,
            locations=None,
        )

    def _standing(self) -> Pose:
        """Where it fits: a robot that leans on a wall may stand a rounding error inside it."""
        pose = self._world.pose
        if isinstance(self._world, EmbeddedWorld):
            walkable = self._world.scene.walkable
            if not walkable.contains(pose.position[None, :2])[0]:
                x, y = (float(c) for c in walkable.nearest(pose.position))
                return Pose.planar(x, y, pose.yaw_rad)
        return pose

    def _end(self, run: EpisodeRun) -> None:
        """Judge it if it has a goal; the world goes on from where the robot stands."""
        goal, self._stamp_ns = self._goal, run.stamp_ns
        if goal is None:
            run.discard()
            if run.episode.instruction:
                self._tell(f"over ({run.ended}); it was not scored")
        else:
            self._mode.end(run)
            record = run.finish()
            assert record.metrics is not None, "an episode of a world has a goal"
            self.measures.final(record.metrics)
            self._results.add(record, self._world)
            self._tell(verdict(record, goal))
        self._begin(self._episode("", None), None)

    def _tell(self, news: str) -> None:
        self.node.get_logger().info(news)
        self._news_pub.publish(String(data=news))
