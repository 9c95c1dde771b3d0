"""Random queues on a base that slips, obeys late and measures with noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.measure.noisy_base import Disturbance, DisturbedBase
from benchmarks.suites.tracking import DISTURBANCES, PLAIN, calibrated, measure
from vln_ros.config import ExecutorConfig, SafetyConfig
from vln_ros.datatypes import Pose, Velocity
from vln_ros.motion.delay import DelayMeter
from vln_ros.motion.tracking import predict

CONFIG = replace(ExecutorConfig(), safety=replace(SafetyConfig(), obstacles="none"))


@pytest.mark.parametrize("holonomic", [False, True])
def test_errors_stay_small_and_do_not_add_up(holonomic: bool) -> None:
    figures = measure(replace(CONFIG, holonomic=holonomic), DISTURBANCES["all three"], 20, 3)
    assert figures.position_p95_m < 0.03
    assert figures.heading_p95_deg < 2.0
    assert figures.last_tenth_m < 0.03
    assert figures.blocked == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.13, 0.25])
def test_the_delay_that_it_measures_makes_it_exact(delay_s: float) -> None:
    disturbance = replace(DISTURBANCES["all three"], delay_s=delay_s)
    config = calibrated(CONFIG, disturbance, 5)
    assert config.delay_s == pytest.approx(delay_s, abs=0.015)
    figures = measure(config, disturbance, 20, 3)
    assert figures.position_max_m < 0.03
    assert figures.heading_max_deg < 2.0
    assert figures.blocked == 0


def test_too_little_driving_or_a_base_that_does_something_else_shows_no_delay() -> None:
    meter, random = DelayMeter(0.05), np.random.default_rng(0)
    for _ in range(100):
        meter.add(Velocity(0.5), Pose.identity())
    assert meter.delay_s() is None
    x = 0.0
    for _ in range(600):
        x += float(random.normal(0.0, 0.02))
        meter.add(Velocity(float(random.uniform(0.0, 0.5))), Pose.planar(x, 0.0, 0.0))
    assert meter.delay_s() is None


def test_the_prediction_is_exact_for_whole_and_broken_periods() -> None:
    sent = [Velocity(0.3), Velocity(0.5), Velocity(0.4, 1.0)]
    for delay_s in (0.0, 0.02, 0.05, 0.12, 0.15, 0.9):
        fine = [v for v in sent for _ in range(50)]  # the same in steps of a millisecond
        pose = Pose.identity()
        for v in fine[len(fine) - min(len(fine), round(1e3 * delay_s)) :]:
            pose = pose @ Pose.planar(1e-3 * v.linear_m_s, 0.0, 1e-3 * v.angular_rad_s)
        assert predict(Pose.identity(), sent, 0.05, delay_s).matrix == pytest.approx(pose.matrix, abs=1e-4)


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
    assert noisy.odometry().position[0] == 0.0  # the frame begins where it stands
    noisy.advance(Velocity(angular_rad_s=0.1), 0.1)
    assert np.std([noisy.odometry().position[0] for _ in range(500)]) == pytest.approx(0.01, rel=0.2)
