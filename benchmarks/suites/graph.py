"""``vln_ros bench graph``: the whole graph, proven by an engine that knows the way."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, run_graph, write_split
from vln_ros.config import ConfigError, Scalar
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import METHOD, Estimate, share

TITLE = "The graph, proven by the expert"
HELP = "Run the oracle policy through the graph: twice in lockstep, which must be identical, and in real time"
SPEED = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=20, help="episodes per mode (default: %(default)s)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        episodes = write_split(folder, "val_unseen", options.episodes)
        first = _run(folder / "lockstep", episodes, "lockstep", (320, 240))
        _run(folder / "again", episodes, "lockstep", (320, 240))
        figures = {
            "speed": SPEED,
            "intervals": METHOD,
            "lockstep": first,
            "realtime": _run(folder / "realtime", episodes, "realtime", (160, 120)),
            "differing_episodes": _differing(folder / "lockstep", folder / "again"),
        }
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0 if not figures["differing_episodes"] else 1


def _run(out: Path, episodes: Path, mode: str, size: tuple[int, int]) -> dict[str, Any]:
    from vln_ros.evaluation.episode.metrics import summarise
    from vln_ros.evaluation.runs.lines import read_episodes
    from vln_ros.evaluation.runs.results import finite_tree

    realtime = mode == "realtime"
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "extrinsics": "parameters",  # the default is where the bridge mounts its camera
        "expert.episodes": str(episodes),
        "expert.clearance_m": EXPERT_CLEARANCE_M if realtime else 0.0,
        "reliability": "reliable",
        "use_sim_time": realtime,
    }
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes),
        "mode": mode,
        "run_folder": str(out),
        "video": False,
        "camera.width": size[0],
        "camera.height": size[1],
        "realtime_factor": SPEED,
    }
    if run_graph(out / "logs", bridge, navigator):
        raise ConfigError(f"the graph failed in {mode}; run `vln_ros demo --mode {mode}` to see its logs")
    results = [
        r.metrics for r in read_episodes(out / "episodes.jsonl", repair=False) if r.metrics is not None
    ]
    summary = summarise(results)
    return {
        "episodes": summary.episodes,
        "successes": sum(bool(r.success) for r in results),
        "spl": [finite_tree(v) for v in (summary.spl.mean, summary.spl.low, summary.spl.high)],
        "error_m": summary.navigation_error_m.mean,
        "collisions": summary.collisions.mean,
    }


def _differing(a: Path, b: Path) -> list[str]:
    """Episodes whose trajectories are not the same bytes."""
    pairs = [(p, b / p.relative_to(a)) for p in sorted(a.glob("episodes/*/trajectory.jsonl"))]
    if not pairs:
        raise ConfigError(f"{a} holds no trajectories")
    return [p.parent.name for p, q in pairs if not q.exists() or p.read_bytes() != q.read_bytes()]


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = []
    for name, key in (("lockstep", "lockstep"), ("real time", "realtime")):
        f = figures[key]
        for measure, e in (("success", share(f["successes"], f["episodes"])), ("SPL", _spl(f))):
            bars.append((f"{name}, {measure}", 100 * e.mean, 100 * e.low, 100 * e.high))
    plot_bars(folder / "graph.png", TITLE, "%, with 95 % intervals", bars)


def _spl(figures: dict[str, Any]) -> Estimate:
    mean, low, high = (math.nan if v is None else v for v in figures["spl"])
    return Estimate(mean, low, high, figures["episodes"])


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    def row(name: str, f: dict[str, Any]) -> tuple[str, ...]:
        success, spl = share(f["successes"], f["episodes"]), _spl(f)
        reached = f"{f['successes']}/{f['episodes']} = {success.mean:.0%} ({success.interval('.0f', 100.0)})"
        interval = f"{100 * spl.mean:.1f} % ({spl.interval('.1f', 100.0)})"
        return name, reached, interval, f"{f['error_m']:.2f} m", f"{f['collisions']:.2f}"

    rows = [row("lockstep", figures["lockstep"]), row("real time, cmd_vel", figures["realtime"])]
    same = figures["differing_episodes"]
    return (
        table(("", "success", "SPL", "error", "collisions per episode"), rows)
        + "\nval_unseen; 95 % intervals in brackets (success Wilson, SPL "
        + ("BCa bootstrap" if figures.get("intervals") == METHOD else "percentile bootstrap")
        + f"); real time at {figures['speed']:g} times. A second run "
        f"in lockstep "
        + ("was identical, step for step.\n" if not same else f"differed in {', '.join(same)}.\n")
    )
