"""Frames that stay, and are shown, for their landmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import Float64Array
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.base import FrameBank
from vln_ros.engine.stream.segments import Image
from vln_ros.memory.landmarks import (
    LandmarkRule,
    LandmarkScores,
    choose_landmark_evictions,
    choose_shown,
    rank_frames,
    showing,
)


def test_the_best_view_of_each_landmark_comes_first() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.0], [0.95, 0.2], [0.1, 0.6], [0.0, 0.0]])
    assert rank_frames(scores) == (2, 3, 0, 1, 4)
    assert showing(scores, 0.7) == (2, 0, 1)
    assert rank_frames(np.zeros((3, 2)))[0] == 2  # of equals the newer
    assert rank_frames(np.zeros((3, 0))) == (2, 1, 0)
    assert showing(np.zeros((3, 0)), 0.0) == () and rank_frames(np.zeros((0, 2))) == ()


matrices = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=width, max_size=width),
        min_size=1,
        max_size=12,
    ).map(np.array)
)


@settings(max_examples=150, deadline=None)
@given(matrices, st.integers(1, 4), st.integers(1, 4), st.integers(0, 120))
def test_evictions_leave_landmarks_a_window_and_the_budget(
    scores: Float64Array, recent: int, limit: int, budget: int
) -> None:
    n = len(scores)
    tokens = [5 + i for i in range(n)]
    rule = LandmarkRule(0.5, limit)
    gone = choose_landmark_evictions(tokens, scores, recent=recent, rule=rule, budget=budget)
    stay = [i for i in range(n) if i not in gone]
    assert list(gone) == sorted(set(gone)) and stay[-1] == n - 1
    used = sum(tokens[i] for i in stay)
    assert used <= budget or stay == [n - 1]
    older = [i for i in stay if i < n - recent]
    assert len(older) <= limit
    assert all(scores[i].max() >= 0.5 for i in older)
    left = [i for i in range(max(0, n - recent)) if i in gone and scores[i].max() >= 0.5]
    if left and older:  # what went is never better than what stayed
        order = rank_frames(scores[: n - recent])
        assert min(map(order.index, left)) > max(map(order.index, older))
    if budget >= sum(tokens):
        assert len(older) == min(limit, len(older) + len(left))


@settings(max_examples=150, deadline=None)
@given(matrices, st.integers(1, 8))
def test_what_is_shown_is_the_newest_the_landmarks_and_an_even_rest(scores: Float64Array, most: int) -> None:
    n = len(scores)
    shown = choose_shown(scores, most=most, threshold=0.5)
    assert list(shown) == sorted(set(shown)) and shown[-1] == n - 1
    assert len(shown) == min(most, n)
    seen = [i for i in showing(scores, 0.5) if i != n - 1]
    assert set(seen[: most - 1]) <= set(shown)


def test_without_scores_the_choice_is_even_and_holds_the_newest() -> None:
    assert choose_shown(np.zeros((9, 0)), most=3, threshold=0.5) == (0, 7, 8)
    assert choose_shown(np.zeros((0, 0)), most=3, threshold=0.5) == ()


def image(value: int) -> Image:
    return Image(torch.full((1, 1), float(value)), 1, 1, image_id=value)


@pytest.mark.parametrize("limit", [3, 5])
def test_the_bank_evicts_by_score(limit: int) -> None:
    scores = LandmarkScores(LandmarkRule(0.5, 8))
    bank = FrameBank(limit, scores)
    for i in range(12):
        bank.add(image(i))
        if i in (2, 4):
            scores.note(i, (0.9 - 0.1 * i, 0.1 * i))
        elif i % 3:
            scores.note(i, (0.05, 0.01))
    assert len(bank) == limit
    values = [int(i.features) for i in bank.choose(range(limit))]
    assert values[:2] == [2, 4] and values[-1] == 11 and values == sorted(values)
    spec = ContextSpec("history", history_frames=2, history_choice="uniform_round")
    assert [int(i.features) for i in bank.choose_past(spec, limit)] == [2, 11]
    bank.clear()
    assert bank.choose_past(spec, 0) == []


def test_scores_are_kept_by_image_and_for_one_instruction() -> None:
    scores = LandmarkScores(LandmarkRule(0.5, 8))
    assert scores.table([]).shape == (0, 0) and scores.table([1, None]).shape == (2, 0)
    scores.note(3, (0.2, 0.7))
    assert scores.table([1, 3, None]).tolist() == [[0.0, 0.0], [0.2, 0.7], [0.0, 0.0]]
    assert (scores.best(3), scores.best(1)) == (0.7, 0.0)
    scores.begin()
    assert scores.best(3) == 0.0 and scores.table([3]).shape == (1, 0)
