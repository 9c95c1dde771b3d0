"""``vln_ros bench graph``: the whole graph, proven by an engine that knows the way."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from vln_ros.cli.bench_plot import plot_bars
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, run_graph, write_split
from vln_ros.config import ConfigError, Scalar

TITLE = "The graph, proven by the expert"
HELP = "The expert through the graph, in lockstep (twice: identical step for step) and in real time"
SPEED = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=20, help="per mode (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures there")


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        episodes = write_split(folder, "val_unseen", options.episodes)
        first = _run(folder / "lockstep", episodes, "lockstep", (320, 240))
        _run(folder / "again", episodes, "lockstep", (320, 240))
        figures = {
            "speed": SPEED,
            "lockstep": first,
            "realtime": _run(folder / "realtime", episodes, "realtime", (160, 120)),
            "differing_episodes": _differing(folder / "lockstep", folder / "again"),
        }
    print(section(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 0 if not figures["differing_episodes"] else 1


def _run(out: Path, episodes: Path, mode: str, size: tuple[int, int]) -> dict[str, Any]:
    from vln_ros.evaluation.metrics import summarise
    from vln_ros.evaluation.results import read_episodes

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
        "spl": [summary.spl.mean, summary.spl.low, summary.spl.high],
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
        rate = 100.0 * f["successes"] / f["episodes"]
        spl, low, high = (100.0 * v for v in f["spl"])
        bars += [(f"{name}, success", rate, rate, rate), (f"{name}, SPL", spl, low, high)]
    plot_bars(folder / "graph.png", TITLE, "%, SPL with its 95 % interval", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench_page import table

    def row(name: str, f: dict[str, Any]) -> tuple[str, ...]:
        spl, low, high = (100 * v for v in f["spl"])
        share = f"{f['successes'] / f['episodes']:.0%} ({f['successes']}/{f['episodes']})"
        interval = f"{spl:.1f} % ({low:.1f} – {high:.1f})"
        return name, share, interval, f"{f['error_m']:.2f} m", f"{f['collisions']:.2f}"

    rows = [row("lockstep", figures["lockstep"]), row("real time, cmd_vel", figures["realtime"])]
    same = figures["differing_episodes"]
    return (
        table(("", "success", "SPL", "error", "collisions per episode"), rows)
        + f"\nval_unseen, 95 % bootstrap intervals; real time at {figures['speed']:g} times. A second run "
        f"in lockstep "
        + ("was identical, step for step.\n" if not same else f"differed in {', '.join(same)}.\n")
    )
