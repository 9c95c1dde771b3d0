"""What of a frame is computed: never less than must be, in few sizes, the most urgent first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.engine.stream.partial_tower import window_of_token
from vln_ros.reuse.budget import BUCKETS, buckets, choose

GRIDS = [(17, 23), (8, 8), (12, 9), (16, 16), (4, 4), (1, 1), (3, 5)]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(GRIDS), st.sampled_from([1, 4]), st.floats(0.01, 1.0))
def test_whole_windows_that_hold_all_that_must_be_and_fit(
    data: Any, grid: tuple[int, int], side: int, budget: float
) -> None:
    tokens = grid[0] * grid[1]
    window = window_of_token(grid, side)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    must = rng.random(tokens) < data.draw(st.sampled_from([0.0, 0.02, 0.2, 1.0]))
    urgency = rng.random(tokens)
    choice = choose(must, urgency, window, budget)
    assert choice.computed[must].all() and choice.computed.any()
    assert choice.bucket in buckets(tokens)
    assert choice.computed.sum() <= choice.bucket
    for number in range(window.max() + 1):
        assert len(set(choice.computed[window == number].tolist())) == 1
    # No larger bucket than the budget asks for, unless what must be computed, or a single window, needs it.
    least = min(b for b in buckets(tokens) if b >= budget * tokens)
    forced = int(np.isin(window, window[must]).sum())
    smallest = int(np.bincount(window).min())
    assert choice.bucket == min(b for b in buckets(tokens) if b >= max(least, forced or smallest))
    # Nothing that would still fit is left out.
    left = choice.bucket - int(choice.computed.sum())
    out = window[~choice.computed]
    assert not len(out) or np.bincount(out)[np.unique(out)].min() > left


def test_the_most_urgent_windows_come_first() -> None:
    window = window_of_token((8, 8), 4)
    urgency = np.choose(window, [0.1, 0.9, 0.5, 0.2])
    half = choose(np.zeros(64, bool), urgency, window, 0.5)
    assert set(window[half.computed]) == {1, 2}
    must = np.zeros(64, bool)
    must[0] = True  # in window 0
    assert set(window[choose(must, urgency, window, 0.5).computed]) == {0, 1}
    assert set(window[choose(must, urgency, window, 0.25).computed]) == {0}
    must[[0, 7, 32]] = True
    three = choose(must, urgency, window, 0.25)
    assert (set(window[three.computed]), three.bucket) == ({0, 1, 2}, 48)


def test_one_odd_value_does_not_decide_for_a_window() -> None:
    window = window_of_token((4, 8), 4)
    urgency = np.where(window == 0, 0.5, 0.0)
    urgency[7] = 1.0  # one token of window 1
    assert set(window[choose(np.zeros(32, bool), urgency, window, 0.5).computed]) == {0}


@pytest.mark.parametrize("tokens", [1, 2, 16, 391])
def test_there_are_four_sizes(tokens: int) -> None:
    assert buckets(tokens) == [math.ceil(b * tokens) for b in BUCKETS]
    assert buckets(tokens)[-1] == tokens
