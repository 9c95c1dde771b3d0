"""``vln_ros bench overlap``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from vln_ros.cli.demo import run_graph, write_split
from vln_ros.config import ConfigError, Scalar

HELP = "How long the robot stands still for a slow model, with and without deciding ahead"


@dataclass(frozen=True)
class OverlapFigures:
    """Real time, all episodes of one setting.

    Attributes:
        decide_ahead: actions that are left when the next queue is asked for.
        standing_s: per episode, simulated time without a velocity commanded.
        standing_low_s, standing_high_s: smallest and largest of the episodes.
        decisions: per episode.
    """

    decide_ahead: int
    standing_s: float
    standing_low_s: float
    standing_high_s: float
    decisions: float
    success: float
    spl: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=3, help="episodes per setting (default: 3)")
    parser.add_argument("--decision-ms", type=float, default=400.0, help="time per decision (default: 400)")
    parser.add_argument("--ahead", type=int, nargs="+", default=[0, 1, 2], help="settings (default: 0 1 2)")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures there")


def run(options: argparse.Namespace) -> int:
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        episodes = write_split(folder, "val_unseen", options.episodes)
        figures = [_measure(folder, episodes, ahead, options.decision_ms) for ahead in options.ahead]
    print(f"\nexpert, queues of 4, {options.decision_ms:g} ms per decision, {options.episodes} episodes")
    print(f"{'ahead':>6}{'standing still [s] (min - max)':>34}{'decisions':>11}{'success':>9}{'SPL':>7}")
    for f in figures:
        standing = f"{f.standing_s:.2f} ({f.standing_low_s:.2f} - {f.standing_high_s:.2f})"
        print(f"{f.decide_ahead:>6}{standing:>34}{f.decisions:>11.1f}{f.success:>9.2f}{f.spl:>7.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n", "utf-8")
    return 0


def _measure(folder: Path, episodes: Path, ahead: int, decision_ms: float) -> OverlapFigures:
    from vln_ros.evaluation.results import read_episodes

    out = folder / f"ahead-{ahead}"
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "extrinsics": "parameters",
        "expert.episodes": str(episodes),
        "expert.decision_ms": decision_ms,
        "decide_ahead": ahead,
        "reliability": "reliable",
        "use_sim_time": True,
    }
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes),
        "mode": "realtime",
        "run_folder": str(out),
        "video": False,
        "camera.width": 160,
        "camera.height": 120,
    }
    if run_graph(out / "logs", bridge, navigator):
        raise ConfigError(f"the graph failed, its logs are in {out / 'logs'}")
    results = read_episodes(out / "episodes.jsonl", repair=False)
    standing = [r.standing_s for r in results if r.standing_s is not None]
    measured = [r.metrics for r in results if r.metrics is not None]
    return OverlapFigures(
        ahead,
        sum(standing) / len(standing),
        min(standing),
        max(standing),
        sum(r.decisions for r in results) / len(results),
        sum(m.success for m in measured) / len(measured),
        sum(m.spl for m in measured) / len(measured),
    )
