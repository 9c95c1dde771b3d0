"""Runs the world's side of one episode: renders, moves the base, decides when it ends.

Used by the ROS bridge and without ROS alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.config import LimitsConfig
from vln_ros.datatypes import Action, ActionChunk, Executed, Float64Array, Pose
from vln_ros.engine.checkpoint.profile import Limits
from vln_ros.evaluation.episode.metrics import EpisodeMetrics, measure_episode, path_length_m
from vln_ros.evaluation.episode.record import EpisodeCost, EpisodeInfo, EpisodeRecord, EpisodeRecorder, Step
from vln_ros.protocols import World
from vln_ros.reuse.accounting import ReuseStats
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.worlds import plan_of

ACTION_LIMIT, TURNED_IN_PLACE, QUESTION_LIMIT = EARLY_ENDS = (
    "action limit", "turned in place", "question limit"
)  # fmt: skip
"""Ends that a released evaluation declares; see :class:`EpisodeLimits`."""

WARP_SPACING_M = 0.25
"""Where a velocity moves the robot, points of its way for nDTW are so far apart as VLN-CE's locations."""

FILM_PERIOD_NS = 250_000_000
"""Simulated time between two frames of the video, at least."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the robot's sensors give at one moment.

    Attributes:
        stamp_ns: simulated time.
        rgb, depth_m: see :meth:`vln_ros.protocols.World.render`.
        pose: of the base in the world frame, which serves as odometry frame.
        remaining: actions of the queue in execution that are still to come (lockstep).
    """

    stamp_ns: int
    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    pose: Pose
    remaining: int


@dataclass(frozen=True)
class Progress:
    """How far an episode is: way travelled, actions and contacts so far."""

    path_length_m: float
    steps: int
    collisions: int


@dataclass(frozen=True)
class EpisodeLimits:
    """When an episode ends although nobody stopped; None for never.

    Attributes:
        steps: after so many actions the world ends it, which is never a stop.
        actions: after so many actions, in the evaluation of the profile's family.
        turns_in_place: after so many actions in a row that leave the position as it was (discrete control).
        questions: after the queue of the so-manieth decision.
        as_stop: what ends by one of these three counts as stopped.
    """

    steps: int
    actions: int | None = None
    turns_in_place: int | None = None
    questions: int | None = None
    as_stop: bool = False

    @staticmethod
    def of(max_steps: int, config: LimitsConfig, profile: Limits | None) -> EpisodeLimits:
        """What holds: the options, and the profile's where the options leave it to that."""

        def resolve(option: int, declared: int) -> int | None:
            return (declared if option < 0 else option) or None

        p = Limits(0, 0, 0) if profile is None else profile
        return EpisodeLimits(
            max_steps,
            resolve(config.actions, p.actions),
            resolve(config.turns_in_place, p.turns_in_place),
            resolve(config.questions, p.questions),
            config.as_stop,
        )


def episode_info(episode: Episode) -> EpisodeInfo:
    """What the record needs to know of an episode."""
    return EpisodeInfo(
        episode_id=episode.episode_id,
        scene_id=episode.scene_id,
        instruction=episode.instruction,
        goal=episode.goal,
        goal_radius_m=episode.goal_radius_m,
        reference_path=episode.reference_path,
    )


class EpisodeRun:
    """One episode in a world, from its start to stop, limit or abort.

    Time is simulated: it advances by ``step_period_ns`` per discrete action, or as told by
    :meth:`drive`. Nothing here reads a clock, except for the duration in the record.

    Args:
        world: loads the scene and places the robot at once.
        episode: what to run.
        start_ns: simulated time at the start.
        step_period_ns: duration of a discrete action.
        limits: when it ends without a stop.
        recorder: keeps what happens; made from :func:`episode_info`.
        basic: do without the measures that need a distance at every step or a warping.

    Raises:
        ValueError: the scene does not exist, or the robot does not fit at the start.
    """

    def __init__(
        self,
        world: World,
        episode: Episode,
        *,
        start_ns: int,
        step_period_ns: int,
        limits: EpisodeLimits,
        recorder: EpisodeRecorder,
        basic: bool = False,
    ) -> None:
        self._begun_s = time.monotonic()
        world.load(episode.scene_id)
        world.place(episode.start)
        self.world = world
        self.episode = episode
        self.stamp_ns = start_ns
        self.ended: str | None = None
        self.executed: list[Executed] = []
        """The discrete actions so far."""
        self._start_ns = start_ns
        self._step_period_ns = step_period_ns
        self._limits = limits
        self._basic = basic
        self._recorder = recorder
        self._actions = 0
        self._collisions = 0
        self._collided = False
        self._chunk: ActionChunk | None = None
        self._still = 0
        self._decisions = 0
        if recorder.films:
            recorder.show_plan(plan_of(world))
        self._load_s = time.monotonic() - self._begun_s
        self._engine_cpu_s: float | None = None
        self._render_s = self._observe_s = self._waited_s = self._last_observe_s = 0.0
        # The pictures of a robot that stands still are the same, and rendering is what costs here.
        self._rendered: tuple[Pose, npt.NDArray[np.uint8], npt.NDArray[np.float32]] | None = None
        self._next_film_ns = start_ns
        self._standing_ns: int | None = None
        self._recorder.step(Step.discrete(start_ns, world.pose, None, False))

    @property
    def elapsed_s(self) -> float:
        """Simulated time since the start."""
        return (self.stamp_ns - self._start_ns) / 1e9

    @property
    def progress(self) -> Progress:
        """So far; as the measures of the end will have it."""
        positions = np.array([(s.x_m, s.y_m, s.z_m) for s in self._recorder.steps])
        return Progress(path_length_m(positions), self._actions, self._collisions)

    @property
    def distance_to_goal_m(self) -> float:
        """Of the shortest walkable way from where the robot is; inf if there is none."""
        return self._distance_m(self.world.pose.position)

    def _distance_m(self, position: Float64Array) -> float:
        if self.episode.is_in_goal_area(position):
            return 0.0
        return self.world.geodesic_distance(position, self.episode.goal)

    def observe(self, remaining: int = 0) -> Observation:
        """The sensors now; now and then the frame goes into the video too."""
        pose = self.world.pose
        if self._rendered is None or self._rendered[0] != pose:
            begun_s = time.monotonic()
            self._rendered = (pose, *self.world.render())
            self._render_s += time.monotonic() - begun_s
        _, rgb, depth_m = self._rendered
        if self.stamp_ns >= self._next_film_ns:
            self._next_film_ns = self.stamp_ns + FILM_PERIOD_NS
            executing = None
            if self._chunk is not None and 0 < remaining <= len(self._chunk.actions):
                executing = len(self._chunk.actions) - remaining
            self._recorder.frame(rgb, depth_m, self.stamp_ns, executing, self._goal_pixel(pose))
        return Observation(self.stamp_ns, rgb, depth_m, self.world.pose, remaining)

    def _goal_pixel(self, pose: Pose) -> tuple[float, float] | None:
        """Row and column at which the place that is driven to would be seen from ``pose``, if at all."""
        place = None if self._chunk is None else self._chunk.place
        if place is None:
            return None
        c, floor_m = self.world.camera, float(pose.position[2])
        optical = (pose @ self.world.base_from_optical).inverse()
        x, y, z = optical.transform(np.array([place.x_m, place.y_m, floor_m]))
        return (float(y / z * c.fy + c.cy), float(x / z * c.fx + c.cx)) if z > 0.0 else None

    def observed(self, duration_s: float) -> None:
        """Note how long the engine took for the newest observation."""
        self._observe_s += duration_s
        self._last_observe_s = duration_s

    def worked_ahead(self, duration_s: float) -> None:
        """Note how long the engine worked ahead of being asked. A robot would not have waited for it."""
        self._observe_s += duration_s

    def computed(self, cpu_s: float) -> None:
        """Note processor time that the engine took."""
        self._engine_cpu_s = (self._engine_cpu_s or 0.0) + cpu_s

    def look_again(self) -> None:
        """Something in the world has changed: the next picture is a new one, wherever the robot is."""
        self._rendered = None

    def decided(self, chunk: ActionChunk, latency_ms: float) -> None:
        """Note a queue that the robot was given. A hold is no decision; its reason is written down. One that
        only goes on toward a place is none either."""
        self._waited_s += self._last_observe_s + latency_ms / 1e3
        if chunk.actions:
            self._decisions += not chunk.goes_on
            self._chunk = chunk
        if chunk.actions or chunk.held is not None:
            self._recorder.decision(chunk, latency_ms)

    def execute(self, chunk: ActionChunk) -> Iterator[Observation]:
        """Lockstep: execute a queue; an observation after every action that moves."""
        for done, action in enumerate(chunk.actions, start=1):
            self.step(action)
            if action.stop:
                return
            yield self.observe(len(chunk.actions) - done)
            if self.ended is not None:
                return
        if self._limits.questions is not None and self._decisions >= self._limits.questions:
            self.end(QUESTION_LIMIT)

    def step(self, action: Action) -> None:
        """Execute one discrete action."""
        before = self.world.pose.position
        motion = self.world.step(action)
        self._still = self._still + 1 if np.array_equal(self.world.pose.position, before) else 0
        self.stamp_ns += self._step_period_ns
        self._actions += 1
        self.executed.append(Executed(self.stamp_ns, action))
        self._collisions += motion.collided
        self._recorder.step(Step.discrete(self.stamp_ns, self.world.pose, action, motion.collided))
        if action.stop:
            self.ended = "stop"
        elif self._actions >= self._limits.steps:
            self.ended = "step limit"
        elif self._limits.actions is not None and self._actions >= self._limits.actions:
            self.ended = ACTION_LIMIT
        elif self._limits.turns_in_place is not None and self._still >= self._limits.turns_in_place:
            self.ended = TURNED_IN_PLACE

    def drive(self, linear_m_s: float, angular_rad_s: float, duration_ns: int) -> None:
        """Real time: hold a velocity for a while."""
        motion = self.world.drive(linear_m_s, angular_rad_s, duration_ns / 1e9)
        self.stamp_ns += duration_ns
        stands = linear_m_s == 0.0 and angular_rad_s == 0.0
        self._standing_ns = (self._standing_ns or 0) + stands * duration_ns
        if motion.collided and not self._collided:  # touching on is one collision
            self._collisions += 1
        self._collided = motion.collided

    def note(self, linear_m_s: float, angular_rad_s: float) -> None:
        """Real time: write the present state into the record."""
        self._recorder.step(
            Step.continuous(self.stamp_ns, self.world.pose, linear_m_s, angular_rad_s, self._collided)
        )

    def completed(self, actions: int) -> None:
        """Real time: the executor reports that many more actions as done."""
        self._actions += actions
        if self._actions >= self._limits.steps:
            self.end("step limit")
        elif self._limits.actions is not None and self._actions >= self._limits.actions:
            self.end(ACTION_LIMIT)

    def end(self, why: str) -> None:
        """End it from outside; the first reason stays."""
        self.ended = self.ended or why

    def finish(
        self,
        *,
        forwards: int | None = None,
        tokens: int | None = None,
        prepared: int = 0,
        figures: dict[str, float] | None = None,
        reuse: ReuseStats | None = None,
        given_up: tuple[str, ...] = (),
    ) -> EpisodeRecord:
        """Judge it and freeze the record.

        Arguments: see :class:`vln_ros.evaluation.episode.record.EpisodeCost` and ``EpisodeRecord``.
        """
        standing_s = None if self._standing_ns is None else self._standing_ns / 1e9
        begun_s = time.monotonic()
        metrics = self._measure()
        now_s = time.monotonic()
        cost = EpisodeCost(
            load_s=self._load_s,
            render_s=self._render_s,
            measure_s=now_s - begun_s,
            observe_s=self._observe_s,
            waited_s=self._waited_s,
            forwards=forwards,
            tokens=tokens,
            prepared=prepared,
            figures=figures,
            engine_cpu_s=self._engine_cpu_s,
        )
        return self._recorder.finish(
            self.ended or "aborted", now_s - self._begun_s, metrics, standing_s, cost, reuse, given_up
        )

    def discard(self) -> None:
        """Give it up without a record."""
        self._recorder.discard()

    def _measure(self) -> EpisodeMetrics:
        positions = np.array([(s.x_m, s.y_m, s.z_m) for s in self._recorder.steps])
        # A turn in place keeps its distance: no need to search the way again.
        asked = np.concatenate([[True], (np.diff(positions, axis=0) != 0.0).any(axis=1)])
        if self._basic:
            asked[1:-1] = False
            asked[-1] = True
        distances = np.empty(len(positions))
        for i, position in enumerate(positions):
            distances[i] = self._distance_m(position) if asked[i] else distances[i - 1]
        episode = self.episode
        return measure_episode(
            positions,
            distances,
            stop_called=self.ended == "stop" or (self._limits.as_stop and self.ended in EARLY_ENDS),
            goal_radius_m=episode.goal_radius_m,
            # As VLN-CE: step-level ground truth. Against the route's few corners it is another number.
            reference_path=None if self._basic else episode.locations,
            oracle=not self._basic,
            spacing_m=None if self._standing_ns is None else WARP_SPACING_M,
            collisions=self._collisions,
            steps=self._actions,
        )
