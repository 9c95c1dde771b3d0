"""Options of an evaluation: what is evaluated on which episodes, and by which workers."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import LARGEST_SEED, group, option
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.robot import NavigatorConfig
from vln_ros.config.simulation import LimitsConfig, WorldConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig(WorldConfig):
    """What is evaluated on what, by which rules. A run is resumed with the same options only."""

    dataset: str = option(
        "",
        "Folder of R2R episodes ({split}/{split}.json.gz) or RxR episodes ({split}_guide.json.gz), or one "
        "episode file. Empty makes the embedded world's own episodes.",
    )
    split: str = option(
        "val_unseen",
        "Which part of the dataset is run. Measure on val_unseen, whose scenes no training has seen; choose "
        "settings on val_seen.",
    )
    kind: str = option(
        "flat",
        "Size of the flats in the embedded world's own episodes: room, small (two or three rooms) or flat.",
        choices=("room", "small", "flat"),
    )
    first_episode: int = option(
        0,
        "Index of the first episode that is run, counted from 0. One beyond the end of the dataset is an "
        "error.",
        minimum=0,
    )
    episodes: int = option(
        100,
        "Number of episodes that are run, from first_episode on. 0 runs all; few give wide intervals (100 "
        "know a success rate to about 10 points).",
        minimum=0,
    )
    via: str = option(
        "pipeline",
        "How episodes are run. pipeline: engine and world in one process, which is fastest; graph: as ROS "
        "nodes, over topics, which gives the same actions.",
        choices=("pipeline", "graph"),
    )
    sessions: int = option(
        1,
        "Number of episodes that a worker runs side by side, with their forwards as one. More make better "
        "use of a GPU, and take memory for a stream each.",
        minimum=1, maximum=256,
    )  # fmt: skip
    measures: str = option(
        "all",
        "Which measures are computed. all: every one; basic: success, SPL, error and length only, which "
        "saves a geodesic distance at every step.",
        choices=("all", "basic"),
    )
    videos: float = option(
        0.0,
        "Share of the episodes that get a video. 0 writes none; 1 writes all, which takes time and disk "
        "space.",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    film_extremes: bool = option(
        False,
        "Whether the worst and the best episodes are run once more at the end, for their videos.",
    )
    seed: int = option(
        0,
        "Seed of sampling, of the bootstrap intervals and of the choice of videos. Two runs with the same "
        "seed and options give the same results.",
        minimum=0, maximum=LARGEST_SEED,
    )  # fmt: skip
    max_steps: int = option(
        500,
        "Number of actions after which an episode ends. Too low ends episodes whose way is long, too high "
        "spends time on robots that are lost.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    limits: LimitsConfig = group(LimitsConfig)
    step_period_s: float = option(
        0.5,
        "Simulated time that one action takes, from one frame's stamp to the next. The navigator's time "
        "limits must allow it: too low looks like a jump of the pose, too high like a gap in the odometry.",
        unit="s", minimum=0.05, maximum=10.0,
    )  # fmt: skip
    navigator: NavigatorConfig = group(NavigatorConfig)


@dataclass(frozen=True, kw_only=True)
class FarmConfig:
    """Who does the work of an evaluation; no number depends on it."""

    backend: str = option(
        "processes",
        "Where the workers of an evaluation run. processes: as processes of this machine; ray: as actors of "
        "a Ray cluster, which must be installed.",
        choices=("processes", "ray"),
    )
    workers: int = option(
        1,
        "Number of workers, each with a model and a world of its own. 0 works in the command's own process; "
        "more than there are cores, or than fit into memory, are slower or fail.",
        minimum=0, maximum=4096,
    )  # fmt: skip
    attempts: int = option(
        3,
        "Number of workers that an episode may end (by a crash or a lack of memory) before it is given up. 1 "
        "gives up at the first; high numbers spend time on an episode that always crashes.",
        minimum=1, maximum=100,
    )  # fmt: skip
    gpus_per_worker: float = option(
        0.0,
        "Share of a GPU that a Ray cluster reserves for each worker. 0 reserves none; too low puts more "
        "models on a GPU than fit.",
        minimum=0.0, maximum=8.0,
    )  # fmt: skip
    cpus_per_worker: float = option(
        1.0,
        "Number of processor cores that a Ray cluster reserves for each worker. Too low lets workers slow "
        "each other down, too high leaves cores unused.",
        minimum=0.0, maximum=256.0,
    )  # fmt: skip
    ray_address: str = option(
        "",
        "Address of a running Ray cluster. Empty starts one on this machine.",
    )
    shard: str = option(
        "",
        "Which part of the scenes is run, as i/n: the i-th (from 0) of n parts, into a folder of its own. "
        "Empty runs everything.",
    )
    profiling: ProfilingConfig = group(ProfilingConfig)
