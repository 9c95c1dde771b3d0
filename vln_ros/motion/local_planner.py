"""Plans the way to a place near the robot, as primitives, around what is known of obstacles.

First the floor is searched as a grid, for where the robot's circle fits: that tells which of the places near
the goal can be reached, and how far every cell is from it. Then primitives are searched for that lead down
these distances; each is held against the obstacles themselves, not against the grid.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vln_ros.config import PlaceConfig
from vln_ros.datatypes import Action, ActionKind, Float64Array, Pose, StepSize
from vln_ros.motion.distance_grid import FloorGrid, lengths, reachable

CELL_M = 0.05
MARGIN_M = 1.5
"""The grid goes so much beyond the robot and the goal."""
_ROUNDING_M = CELL_M / math.sqrt(2.0)
"""Of a clearance on the grid: it is that of middles of cells."""
_NEARNESS = 3.0
"""A way along obstacles costs so many times more than one that keeps away from them, besides."""
_OPAQUE_M = 0.075
"""Obstacles are known in cubes of 10 cm: nobody looks between two of them."""
_TURN_COST = 0.3
"""Of a forward primitive."""
_EAGERNESS = 1.5
"""What is left of the way counts so much more than what was spent: fewer places are looked at."""
_MOST_PLACES = 600
_SAME_PLACE_M = 0.03
_LEG_M = 1.5
"""Primitives are searched for until the way is so much shorter."""
_TOUCHED = 1.0 - 1e-6


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalPlan:
    """How to get to a place, or nearer.

    Attributes:
        actions: primitives; none where the robot is there.
        path: ``[len(actions) + 1, 2]`` metres, where they lead: the robot's place and that after each action.
        target: ``[2]`` metres, the place that is headed for: the goal, or one near it that can be reached.
        length_m: of the way over the grid from the robot to the target.
    """

    actions: tuple[Action, ...]
    path: Float64Array
    target: Float64Array
    length_m: float


class GiveUp(Enum):
    """Why a place cannot be driven to, in the words of the counters."""

    TOO_FAR = "the place is too far away"
    NOT_REACHABLE = "no place near it can be reached"
    DETOUR = "the way to it is too long"
    NO_STEPS = "no steps lead nearer to it"


@dataclass(frozen=True)
class NoWay:
    """The place cannot be driven to.

    Attributes:
        kind: why.
        detail: the figures, for a person.
    """

    kind: GiveUp
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}"


@dataclass(frozen=True, eq=False)
class _Node:
    """A place and heading (in left turns from the robot's) that the search has come to."""

    place: Float64Array
    heading: int
    spent: float
    before: _Node | None


@dataclass(frozen=True)
class Headings:
    """The headings that turns lead to, in left turns from where the robot looks.

    Attributes:
        every: each of them once.
        circle: so many turns are a full one; None where no number of them is.
    """

    every: tuple[int, ...]
    circle: int | None

    @staticmethod
    def of(turn_rad: float) -> Headings:
        """For turns of this angle."""
        whole = round(2.0 * math.pi / turn_rad)
        if abs(whole * turn_rad - 2.0 * math.pi) < 1e-9:
            return Headings(tuple(range(-(whole // 2), whole - whole // 2)), whole)
        half = math.floor(math.pi / turn_rad)
        return Headings(tuple(range(-half, half + 1)), None)

    def turns(self, a: int, b: int) -> int:
        """Left turns from one heading to another, right ones negative."""
        if self.circle is None:
            return b - a
        return (b - a + self.circle // 2) % self.circle - self.circle // 2


class LocalPlanner:
    """Plans from scratch each time it is asked.

    A forward primitive is taken only if the robot's circle, swept along it and for ``stop_distance_m`` beyond
    its end, holds no obstacle: an executor with the same values will not stop it. What the circle holds
    already lets the robot out and not further in.

    Args:
        config: size of the robot and what counts as reached.
        step: what one primitive does.
    """

    def __init__(self, config: PlaceConfig, step: StepSize) -> None:
        self._config = config
        self._step = step
        self._headings = Headings.of(step.turn_rad)

    def plan(self, pose: Pose, goal: Float64Array, obstacles: Float64Array) -> LocalPlan | NoWay:
        """The way from ``pose`` to ``goal`` ``[2]`` around ``obstacles`` ``[N, 2]``: metres, in one frame."""
        start = pose.position[:2]
        distance_m = float(np.linalg.norm(goal - start))
        c = self._config
        if distance_m > c.max_distance_m:
            detail = f"{distance_m:.1f} m, more than place.max_distance_m = {c.max_distance_m:g}"
            return NoWay(GiveUp.TOO_FAR, detail)
        radii = self._radii(start, obstacles)
        grid, weights = self._grid(start, goal, obstacles[radii >= self._radius_m])
        here = _cell(grid, start)
        fits = float(np.linalg.norm(obstacles - goal, axis=1).min(initial=math.inf)) >= self._radius_m
        target = self._target(grid, weights, start, goal, fits)
        if isinstance(target, NoWay):
            return target
        left = lengths(weights, _cell(grid, target)) * CELL_M
        length_m = float(left[here])
        if not length_m < c.max_detour * max(distance_m, 1.0):
            detail = f"{length_m:.1f} m for {distance_m:.1f} m straight, place.max_detour = {c.max_detour:g}"
            return NoWay(GiveUp.DETOUR, detail)
        search = _Search(
            self._step, self._headings, self._radius_m, self._config.stop_distance_m, obstacles, radii
        )
        end = search.run(pose, target, grid, left, self._config.reached_within_m)
        if end is None:
            turn_deg, away_m = math.degrees(self._step.turn_rad), float(np.linalg.norm(target - start))
            detail = f"of {self._step.forward_m:g} m and {turn_deg:g} degrees, to {away_m:.1f} m away"
            return NoWay(GiveUp.NO_STEPS, detail)
        actions, path = self._unrolled(end)
        return LocalPlan(actions=actions, path=path, target=target, length_m=length_m)

    @property
    def _radius_m(self) -> float:
        return self._config.robot_radius_m + self._config.margin_m

    def _radii(self, start: Float64Array, obstacles: Float64Array) -> Float64Array:
        """``[N]``: how near the robot's middle may come to each obstacle: not nearer than it already is to
        those that are too near."""
        return np.minimum(self._radius_m, np.linalg.norm(obstacles - start, axis=1) * _TOUCHED)

    def _grid(
        self, start: Float64Array, goal: Float64Array, obstacles: Float64Array
    ) -> tuple[FloorGrid, Float64Array]:
        """The floor, and what a way over each cell costs; ``inf`` where the robot surely does not fit."""
        radius_m, away_m = self._radius_m, self._config.keep_away_m
        grid = FloorGrid.around(
            np.stack([start, goal]), obstacles, cell_m=CELL_M, margin_m=MARGIN_M,
            bound_m=radius_m + away_m + CELL_M,
        )  # fmt: skip
        beyond_m = grid.clearance_m - radius_m
        nearness = np.clip(1.0 - beyond_m / max(away_m, CELL_M), 0.0, 1.0)
        weights = np.where(beyond_m < -_ROUNDING_M, np.inf, 1.0 + _NEARNESS * nearness)
        weights[_cell(grid, start)] = 1.0 + _NEARNESS  # it is there
        return grid, weights

    def _target(
        self, grid: FloorGrid, weights: Float64Array, start: Float64Array, goal: Float64Array, fits: bool
    ) -> Float64Array | NoWay:
        """The goal where the robot ``fits`` and comes to, else the place before it that can be reached."""
        seen = reachable(np.isfinite(weights), _cell(grid, start))
        if fits and seen[_cell(grid, goal)]:
            return goal
        middles = grid.middles()[seen]
        off_m = np.linalg.norm(middles - goal, axis=1)
        limit_m = self._config.max_shift_m
        near = off_m <= limit_m
        if not near.any():
            detail = f"the nearest is {float(off_m.min()):.1f} m from it, place.max_shift_m = {limit_m:g}"
            return NoWay(GiveUp.NOT_REACHABLE, detail)
        middles, off_m = middles[near], off_m[near]
        # Who points at a wall or a chair sees it: what is meant lies on this side of it.
        in_view = grid.in_view(start, middles, _OPAQUE_M)
        if in_view.any():
            middles, off_m = middles[in_view], off_m[in_view]
        return np.asarray(middles[int(off_m.argmin())])

    def _unrolled(self, end: _Node) -> tuple[tuple[Action, ...], Float64Array]:
        chain = [end]
        while chain[-1].before is not None:
            chain.append(chain[-1].before)
        actions: list[Action] = []
        path = [chain[-1].place]
        for a, b in itertools.pairwise(reversed(chain)):
            turns = self._headings.turns(a.heading, b.heading)
            kind = ActionKind.TURN_LEFT if turns > 0 else ActionKind.TURN_RIGHT
            actions += [self._step.action(kind)] * abs(turns) + [self._step.action(ActionKind.FORWARD)]
            path += [a.place] * abs(turns) + [b.place]
        return tuple(actions), np.array(path)


class _Search:
    """Over places and headings, primitive by primitive."""

    def __init__(
        self,
        step: StepSize,
        headings: Headings,
        radius_m: float,
        stop_distance_m: float,
        obstacles: Float64Array,
        radii: Float64Array,
    ) -> None:
        self._step, self._headings = step, headings
        self._sweep_m = step.forward_m + stop_distance_m
        self._reach_m = self._sweep_m + radius_m
        self._obstacles, self._radii = obstacles, radii

    def run(
        self, pose: Pose, target: Float64Array, grid: FloorGrid, left: Float64Array, within_m: float
    ) -> _Node | None:
        """The first place found that is within ``within_m`` of the target, or nearer to it by a leg; None
        where nothing is nearer than the robot is.

        Args:
            left: ``[X, Y]`` of the grid, what is left of the way from each cell.
        """
        step_m, yaw = self._step.forward_m, pose.yaw_rad
        bearings = yaw + np.array(self._headings.every) * self._step.turn_rad
        ways = step_m * np.stack([np.cos(bearings), np.sin(bearings)], 1)
        first = best = _Node(pose.position[:2].copy(), 0, 0.0, None)
        begin_m = best_m = self._left(grid, left, first.place[None], target)[0]
        if float(np.linalg.norm(first.place - target)) <= within_m:
            return first
        order = itertools.count()
        queue = [(_EAGERNESS * begin_m / step_m, next(order), begin_m, first)]
        least: dict[tuple[int, int, int], float] = {}
        for _ in range(_MOST_PLACES):
            if not queue:
                break
            _, _, left_m, node = heapq.heappop(queue)
            if left_m < best_m:
                best, best_m = node, left_m
            near = float(np.linalg.norm(node.place - target)) <= within_m
            if near or left_m < begin_m - _LEG_M:
                return node
            ends = node.place + ways
            lefts = self._left(grid, left, ends, target)
            for i in np.flatnonzero(np.isfinite(lefts) & self._free(node.place, ways / step_m)).tolist():
                k = self._headings.every[i]
                spent = node.spent + 1.0 + _TURN_COST * abs(self._headings.turns(node.heading, k))
                x, y = np.round(ends[i] / _SAME_PLACE_M).astype(int).tolist()
                if spent >= least.get((x, y, k), math.inf):
                    continue
                least[x, y, k] = spent
                worth = spent + _EAGERNESS * lefts[i] / step_m
                heapq.heappush(queue, (worth, next(order), float(lefts[i]), _Node(ends[i], k, spent, node)))
        return best if best_m < begin_m - _SAME_PLACE_M else None

    def _left(
        self, grid: FloorGrid, left: Float64Array, places: Float64Array, target: Float64Array
    ) -> Float64Array:
        """``[N]`` what is left of the way from places, never less than straight; ``inf`` off the grid."""
        cells = grid.cells(places)
        over = left[cells[:, 0], cells[:, 1]]
        inside = ((places >= grid.corner) & (places < grid.corner + np.array(grid.shape) * grid.cell_m)).all(
            1
        )
        straight = np.linalg.norm(places - target, axis=1)
        # Within a cell the distance to the target tells more than the grid.
        return np.where(inside, np.maximum(over, straight), np.inf)

    def _free(self, place: Float64Array, directions: Float64Array) -> np.ndarray:
        """``[K]``: whether a circle swept from a place in directions ``[K, 2]`` holds no obstacle."""
        off = self._obstacles - place
        near = np.abs(off).max(1) < self._reach_m if len(off) else np.zeros(0, bool)
        off, radii = off[near], self._radii[near]
        along = (off @ directions.T).clip(0.0, self._sweep_m)
        closest = (off[:, None] - along[..., None] * directions[None]) ** 2
        return np.asarray((closest.sum(-1) >= radii[:, None] ** 2).all(0))


def _cell(grid: FloorGrid, place: Float64Array) -> tuple[int, int]:
    x, y = grid.cells(place[None])[0].tolist()
    return x, y
