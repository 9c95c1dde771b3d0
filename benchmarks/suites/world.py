"""``vln_ros bench world``: what frames, scenes and shortest paths of the embedded simulator cost."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import CameraConfig, ConfigError
from vln_ros.evaluation.files import write_atomically

TITLE = "The embedded world"
HELP = "Time the embedded simulator: RGB-D frames, making a scene, geodesic queries"

_SIZES = ((320, 240), (640, 480))
_SCENES = 3
_STARTS = 5
_FIRST_FRAME = """
from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.splits import make_episodes
episode = make_episodes("val_unseen", 1)[0]
world = EmbeddedWorld(CameraModel.from_hfov(640, 480, 1.38), base_from_optical(0.0, 0.0, 1.25))
world.load(episode.scene_id)
world.place(episode.start)
world.render()
"""


@dataclass(frozen=True)
class Timing:
    """Wall-clock milliseconds of ``n`` runs."""

    median_ms: float
    p95_ms: float
    n: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames", type=int, default=100, help="frames per image size (default: %(default)s)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    from vln_ros.axes import base_from_optical
    from vln_ros.datatypes import CameraModel, Pose
    from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
    from vln_ros.sim.embedded.world import Scene
    from vln_ros.sim.splits import first_seeds, make_scene_episodes

    if args.frames < 1:
        raise ConfigError(f"--frames {args.frames}: must be at least 1")
    seeds = first_seeds("val_unseen", _SCENES)
    episodes = [e for seed in seeds for e in make_scene_episodes("val_unseen", seed)]
    results: dict[str, Timing] = {}

    def measure(name: str, calls: Sequence[Callable[[], object]]) -> None:
        times_ms = []
        for call in tqdm(calls, name, unit="", disable=None, leave=False):
            began = time.perf_counter()
            call()
            times_ms.append((time.perf_counter() - began) * 1e3)
        results[name] = Timing(float(np.median(times_ms)), float(np.percentile(times_ms, 95)), len(calls))

    scenes: dict[str, Scene] = {}

    def make(name: str) -> None:
        scenes[name] = Scene(name, AGENT_RADIUS_M)

    measure("floor plan", [partial(make, scene_id(seed)) for seed in seeds])
    measure("mesh, textures, ray tree", [partial(getattr, s, "renderer") for s in scenes.values()])
    queries = [
        (scenes[e.scene_id].walkable, place, e.goal)
        for e in episodes
        for place in (e.reference_path[0], *e.reference_path[:: max(1, len(e.reference_path) // 3)])
    ]
    # A walkable space makes its graph at the first question.
    firsts = {id(w): (w, a, b) for w, a, b in reversed(queries)}.values()
    measure("visibility graph", [partial(w.distance, a, b) for w, a, b in firsts])
    measure("geodesic distance", [partial(w.distance, a, b) for w, a, b in queries])
    options = CameraConfig()
    extrinsics = base_from_optical(0.0, 0.0, options.height_m)
    for width, height in _SIZES:
        camera = CameraModel.from_hfov(width, height, math.radians(options.hfov_deg))
        calls: list[Callable[[], object]] = []
        for number in range(args.frames):
            episode = episodes[number % len(episodes)]
            way = episode.reference_path
            x, y, _ = way[number // len(episodes) % len(way)]
            pose = Pose.planar(float(x), float(y), number * math.radians(15.0)) @ extrinsics
            calls.append(partial(scenes[episode.scene_id].renderer.render, camera, pose))
        calls[0]()
        measure(f"RGB-D frame {width}x{height}", calls)
    # A whole process: interpreter, imports, episode, scene, 640x480 frame.
    start = [sys.executable, "-c", _FIRST_FRAME]
    measure("command to first frame", [partial(subprocess.run, start, check=True)] * _STARTS)
    print(f"{'':28}{'median ms':>12}{'p95 ms':>12}{'n':>8}")
    for name, t in results.items():
        print(f"{name:28}{t.median_ms:12.2f}{t.p95_ms:12.2f}{t.n:8d}")
    if args.json is not None:
        figures = {name: asdict(t) for name, t in results.items()}
        write_atomically(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


def plot(figures: dict[str, dict[str, float]], folder: Path) -> None:
    bars = [(name, t["median_ms"], t["median_ms"], t["p95_ms"]) for name, t in figures.items()]
    plot_bars(folder / "world.png", TITLE, "ms, median to 95th percentile", bars, logarithmic=True)


def section(figures: dict[str, dict[str, float]]) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (name, f"{t['median_ms']:.1f} ms", f"{t['p95_ms']:.1f} ms", t["n"]) for name, t in figures.items()
    ]
    return table(("", "median", "p95", "n"), rows)
