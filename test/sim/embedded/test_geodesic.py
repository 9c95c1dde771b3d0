"""Shortest ways and sliding against slow, obvious references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from shapely import Polygon
from shapely.geometry import LineString, box
from shapely.ops import unary_union

from vln_ros.datatypes import Float64Array
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, Flat, generate_flat, scene_id
from vln_ros.sim.embedded.geodesic import Walkable

FLATS = [generate_flat(scene_id(s)) for s in (1, 7)]
WALKABLES = [Walkable(f.obstacles, AGENT_RADIUS_M) for f in FLATS]


def free_polygon(flat: Flat) -> Polygon:
    grown = [box(*r).buffer(AGENT_RADIUS_M, join_style="mitre") for r in flat.obstacles]
    return box(0, 0, *flat.size_m).difference(unary_union(grown))


POLYGONS = [free_polygon(f) for f in FLATS]


def free_points(k: int, count: int, seed: int = 0) -> Float64Array:
    p = np.random.default_rng(seed).random((count * 6, 2)) * FLATS[k].size_m
    return p[WALKABLES[k].contains(p)][:count]


@pytest.mark.parametrize("k", [0, 1])
def test_contains_is_the_polygon(k: int) -> None:
    p = np.random.default_rng(3).random((2000, 2)) * (np.array(FLATS[k].size_m) + 2) - 1
    np.testing.assert_array_equal(
        WALKABLES[k].contains(p), shapely.contains_xy(POLYGONS[k], p[:, 0], p[:, 1])
    )


@pytest.mark.parametrize("k", [0, 1])
def test_visible_is_the_segment_in_the_polygon(k: int) -> None:
    a, b = free_points(k, 300), free_points(k, 300, 1)
    room = POLYGONS[k].buffer(1e-6, join_style="mitre")
    expected = [room.covers(LineString([p, q])) for p, q in zip(a, b, strict=True)]
    np.testing.assert_array_equal(WALKABLES[k].visible(a, b), expected)
    assert 20 < sum(expected) < 280


@pytest.mark.parametrize("k", [0, 1])
def test_distance_equals_a_full_visibility_graph_by_shapely(k: int) -> None:
    rings = [POLYGONS[k].exterior, *POLYGONS[k].interiors]
    points = free_points(k, 12)
    v = np.concatenate([points, *[np.array(r.coords)[:-1] for r in rings]])
    i, j = np.triu_indices(len(v), 1)
    room = POLYGONS[k].buffer(1e-6, join_style="mitre")
    shapely.prepare(room)
    seen = shapely.covers(room, shapely.linestrings(np.stack([v[i], v[j]], 1)))
    i, j = i[seen], j[seen]
    graph = coo_matrix((np.linalg.norm(v[i] - v[j], axis=1), (i, j)), (len(v),) * 2)
    expected = dijkstra(graph.tocsr(), directed=False, indices=range(12))[:, :12]
    found = [[WALKABLES[k].distance(a, b) for b in points] for a in points]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_distance_is_within_the_bounds_of_a_fine_grid() -> None:
    k, cell = 0, 0.05
    nx, ny = (int(s / cell) for s in FLATS[k].size_m)
    x, y = np.meshgrid((np.arange(nx) + 0.5) * cell, (np.arange(ny) + 0.5) * cell, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], 1)
    free = WALKABLES[k].contains(points).reshape(nx, ny)
    number = np.arange(nx * ny).reshape(nx, ny)
    edges = []
    for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
        a = number[: nx - dx, max(0, -dy) : ny - max(0, dy)].ravel()
        b = number[dx:, max(0, dy) : ny + min(0, dy)].ravel()
        ok = free.ravel()[a] & free.ravel()[b]
        a, b = a[ok], b[ok]
        ok = WALKABLES[k].visible(points[a], points[b])
        edges.append((a[ok], b[ok], np.full(ok.sum(), cell * math.hypot(dx, dy))))
    a, b, w = (np.concatenate(c) for c in zip(*edges, strict=True))
    goal = number[free][0]
    grid = dijkstra(coo_matrix((w, (a, b)), (nx * ny,) * 2).tocsr(), directed=False, indices=goal)
    for start in np.random.default_rng(0).choice(number[free], 60):
        exact = WALKABLES[k].distance(points[start], points[goal])
        assert exact <= grid[start] + 1e-9
        # An 8-connected way is at most 8.3 % too long, and grid corners cost a cell each.
        assert exact >= grid[start] / 1.0824 - 4 * cell


def test_path_has_the_length_of_the_distance_and_keeps_to_free_space() -> None:
    for k in (0, 1):
        a, b = free_points(k, 40), free_points(k, 40, 5)
        room = POLYGONS[k].buffer(1e-6, join_style="mitre")
        for p, q in zip(a, b, strict=True):
            path, length = WALKABLES[k].path(p, q), WALKABLES[k].distance(p, q)
            np.testing.assert_array_equal(path[[0, -1]], [p, q])
            assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(length, abs=1e-9)
            assert length == pytest.approx(WALKABLES[k].distance(q, p), abs=1e-9)
            assert room.covers(LineString(path))


def test_no_way_into_a_closed_cell_or_a_wall() -> None:
    walls = np.array([(0, 0, 9, 1), (0, 8, 9, 9), (0, 0, 1, 9), (8, 0, 9, 9), (4, 0, 5, 9)], float)
    w = Walkable(walls, 0.2)
    assert w.distance(np.array([2.0, 2.0]), np.array([6.0, 2.0])) == math.inf
    assert w.distance(np.array([2.0, 2.0]), np.array([4.5, 2.0])) == math.inf
    assert w.distance(np.array([4.5, 2.0]), np.array([2.0, 2.0])) == math.inf
    assert w.distance(np.array([2.0, 2.0]), np.array([2.0, 3.0])) == 1.0
    with pytest.raises(ValueError, match="no way"):
        w.path(np.array([2.0, 2.0]), np.array([6.0, 2.0]))


def test_nearest_is_free_and_no_grid_place_is_nearer() -> None:
    p = np.random.default_rng(1).random((60, 2)) * FLATS[0].size_m
    grid = np.random.default_rng(2).random((20000, 2)) * FLATS[0].size_m
    grid = grid[WALKABLES[0].contains(grid)]
    for point in p:
        near = WALKABLES[0].nearest(point)
        assert WALKABLES[0].contains(near[None])[0]
        assert np.linalg.norm(near - point) <= np.linalg.norm(grid - point, axis=1).min() + 1e-12


def test_nearest_where_nothing_is_free_is_the_point_itself() -> None:
    cell = np.array([(0, 0, 9, 1), (0, 2, 9, 3), (0, 0, 1, 3), (8, 0, 9, 3)], float)
    assert Walkable(cell, 0.2).nearest(np.array([0.5, 1.5])).tolist() == [1.2, 1.5]
    assert Walkable(cell, 0.6).nearest(np.array([0.5, 1.5])).tolist() == [0.5, 1.5]


def creep(walkable: Walkable, start: Float64Array, motion: Float64Array, pieces: int = 4000) -> Float64Array:
    """Sliding in tiny steps, one axis at a time: slow and obvious."""
    p = np.array(start)
    for _ in range(pieces):
        for axis in (0, 1):
            q = p.copy()
            q[axis] += motion[axis] / pieces
            if walkable.contains(q[None])[0]:
                p = q
    return p


def test_slide_along_a_wall_and_into_a_corner() -> None:
    walls = np.array([(0, 0, 9, 1), (0, 8, 9, 9), (0, 0, 1, 9), (8, 0, 9, 9)], float)
    w = Walkable(walls, 0.5)
    end, hit, moved = w.slide(np.array([3.0, 2.0]), np.array([2.0, -1.0]))
    np.testing.assert_allclose(end, [5.0, 1.5], atol=1e-9)
    assert hit
    assert moved == pytest.approx(math.hypot(1.0, 0.5) + 1.0)
    end, hit, _ = w.slide(np.array([3.0, 2.0]), np.array([9.0, -9.0]))
    np.testing.assert_allclose(end, [7.5, 1.5], atol=1e-9)
    end, hit, moved = w.slide(np.array([3.0, 1.5]), np.array([0.0, -1.0]))
    assert hit
    assert moved == 0.0
    end, hit, moved = w.slide(np.array([3.0, 1.5]), np.array([1.0, 0.0]))  # along the face is free
    assert not hit
    assert moved == 1.0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 199),
    st.lists(st.tuples(st.floats(-math.pi, math.pi), st.floats(0.0, 3.0)), min_size=1, max_size=12),
)
def test_sliding_never_enters_an_obstacle_and_never_moves_further_than_asked(
    start: int, moves: list[tuple[float, float]]
) -> None:
    w, polygon = WALKABLES[0], POLYGONS[0].buffer(1e-6, join_style="mitre")
    p = free_points(0, 200)[start]
    for angle, length in moves:
        motion = length * np.array([math.cos(angle), math.sin(angle)])
        end, hit, moved = w.slide(p, motion)
        assert w.contains(end[None])[0]
        assert polygon.covers(shapely.Point(end))
        assert np.linalg.norm(end - p) <= moved + 1e-9
        assert moved <= length + 1e-9
        if not hit:
            np.testing.assert_allclose(end, p + motion)
        p = end


def test_slide_agrees_with_creeping_for_a_robot_step() -> None:
    rng = np.random.default_rng(4)
    apart = []
    for p in free_points(0, 40, 9):
        angle = rng.uniform(-math.pi, math.pi)
        motion = 0.25 * np.array([math.cos(angle), math.sin(angle)])
        apart.append(np.linalg.norm(WALKABLES[0].slide(p, motion)[0] - creep(WALKABLES[0], p, motion, 500)))
    # They part only where a face ends under the robot: then creeping resumes its first direction.
    assert np.mean(np.array(apart) < 2e-3) > 0.9


@pytest.mark.parametrize("radius", [-0.1, math.inf, math.nan])
def test_radius_must_make_sense(radius: float) -> None:
    with pytest.raises(ValueError, match="agent radius"):
        Walkable(FLATS[0].obstacles, radius)
