"""``vln_ros habitat compare``: the same episodes of our flats, in Habitat and in the embedded world."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from vln_ros.config import ConfigError, EvalConfig, FarmConfig, Scalar, from_flat


def compare_worlds(options: argparse.Namespace, folder: Path) -> int:
    """Run both, print both tables and the difference; 1 where success differs by more than asked for.

    Args:
        options: see ``vln_ros habitat --help``.
        folder: scenes and runs are written below it.
    """
    from vln_ros.cli.habitat.bench import parse_sizes
    from vln_ros.evaluation.driver import evaluate
    from vln_ros.evaluation.episode.metrics import summary_table
    from vln_ros.evaluation.runs.compare import compare, comparison_table
    from vln_ros.evaluation.runs.loading import load_run
    from vln_ros.evaluation.runs.results import skips_line
    from vln_ros.sim.embedded.export import write_scene
    from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
    from vln_ros.sim.embedded.world import SceneCache
    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.splits import make_episodes

    ((width, height),) = parse_sizes([options.size])
    if options.episodes < 1:
        raise ConfigError(f"--episodes {options.episodes}: must be at least 1")
    episodes = make_episodes(options.split, options.episodes, options.kind)
    cache = SceneCache(AGENT_RADIUS_M, 1)
    for scene in dict.fromkeys(e.scene_id for e in episodes):
        write_scene(folder / "scenes", cache.get(scene))
    given: dict[str, Scalar] = {
        "dataset": str(write_episodes(folder / "episodes", options.split, episodes)),
        "split": options.split,
        "episodes": 0,
        "camera.width": width,
        "camera.height": height,
        "navigator.engine": options.engine,
        "habitat.python": options.python,
        "habitat.gpu": options.gpu,
        "habitat.scenes": str(folder / "scenes"),
        "habitat.radius_m": AGENT_RADIUS_M,
        "habitat.depth_max_m": 1000.0,
    }
    if options.engine == "qwen":
        given |= {"navigator.qwen.checkpoint": options.checkpoint, "navigator.qwen.profile": options.profile}
    config = from_flat(EvalConfig, given)
    success = {}
    for world in ("embedded", "habitat"):
        out = folder / world
        result = evaluate(
            replace(config, world=world),
            FarmConfig(workers=0),
            out,
            resume=False,
            command=["vln_ros", *sys.argv[1:]],
        )
        print(f"{world}:\n{summary_table(result.summary)}", flush=True)
        if result.skipped:
            print(skips_line(result.skipped, len(result.episodes)))
            return 1
        success[world] = 100.0 * result.summary.success.mean
    print(comparison_table(compare(load_run(folder / "embedded"), load_run(folder / "habitat"), 0)))
    apart = success["habitat"] - success["embedded"]
    print(
        f"success: {success['embedded']:.1f} % embedded, {success['habitat']:.1f} % in Habitat, "
        f"{apart:+.1f} points over {options.episodes} episodes ({options.points:g} allowed)"
    )
    return 0 if abs(apart) <= options.points else 1
