"""``vln_ros bench tracking``: where the base ends after queues of actions, against where it should."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.noisy_base import Disturbance, DisturbedBase
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import ExecutorConfig, SafetyConfig
from vln_ros.datatypes import Action, ActionChunk, Pose, apply_action, wrap_angle
from vln_ros.evaluation.files import write_atomically
from vln_ros.motion.executor import Executor, ExecutorState

TITLE = "Where the robot stands after a queue"
HELP = "Measure how exactly and how fast random queues are driven, under noise, delay and slip"
DISTURBANCES = {
    "ideal base": Disturbance(),
    "noise 5 mm, 0.3 deg": Disturbance(noise_m=0.005, noise_rad=math.radians(0.3)),
    "delay 100 ms": Disturbance(delay_s=0.1),
    "slip up to 15 %": Disturbance(slip=0.15),
    "all three": Disturbance(0.1, 0.15, 0.005, math.radians(0.3)),
    "all, delay 200 ms": Disturbance(0.2, 0.15, 0.005, math.radians(0.3)),
}
PLAIN: dict[str, object] = {
    "blend": False,
    "delay_s": 0.0,
    "linear_gain": 3.0,
    "angular_gain": 4.0,
    "position_tolerance_m": 0.02,
    "heading_tolerance_deg": 1.0,
}
"""The executor that this one replaced: every action ends standing, nothing is predicted."""
_SETTLE_S = 0.5
_LONGEST_S = 120.0
_CALIBRATION_QUEUES = 20


@dataclass(frozen=True)
class TrackingFigures:
    """All queues of one setting, one after the other from the same start.

    Attributes:
        queues, actions: how many were driven.
        position_p50_m, position_p95_m, position_max_m: distance between where the robot really stands after a
            queue and where all actions since the start lead.
        heading_p50_deg, heading_p95_deg, heading_max_deg: the same in heading.
        first_tenth_m, last_tenth_m: mean distance after the first and the last tenth of the queues; they
            differ where errors accumulate.
        time_s: of driving, without the waits between queues.
        blocked: actions given up.
        told_delay_s: what the executor took the base's delay for.
        measured_delay_s: what it found it to be; None where it drove too little.
    """

    queues: int
    actions: int
    position_p50_m: float
    position_p95_m: float
    position_max_m: float
    heading_p50_deg: float
    heading_p95_deg: float
    heading_max_deg: float
    first_tenth_m: float
    last_tenth_m: float
    time_s: float
    blocked: int
    told_delay_s: float
    measured_delay_s: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queues", type=int, default=100, help="random queues per setting (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of queues and disturbances (default: 0)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    figures: dict[str, dict[str, TrackingFigures]] = {}
    for name, disturbance in tqdm(DISTURBANCES.items(), unit="base", disable=None):
        told = calibrated(_config(), disturbance, options.seed)
        variants = {
            "blended": told,
            "holonomic": replace(told, holonomic=True),
            "as shipped": _config(),
            "plain": replace(_config(), **PLAIN),  # type: ignore[arg-type]
        }
        figures[name] = {
            variant: measure(config, disturbance, options.queues, options.seed)
            for variant, config in variants.items()
        }
    _print(figures)
    if options.json is not None:
        values = {d: {v: asdict(f) for v, f in by.items()} for d, by in figures.items()}
        write_atomically(options.json, json.dumps(values, indent=2) + "\n")
    return 0


def _config() -> ExecutorConfig:
    return replace(ExecutorConfig(), safety=replace(SafetyConfig(), obstacles="none"))


def random_queues(count: int, seed: int) -> list[tuple[Action, ...]]:
    """One to four actions of 25 cm or 15 degrees each, as models give them; forward half of the time."""
    random = np.random.default_rng(seed)
    kinds = (
        Action(forward_m=0.25),
        Action(turn_rad=math.radians(15.0)),
        Action(turn_rad=-math.radians(15.0)),
    )
    return [
        tuple(kinds[i] for i in random.choice(3, random.integers(1, 5), p=(0.5, 0.25, 0.25)))
        for _ in range(count)
    ]


def calibrated(config: ExecutorConfig, disturbance: Disturbance, seed: int) -> ExecutorConfig:
    """As a person does it: drive for a while, read the base's delay on /diagnostics, and set it."""
    found_s = measure(config, disturbance, _CALIBRATION_QUEUES, seed).measured_delay_s
    return config if found_s is None else replace(config, delay_s=found_s)


def measure(config: ExecutorConfig, disturbance: Disturbance, queues: int, seed: int) -> TrackingFigures:
    """Drive random queues, standing still between them, and compare with where they lead."""
    base, executor = DisturbedBase(disturbance, seed), Executor(config)
    period_s = 1.0 / config.rate_hz
    wanted = Pose.identity()
    distances, headings, driving_s, actions = [], [], 0.0, 0

    def period() -> ExecutorState:
        stamp_ns = round((base.time_s + 1.0) * 1e9)
        executor.odometry(stamp_ns, base.odometry(), base.time_s)
        executor.heartbeat(stamp_ns, base.time_s)
        output = executor.update(base.time_s)
        base.advance(output.velocity, period_s)
        return output.state

    period()
    for number, queue in enumerate(random_queues(queues, seed), start=1):
        executor.offer(ActionChunk(number, 1, round((base.time_s + 1.0) * 1e9), queue))
        begun_s = base.time_s
        while period() is ExecutorState.MOVING:
            if base.time_s - begun_s > _LONGEST_S:
                raise RuntimeError(f"queue {number} does not end")
        driving_s += base.time_s - begun_s
        for _ in range(round(_SETTLE_S / period_s)):
            period()
        for action in queue:
            wanted = apply_action(wanted, action)
        actions += len(queue)
        distances.append(float(np.linalg.norm(base.pose.position - wanted.position)))
        headings.append(abs(math.degrees(wrap_angle(base.pose.yaw_rad - wanted.yaw_rad))))
    tenth = max(1, queues // 10)
    p50, p95 = np.percentile(distances, [50, 95])
    h50, h95 = np.percentile(headings, [50, 95])
    return TrackingFigures(
        queues, actions, float(p50), float(p95), max(distances), float(h50), float(h95), max(headings),
        float(np.mean(distances[:tenth])), float(np.mean(distances[-tenth:])), driving_s, executor.blocked,
        config.delay_s, executor.delay.delay_s(),
    )  # fmt: skip


def _print(figures: dict[str, dict[str, TrackingFigures]]) -> None:
    some = next(iter(figures.values()))["blended"]
    print(f"\n{some.queues} random queues, {some.actions} actions of 25 cm and 15 deg, one after the other")
    print(f"{'base':<22}{'control':<11}{'position p50/p95/max [cm]':>27}{'heading p50/p95/max [deg]':>27}"
          f"{'first, last tenth [cm]':>24}{'time [s]':>10}{'delay [ms]':>12}")  # fmt: skip
    for disturbance, by in figures.items():
        for variant, f in by.items():
            position = "/".join(
                f"{100 * v:.1f}" for v in (f.position_p50_m, f.position_p95_m, f.position_max_m)
            )
            heading = "/".join(f"{v:.1f}" for v in (f.heading_p50_deg, f.heading_p95_deg, f.heading_max_deg))
            tenths = f"{100 * f.first_tenth_m:.1f}, {100 * f.last_tenth_m:.1f}"
            print(f"{disturbance:<22}{variant:<11}{position:>27}{heading:>27}{tenths:>24}{f.time_s:>10.1f}"
                  f"{1e3 * f.told_delay_s:>12.0f}")  # fmt: skip


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = [
        (f"{disturbance}, {variant}", 100 * f["position_p50_m"], 100 * f["position_p50_m"],
         100 * f["position_p95_m"])
        for disturbance, by in figures.items()
        for variant, f in by.items()
    ]  # fmt: skip
    plot_bars(folder / "tracking.png", TITLE, "cm, median to 95th percentile", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    rows = []
    for disturbance, by in figures.items():
        for variant, values in by.items():
            f = TrackingFigures(**values)
            position = " / ".join(
                f"{100 * v:.1f}" for v in (f.position_p50_m, f.position_p95_m, f.position_max_m)
            )
            heading = " / ".join(
                f"{v:.1f}" for v in (f.heading_p50_deg, f.heading_p95_deg, f.heading_max_deg)
            )
            tenths = f"{100 * f.first_tenth_m:.1f} / {100 * f.last_tenth_m:.1f}"
            rows.append(
                (
                    disturbance,
                    variant,
                    position,
                    heading,
                    tenths,
                    f"{f.time_s:.1f}",
                    f"{1e3 * f.told_delay_s:.0f}",
                )
            )
    some = next(iter(next(iter(figures.values())).values()))
    columns = ("base", "control", "position p50 / p95 / max [cm]", "heading [deg]", "first / last tenth [cm]",
               "driving [s]", "delay told [ms]")  # fmt: skip
    return (
        f"{some['queues']} random queues ({some['actions']} actions of 25 cm and 15 degrees) one after the "
        "other: distance between where the robot really stands after a queue and where all actions since the "
        "start lead. *Blended* and *holonomic* are told the delay that the executor measured in "
        f"{_CALIBRATION_QUEUES} queues before; *as shipped* keeps the default. *Plain* ends every action "
        "standing and predicts nothing. *First / last tenth*: mean "
        "distance, which grows where errors add up.\n\n"
    ) + table(columns, rows)
