"""``vln_ros bench overlap``: how long the robot stands still for the model, with and without overlap."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.demo import ENGINES, EXPERT_CLEARANCE_M, named_model, run_graph, write_split
from vln_ros.config import ConfigError, QwenConfig, Scalar
from vln_ros.evaluation.files import write_atomically
from vln_ros.sim.embedded.flat import KINDS

TITLE = "Standing still for a slow model"
HELP = "Time how long the robot stands still for a slow model, with and without deciding ahead"


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
    parser.add_argument("--kind", choices=KINDS, default="flat", help="size of the flats (default: flat)")
    parser.add_argument("--engine", choices=ENGINES, default="expert", help="what decides (default: expert)")
    parser.add_argument(
        "--decision-ms", type=float, default=400.0, help="the expert's time per decision (default: 400)"
    )
    parser.add_argument(
        "--profile", default=QwenConfig().profile, help="profile of a model (default: %(default)s)"
    )
    parser.add_argument("--checkpoint", default="", help="checkpoint of a model (default: the profile's)")
    parser.add_argument(
        "--ahead", type=int, nargs="+", default=[0, 1, 2], help="values of decide_ahead (default: 0 1 2)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        episodes = write_split(folder, "val_unseen", options.episodes, options.kind)
        engine: dict[str, Scalar] = {"engine": options.engine}
        if options.engine == "expert":
            engine |= {"expert.episodes": str(episodes), "expert.decision_ms": options.decision_ms}
            who = f"expert, {options.decision_ms:g} ms per decision"
        else:
            engine |= named_model(options.profile, options.checkpoint)
            who = str(engine["qwen.checkpoint"])
        figures = [_measure(folder, episodes, ahead, engine) for ahead in options.ahead]
    print(f"\n{who}, queues of up to 4, {options.episodes} episodes ({options.kind})")
    print(f"{'ahead':>6}{'standing still [s] (min - max)':>34}{'decisions':>11}{'success':>9}{'SPL':>7}")
    for f in figures:
        standing = f"{f.standing_s:.2f} ({f.standing_low_s:.2f} - {f.standing_high_s:.2f})"
        print(f"{f.decide_ahead:>6}{standing:>34}{f.decisions:>11.1f}{f.success:>9.2f}{f.spl:>7.2f}")
    if options.json is not None:
        content = {
            "who": who,
            "kind": options.kind,
            "episodes": options.episodes,
            "settings": [asdict(f) for f in figures],
        }
        write_atomically(options.json, json.dumps(content, indent=2) + "\n")
    return 0


def _measure(folder: Path, episodes: Path, ahead: int, engine: dict[str, Scalar]) -> OverlapFigures:
    from vln_ros.evaluation.runs.lines import read_episodes

    out = folder / f"ahead-{ahead}"
    navigator: dict[str, Scalar] = {
        **engine,
        "expert.clearance_m": EXPERT_CLEARANCE_M,
        "extrinsics": "parameters",
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


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = [
        (f"{f['decide_ahead']} ahead", f["standing_s"], f["standing_low_s"], f["standing_high_s"])
        for f in figures["settings"]
    ]
    plot_bars(folder / "overlap.png", TITLE, "s per episode, least to most", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    settings = figures["settings"]
    rows = [
        (
            f["decide_ahead"],
            f"{f['standing_s']:.1f} s ({f['standing_low_s']:.1f} – {f['standing_high_s']:.1f})",
            f"{f['decisions']:.1f}",
            f"{f['success']:.0%}",
            f"{f['spl']:.2f}",
        )
        for f in settings
    ]
    best = min(settings, key=lambda f: float(f["standing_s"]))
    text = (
        f"{figures['who']}, queues of up to four actions, real time, {figures['episodes']} episodes "
        f"({figures['kind']}) per setting. *Ahead* is `decide_ahead`: how many actions are left when the "
        "next queue is asked for.\n\n"
    )
    text += table(("ahead", "standing still per episode (min – max)", "decisions", "success", "SPL"), rows)
    waiting = best["standing_s"] / settings[0]["standing_s"]
    return text + (
        f"\nBest here: {best['decide_ahead']} ahead, {waiting:.0%} of the waiting without. Too far ahead, "
        "queues contradict what the robot has done meanwhile and are dropped. The default is 0: in lockstep "
        "nothing can be decided ahead.\n"
    )
