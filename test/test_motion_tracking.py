"""Random queues on a base that slips, obeys late and measures with noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vln_ros.cli.bench_tracking import DISTURBANCES, PLAIN, measure
from vln_ros.config import ExecutorConfig, SafetyConfig
from vln_ros.datatypes import Velocity
from vln_ros.sim.base import Disturbance, DisturbedBase

CONFIG = replace(ExecutorConfig(), safety=replace(SafetyConfig(), obstacles="none"))


@pytest.mark.parametrize("holonomic", [False, True])
def test_errors_stay_small_and_do_not_add_up(holonomic: bool) -> None:
    figures = measure(replace(CONFIG, holonomic=holonomic), DISTURBANCES["all three"], 20, 3)
    assert figures.position_p95_m < 0.03
    assert figures.heading_p95_deg < 2.0
    assert figures.last_tenth_m < 0.03
    assert figures.blocked == 0


def test_it_is_faster_than_stop_and_go() -> None:
    blended = measure(CONFIG, Disturbance(), 10, 1)
    plain = measure(replace(CONFIG, **PLAIN), Disturbance(), 10, 1)  # type: ignore[arg-type]
    assert blended.actions == plain.actions
    assert blended.time_s < plain.time_s


def test_a_disturbed_base_is_late_and_slips() -> None:
    ideal, late = DisturbedBase(Disturbance(), 0), DisturbedBase(Disturbance(delay_s=0.1), 0)
    slips = DisturbedBase(Disturbance(slip=0.2), 0)
    for base in (ideal, late, slips):
        base.advance(Velocity(0.5), 1.0)
    assert ideal.pose.position[0] == pytest.approx(0.5)
    assert late.pose.position[0] == pytest.approx(0.45)
    assert 0.4 <= slips.pose.position[0] < 0.5
    noisy = DisturbedBase(Disturbance(noise_m=0.01), 0)
    assert np.std([noisy.odometry().position[0] for _ in range(500)]) == pytest.approx(0.01, rel=0.2)
