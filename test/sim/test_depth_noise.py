"""The errors of the simulated depth: as large as asked for, smooth, and the same at the same place."""

from __future__ import annotations

import numpy as np
import pytest

from vln_ros.datatypes import Pose
from vln_ros.sim.depth_noise import with_depth_noise

FLAT = np.full((96, 128), 2.0, np.float32)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_errors_are_a_share_of_the_depth(share: float) -> None:
    errors = (
        np.stack([with_depth_noise(FLAT, share, Pose.planar(k, 0.0, 0.0)) for k in range(60)]) / FLAT - 1.0
    )
    assert abs(float(errors.mean())) < 0.15 * share
    assert 0.6 * share < float(errors.std()) < 1.1 * share, "between the patches they are averaged"
    assert np.abs(np.diff(errors, axis=2)).max() < 1.5 * share, "and change smoothly"


def test_the_same_place_gives_the_same_and_another_place_does_not() -> None:
    here, there = Pose.planar(1.0, 2.0, 0.5), Pose.planar(1.0, 2.0, 0.6)
    np.testing.assert_array_equal(with_depth_noise(FLAT, 0.05, here), with_depth_noise(FLAT, 0.05, here))
    assert (with_depth_noise(FLAT, 0.05, here) != with_depth_noise(FLAT, 0.05, there)).any()


def test_no_reading_stays_none_and_no_noise_changes_nothing() -> None:
    holes = FLAT.copy()
    holes[10:20] = 0.0
    noisy = with_depth_noise(holes, 0.5, Pose.identity())
    assert (noisy[10:20] == 0.0).all()
    assert (noisy[noisy != 0.0] > 0.0).all()
    assert with_depth_noise(holes, 0.0, Pose.identity()) is holes
