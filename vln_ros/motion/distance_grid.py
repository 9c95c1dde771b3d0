"""Computes distances on a grid of the floor around what is known of obstacles. Pure geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array

BoolArray = npt.NDArray[np.bool_]

_NEIGHBOURS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0))


@dataclass(frozen=True, eq=False, kw_only=True)
class FloorGrid:
    """Square cells over a rectangle of the floor.

    Attributes:
        corner: ``[2]`` metres, the outer corner of cell ``[0, 0]`` with the smallest coordinates.
        cell_m: side of a cell.
        clearance_m: ``[X, Y]`` from the middle of each cell to the middle of the nearest cell that holds an
            obstacle; values above the bound that it was computed for are ``inf``.
    """

    corner: Float64Array
    cell_m: float
    clearance_m: Float64Array

    @staticmethod
    def around(
        places: Float64Array, obstacles: Float64Array, *, cell_m: float, margin_m: float, bound_m: float
    ) -> FloorGrid:
        """A grid that holds ``places`` ``[P, 2]`` and ``margin_m`` around them.

        Args:
            obstacles: ``[N, 2]`` metres; those outside the grid count too, as far as they reach into it.
            bound_m: clearances are computed up to here.
        """  # fmt: skip
        reach = math.ceil(bound_m / cell_m)
        corner = np.floor((places.min(0) - margin_m) / cell_m) * cell_m
        shape = np.ceil((places.max(0) + margin_m - corner) / cell_m).astype(int) + 1
        cells = np.floor((obstacles - corner) / cell_m).astype(int) + reach
        inside = ((cells >= 0) & (cells < shape + 2 * reach)).all(1)
        occupied = np.zeros(shape + 2 * reach, bool)
        occupied[tuple(cells[inside].T)] = True
        return FloorGrid(corner=corner, cell_m=cell_m, clearance_m=_clearance(occupied, reach) * cell_m)

    @property
    def shape(self) -> tuple[int, int]:
        x, y = self.clearance_m.shape
        return x, y

    def cells(self, places: Float64Array) -> npt.NDArray[np.intp]:
        """``[N, 2]`` cells that hold the places, the nearest on the edge for those outside."""
        cells = np.floor((places - self.corner) / self.cell_m).astype(np.intp)
        return np.asarray(cells.clip(0, np.array(self.shape) - 1))

    def middles(self) -> Float64Array:
        """``[X, Y, 2]`` metres."""
        x, y = (np.arange(n) for n in self.shape)
        indices = np.stack(np.meshgrid(x, y, indexing="ij"), -1)
        return np.asarray((indices + 0.5) * self.cell_m + self.corner)

    def in_view(self, start: Float64Array, ends: Float64Array, opaque_m: float) -> BoolArray:
        """``[N]``: whether the straight line from ``start`` ``[2]`` to each of ``ends`` ``[N, 2]`` keeps
        ``opaque_m`` from obstacles, but for its first ``opaque_m``."""
        longest_m = float(np.linalg.norm(ends - start, axis=1).max(initial=0.0))
        fractions = np.linspace(0.0, 1.0, max(2, math.ceil(2.0 * longest_m / self.cell_m)))
        points = start + fractions[:, None, None] * (ends - start)
        cells = self.cells(points.reshape(-1, 2))
        dense = (self.clearance_m[cells[:, 0], cells[:, 1]] < opaque_m).reshape(len(fractions), len(ends))
        dense &= np.linalg.norm(points - start, axis=2) > opaque_m
        return np.asarray(~dense.any(0))


def _clearance(occupied: BoolArray, reach: int) -> Float64Array:
    """Cells to the nearest occupied one, of the cells further than ``reach`` from the edge; exact up to
    ``reach``, ``inf`` above. One axis after the other: the nearest along x, then over the rows."""
    squared = np.where(occupied, 0.0, np.inf)
    for axis in (0, 1):
        best = squared.copy()
        for k in range(1, reach + 1):
            near, far = _shifts(axis, k)
            best[near] = np.minimum(best[near], squared[far] + k * k)
            best[far] = np.minimum(best[far], squared[near] + k * k)
        squared = best
    inner = squared[reach : occupied.shape[0] - reach, reach : occupied.shape[1] - reach]
    return np.where(inner <= reach * reach, np.sqrt(inner), np.inf)


def _shifts(axis: int, k: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Everything but the last ``k`` along an axis, and everything but the first ``k``."""
    whole = slice(None)
    near, far = slice(None, -k), slice(k, None)
    return ((near, whole), (far, whole)) if axis == 0 else ((whole, near), (whole, far))


def reachable(free: BoolArray, start: tuple[int, int]) -> BoolArray:
    """``[X, Y]`` cells that eight-connected steps over free ones lead to; the start is one in any case."""
    seen = np.zeros(free.shape, bool)
    seen[start] = True
    front = seen
    while front.any():
        spread = np.zeros(free.shape, bool)
        for offset in _NEIGHBOURS:
            here, there = _offset_slices(offset)
            spread[there] |= front[here]
        front = spread & free & ~seen
        seen = seen | front
    return seen


def lengths(weights: Float64Array, start: tuple[int, int]) -> Float64Array:
    """``[X, Y]`` cells' lengths of the cheapest eight-connected ways from ``start``; ``inf`` where there is
    none.

    A step costs its length times the mean weight of its two cells. All cells are relaxed at once until
    nothing changes: what Dijkstra's algorithm finds, in array operations.

    Args:
        weights: ``[X, Y]`` at least 1; ``inf`` is not entered.
    """
    found = np.full(weights.shape, np.inf)
    found[start] = 0.0
    steps = []
    for offset in _NEIGHBOURS[: len(_NEIGHBOURS) // 2]:
        here, there = _offset_slices(offset)
        cost = math.hypot(*offset) * (weights[here] + weights[there]) / 2.0
        steps += [(here, there, cost), (there, here, cost)]
    while True:
        before = found.copy()
        for here, there, cost in steps:
            np.minimum(found[there], found[here] + cost, out=found[there])
        if np.array_equal(before, found):
            return found


def _offset_slices(offset: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The cells that have a neighbour at ``offset``, and these neighbours."""

    def pair(d: int) -> tuple[slice, slice]:
        return (
            (slice(None, -d), slice(d, None)) if d > 0 else (slice(-d or None, None), slice(None, d or None))
        )

    (hx, tx), (hy, ty) = pair(offset[0]), pair(offset[1])
    return (hx, hy), (tx, ty)
