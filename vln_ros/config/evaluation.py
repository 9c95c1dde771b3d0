"""Options of evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import group, option
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.robot import NavigatorConfig
from vln_ros.config.simulation import LimitsConfig, WorldConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig(WorldConfig):
    """What is evaluated on what, by which rules. A run is resumed with the same options only."""

    dataset: str = option(
        "",
        "Folder of R2R ({split}/{split}.json.gz) or RxR ({split}_guide.json.gz) episodes, or an episode "
        "file; empty: the embedded world's own",
    )
    split: str = option("val_unseen", "Which part of the dataset")
    kind: str = option("flat", "Size of the flats of the embedded world's own episodes")
    first_episode: int = option(0, "Index of the first episode to run", minimum=0)
    episodes: int = option(100, "How many episodes to run; 0: all", minimum=0)
    via: str = option(
        "pipeline",
        "pipeline: engine and world in one process; graph: as ROS nodes, over topics",
        choices=("pipeline", "graph"),
    )
    sessions: int = option(
        1, "Episodes that a worker runs side by side, their forwards as one", minimum=1, maximum=256
    )
    measures: str = option(
        "all",
        "basic: success, SPL, error and length only, without a geodesic distance at every step",
        choices=("all", "basic"),
    )
    videos: float = option(0.0, "Share of the episodes that get a video", minimum=0.0, maximum=1.0)
    film_extremes: bool = option(False, "Run the worst and the best episodes once more, for their videos")
    seed: int = option(0, "Seed of sampling, of the bootstrap and of the choice of videos", minimum=0)
    max_steps: int = option(500, "An episode ends after this many actions", minimum=1, maximum=100000)
    limits: LimitsConfig = group(LimitsConfig)
    step_period_s: float = option(
        0.5, "Simulated time that one action takes", unit="s", minimum=0.05, maximum=10.0
    )
    navigator: NavigatorConfig = group(NavigatorConfig)


@dataclass(frozen=True, kw_only=True)
class FarmConfig:
    """Who does the work of an evaluation; no number depends on it."""

    backend: str = option(
        "processes", "processes: of this machine; ray: of a Ray cluster", choices=("processes", "ray")
    )
    workers: int = option(1, "How many; 0 works in the driver's own process", minimum=0, maximum=4096)
    attempts: int = option(
        3, "An episode is given up when it has ended this many workers", minimum=1, maximum=100
    )
    gpus_per_worker: float = option(
        0.0, "Share of a GPU that a Ray cluster reserves per worker", minimum=0.0, maximum=8.0
    )
    cpus_per_worker: float = option(
        1.0, "Processor cores that a Ray cluster reserves per worker", minimum=0.0, maximum=256.0
    )
    ray_address: str = option("", "Address of a running Ray cluster; empty: one is started here")
    shard: str = option("", "i/n: run the i-th (from 0) of n parts of the scenes, into a folder of its own")
    profiling: ProfilingConfig = group(ProfilingConfig)
