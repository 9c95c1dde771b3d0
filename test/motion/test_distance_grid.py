"""Distances on a grid, against slow and obvious ways to find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from vln_ros.datatypes import Float64Array
from vln_ros.motion.distance_grid import FloorGrid, lengths, reachable


def dijkstra_lengths(weights: Float64Array, start: tuple[int, int]) -> Float64Array:
    """Edge by edge into a graph, and scipy's Dijkstra."""
    shape = weights.shape
    rows, columns, costs = [], [], []
    for x, y in np.ndindex(shape):
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
            u, v = x + dx, y + dy
            if 0 <= u < shape[0] and 0 <= v < shape[1] and np.isfinite(weights[x, y] + weights[u, v]):
                rows.append(x * shape[1] + y)
                columns.append(u * shape[1] + v)
                costs.append(np.hypot(dx, dy) * (weights[x, y] + weights[u, v]) / 2.0)
    graph = csr_matrix((costs, (rows, columns)), (weights.size, weights.size))
    return np.asarray(dijkstra(graph, directed=False, indices=start[0] * shape[1] + start[1])).reshape(shape)


sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))


@settings(deadline=None, max_examples=80)
@given(sizes, st.floats(0.0, 0.9), st.integers(0, 1000))
def test_lengths_equal_dijkstra(size: tuple[int, int], blocked: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = 1.0 + 3.0 * rng.random(size)
    weights[rng.random(size) < blocked] = np.inf
    start = int(rng.integers(size[0])), int(rng.integers(size[1]))
    weights[start] = 1.0
    np.testing.assert_allclose(lengths(weights, start), dijkstra_lengths(weights, start), rtol=1e-12)


@settings(deadline=None, max_examples=80)
@given(sizes, st.floats(0.0, 0.9), st.integers(0, 1000))
def test_what_is_reachable_is_the_part_that_the_start_is_in(
    size: tuple[int, int], blocked: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    free = rng.random(size) >= blocked
    start = int(rng.integers(size[0])), int(rng.integers(size[1]))
    free[start] = True
    parts, _ = label(free, np.ones((3, 3)))
    assert (reachable(free, start) == (parts == parts[start])).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.floats(0.05, 0.8), st.integers(0, 1000))
def test_clearances_are_those_of_the_nearest_occupied_cell(count: int, bound_m: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    obstacles = rng.uniform(-1.5, 1.5, (count, 2))  # some outside the grid, and beyond what reaches into it
    places = rng.uniform(-0.5, 0.5, (2, 2))
    grid = FloorGrid.around(places, obstacles, cell_m=0.05, margin_m=0.3, bound_m=bound_m)
    occupied = (np.floor((obstacles - grid.corner) / 0.05) + 0.5) * 0.05 + grid.corner
    exact = np.linalg.norm(grid.middles()[:, :, None] - occupied, axis=-1).min(-1, initial=np.inf)
    reach_m = np.ceil(bound_m / 0.05) * 0.05
    known = exact <= reach_m + 1e-9
    np.testing.assert_allclose(grid.clearance_m[known], exact[known], atol=1e-9)
    assert np.isinf(grid.clearance_m[~known]).all()


def test_a_grid_holds_its_places_and_the_margin_around_them() -> None:
    places = np.array([[0.0, 0.0], [2.0, -1.0]])
    grid = FloorGrid.around(places, np.zeros((0, 2)), cell_m=0.05, margin_m=1.0, bound_m=0.5)
    middles = grid.middles()
    assert (middles.reshape(-1, 2).min(0) <= [-0.97, -1.97]).all()
    assert (middles.reshape(-1, 2).max(0) >= [2.97, 0.97]).all()
    for place, cell in zip(places, grid.cells(places), strict=True):
        assert np.abs(middles[tuple(cell)] - place).max() == pytest.approx(0.0, abs=0.0251)
    assert (grid.cells(np.array([[99.0, -99.0]])) == [[grid.shape[0] - 1, 0]]).all(), (
        "the nearest on the edge"
    )


def test_what_stands_between_hides() -> None:
    y = np.linspace(-0.5, 0.5, 11)
    grid = FloorGrid.around(
        np.array([[0.0, 0.0], [2.0, 0.0]]),
        np.stack([np.ones(11), y], 1),
        cell_m=0.05,
        margin_m=1.0,
        bound_m=0.5,
    )
    ends = np.array([[0.8, 0.0], [1.5, 0.0], [1.4, 1.2], [2.0, 0.1], [0.0, 0.0], [1.0, -0.8]])
    assert grid.in_view(np.zeros(2), ends, 0.075).tolist() == [True, False, True, False, True, True]
    assert grid.in_view(np.array([1.0, 0.03]), ends[:1], 0.075).tolist() == [True], "right beside it"
