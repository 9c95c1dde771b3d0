"""Follows the shortest path in any world that can try a step without making it.

Where robots slide along walls, nearly any step toward the goal will do. Where they stop at them and turn in
steps of 30 degrees, the next step alone does not tell: what grazes a door frame is lost. So actions are
searched for: over places and headings, trying each step as the world would make it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionKind,
    Float64Array,
    StepSize,
    wrap_angle,
)
from vln_ros.sim.embedded.geodesic import GoalField, Walkable
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.engine import OracleEngine

STOP_WITHIN = 0.75
"""Of a forward step: so near to the goal, on foot, it stops, as habitat-sim's own follower does."""

_TURN_COST = 0.25  # of a forward step: a longer way is worse than a turn
_TOUCH_COST = 4.0  # of a step that is stopped or turned aside, besides
_NEAR_COST = 3.0  # a metre too near to a wall, as so many metres of way
_EAGERNESS = 1.2  # what is left of the way counts so much more than what was spent
_AHEAD_RAD = math.radians(61.0)  # headings off the way that are tried first
_LEG_M = 1.0  # the way is shortened by this, then the search begins anew
_MOST_PLACES = 400  # looked at in one search
_CELL_M = 0.03  # places nearer to each other than about this are one
_LEAST_MOVE_M = 0.02
_SAME_PLACE_M, _SAME_YAW_RAD = 0.03, math.radians(1.5)


@dataclass(frozen=True, eq=False)
class Tries:
    """What steps would do, made from one place in ``N`` directions.

    Attributes:
        ends: ``[N, 3]`` metres.
        touching: ``[N]``: stopped or turned aside.
        distances_m: ``[N]`` of the way to the goal from there; inf for none.
        nearness_m: ``[N]`` how much nearer to a wall than it should be.
    """

    ends: Float64Array
    touching: npt.NDArray[np.bool_]
    distances_m: Float64Array
    nearness_m: Float64Array


class Ground(Protocol):
    """Where a robot can go, on its way to one goal."""

    def way(self, place: Float64Array) -> tuple[float, float]:
        """Length of the shortest way from a ``[3]`` place, metres (inf: none), and its bearing there."""

    def try_steps(self, place: Float64Array, bearings_rad: Float64Array, length_m: float) -> Tries:
        """What a forward step would do from a ``[3]`` place under each bearing ``[N]``."""


class EmbeddedGround:
    """Implements :class:`Ground` for embedded scenes.

    Args:
        walkable: where the robot can go.
        goal: ``[3]`` metres.
        sliding: along what is run into, instead of stopping.
        clearance_m: distance to keep from walls besides.
    """

    def __init__(
        self, walkable: Walkable, goal: Float64Array, *, sliding: bool, clearance_m: float = 0.0
    ) -> None:
        self._walkable = walkable
        self._field = GoalField(walkable, walkable.nearest(goal))
        self._sliding = sliding
        self._with_clearance = walkable.narrowed(clearance_m) if clearance_m > 0.0 else None

    def way(self, place: Float64Array) -> tuple[float, float]:
        start = self._walkable.nearest(place)
        try:
            length_m, corners = self._field.route(start)
        except ValueError:
            return math.inf, 0.0
        ahead = corners[1] - start
        return length_m, math.atan2(ahead[1], ahead[0])

    def try_steps(self, place: Float64Array, bearings_rad: Float64Array, length_m: float) -> Tries:
        start = self._walkable.nearest(place)
        ends, touching = np.zeros((len(bearings_rad), 3)), np.zeros(len(bearings_rad), bool)
        for k, bearing in enumerate(bearings_rad):
            step = length_m * np.array([math.cos(bearing), math.sin(bearing)])
            ends[k, :2], touching[k], _ = self._walkable.slide(start, step, sliding=self._sliding)
        nearness_m = np.zeros(len(ends))
        if self._with_clearance is not None:
            nearness_m = np.array(
                [float(np.linalg.norm(self._with_clearance.nearest(e) - e[:2])) for e in ends]
            )
        return Tries(ends, touching, self._field.distances(ends[:, :2]), nearness_m)


@dataclass(frozen=True, eq=False)
class _Node:
    """A place and heading that the search has come to; heading in left turns from where it began."""

    place: Float64Array
    heading: int
    spent: float
    distance_m: float
    before: _Node | None


class Follower:
    """Chooses actions toward one goal.

    Args:
        ground: where it is, and what steps do there.
        step: what one action does.
    """

    def __init__(self, ground: Ground, step: StepSize) -> None:
        self._ground = ground
        self._step = step
        self._turns = round(2.0 * math.pi / step.turn_rad)
        self._planned: list[tuple[Float64Array, float, Action]] = []  # place and yaw before each
        self._end: tuple[Float64Array, float] = (np.zeros(3), 0.0)  # and after the last

    def next_actions(self, place: Float64Array, yaw_rad: float, count: int) -> list[Action]:
        """Up to ``count`` actions from a ``[3]`` place on; a stop is the last one.

        As long as the robot does what was planned, the plan is kept.
        """
        plan = self._rest_of_plan(place, yaw_rad)
        if not plan:
            self._end = (np.asarray(place, np.float64), yaw_rad)
        while len(plan) < count and not (plan and plan[-1][2] == STOP):
            plan += self._leg(*self._end)
        self._planned = plan
        return [action for _, _, action in plan[:count]]

    def _rest_of_plan(self, place: Float64Array, yaw_rad: float) -> list[tuple[Float64Array, float, Action]]:
        for k, (planned, planned_yaw_rad, _) in enumerate(self._planned):
            near = np.linalg.norm(planned[:2] - place[:2]) < _SAME_PLACE_M
            if near and abs(wrap_angle(planned_yaw_rad - yaw_rad)) < _SAME_YAW_RAD:
                return self._planned[k:]
        return []

    def _leg(self, place: Float64Array, yaw_rad: float) -> list[tuple[Float64Array, float, Action]]:
        """Actions that shorten the way by :data:`_LEG_M` or lead to the goal; a stop where nothing does."""
        end = self._search(place, yaw_rad)
        if end is None:
            return [(place, yaw_rad, STOP)]
        chain = []
        node: _Node | None = end
        while node is not None:
            chain.append(node)
            node = node.before
        leg = []
        for a, b in itertools.pairwise(reversed(chain)):
            turns = self._turns_between(a.heading, b.heading)
            for k in range(abs(turns)):
                kind = ActionKind.TURN_LEFT if turns > 0 else ActionKind.TURN_RIGHT
                heading = a.heading + (k if turns > 0 else -k)
                leg.append((a.place, yaw_rad + heading * self._step.turn_rad, self._step.action(kind)))
            yaw = yaw_rad + b.heading * self._step.turn_rad
            leg.append((a.place, yaw, self._step.action(ActionKind.FORWARD)))
        self._end = (end.place, yaw_rad + end.heading * self._step.turn_rad)
        return leg

    def _turns_between(self, a: int, b: int) -> int:
        """Left turns from one heading to the other, right ones negative."""
        return (b - a + self._turns // 2) % self._turns - self._turns // 2

    def _search(self, place: Float64Array, yaw_rad: float) -> _Node | None:
        """The first place found that is so much nearer to the goal, or at it; None where there is none."""
        step_m, turn_rad = self._step.forward_m, self._step.turn_rad
        begin_m, _ = self._ground.way(place)
        if begin_m < STOP_WITHIN * step_m or not math.isfinite(begin_m):
            return None
        enough_m = max(STOP_WITHIN * step_m, begin_m - _LEG_M)
        first = best = _Node(np.asarray(place, np.float64), 0, 0.0, begin_m, None)
        order = itertools.count()
        # A place comes up twice: for the headings along its way, and later, if need be, for the others.
        queue = [(_EAGERNESS * begin_m / step_m, next(order), first, True)]
        least: dict[tuple[int, ...], float] = {}
        tried: dict[tuple[int, ...], tuple[float, dict[int, tuple[Float64Array, bool, float, float]]]] = {}
        for _ in range(_MOST_PLACES):
            if not queue:
                break
            worth, _, node, ahead = heapq.heappop(queue)
            if node.distance_m < enough_m:
                return node
            if node.distance_m < best.distance_m - 1e-6:
                best = node
            where = tuple(np.round(node.place / _CELL_M).astype(int).tolist())
            bearing_rad, known = tried.get(where) or (self._ground.way(node.place)[1], {})
            off = [abs(wrap_angle(yaw_rad + k * turn_rad - bearing_rad)) for k in range(self._turns)]
            headings = [k for k in range(self._turns) if (off[k] < _AHEAD_RAD) == ahead]
            tried[where] = (bearing_rad, known)
            new = [k for k in headings if k not in known]
            if new:
                tries = self._ground.try_steps(node.place, yaw_rad + turn_rad * np.array(new), step_m)
                for i, k in enumerate(new):
                    known[k] = (
                        tries.ends[i],
                        bool(tries.touching[i]),
                        float(tries.distances_m[i]),
                        float(tries.nearness_m[i]),
                    )
            if ahead:
                heapq.heappush(queue, (worth + 1.0, next(order), node, False))
            for k in headings:
                end, touching, distance_m, near_m = known[k]
                if not math.isfinite(distance_m) or np.linalg.norm(end - node.place) < _LEAST_MOVE_M:
                    continue
                spent = node.spent + 1.0 + _TURN_COST * abs(self._turns_between(node.heading, k))
                spent += _TOUCH_COST * touching + _NEAR_COST * near_m / step_m
                key = (*np.round(end / _CELL_M).astype(int).tolist(), k)
                if spent >= least.get(key, math.inf):
                    continue
                least[key] = spent
                nearer = _Node(end, k, spent, distance_m, node)
                heapq.heappush(queue, (spent + _EAGERNESS * distance_m / step_m, next(order), nearer, True))
        return best if best.distance_m < begin_m - _LEAST_MOVE_M else None


class FollowerEngine(OracleEngine):
    """Implements :class:`vln_ros.protocols.Engine`: proves a set-up without a model.

    It must be told the episode, takes ``Frame.odom_from_base`` for the pose in the scene, and looks at no
    picture.

    Args:
        ground_of: what is known of an episode's scene and goal; raises ValueError without such a scene.
        step: what one action does.
        actions_per_decision: length of a queue, at most.
        close: called at the end.
    """

    def __init__(
        self,
        ground_of: Callable[[Episode], Ground],
        step: StepSize,
        actions_per_decision: int,
        close: Callable[[], None],
    ) -> None:
        super().__init__(actions_per_decision)
        self._ground_of = ground_of
        self._step = step
        self._close = close

    def set_episode(self, episode: Episode) -> None:
        """From now on head for this episode's goal."""
        follower = Follower(self._ground_of(episode), self._step)
        self._plan = lambda pose, count: follower.next_actions(pose.position, pose.yaw_rad, count)

    def close(self) -> None:
        self._close()
