"""Chooses discrete actions along the shortest path; knows the map and sees nothing."""

from __future__ import annotations

import math

import numpy as np

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionKind,
    Float64Array,
    Pose,
    StepSize,
    wrap_angle,
)
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.geodesic import GoalField, Walkable
from vln_ros.sim.embedded.world import SceneCache, move
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.engine import OracleEngine

# One turn must gain this much way to be worth it: keeps the expert from wavering between two
# headings of nearly equal worth.
_TURN_COST_M = 0.004
# A step, or two together, must shorten the way by this to be worth making; so the expert always ends.
_LEAST_GAIN_M = 0.002

NEARNESS_COST = 3.0
"""A metre too near to a wall counts as so many of the way: more than the way can be shortened by it."""
# So many clearances from the goal, the place nearest to it that keeps clear of walls is reached.
_LAST_BIT = 3.0


def _cost(field: GoalField, points: Float64Array) -> Float64Array:
    """``[N]`` metres to the goal from ``[N, 2]`` points; one outside the field's free space counts as the
    nearest inside, and for what it is away from there."""
    inside = points.copy()
    for k in np.flatnonzero(~field.walkable.contains(points)):
        inside[k] = field.walkable.nearest(points[k])
    return np.asarray(field.distances(inside) + NEARNESS_COST * np.linalg.norm(points - inside, axis=1))


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
        clearance_m: distance to keep from walls besides. The shortest way grazes every corner that it
            bends at; this one does so only where nothing wider leads to the goal.
    """

    def __init__(
        self,
        walkable: Walkable,
        goal: Float64Array,
        step: StepSize,
        stop_within_m: float | None = None,
        clearance_m: float = 0.0,
    ) -> None:
        self.walkable = walkable
        self._stop_within_m = step.forward_m / 2.0 if stop_within_m is None else stop_within_m
        self._shortest = GoalField(walkable, walkable.nearest(goal))
        # Beside a wall, the goal itself is too near to it; this far from it the shortest way is taken.
        self._last_bit_m = _LAST_BIT * clearance_m
        self._with_clearance: GoalField | None = None
        if clearance_m > 0.0:
            with_clearance = walkable.narrowed(clearance_m)
            end = with_clearance.nearest(goal)
            if self._shortest.distances(end[None])[0] < self._last_bit_m:
                self._with_clearance = GoalField(with_clearance, end)
        self.step = step

    def next_action(self, pose: Pose) -> Action:
        """What to do at ``pose``; a pose inside an obstacle counts as the nearest free one."""
        position = self.walkable.nearest(pose.position)
        length_m, shortest = self._shortest.route(position)
        if length_m < self._stop_within_m:
            return STOP
        half_circle = round(math.pi / self.step.turn_rad)
        every = range(-half_circle, half_circle)
        with_clearance = self._clear_path(position) if length_m > self._last_bit_m else []
        for field, here, way in (*with_clearance, (self._shortest, length_m, shortest)):
            ahead = way[1] - position
            bearing = math.atan2(ahead[1], ahead[0])
            straight = round(wrap_angle(bearing - pose.yaw_rad) / self.step.turn_rad)
            # The headings next to the way itself are nearly always the best; look further only where not.
            near = range(straight - 1, straight + 2)
            for headings, second in ((near, range(0)), (every, range(0)), (every, every)):
                turns, gain_m = self._best(field, position, pose.yaw_rad, here, headings, second)
                if gain_m > _LEAST_GAIN_M:
                    return self._toward(turns)
        return STOP

    def way(self, position: Float64Array) -> Float64Array:
        """Corners ``[n, 2]``, metres, of the way that it follows; it begins at the nearest place on it.

        Raises:
            ValueError: there is no way.
        """
        position = self.walkable.nearest(position)
        for _, _, way in self._clear_path(position):
            return way
        return self._shortest.path(position)

    def distance_m(self, position: Float64Array) -> float:
        """Length of the shortest way from the free place nearest to ``position``, metres; inf for none."""
        return float(self._shortest.distances(self.walkable.nearest(position)[None])[0])

    def _clear_path(self, position: Float64Array) -> list[tuple[GoalField, float, Float64Array]]:
        """The way that keeps clear of walls and what it costs, if it is asked for and there is one.

        None from a place that is cut off from it by what stands nearby: the two ways would take turns.
        """
        if self._with_clearance is None:
            return []
        begin = self._with_clearance.walkable.nearest(position)
        if not self.walkable.visible(position[None], begin[None])[0]:
            return []
        try:
            length_m, way = self._with_clearance.route(begin)
        except ValueError:
            return []
        return [
            (self._with_clearance, length_m + NEARNESS_COST * float(np.linalg.norm(position - begin)), way)
        ]

    def _ends(self, position: Float64Array, yaw_rad: float, headings: range) -> Float64Array:
        """``[len(headings), 2]``: where a forward step ends after so many left turns each."""
        ends = []
        for k in headings:
            yaw = yaw_rad + k * self.step.turn_rad
            step = self.step.forward_m * np.array([math.cos(yaw), math.sin(yaw)])
            ends.append(self.walkable.slide(position, step)[0])
        return np.array(ends)

    def _best(
        self,
        field: GoalField,
        position: Float64Array,
        yaw_rad: float,
        here: float,
        headings: range,
        second: range,
    ) -> tuple[int, float]:
        """The best number of left turns (right: negative) and by how much the step after them shortens
        the way, metres; with ``second``, that step and the best one after it."""
        ends = self._ends(position, yaw_rad, headings)
        if second:
            gains = np.array([here - _cost(field, self._ends(end, yaw_rad, second)).min() for end in ends])
        else:
            gains = here - _cost(field, ends)
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


class ExpertEngine(OracleEngine):
    """Implements :class:`vln_ros.protocols.Engine` for embedded scenes: proves the graph without a model.

    It must be told the episode, and takes ``Frame.odom_from_base`` for the pose in the scene: the
    odometry frame is the world frame. The pictures are not looked at.

    Args:
        step: what one action does in the world that it drives.
        actions_per_decision: length of a queue, at most.
        episode: the first episode; see :meth:`set_episode`.
        agent_radius_m: as the world's.
        clearance_m: distance to keep from walls besides, see :class:`Expert`; it stops so much sooner, too.
    """

    def __init__(
        self,
        step: StepSize,
        actions_per_decision: int,
        episode: Episode | None = None,
        agent_radius_m: float = AGENT_RADIUS_M,
        clearance_m: float = 0.0,
    ) -> None:
        super().__init__(actions_per_decision)
        self._step = step
        self._scenes = SceneCache(agent_radius_m, 2)
        self._clearance_m = clearance_m
        if episode is not None:
            self.set_episode(episode)

    def set_episode(self, episode: Episode) -> None:
        """From now on head for this episode's goal. Raises ValueError for a scene of another simulator."""
        walkable = self._scenes.get(episode.scene_id).walkable
        # Goals are beside furniture: who keeps a distance from that never comes nearer than it.
        within_m = self._step.forward_m / 2.0 + self._clearance_m
        expert = Expert(walkable, episode.goal, self._step, within_m, self._clearance_m)
        self._plan = lambda pose, count: expert.rollout(pose, count)[0]

    def close(self) -> None:
        self._scenes.clear()
