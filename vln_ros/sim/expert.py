"""The expert: follows the shortest way with discrete actions. It knows the map and sees nothing."""

from __future__ import annotations

import math

import numpy as np

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    ActionKind,
    Float64Array,
    Frame,
    Instruction,
    Pose,
    StepSize,
    wrap_angle,
)
from vln_ros.sim.embedded import SceneCache, move
from vln_ros.sim.episodes import Episode
from vln_ros.sim.flat import AGENT_RADIUS_M
from vln_ros.sim.geodesic import GoalField, Walkable

# One turn must gain this much way to be worth it: keeps the expert from wavering between two
# headings of nearly equal worth.
_TURN_COST_M = 0.004
# A step, or two together, must shorten the way by this to be worth making; so the expert always ends.
_LEAST_GAIN_M = 0.002


class Expert:
    """Chooses the next action toward one goal.

    At every place it looks at the headings that turns can reach, takes the one whose forward step
    (sliding included) ends nearest to the goal, turns to it and goes. Where no single step helps, hard
    by a corner, it looks two steps ahead. It stops near the goal, or where nothing helps.

    Args:
        walkable: where the robot can go.
        goal: ``[3]`` or ``[2]`` metres.
        step: what one action does.
        stop_within_m: it stops nearer to the goal than this, on foot; None for half a step.
    """

    def __init__(
        self, walkable: Walkable, goal: Float64Array, step: StepSize, stop_within_m: float | None = None
    ) -> None:
        self.walkable = walkable
        self._stop_within_m = step.forward_m / 2.0 if stop_within_m is None else stop_within_m
        self.field = GoalField(walkable, walkable.nearest(goal))
        self.step = step

    def next_action(self, pose: Pose) -> Action:
        """What to do at ``pose``; a pose inside an obstacle counts as the nearest free one."""
        position = self.walkable.nearest(pose.position)
        here, way = self.field.route(position)
        if here < self._stop_within_m:
            return STOP
        ahead = way[1] - position
        bearing = math.atan2(ahead[1], ahead[0])
        straight = round(wrap_angle(bearing - pose.yaw_rad) / self.step.turn_rad)
        half_circle = round(math.pi / self.step.turn_rad)
        near, every = range(straight - 1, straight + 2), range(-half_circle, half_circle)
        # The headings next to the way itself are nearly always the best; look further only where not.
        for headings, second in ((near, range(0)), (every, range(0)), (every, every)):
            turns, gain_m = self._best(position, pose.yaw_rad, here, headings, second)
            if gain_m > _LEAST_GAIN_M:
                return self._toward(turns)
        return STOP

    def _ends(self, position: Float64Array, yaw_rad: float, headings: range) -> Float64Array:
        """``[len(headings), 2]``: where a forward step ends after so many left turns each."""
        ends = []
        for k in headings:
            yaw = yaw_rad + k * self.step.turn_rad
            step = self.step.forward_m * np.array([math.cos(yaw), math.sin(yaw)])
            ends.append(self.walkable.slide(position, step)[0])
        return np.array(ends)

    def _best(
        self, position: Float64Array, yaw_rad: float, here: float, headings: range, second: range
    ) -> tuple[int, float]:
        """The best number of left turns (right: negative) and by how much the step after them shortens
        the way, metres; with ``second``, that step and the best one after it."""
        ends = self._ends(position, yaw_rad, headings)
        if second:
            gains = np.array(
                [here - self.field.distances(self._ends(end, yaw_rad, second)).min() for end in ends]
            )
        else:
            gains = here - self.field.distances(ends)
        turns = np.array([wrap_angle(k * self.step.turn_rad) / self.step.turn_rad for k in headings])
        best = int((gains - _TURN_COST_M * np.abs(turns)).argmax())
        return round(float(turns[best])), float(gains[best])

    def _toward(self, turns: int) -> Action:
        if turns == 0:
            return self.step.action(ActionKind.FORWARD)
        return self.step.action(ActionKind.TURN_LEFT if turns > 0 else ActionKind.TURN_RIGHT)

    def rollout(self, pose: Pose, count: int) -> tuple[list[Action], list[Pose]]:
        """Up to ``count`` actions from ``pose``, a stop included and last, and the pose after each."""
        actions: list[Action] = []
        poses: list[Pose] = []
        position = self.walkable.nearest(pose.position)
        pose = Pose.planar(float(position[0]), float(position[1]), pose.yaw_rad)
        while len(actions) < count and not (actions and actions[-1].stop):
            actions.append(self.next_action(pose))
            pose, _ = move(self.walkable, pose, actions[-1])
            poses.append(pose)
        return actions, poses


class ExpertEngine:
    """Implements :class:`vln_ros.protocols.Engine` for embedded scenes: proves the graph without a model.

    It must be told the episode, and takes ``Frame.odom_from_base`` for the pose in the scene: the
    odometry frame is the world frame. The pictures are not looked at.

    Args:
        step: what one action does in the world that it drives.
        actions_per_decision: length of a queue, at most.
        episode: the first episode; see :meth:`set_episode`.
        agent_radius_m: as the world's.
        clearance_m: distance to keep from walls besides, in scenes that leave a way then.
    """

    def __init__(
        self,
        step: StepSize,
        actions_per_decision: int,
        episode: Episode | None = None,
        agent_radius_m: float = AGENT_RADIUS_M,
        clearance_m: float = 0.0,
    ) -> None:
        if actions_per_decision < 1:
            raise ValueError(f"actions_per_decision must be at least 1, got {actions_per_decision}")
        self._step = step
        self._count = actions_per_decision
        self._scenes = SceneCache(agent_radius_m, 2)
        self._wide = SceneCache(agent_radius_m + clearance_m, 2)
        self._expert: Expert | None = None
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None
        if episode is not None:
            self.set_episode(episode)

    def set_episode(self, episode: Episode) -> None:
        """From now on head for this episode's goal. Raises ValueError for a scene of another simulator."""
        for scenes in (self._wide, self._scenes):
            walkable = scenes.get(episode.scene_id).walkable
            start, goal = (walkable.nearest(p) for p in (episode.start.position, episode.goal))
            if math.isfinite(walkable.distance(start, goal)):
                break
        self._expert = Expert(walkable, episode.goal, self._step)

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._frame = instruction, None

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    def decide(self, queue: int) -> ActionChunk:
        """Up to ``actions_per_decision`` actions from the newest frame's pose on.

        Raises:
            RuntimeError: no episode, instruction or frame yet.
        """
        if self._expert is None:
            raise RuntimeError("the expert knows no episode: call set_episode() first")
        if self._instruction is None or self._frame is None:
            raise RuntimeError("no instruction or no frame yet")
        actions, _ = self._expert.rollout(self._frame.odom_from_base, self._count)
        return ActionChunk(queue, self._instruction.number, self._frame.stamp_ns, tuple(actions))

    def close(self) -> None:
        self._scenes.clear()
        self._wide.clear()
