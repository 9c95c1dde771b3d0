"""Pixels of a token against those of its source, and whole pictures that are not where they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.geometry.correspondence import Anchors, Correspondence, IntArray, TokenGrid
from vln_ros.reuse.similarity import compare, pooled

GRID = TokenGrid(6, 8)


def found(token: IntArray, grid: TokenGrid = GRID) -> Correspondence:
    n = grid.count
    nothing = np.full(n, np.nan)
    source = np.where(token >= 0, 0, -1)
    anchors = Anchors(np.zeros((n, 2)), nothing)
    return Correspondence(grid, anchors, source, token, np.zeros((n, 2)), nothing, source, (1.0,), (1.0,))


def picture(seed: int, side: int = 28) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (GRID.rows * side, GRID.columns * side, 3), np.uint8)


@pytest.mark.parametrize("side", [28, 16, 10])
def test_pooled_pixels_are_means_of_fields(side: int) -> None:
    shown = picture(0, side)
    small = pooled(shown, GRID)
    assert small.shape == (48, 48)
    if side % 4 == 0:
        field = side // 4
        for token in (0, 7, 8, 47):
            row, column = divmod(token, GRID.columns)
            cut = shown[row * side : (row + 1) * side, column * side : (column + 1) * side].astype(float)
            means = cut.reshape(4, field, 4, field, 3).mean((1, 3)).reshape(-1)
            assert np.abs(small[token] - means).max() <= 1.01  # rounded across, and once more down


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_difference_is_that_to_the_source(seed: int) -> None:
    rng = np.random.default_rng(seed)
    token = rng.integers(-1, GRID.count, GRID.count)
    new, old = pooled(picture(seed), GRID), pooled(picture(seed + 1), GRID)
    like = compare(new, old, found(token))
    for i in range(GRID.count):
        if token[i] < 0:
            assert np.isnan(like.difference[i])
        else:
            assert like.difference[i] == pytest.approx(np.abs(new[i] - old[token[i]]).mean(), abs=1e-4)


def test_drift_shows_poses_that_are_off() -> None:
    shown = picture(3)
    new = pooled(shown, GRID)
    here = found(np.arange(GRID.count))
    assert compare(new, new, here).drift.tolist() == [0.0, 0.0]
    right, down = compare(new, pooled(np.roll(shown, 28, 1), GRID), here).drift
    assert right > 0.7 and abs(down) < 0.2
    right, down = compare(new, pooled(np.roll(shown, -28, 0), GRID), here).drift
    assert abs(right) < 0.2 and down < -0.6
    assert np.isnan(compare(new, new, found(np.full(GRID.count, -1))).drift).all()


def test_noise_on_a_plain_wall_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    wall = np.full((168, 224, 3), 128.0)
    one, other = ((wall + rng.normal(0, 3, wall.shape)).round().astype(np.uint8) for _ in range(2))
    like = compare(pooled(one, GRID), pooled(other, GRID), found(np.arange(GRID.count)))
    assert np.hypot(*like.drift) < 0.1
    assert like.difference.max() < 2.0
