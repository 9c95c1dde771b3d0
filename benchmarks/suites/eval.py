"""``vln_ros bench eval``: what an evaluation saves when workers take whole scenes from a queue."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import tempfile
import time
from array import array
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import EvalConfig, Scalar, from_flat, to_flat
from vln_ros.evaluation.files import write_atomically
from vln_ros.sim.embedded.flat import KINDS

if TYPE_CHECKING:
    from vln_ros.evaluation.runs.results import RunResult
    from vln_ros.evaluation.workers.schedule import Job, Schedule

HELP = "Count scene loads, model calls and time per episode, against one call per step and sliced scenes"
TITLE = "An evaluation: calls and scene loads"

_CALLS_GOAL, _LOADS_GOAL = 4.0, 10.0


TELLINGS = 3
"""Episodes per route, told anew each time, as in R2R."""


@dataclass(frozen=True)
class Way:
    """One way to run the same episodes.

    Attributes:
        actions_per_call: length of a queue, at most.
        sliced: every n-th episode per worker, rather than whole scenes.
        shuffled: the episodes come in no order of scenes, as in files that are sorted by nothing.
    """

    name: str
    actions_per_call: int
    sliced: bool = False
    shuffled: bool = False


UNSORTED, SLICED, QUEUES, OURS, LONGER = WAYS = (
    Way("per-step calls, every n-th episode of an unsorted file", 1, sliced=True, shuffled=True),
    Way("per-step calls, scenes sliced over all workers", 1, sliced=True),
    Way("queues of 4, scenes sliced over all workers", 4, sliced=True),
    Way("ours: queues of 4, whole scenes, longest first", 4),
    Way("ours, queues of 9 (ActiveVLN's three phrases of up to three)", 9),
)


@dataclass(frozen=True)
class WayFigures:
    """What a way came to.

    Attributes:
        scene_loads: how often a worker went to another scene, over all of them.
        calls: of the model, per episode.
        wall_s: per episode, from the first worker's readiness to the last result, divided by the episodes.
        loading_s: of the workers, per episode.
    """

    name: str
    scene_loads: int
    calls: float
    wall_s: float
    loading_s: float
    success: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--scenes", type=int, default=8, help="flats, with 5 routes each, told 3 times (default: %(default)s)"
    )
    parser.add_argument(
        "--kind", choices=KINDS, default="small", help="size of the flats (default: %(default)s)"
    )
    parser.add_argument(
        "--decision-ms", type=float, default=40.0, help="time that a decision takes (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint", default="", help="a Qwen2.5-VL checkpoint that decides instead of the oracle policy"
    )
    parser.add_argument("--profile", default="tiny", help="profile of the checkpoint (default: %(default)s)")
    parser.add_argument(
        "--lines", type=int, default=100_000, help="synthetic result lines to load, compare, report; 0: none"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from vln_ros.sim.splits import EPISODES_PER_SCENE

    figures: dict[str, Any] = {"ways": [asdict(f) for f in _measure_ways(args)]}
    episodes = EPISODES_PER_SCENE * TELLINGS * args.scenes
    figures |= {"workers": args.workers, "scenes": args.scenes, "episodes": episodes}
    if args.lines:
        figures["lines"] = _measure_lines(args.lines)
    print(section(figures))
    if args.json is not None:
        write_atomically(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


def plot(figures: dict[str, Any], folder: Path) -> None:
    """Three pictures of bars: scene loads, calls, wall time."""
    for key, unit in (
        ("scene_loads", "scene loads"),
        ("calls", "calls of the model per episode"),
        ("wall_s", "s of wall time per episode"),
    ):
        bars = [(w["name"], w[key], w[key], w[key]) for w in figures["ways"]]
        plot_bars(folder / f"eval_{key}.png", TITLE, unit, bars)


def section(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    workers = figures["workers"]
    ways = {w["name"]: w for w in figures["ways"]}
    lines = [
        f"{figures['episodes']} episodes in {figures['scenes']} flats (five routes each, told three times), "
        f"{workers} workers, one run.",
        "",
        "| way | scene loads | calls / episode | wall / episode | loading / episode and worker | success |",
    ]
    lines.append("|---|---|---|---|---|---|")
    lines += [
        f"| {name} | {w['scene_loads']} | {w['calls']:.1f} | {w['wall_s']:.2f} s "
        f"| {w['loading_s'] / workers * 1e3:.1f} ms | {w['success']:.0%} |"
        for name, w in ways.items()
    ]

    def against(ours: Way, other: Way) -> str:
        calls, loads, wall = (
            ways[other.name][k] / ways[ours.name][k] for k in ("calls", "scene_loads", "wall_s")
        )
        return f"{calls:.1f}x fewer calls, {loads:.1f}x fewer scene loads, {wall:.1f}x the speed"

    lines += [
        "",
        f"Queues of 4: against per-step calls of an unsorted file {against(OURS, UNSORTED)}; against sliced "
        f"scenes {against(OURS, SLICED)}. Queues of 9: {against(LONGER, UNSORTED)}, and "
        f"{against(LONGER, SLICED)}. The goals were {_CALLS_GOAL:g}x and {_LOADS_GOAL:g}x. Queues of 4 "
        "cannot save more than 4x, and slicing scenes that come in order costs at most one load per scene "
        f"and worker, {workers}x here; workers that help with the last scenes load them too.",
    ]
    if "lines" in figures:
        n = figures["lines"]
        lines += [
            "",
            f"{n['count']} result lines: two runs loaded and compared, one reported in {n['cpu_s']:.0f} s of "
            f"processor time ({n['wall_s']:.0f} s), {n['peak_mb']:.0f} MB at most.",
        ]
    return "\n".join(lines)


def _measure_ways(args: argparse.Namespace) -> list[WayFigures]:
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.evaluation.workers.worlds import chosen_episodes, dataset_file
    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.splits import EPISODES_PER_SCENE

    options: dict[str, Scalar] = {
        "kind": args.kind,
        "episodes": EPISODES_PER_SCENE * args.scenes,
        "camera.width": 80,
        "camera.height": 60,
        "measures": "basic",
        "max_steps": 200,
        "navigator.engine": "expert",
        "navigator.expert.decision_ms": args.decision_ms,
    }
    if args.checkpoint:
        options["navigator.engine"] = "qwen"
        options["navigator.qwen.checkpoint"] = args.checkpoint
        options["navigator.qwen.profile"] = args.profile
    config = from_flat(EvalConfig, options)
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        routes = chosen_episodes(config, dataset_file(config, folder / "dataset"))
        episodes = [
            dataclasses.replace(route, episode_id=str(TELLINGS * k + telling))
            for k, route in enumerate(routes)
            for telling in range(TELLINGS)
        ]
        path = write_episodes(folder / "told", config.split, episodes)
        phrases = load_profile(args.profile).max_phrases
        for k, way in enumerate(WAYS):
            values = to_flat(config)
            values["navigator.expert.episodes"] = str(path)
            values["navigator.expert.actions_per_decision"] = way.actions_per_call
            values["navigator.qwen.stream.max_phrases"] = min(way.actions_per_call, phrases)
            result, wall_s = _run_way(
                way, from_flat(EvalConfig, values), episodes, folder / str(k), args.workers
            )
            n = len(result.episodes)
            figures.append(
                WayFigures(
                    way.name, result.costs.prepared, result.latency_ms.count / n, wall_s / n,
                    result.costs.load_s / n, result.summary.success.mean,
                )
            )  # fmt: skip
    return figures


def _run_way(
    way: Way, config: EvalConfig, episodes: Sequence[Any], folder: Path, workers: int
) -> tuple[RunResult, float]:
    import numpy as np

    from vln_ros.evaluation.driver import Driver, make_jobs, run_info
    from vln_ros.evaluation.runs.run_folder import RunFolder
    from vln_ros.evaluation.workers.pool import Answer, ProcessPool
    from vln_ros.evaluation.workers.schedule import SceneSchedule, SliceSchedule
    from vln_ros.evaluation.workers.worker import Ready

    class TimedPool(ProcessPool):
        """Knows when the first worker was ready."""

        ready_s: float | None = None

        def answers(self) -> list[Answer]:
            found = super().answers()
            if self.ready_s is None and any(
                isinstance(e, Ready) for _, a in found if isinstance(a, list) for e in a
            ):
                self.ready_s = time.monotonic()
            return found

    jobs: list[Job] = make_jobs(episodes, config)
    if way.shuffled:
        jobs = [jobs[i] for i in np.random.default_rng(0).permutation(len(jobs))]
    if way.sliced:
        schedule: Schedule = SliceSchedule(jobs, workers)
    else:
        schedule = SceneSchedule(jobs, 1)
    pool = TimedPool(config)
    with RunFolder(folder, run_info(config, episodes, folder, ["bench"]), resume=False) as run_folder:
        with closing(Driver(pool, run_folder, workers, config.sessions)) as driver:
            driver.run(schedule)
            ended_s = time.monotonic()
        assert pool.ready_s is not None, "episodes were run"
        return run_folder.result(complete=True, frames=None), ended_s - pool.ready_s


def _measure_lines(count: int) -> dict[str, float]:
    """Load, compare and report synthetic results."""
    import numpy as np

    from vln_ros.evaluation.episode.metrics import EpisodeMetrics
    from vln_ros.evaluation.runs.compare import compare, write_comparison
    from vln_ros.evaluation.runs.loading import load_result, load_run
    from vln_ros.evaluation.runs.report import write_report
    from vln_ros.evaluation.runs.results import EpisodeResult, Protocol, RunInfo
    from vln_ros.evaluation.runs.run_folder import RunFolder

    protocol = Protocol(
        name="synthetic",
        split="",
        control="lockstep",
        goal_radius_m=3.0,
        forward_m=0.25,
        turn_deg=15.0,
        max_steps=500,
    )
    info = RunInfo(("vln_ros", "bench", "eval"), protocol, 0, {})
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / side for side in "ab"]
        for seed, path in enumerate(paths):
            with RunFolder(path, info, resume=False) as folder:
                folder.finish(None)
            rng = np.random.default_rng(seed)
            blank = EpisodeResult(
                episode_id="",
                scene_id="",
                instruction="",
                folder="",
                ended="stop",
                wall_s=2.5,
                decisions=8,
                latencies_ms=array("d", [20.0] * 8),
                video_frames=0,
                metrics=None,
            )
            with (path / "episodes.jsonl").open("w", encoding="utf-8") as file:
                for k in range(count):
                    success, error_m, spl = (
                        bool(rng.random() < 0.5),
                        float(rng.uniform(0, 20)),
                        float(rng.random()),
                    )
                    m = EpisodeMetrics(
                        success=success,
                        spl=spl * success,
                        oracle_success=success,
                        navigation_error_m=error_m,
                        path_length_m=9.5,
                        ndtw=spl,
                        sdtw=spl * success,
                        collisions=k % 3,
                        steps=40,
                    )
                    e = dataclasses.replace(
                        blank, episode_id=str(k), scene_id=f"scene_{k % 90}", instruction=f"Go to place {k}.",
                        folder=str(k), metrics=m,
                    )  # fmt: skip
                    file.write(e.to_json() + "\n")
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        write_comparison(compare(load_run(paths[0]), load_run(paths[1])), Path(name) / "c")
        write_report(load_result(paths[0]), paths[0])
        return {
            "count": count,
            "wall_s": time.monotonic() - begun_s,
            "cpu_s": time.process_time() - begun_cpu_s,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
