"""Computes the field's measures (success, SPL, nDTW ...) of an episode and of many.

Definitions are those of VLN-CE (Krantz et al. 2020) and, for nDTW and SDTW, Ilharco et al. 2019.

What is not a number, in one place:

* A distance to the goal that is NaN or infinite means *the goal cannot be reached from there*. It is kept
  as infinity. Such an episode counts as a failure in the rates; its navigation error is not averaged but
  counted (``Summary.unreachable``), because any finite number put in its place would flatter or punish.
* SPL of a failure is 0. SPL of a success whose start had no way to the goal is NaN: there is no shortest
  path to compare with. It is left out of the mean; ``Estimate.count`` says how many values the mean has.
* nDTW and SDTW are NaN where the episode has no step-level ground truth, left out in the same way, and
  counted (``Summary.no_ground_truth``). The sparse reference path is another thing: the expert itself has
  7 % against it.
* A position that is not finite is not a policy question but an error: ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.intervals import Estimate, mean, share_of


@dataclass(frozen=True, kw_only=True)
class EpisodeMetrics:
    """The measures of one episode; lengths in metres, ratios in ``[0, 1]``.

    Attributes:
        success: STOP was called, and the geodesic distance to the goal was then strictly below the radius.
        spl: success weighted by ``d0 / max(d0, path length)``; ``d0`` is the geodesic distance at the start.
        oracle_success: the distance was below the radius at any step; None where nobody looked.
        navigation_error_m: geodesic distance to the goal at the end; inf where there is no way; NaN where
            others do not say.
        path_length_m: sum of the Euclidean steps.
        ndtw: ``exp(-DTW / (|reference| * radius))``; NaN without a reference path.
        sdtw: ``ndtw`` of a success, 0 of a failure; NaN without a reference path.
        collisions: steps that touched something.
        steps: actions executed, STOP included. Both are whole numbers, or NaN where others do not say.
    """

    success: bool
    spl: float
    oracle_success: bool | None
    navigation_error_m: float
    path_length_m: float
    ndtw: float
    sdtw: float
    collisions: float
    steps: float


def path_length_m(positions: Float64Array) -> float:
    """Sum of the Euclidean distances between successive ``[n, 2 or 3]`` positions, metres."""
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def spaced(positions: Float64Array, spacing_m: float) -> Float64Array:
    """Points ``[n, d]`` along a way ``[m, d]``, ``spacing_m`` of it apart, its first and last included.

    Warping adds up over the points of a path: one that is noted ten times a second costs several times as
    much as the same way in steps of 0.25 m, as the ground truth and every discrete run have it.
    """
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=1))])
    if lengths[-1] == 0.0:
        return positions[:1]
    wanted = np.append(np.arange(0.0, lengths[-1], spacing_m), lengths[-1])
    return np.stack([np.interp(wanted, lengths, column) for column in positions.T], axis=1)


def dtw(path: Float64Array, reference: Float64Array) -> float:
    """Exact dynamic time warping cost of two point sequences ``[n, d]`` and ``[m, d]``, in their unit.

    Costs are Euclidean. A row of the table is ``D[j] = min over k <= j of (best[k] + c[k] + ... + c[j])``
    with ``best`` taken from the row before; with ``C`` the running sum of ``c`` that is ``C`` plus a
    running minimum, so that no Python loop runs over ``m``.
    """
    previous = np.full(len(reference), np.inf)
    entry = 0.0  # the way into the table's corner; later rows can only come from the row before
    for point in path:
        sums = np.cumsum(np.linalg.norm(reference - point, axis=1))
        best = np.minimum(previous, np.concatenate([[entry], previous[:-1]]))
        previous = sums + np.minimum.accumulate(best - np.concatenate([[0.0], sums[:-1]]))
        entry = math.inf
    return float(previous[-1])


def _positions(name: str, points: Float64Array) -> Float64Array:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or len(points) == 0 or points.shape[1] not in (2, 3):
        raise ValueError(f"{name} must be [n, 2] or [n, 3] with n >= 1, got shape {points.shape}")
    if not np.isfinite(points).all():
        row = int(np.argwhere(~np.isfinite(points))[0, 0])
        raise ValueError(f"{name}[{row}] = {points[row]} is not finite")
    return points


def measure_episode(
    positions: Float64Array,
    goal_distances_m: Float64Array | Sequence[float],
    *,
    stop_called: bool,
    goal_radius_m: float,
    reference_path: Float64Array | None,
    collisions: int,
    steps: int,
    oracle: bool = True,
    spacing_m: float | None = None,
) -> EpisodeMetrics:
    """Every measure of one finished episode.

    Args:
        positions: ``[n, 2 or 3]``, metres: at the start and after every step.
        goal_distances_m: ``[n]`` geodesic distance to the goal at each of them; inf or NaN: no way there.
            Without ``oracle`` only the first and the last one are looked at.
        stop_called: the robot itself ended the episode, rather than a limit or a failure.
        goal_radius_m: success radius, metres (R2R-CE: 3.0); also the threshold of nDTW.
        reference_path: ``[m, 2 or 3]`` ground-truth locations, metres, or None. As in VLN-CE each location
            counts once: positions that repeat exactly (turns in place) do not enter the warping.
        collisions: steps that touched something.
        steps: actions executed, STOP included.
        oracle: measure oracle success, which needs the distance at every step.
        spacing_m: warp points of the way that are so far apart, see :func:`spaced`, where positions were
            noted by time; None: the positions themselves.

    Raises:
        ValueError: wrong shape, a position that is not finite, a negative distance, a radius not above 0.
    """
    positions = _positions("positions", positions)
    distances = np.asarray(goal_distances_m, np.float64)
    if distances.shape != (len(positions),):
        raise ValueError(f"goal_distances_m must be [{len(positions)}] as positions, got {distances.shape}")
    distances = np.where(np.isnan(distances), np.inf, distances)
    if (distances < 0.0).any():
        raise ValueError(f"goal_distances_m has a negative value: {distances.min()}")
    if not (math.isfinite(goal_radius_m) and goal_radius_m > 0.0):
        raise ValueError(f"goal_radius_m = {goal_radius_m}: must be above 0")

    length = path_length_m(positions)
    error, shortest = float(distances[-1]), float(distances[0])
    success = bool(stop_called and error < goal_radius_m)
    if not success:
        spl = 0.0
    elif not math.isfinite(shortest):
        spl = math.nan
    else:
        longest = max(shortest, length)
        spl = shortest / longest if longest > 0.0 else 1.0  # started on the goal and stayed

    ndtw = math.nan
    if reference_path is not None:
        reference = _positions("reference_path", reference_path)
        if reference.shape[1] != positions.shape[1]:
            raise ValueError(
                f"positions have {positions.shape[1]} coordinates, reference_path has {reference.shape[1]}"
            )
        moved = np.concatenate([[True], (np.diff(positions, axis=0) != 0.0).any(axis=1)])
        path = positions[moved] if spacing_m is None else spaced(positions, spacing_m)
        ndtw = math.exp(-dtw(path, reference) / (len(reference) * goal_radius_m))
    return EpisodeMetrics(
        success=success,
        spl=spl,
        oracle_success=bool((distances < goal_radius_m).any()) if oracle else None,
        navigation_error_m=error,
        path_length_m=length,
        ndtw=ndtw,
        sdtw=math.nan if reference_path is None else ndtw if success else 0.0,
        collisions=collisions,
        steps=steps,
    )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The measures over all episodes. Rates in ``[0, 1]``, lengths in metres."""

    episodes: int
    unreachable: int
    """Episodes that ended where no way leads to the goal: in the rates, not in ``navigation_error_m``."""
    success: Estimate
    spl: Estimate
    oracle_success: Estimate
    navigation_error_m: Estimate
    path_length_m: Estimate
    ndtw: Estimate
    sdtw: Estimate
    collisions: Estimate
    steps: Estimate
    no_ground_truth: int = 0
    """Episodes without step-level ground truth, and so without nDTW and SDTW, in a run that measures them."""


MEASURES = (
    "success", "spl", "oracle_success", "navigation_error_m", "path_length_m", "ndtw", "sdtw", "collisions",
    "steps",
)  # fmt: skip
"""The fields of :class:`EpisodeMetrics`."""
SHARES = frozenset({"success", "oracle_success"})
"""Those that are yes or no."""


def metric_columns(episodes: Sequence[EpisodeMetrics]) -> Float64Array:
    """``[n, 9]``, in the order of :data:`MEASURES`; NaN where something was not measured."""
    rows = [[getattr(e, name) for name in MEASURES] for e in episodes]
    return np.array(rows, np.float64).reshape(-1, len(MEASURES))  # None becomes NaN


def summarise(episodes: Sequence[EpisodeMetrics], seed: int = 0) -> Summary:
    """Means with 95 % intervals; the same episodes and seed give the same intervals. May be empty."""
    columns = dict(zip(MEASURES, metric_columns(episodes).T, strict=True))
    estimates = {n: share_of(v) if n in SHARES else mean(v, seed) for n, v in columns.items()}
    return Summary(
        episodes=len(episodes),
        unreachable=sum(math.isinf(e.navigation_error_m) for e in episodes),
        **estimates,
        # Where nobody looked for oracle success, nobody asked for nDTW either (basic measures).
        no_ground_truth=sum(math.isnan(e.ndtw) and e.oracle_success is not None for e in episodes),
    )


@dataclass(frozen=True)
class SummaryRow:
    """One line of the headline table, ready to be shown."""

    name: str
    value: str
    interval: str
    count: int


_ROWS = (  # label, field, scale, format
    ("Success rate [%]", "success", 100.0, ".1f"),
    ("SPL [%]", "spl", 100.0, ".1f"),
    ("Oracle success [%]", "oracle_success", 100.0, ".1f"),
    ("Navigation error [m]", "navigation_error_m", 1.0, ".2f"),
    ("Path length [m]", "path_length_m", 1.0, ".2f"),
    ("nDTW [%]", "ndtw", 100.0, ".1f"),
    ("SDTW [%]", "sdtw", 100.0, ".1f"),
    ("Collisions", "collisions", 1.0, ".2f"),
    ("Steps", "steps", 1.0, ".1f"),
)


def summary_rows(summary: Summary) -> list[SummaryRow]:
    """The headline table of the terminal and of the report."""
    rows = []
    for label, name, scale, spec in _ROWS:
        estimate: Estimate = getattr(summary, name)
        if estimate.count == 0:
            rows.append(SummaryRow(label, "–", "", 0))
            continue
        value = format(scale * estimate.mean, spec)
        rows.append(SummaryRow(label, value, estimate.interval(spec, scale), estimate.count))
    return rows


def summary_table(summary: Summary) -> str:
    """The summary as text for the terminal."""
    lines = [f"{'':<22}{'mean':>8}   {'95 % interval':<18}{'n':>6}"]
    lines += [f"{r.name:<22}{r.value:>8}   {r.interval:<18}{r.count:>6}" for r in summary_rows(summary)]
    return "\n".join([*lines, *summary_remarks(summary)])


def summary_remarks(summary: Summary) -> list[str]:
    """What a reader of the table must know besides, a sentence each."""
    remarks = []
    if summary.unreachable:
        remarks.append(
            f"{summary.unreachable} of {summary.episodes} ended where no way leads to the goal: "
            "failures, and not in the mean error"
        )
    if summary.no_ground_truth:
        remarks.append(
            f"{summary.no_ground_truth} of {summary.episodes} have no step-level ground truth "
            "(..._gt.json.gz): no nDTW and no SDTW of them"
        )
    return remarks
