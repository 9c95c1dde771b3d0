"""Semantic gate, layer budgets and the account, against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.reuse.accounting import ForwardTimes, ReuseMeter
from vln_ros.reuse.gate import computed_layers, entropy, layer_budgets, must_refresh


def test_relevant_tokens_and_those_whose_relevance_changes_are_refreshed() -> None:
    now = np.array([0.1, 5.0, 1.0, np.nan])
    assert must_refresh(now, None, limit=4.0, change_limit=1.0).tolist() == [False, True, False, False]
    before = np.array([1.5, 5.0, np.nan, 1.0])
    assert must_refresh(now, before, limit=9.0, change_limit=1.0).tolist() == [True, False, False, False]


def test_entropy_is_one_for_a_layer_that_looks_everywhere_and_zero_at_one_token() -> None:
    even, one = np.full(8, 0.125), np.eye(8)[3]
    assert entropy(np.stack([even, one])) == pytest.approx([1.0, 0.0])
    # so the layer that looks everywhere may take over less
    low, high = layer_budgets(entropy(np.stack([even, one])), highest=0.9, slope=0.5, lowest=0.1)
    assert (low, high) == (pytest.approx(0.4), 0.9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 30), st.integers(1, 30))
def test_no_layer_takes_over_more_than_its_budget_and_rows_only_drop(
    entropies: list[float], candidates: int, tokens: int
) -> None:
    candidates = min(candidates, tokens)
    budgets = layer_budgets(entropies, highest=0.9, slope=0.8, lowest=0.1)
    layers = computed_layers(np.arange(candidates), tokens, budgets)
    for index, value in enumerate(entropies):
        taken = int((layers <= index).sum())
        assert taken <= np.clip(0.9 - 0.8 * value, 0.1, 0.9) * tokens + 1e-6
        allowed = min(np.clip(0.9 - 0.8 * v, 0.1, 0.9) for v in entropies[index:]) * tokens
        assert taken == min(candidates, math.floor(allowed + 1e-9))  # and no less than it may
    assert (np.diff(layers) >= 0).all()  # the safest first


def test_it_switches_itself_off_where_it_loses_and_only_there() -> None:
    meter = ReuseMeter(4)
    for _ in range(3):
        meter.whole(100, 90, 0.100, 0.001, tried=False)
    for _ in range(4):
        meter.partial(100, 90, 50.0, 0.060, 0.010)
    assert not meter.off
    stats = meter.stats(2)
    assert stats.saved_ms == pytest.approx(160.0)
    assert stats.overhead_ms == pytest.approx(43.0)
    assert stats.reuse == pytest.approx(200 / 630)
    assert (stats.frames, stats.auto_offs, stats.repeated) == (7, 0, 2)
    for _ in range(4):
        meter.partial(100, 90, 5.0, 0.099, 0.010)
    assert meter.off
    assert meter.stats(0).auto_offs == 1
    meter.begin()
    assert not meter.off
    assert meter.stats(0).frames == 0
    meter.refused(FallbackReason.NO_DEPTH)
    for _ in range(9):
        meter.whole(100, 90, 0.1, 0.0001, tried=False)
    assert not meter.off  # nothing was tried, so nothing was lost
    assert meter.stats(0).refused == {"no depth": 1}
    for _ in range(4):
        meter.whole(100, 90, 0.1, 0.01, tried=True)
    assert meter.off


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-4, 1.0), st.floats(0.0, 1e-3), st.floats(0.0, 1e-6), st.integers(0, 99))
def test_the_cost_of_forwards_that_never_were_is_told_from_those_that_were(
    fixed: float, per_token: float, per_pair: float, seed: int
) -> None:
    def cost(n: int, c: int) -> float:
        return fixed + per_token * n + per_pair * n * (c + n / 2)

    rng, times = np.random.default_rng(seed), ForwardTimes()
    for k in range(30):
        assert (times.saved_s([(10, 100, 50, 0)]) is None) == (k < 8)
        n, c = int(rng.integers(1, 400)), 50 * k
        times.note(n, c, cost(n, c))
    for n, c, more, more_before in ((30, 500, 70, 0), (391, 800, 0, 400), (60, 900, 9, 30)):
        saved = cost(n + more, c + more_before) - cost(n, c)
        one = n, c, more, more_before
        assert times.saved_s([one]) == pytest.approx(saved, rel=1e-3, abs=1e-6)
        assert times.saved_s([one, one]) == pytest.approx(2 * saved, rel=1e-3, abs=2e-6)
    assert times.saved_s([(10, 100, 0, 0)]) == times.saved_s([]) == 0.0
