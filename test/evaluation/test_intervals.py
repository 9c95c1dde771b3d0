"""Intervals against values from tables, a textbook BCa, and what they promise: to cover the truth."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.intervals import (
    LEAST_VALUES,
    MOST_RESAMPLED,
    Estimate,
    mean,
    paired_p_value,
    ratio_of_sums,
    share,
    share_of,
)

NAN, INF = math.nan, math.inf
NORMAL = NormalDist()


def slow_wilson(count: int, of: int) -> tuple[float, float]:
    """The two shares whose score test is just passed, by bisection: no formula solved."""
    z, p = NORMAL.inv_cdf(0.975), count / of

    def edge(inside: float, outside: float) -> float:
        for _ in range(200):
            middle = (inside + outside) / 2
            if abs(p - middle) <= z * math.sqrt(middle * (1 - middle) / of):
                inside = middle
            else:
                outside = middle
        return inside

    return edge(p, 0.0), edge(p, 1.0)


@pytest.mark.parametrize("of", [5, 6, 10, 50, 200, 1000])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_shares_have_wilsons_interval(of: int, part: float) -> None:
    count = round(part * of)
    e = share(count, of)
    assert (e.mean, e.count) == (count / of, of)
    assert (e.low, e.high) == pytest.approx(slow_wilson(count, of), abs=1e-9)
    assert e.high - e.low > 0.0


def test_five_of_five_and_none_of_five() -> None:
    assert share(5, 5).interval(".1f", 100.0) == "56.6 – 100.0"
    assert share(0, 5).interval(".1f", 100.0) == "0.0 – 43.4"
    assert share_of(np.array([1.0, 1, 1, 1, 1, NAN])) == share(5, 5)


@pytest.mark.parametrize("n", range(LEAST_VALUES))
def test_fewer_than_five_have_a_dash(n: int) -> None:
    values = np.arange(float(n))
    for e in (mean(values, 0), share(n, n), mean(np.r_[values, NAN, INF], 0)):
        assert e.count == n and e.interval(".2f") == "–" and not e.excludes_zero
        assert math.isnan(e.mean) == (n == 0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.7, 1e-12, 1e12])
@pytest.mark.parametrize("n", [5, 200, MOST_RESAMPLED + 1])
def test_equal_values_have_a_dash(value: float, n: int) -> None:
    for values in (np.full(n, value), np.full(n, value) * (1.0 + 1e-13 * np.arange(n) / n)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            e = mean(values, 0)
        assert e.mean == pytest.approx(value) and e.interval(".2f") == "–" and not e.excludes_zero


def test_records_of_before_have_no_interval_without_width() -> None:
    assert Estimate(1.0, 1.0, 1.0, 200).interval(".0%") == "–"


def slow_bca(values: Float64Array, seed: int) -> tuple[float, float]:
    """Efron and Tibshirani (1993), chapter 14, one sample after the other."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.array([values[rng.integers(n, size=n)].mean() for _ in range(4000)])
    z0 = NORMAL.inv_cdf(float(np.mean(means < values.mean())))
    left_out = np.array([np.delete(values, i).mean() for i in range(n)])
    d = left_out.mean() - left_out
    a = (d**3).sum() / (6.0 * (d**2).sum() ** 1.5)
    ends = []
    for q in (0.025, 0.975):
        z = z0 + NORMAL.inv_cdf(q)
        ends.append(float(np.quantile(means, NORMAL.cdf(z0 + z / (1 - a * z)))))
    return ends[0], ends[1]


@pytest.mark.parametrize("n", [12, 60, 200])
@pytest.mark.parametrize("skewed", [False, True])
def test_means_have_the_textbooks_bca(n: int, skewed: bool) -> None:
    rng = np.random.default_rng(n)
    values = rng.exponential(2.0, n) if skewed else rng.normal(2.0, 1.0, n)
    e, (low, high) = mean(values, 3), slow_bca(values, 4)
    tolerance = 0.08 * (high - low)
    assert e.mean == pytest.approx(values.mean())
    assert (e.low, e.high) == pytest.approx((low, high), abs=tolerance)


def test_skew_is_seen() -> None:
    values = np.random.default_rng(0).exponential(1.0, 30)
    e = mean(values, 0)
    assert e.high - e.mean > 1.2 * (e.mean - e.low)


def test_many_values_have_the_interval_of_few_narrowed() -> None:
    values = np.random.default_rng(0).exponential(1.0, MOST_RESAMPLED)
    few, many = mean(values, 0), mean(np.concatenate([values, values[:1]]), 0)
    width = few.high - few.low
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=0.1 * width)


def test_means_are_seeded_and_cover_about_95_percent() -> None:
    values = np.arange(30.0)
    assert mean(values, 3) == mean(values, 3)
    assert mean(values, 3) != mean(values, 4)
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        e = mean(rng.normal(5.0, 2.0, 60), seed)
        covered += e.low <= 5.0 <= e.high
    assert 180 <= covered <= 199


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(NAN) | st.just(INF), max_size=40))
def test_no_values_break_a_mean(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = mean(np.array(values, float), 0)
    assert e.count == sum(math.isfinite(v) for v in values)
    assert math.isnan(e.low) == math.isnan(e.high)
    if not math.isnan(e.low):
        finite = [v for v in values if math.isfinite(v)]
        assert min(finite) <= e.low <= e.high <= max(finite)
    assert "nan" not in e.interval(".1f")


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    # By hand: twice the tail of the fair coin, at most 1.
    [(0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (7, 1, 2 * 9 / 256), (3, 2, 1.0)],
)
def test_mcnemars_exact_test(wins: int, losses: int, p_value: float) -> None:
    assert paired_p_value(wins, losses) == pytest.approx(p_value)


def test_a_ratio_is_paired() -> None:
    rng = np.random.default_rng(0)
    size = rng.uniform(1.0, 100.0, 40)  # episodes differ far more than the two ways do
    e = ratio_of_sums(size * rng.uniform(1.18, 1.22, 40), size, 0)
    assert e.mean == pytest.approx(1.2, abs=0.01) and 1.18 < e.low < e.mean < e.high < 1.22
    for above in (size, 3.0 * size):
        assert ratio_of_sums(above, size, 0).interval(".2f") == "–"
    assert ratio_of_sums(size[:4], size[:4][::-1], 0).interval(".2f") == "–"


def test_more_than_all_is_no_share() -> None:
    with pytest.raises(ValueError, match="6 of 5"):
        share(6, 5)


def test_the_navigator_loads_no_statistics() -> None:
    code = """
import sys
import vln_ros.engines, vln_ros.evaluation.episode.metrics, vln_ros.reuse.accounting
found = {"scipy", "jinja2"} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
