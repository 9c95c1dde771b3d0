"""Computes where a robot can stand, and the shortest paths between such places. All in the plane, metres.

The robot is taken as an upright square of half side ``radius_m``, aligned with the walls: obstacles
are axis-aligned rectangles, so that growing them by the radius gives rectangles again and every
answer below is exact. A round robot of that radius fits wherever the square does.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from vln_ros.datatypes import Float64Array

BoolArray = npt.NDArray[np.bool_]

# Touching a wall is not entering it: overlaps shorter than this do not count.
_TOUCH_M = 1e-7
_BATCH = 4


class Walkable:
    """The free space between obstacles for a robot of one size, with its visibility graph.

    Args:
        obstacles: ``[M, 4]`` rectangles ``x_min, y_min, x_max, y_max``; they must enclose the free space.
        radius_m: half side of the robot's square.
    """

    def __init__(self, obstacles: Float64Array, radius_m: float) -> None:
        if not 0.0 <= radius_m < np.inf:
            raise ValueError(f"agent radius must be finite and not negative, got {radius_m} m")
        self.radius_m = radius_m
        self._obstacles = obstacles
        self._narrowed: dict[float, Walkable] = {}
        self.grown: Float64Array = np.asarray(obstacles, np.float64) + radius_m * np.array([-1, -1, 1, 1])
        self._low, self._high = self.grown[:, :2], self.grown[:, 2:]

    def narrowed(self, clearance_m: float) -> Walkable:
        """What is left where the robot keeps that distance from everything besides."""
        if clearance_m not in self._narrowed:
            self._narrowed[clearance_m] = Walkable(self._obstacles, self.radius_m + clearance_m)
        return self._narrowed[clearance_m]

    def contains(self, points: Float64Array) -> BoolArray:
        """``[N]``: whether a robot at each of the ``[N, 2]`` points touches nothing but surfaces."""
        p = np.asarray(points, np.float64)[:, None]
        inside = ((p > self._low + _TOUCH_M) & (p < self._high - _TOUCH_M)).all(-1).any(-1)
        bounds_low, bounds_high = self._low.min(0), self._high.max(0)
        # The far side of the outermost walls is outside, however closely it touches.
        within = ((p[:, 0] > bounds_low + _TOUCH_M) & (p[:, 0] < bounds_high - _TOUCH_M)).all(-1)
        return np.asarray(within & ~inside)

    def visible(self, a: Float64Array, b: Float64Array) -> BoolArray:
        """``[N]``: whether the straight way between ``[N, 2]`` points enters no obstacle."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        a, b = np.broadcast_arrays(a, b)
        result = np.empty(len(a), bool)
        for start in range(0, len(a), 4096):  # bounds the memory of the N x M table
            part = slice(start, start + 4096)
            result[part] = ~(self._entry(a[part], b[part])[0] <= 1.0).any(1)
        return result

    def _entry(self, a: Float64Array, b: Float64Array) -> tuple[Float64Array, npt.NDArray[np.intp]]:
        """Fraction of the way a-b at which each grown rectangle is entered, inf if never; and the axis.

        ``[N, M]`` each. A way along a face does not enter.
        """
        p, d = a[:, None], (b - a)[:, None]
        low, high = self._low + _TOUCH_M, self._high - _TOUCH_M
        with np.errstate(divide="ignore", invalid="ignore"):
            t0, t1 = (low - p) / d, (high - p) / d
        still = d == 0.0
        inside = (p > low) & (p < high)
        near = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(t0, t1))
        far = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(t0, t1))
        enter, leave = near.max(-1), far.min(-1)
        hit = (enter < leave) & (leave > 0.0) & (enter <= 1.0)
        return np.where(hit, np.maximum(enter, 0.0), np.inf), near.argmax(-1)

    def slide(
        self, start: Float64Array, motion: Float64Array, *, sliding: bool = True
    ) -> tuple[Float64Array, bool, float]:
        """Move ``[2]`` by ``[2]``; at an obstacle go on along its face with what remains, or stop there.

        Returns:
            The end ``[2]``, whether anything was hit, and the length of the way travelled in metres.
        """
        position = np.array(start, np.float64)
        remaining = np.array(motion, np.float64)
        hit_any, travelled = False, 0.0
        for _ in range(4):  # a corner takes two; every further contact only shortens the motion
            if not remaining.any():
                break
            enter, axes = self._entry(position[None], (position + remaining)[None])
            first = int(enter[0].argmin())
            fraction = float(enter[0, first])
            if fraction > 1.0:
                travelled += float(np.linalg.norm(remaining))
                return position + remaining, hit_any, travelled
            hit_any = True
            axis = int(axes[0, first])
            target = position + fraction * remaining
            # Exactly onto the face: positions do not creep into walls by rounding.
            face = self._low[first, axis] if remaining[axis] > 0 else self._high[first, axis]
            target[axis] = face
            if not self.contains(target[None])[0]:
                break
            travelled += float(np.linalg.norm(target - position))
            position = target
            if not sliding:
                break
            remaining = (1.0 - fraction) * remaining
            remaining[axis] = 0.0
        return position, hit_any, travelled

    def nearest(self, point: Float64Array) -> Float64Array:
        """The free place ``[2]`` nearest to a ``[2]`` point; the point itself if it, or nothing, is free."""
        p = np.asarray(point, np.float64)[:2]
        if self.contains(p[None])[0]:
            return p.copy()
        # It is on the boundary of the free space: on a face straight across, or at a crossing of faces.
        xs, ys, crossings = self._faces
        across = np.concatenate(
            [np.stack([xs, np.full_like(xs, p[1])], 1), np.stack([np.full_like(ys, p[0]), ys], 1)]
        )
        candidates = np.concatenate([across[self.contains(across)], crossings])
        if not len(candidates):
            return p.copy()
        return np.asarray(candidates[int(np.linalg.norm(candidates - p, axis=1).argmin())])

    @cached_property
    def _faces(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Where the faces of obstacles are, in x and in y, and their free crossings ``[N, 2]``."""
        xs, ys = np.unique(self.grown[:, [0, 2]]), np.unique(self.grown[:, [1, 3]])
        crossings = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
        return xs, ys, crossings[self.contains(crossings)]

    @cached_property
    def nodes(self) -> Float64Array:
        """``[V, 2]`` outward corners of the obstacles: the only places where a shortest way bends."""
        corners = np.concatenate([self.grown[:, [i, j]] for i in (0, 2) for j in (1, 3)])
        corners = np.unique(corners.round(9), axis=0)
        corners = corners[self.contains(corners)]
        e = 1e-5  # larger than a touch, smaller than anything built
        quadrants = np.array([(-e, -e), (-e, e), (e, -e), (e, e)])
        around = self.contains((corners[:, None] + quadrants).reshape(-1, 2)).reshape(-1, 4)
        return np.asarray(corners[around.sum(1) == 3])

    @cached_property
    def _graph(self) -> tuple[Float64Array, npt.NDArray[np.int32]]:
        """Distances ``[V, V]`` between nodes and the predecessor of each on the shortest way."""
        v = self.nodes
        i, j = np.triu_indices(len(v), 1)
        seen = self.visible(v[i], v[j])
        i, j = i[seen], j[seen]
        # An edge of length 0 would be no edge; nodes are distinct, so there is none.
        weights = np.linalg.norm(v[i] - v[j], axis=1)
        matrix = csr_matrix((weights, (i, j)), (len(v), len(v)))
        distances, predecessors = dijkstra(matrix, directed=False, return_predecessors=True)
        return distances, predecessors

    def _reach(self, point: Float64Array) -> Float64Array:
        """``[V]`` straight distance from a ``[2]`` point to every node, inf where it is hidden."""
        lengths = np.linalg.norm(self.nodes - point, axis=1)
        return np.where(self.visible(np.broadcast_to(point, self.nodes.shape), self.nodes), lengths, np.inf)

    def distance(self, start: Float64Array, goal: Float64Array) -> float:
        """Length of the shortest way; inf if there is none or a place is not free.

        Points may have more than two coordinates: the rest is ignored.
        """
        return float(GoalField(self, goal).distances(np.asarray(start, np.float64)[None, :2])[0])

    def path(self, start: Float64Array, goal: Float64Array) -> Float64Array:
        """Corners ``[N, 2]`` of the shortest way, start and goal included.

        Raises:
            ValueError: there is no way.
        """
        return GoalField(self, goal).path(start)


class GoalField:
    """Distances to one goal ``[2]`` (further coordinates are ignored) from anywhere."""

    def __init__(self, walkable: Walkable, goal: Float64Array) -> None:
        self.walkable = walkable
        self.goal = np.asarray(goal, np.float64)[:2]
        self._free = bool(walkable.contains(self.goal[None])[0])
        self._from_node = np.full(len(walkable.nodes), np.inf)
        self._last = np.zeros(len(walkable.nodes), np.intp)
        if self._free and len(walkable.nodes):
            through = walkable._graph[0] + walkable._reach(self.goal)[None]
            self._last = through.argmin(1)
            self._from_node = through.min(1)

    def distances(self, points: Float64Array) -> Float64Array:
        """``[N]`` shortest lengths from ``[N, 2]`` points, metres; inf where there is no way."""
        return self._search(np.asarray(points, np.float64))[0]

    def _search(self, points: Float64Array) -> tuple[Float64Array, npt.NDArray[np.intp]]:
        """Length and the first node of the way from each point; node -1 for the straight way."""
        best = np.full(len(points), np.inf)
        node = np.full(len(points), -1, np.intp)
        if not self._free:
            return best, node
        # Straight to the goal counts as one more node, with nothing left to go behind it.
        via = np.concatenate([self.goal[None], self.walkable.nodes])
        cost = np.linalg.norm(points[:, None] - via, axis=2) + np.concatenate([[0.0], self._from_node])
        order = cost.argsort(1, kind="stable")
        # In the order of cost, the first that is seen is the best: few need to be looked at.
        open_ = np.flatnonzero(self.walkable.contains(points))
        for first in range(0, len(via), _BATCH):
            tried = order[open_, first : first + _BATCH]
            ends = via[tried].reshape(-1, 2)
            starts = np.repeat(points[open_], tried.shape[1], axis=0)
            seen = self.walkable.visible(starts, ends).reshape(tried.shape)
            seen &= np.isfinite(np.take_along_axis(cost[open_], tried, 1))
            done = seen.any(1)
            chosen = tried[done, seen[done].argmax(1)]
            best[open_[done]] = cost[open_[done], chosen]
            node[open_[done]] = chosen - 1
            open_ = open_[~done]
            if not len(open_):
                break
        return best, node

    def path(self, start: Float64Array) -> Float64Array:
        """As :meth:`Walkable.path`, to this goal."""
        return self.route(start)[1]

    def route(self, start: Float64Array) -> tuple[float, Float64Array]:
        """Length of the shortest way, metres, and its corners, as :meth:`path` has them.

        Raises:
            ValueError: there is no way.
        """
        s = np.asarray(start, np.float64)[:2]
        length, first = self._search(s[None])
        if not np.isfinite(length[0]):
            raise ValueError(f"there is no way from {s.tolist()} to {self.goal.tolist()}")
        if first[0] < 0:
            return float(length[0]), np.stack([s, self.goal])
        chain = [int(self._last[first[0]])]
        while chain[-1] != first[0]:
            chain.append(int(self.walkable._graph[1][first[0], chain[-1]]))
        return float(length[0]), np.concatenate([s[None], self.walkable.nodes[chain[::-1]], self.goal[None]])
