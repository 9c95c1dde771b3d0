"""The measures against values derived by hand, a slow DTW, and the stated policy for what is no number."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.episode.metrics import (
    EpisodeMetrics,
    dtw,
    measure_episode,
    path_length_m,
    spaced,
    summarise,
    summary_rows,
    summary_table,
)

NAN, INF = math.nan, math.inf


def slow_dtw(path: Float64Array, reference: Float64Array) -> float:
    """The recurrence as the textbook has it."""
    n, m = len(path), len(reference)
    table = [[INF] * (m + 1) for _ in range(n + 1)]
    table[0][0] = 0.0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            cost = math.dist(path[i - 1], reference[j - 1])
            table[i][j] = cost + min(table[i - 1][j], table[i][j - 1], table[i - 1][j - 1])
    return table[n][m]


def slow_measure(
    positions: Float64Array,
    distances: list[float],
    stop: bool,
    radius: float,
    reference: Float64Array | None,
    steps: int,
) -> EpisodeMetrics:
    """The definitions again, one sentence at a time and without numpy's help."""
    error = INF if math.isnan(distances[-1]) else distances[-1]
    success = stop and error < radius
    length = 0.0
    for a, b in itertools.pairwise(positions):
        length += math.dist(a, b)
    start = distances[0]
    if not success:
        spl = 0.0
    elif math.isnan(start) or math.isinf(start):
        spl = NAN
    elif start == 0.0 and length == 0.0:
        spl = 1.0
    else:
        spl = start / max(start, length)
    ndtw = NAN
    if reference is not None:
        visited = [positions[0]]
        for p in positions[1:]:
            if tuple(p) != tuple(visited[-1]):
                visited.append(p)
        ndtw = math.exp(-slow_dtw(np.array(visited), reference) / (len(reference) * radius))
    return EpisodeMetrics(
        success=success,
        spl=spl,
        oracle_success=any(d < radius for d in distances),
        navigation_error_m=error,
        path_length_m=length,
        ndtw=ndtw,
        sdtw=NAN if reference is None else (ndtw if success else 0.0),
        collisions=0,
        steps=steps,
    )


def measure(
    positions: list[tuple[float, ...]],
    distances: list[float],
    stop: bool = True,
    reference: list[tuple[float, ...]] | None = None,
    radius: float = 3.0,
) -> EpisodeMetrics:
    return measure_episode(
        np.array(positions, float),
        distances,
        stop_called=stop,
        goal_radius_m=radius,
        reference_path=None if reference is None else np.array(reference, float),
        collisions=2,
        steps=len(positions),
    )


# positions, distances, stop, reference -> success, SPL, oracle, error, length, nDTW, SDTW; by hand.
L_SHAPE = [(0.0, 0.0), (4.0, 0.0), (4.0, 3.0)]
E = math.exp
BY_HAND = {
    "straight to the goal": (
        [(0, 0), (10, 0)],
        [10, 0],
        True,
        [(0, 0), (10, 0)],
        (True, 1, True, 0, 10, 1, 1),
    ),
    "detour of 3-4-5": ([(0, 0), (4, 0), (4, 3)], [5, 3, 0], True, None, (True, 5 / 7, True, 0, 7, NAN, NAN)),
    "near enough": (
        [(0, 0), (8, 0)],
        [10, 2],
        True,
        [(0, 0), (10, 0)],
        (True, 1, True, 2, 8, E(-2 / 6), E(-2 / 6)),
    ),
    "on the rim is outside": ([(0, 0), (7, 0)], [10, 3.0], True, None, (False, 0, False, 3, 7, NAN, NAN)),
    "just inside": ([(0, 0), (7.001, 0)], [10, 2.999], True, None, (True, 1, True, 2.999, 7.001, NAN, NAN)),
    "there, but no stop": (
        [(0, 0), (10, 0)],
        [10, 0],
        False,
        [(0, 0), (10, 0)],
        (False, 0, True, 0, 10, 1, 0),
    ),
    "passed it by": (
        [(0, 0), (10, 0), (20, 0)],
        [10, 0, 10],
        True,
        [(0, 0), (10, 0)],
        (False, 0, True, 10, 20, E(-10 / 6), 0),
    ),
    "never moved": ([(0, 0)], [10], True, [(0, 0), (10, 0)], (False, 0, False, 10, 0, E(-10 / 6), 0)),
    "turned in place": (
        [(0, 0), (0, 0), (0, 0), (10, 0)],
        [10, 10, 10, 0],
        True,
        [(0, 0), (10, 0)],
        (True, 1, True, 0, 10, 1, 1),
    ),
    "turned in place, off the path": (  # two visited points, 1 m off each: not four
        [(0, 1), (0, 1), (0, 1), (10, 1)],
        [10, 10, 10, 1],
        True,
        [(0, 0), (10, 0)],
        (True, 1, True, 1, 10, E(-2 / 6), E(-2 / 6)),
    ),
    "in 3-D": ([(0, 0, 0), (2, 3, 6)], [7, 0], True, None, (True, 1, True, 0, 7, NAN, NAN)),
    "starts on the goal": ([(0, 0)], [0], True, [(0, 0)], (True, 1, True, 0, 0, 1, 1)),
    "starts on the goal, wanders": (
        [(0, 0), (1, 0), (0, 0)],
        [0, 1, 0],
        True,
        None,
        (True, 0, True, 0, 2, NAN, NAN),
    ),
    "ends unreachable": ([(0, 0), (1, 0)], [2, INF], True, None, (False, 0, True, INF, 1, NAN, NAN)),
    "NaN is unreachable": ([(0, 0), (1, 0)], [5, NAN], True, None, (False, 0, False, INF, 1, NAN, NAN)),
    "no way from the start": ([(0, 0), (1, 0)], [INF, 1], True, None, (True, NAN, True, 1, 1, NAN, NAN)),
    "NaN at the start": ([(0, 0), (1, 0)], [NAN, 1], True, None, (True, NAN, True, 1, 1, NAN, NAN)),
    "nowhere a way": ([(0, 0), (1, 0)], [INF, NAN], True, [(0, 0)], (False, 0, False, INF, 1, E(-1 / 3), 0)),
    "one reference point": (
        [(0, 0), (0, 2)],
        [3.5, 1.5],
        True,
        [(0, 0)],
        (True, 1, True, 1.5, 2, E(-2 / 3), E(-2 / 3)),
    ),
    "every other step off": (  # 0, 1, 0, 1 m beside a line of four: two of four match at 1 m
        [(0, 0), (1, 1), (2, 0), (3, 1)],
        [3, 2.5, 1, 1],
        True,
        [(0, 0), (1, 0), (2, 0), (3, 0)],
        (True, 3 / (3 * 2**0.5), True, 1, 3 * 2**0.5, E(-2 / 12), E(-2 / 12)),
    ),
    "a corner cut": (  # the corner (4, 0) is 3 m from the end and 4 m from the start: 3 is the least
        [(0, 0), (4, 3)],
        [7, 0],
        True,
        [(0, 0), (4, 0), (4, 3)],
        (True, 1, True, 0, 5, E(-3 / 9), E(-3 / 9)),
    ),
    "the way back": (  # reversed line of two: each end 10 m off
        [(10, 0), (0, 0)],
        [10, 10],
        True,
        [(0, 0), (10, 0)],
        (False, 0, False, 10, 10, E(-20 / 6), 0),
    ),
    "there and back, no stop": (
        [(0, 0), (5, 0), (0, 0)],
        [5, 0, 5],
        False,
        None,
        (False, 0, True, 5, 10, NAN, NAN),
    ),
    "twice around": (  # four sides of 2 m, twice
        [(0, 0), (2, 0), (2, 2), (0, 2), (0, 0), (2, 0), (2, 2), (0, 2), (0, 0)],
        [2, 2, 2, 2, 2, 2, 2, 2, 2],
        True,
        None,
        (True, 2 / 16, True, 2, 16, NAN, NAN),
    ),
    "shorter than the shortest way": (  # geodesics go round what a trajectory over a cliff does not
        [(0, 0), (4, 0)],
        [12, 1],
        True,
        None,
        (True, 1, True, 1, 4, NAN, NAN),
    ),
    "oracle by a hair": (
        [(0, 0), (1, 0), (2, 0)],
        [4, 2.9999, 4],
        True,
        None,
        (False, 0, True, 4, 2, NAN, NAN),
    ),
    "no oracle by a hair": (
        [(0, 0), (1, 0), (2, 0)],
        [4, 3.0, 4],
        True,
        None,
        (False, 0, False, 4, 2, NAN, NAN),
    ),
    "oracle at the start only": ([(0, 0), (9, 0)], [2, 9], False, None, (False, 0, True, 9, 9, NAN, NAN)),
    "unreachable in between": (
        [(0, 0), (1, 0), (2, 0)],
        [2, INF, 1],
        True,
        None,
        (True, 1, True, 1, 2, NAN, NAN),
    ),
    "NaN in between": ([(0, 0), (1, 0), (2, 0)], [9, NAN, 8], False, None, (False, 0, False, 8, 2, NAN, NAN)),
    "upstairs": (  # 3 m of stairs, the reference on the lower floor
        [(0, 0, 0), (4, 0, 3)],
        [5, 0],
        True,
        [(0, 0, 0), (4, 0, 0)],
        (True, 1, True, 0, 5, E(-3 / 6), E(-3 / 6)),
    ),
    "many reference points": (  # nine at 0..8 m: 0+1+2+3+4 from (0, 0), 3+2+1+0 from (8, 0)
        [(0, 0), (8, 0)],
        [8, 0],
        True,
        [(float(x), 0.0) for x in range(9)],
        (True, 1, True, 0, 8, E(-16 / 27), E(-16 / 27)),
    ),
    "far from everything": (
        [(0, 0), (0, 0)],
        [100, 100],
        True,
        [(0, 60), (0, 60)],
        (False, 0, False, 100, 0, E(-120 / 6), 0),
    ),
    "longer than it looks": ([(0, 0), (3, 4)], [8, 0], True, None, (True, 1, True, 0, 5, NAN, NAN)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_derived_by_hand(name: str) -> None:
    positions, distances, stop, reference, expected = BY_HAND[name]
    m = measure(positions, distances, stop, reference)  # type: ignore[arg-type]
    got = (m.success, m.spl, m.oracle_success, m.navigation_error_m, m.path_length_m, m.ndtw, m.sdtw)
    assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert (m.collisions, m.steps) == (2, len(positions))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
def test_random_walks_equal_the_slow_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    moves = rng.normal(0.0, 0.4, (n, 2 + seed % 2)) * (rng.random((n, 1)) < 0.6)  # the rest turns in place
    positions = np.cumsum(moves, axis=0)
    goal = rng.normal(0.0, 3.0, positions.shape[1])
    distances = np.linalg.norm(positions - goal, axis=1) * 1.2
    if seed % 5 == 0:
        distances[rng.integers(n, size=max(1, n // 4))] = rng.choice([NAN, INF])
    reference = None if seed % 7 == 0 else np.linspace(positions[0], goal, int(rng.integers(1, 30)))
    stop = seed % 3 != 0
    got = measure_episode(
        positions,
        distances,
        stop_called=stop,
        goal_radius_m=3.0,
        reference_path=reference,
        collisions=0,
        steps=n,
    )
    expected = slow_measure(positions, distances.tolist(), stop, 3.0, reference, n)
    assert dataclasses.astuple(got) == pytest.approx(dataclasses.astuple(expected), nan_ok=True, rel=1e-9)


points = st.lists(st.tuples(*[st.floats(-50, 50, allow_nan=False)] * 2), min_size=1, max_size=20)


@settings(deadline=None, max_examples=100)
@given(points, points)
def test_dtw_equals_the_slow_one(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    path, reference = np.array(a), np.array(b)
    assert dtw(path, reference) == pytest.approx(slow_dtw(path, reference), rel=1e-9, abs=1e-9)
    assert dtw(path, reference) == pytest.approx(dtw(reference, path), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(points, st.booleans(), st.floats(0.1, 10))
def test_measures_stay_in_their_ranges(a: list[tuple[float, float]], stop: bool, radius: float) -> None:
    positions = np.array(a)
    distances = np.linalg.norm(positions, axis=1)
    m = measure(a, distances.tolist(), stop, [(0.0, 0.0)], radius)  # type: ignore[arg-type]
    assert 0.0 <= m.spl <= 1.0 and 0.0 <= m.sdtw <= m.ndtw <= 1.0
    assert m.oracle_success or not m.success
    assert m.path_length_m >= math.dist(a[0], a[-1]) - 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([[0.0, 0.0], [NAN, 0.0]])}, r"positions\[1\].*not finite"),
        ({"positions": np.zeros((0, 2))}, "positions must be"),
        ({"goal_distances_m": [1.0]}, r"goal_distances_m must be \[2\]"),
        ({"goal_distances_m": [1.0, -1.0]}, "negative"),
        ({"goal_radius_m": 0.0}, "goal_radius_m = 0.0"),
        ({"reference_path": np.zeros((2, 3))}, "reference_path has 3"),
        ({"reference_path": np.array([[INF, 0.0]])}, r"reference_path\[0\]"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "positions": np.zeros((2, 2)),
        "goal_distances_m": [1.0, 1.0],
        "stop_called": True,
        "goal_radius_m": 3.0,
        "reference_path": None,
        "collisions": 0,
        "steps": 1,
    }
    with pytest.raises(ValueError, match=message):
        measure_episode(**(arguments | change))  # type: ignore[arg-type]


def test_summary_counts_the_unreachable_and_averages_the_rest() -> None:
    episodes = [
        measure([(0, 0), (10, 0)], [10, 0]),  # success, SPL 1
        measure([(0, 0), (4, 0)], [10, 6]),  # failure, error 6
        measure([(0, 0), (1, 0)], [10, INF]),  # failure, unreachable
        measure([(0, 0), (1, 0)], [INF, 1]),  # success without a shortest path
    ]
    s = summarise(episodes)
    assert (s.episodes, s.unreachable) == (4, 1)
    assert (s.success.mean, s.success.count) == (0.5, 4)
    assert s.navigation_error_m.mean == pytest.approx(7 / 3) and s.navigation_error_m.count == 3
    assert s.spl.mean == pytest.approx(1 / 3) and s.spl.count == 3
    assert s.ndtw.count == 0 and math.isnan(s.ndtw.mean)
    table = summary_table(s)
    assert all(r.interval == "–" for r in summary_rows(s) if r.count)  # of four episodes
    assert "50.0" in table and "1 of 4" in table and "–" in table
    assert "n" in summary_table(summarise([]))


def test_thirty_trajectories_at_least() -> None:
    assert len(BY_HAND) >= 30
    assert sum(any(not math.isfinite(d) for d in row[1]) for row in BY_HAND.values()) >= 6  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", BY_HAND)
def test_the_slow_definitions_agree_with_the_hand(name: str) -> None:
    positions, distances, stop, reference, expected = BY_HAND[name]
    truth = None if reference is None else np.array(reference, float)
    m = slow_measure(np.array(positions, float), list(distances), bool(stop), 3.0, truth, len(positions))  # type: ignore[call-overload, arg-type]
    got = (m.success, m.spl, m.oracle_success, m.navigation_error_m, m.path_length_m, m.ndtw, m.sdtw)
    assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_what_nobody_looked_at_is_nothing() -> None:
    m = measure_episode(
        np.zeros((2, 2)), [9.0, 9.0], stop_called=True, goal_radius_m=3.0, reference_path=None, collisions=0,
        steps=1, oracle=False,
    )  # fmt: skip
    assert m.oracle_success is None
    s = summarise([m, measure([(0, 0)], [0])])
    assert s.oracle_success.count == 1 and s.oracle_success.mean == 1.0


def test_five_of_five_are_not_sure_to_be_all() -> None:
    s = summarise([measure([(0, 0), (10, 0)], [10, 0])] * 5)
    rows = {r.name: r for r in summary_rows(s)}
    assert rows["Success rate [%]"].interval == rows["Oracle success [%]"].interval == "56.6 – 100.0"
    assert rows["SPL [%]"].interval == "–"  # five equal values tell no spread
    table = summary_table(s)
    assert "100.0 – 100.0" not in table and "nan" not in table


def test_path_length() -> None:
    assert path_length_m(np.array(L_SHAPE)) == 7.0
    assert path_length_m(np.zeros((1, 2))) == 0.0


@pytest.mark.parametrize("per_step", [1, 2, 6, 25])
@pytest.mark.parametrize("off_m", [0.0, 0.02, 0.1, 0.2])
def test_how_often_a_way_was_noted_does_not_change_its_ndtw(per_step: int, off_m: float) -> None:
    """Ten notes a second cost six times as much as one per action, where the way is beside the reference."""
    reference = np.stack([0.25 * np.arange(13), np.zeros(13), np.zeros(13)], 1)
    noted = np.stack([np.linspace(0.0, 3.0, 12 * per_step + 1), *np.full((2, 12 * per_step + 1), off_m)], 1)
    standing = np.repeat(noted, 3, axis=0)  # it waits everywhere

    def ndtw(positions: np.ndarray, spacing_m: float | None) -> float:
        return measure_episode(
            positions,
            np.zeros(len(positions)),
            stop_called=True,
            goal_radius_m=1.0,
            reference_path=reference,
            collisions=0,
            steps=1,
            spacing_m=spacing_m,
        ).ndtw

    once = ndtw(noted[::per_step], None)
    assert once == pytest.approx(math.exp(-math.hypot(off_m, off_m)))
    assert ndtw(standing, 0.25) == pytest.approx(once)
    if per_step > 1 and off_m:
        assert ndtw(standing, None) < once


def test_points_of_a_way_are_as_far_apart_as_asked_for() -> None:
    corner = np.array([(0.0, 0.0), (0.6, 0.0), (0.6, 0.5)])
    np.testing.assert_allclose(
        spaced(corner, 0.25), [(0, 0), (0.25, 0), (0.5, 0), (0.6, 0.15), (0.6, 0.4), (0.6, 0.5)]
    )
    np.testing.assert_allclose(spaced(corner[:1], 0.25), corner[:1])
    np.testing.assert_allclose(spaced(corner[[0, 0, 0]], 0.25), corner[:1])
