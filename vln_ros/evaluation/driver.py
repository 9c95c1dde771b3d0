"""Runs an evaluation: hands episodes to workers, writes down what they bring, survives their loss."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vln_ros.config import ConfigError, EvalConfig, FarmConfig, to_flat
from vln_ros.evaluation.episode.run import episode_info
from vln_ros.evaluation.runs.report import extremes
from vln_ros.evaluation.runs.results import Protocol, RunInfo, RunResult, Skip
from vln_ros.evaluation.runs.run_folder import EpisodeOutcome, RunFolder
from vln_ros.evaluation.workers.pool import InlinePool, Loss, ProcessPool, WorkerPool
from vln_ros.evaluation.workers.schedule import Job, SceneSchedule, Schedule, parse_shard, shard
from vln_ros.evaluation.workers.worker import Event, Interrupted, Ready, Refused, Unable, episode_limits
from vln_ros.evaluation.workers.worlds import chosen_episodes, dataset_file, expert_of, plan_of
from vln_ros.sim.episodes.episode import Episode

_LOG = logging.getLogger(__name__)
_HOPELESS = 3


class NoWorkersError(RuntimeError):
    """Workers are lost one after the other before they have done anything."""


def run_folder_of(out: Path, farm: FarmConfig) -> Path:
    """Where this part of the run is written: ``out``, or a folder below it for a shard."""
    if not farm.shard:
        return out
    index, count = parse_shard(farm.shard)
    return out / f"shard_{index}_of_{count}"


def run_info(config: EvalConfig, episodes: Sequence[Episode], path: Path, command: Sequence[str]) -> RunInfo:
    """Protocol and options, as they go into every result."""
    limits = episode_limits(config)
    radii = {e.goal_radius_m for e in episodes}
    step = config.navigator.step
    protocol = Protocol(
        name=config.world if config.protocol == "custom" else config.protocol,
        split=config.split if not config.dataset else path.name.removesuffix(".json.gz"),
        control="lockstep",
        goal_radius_m=radii.pop() if len(radii) == 1 else None,
        forward_m=step.forward_m,
        turn_deg=step.turn_deg,
        max_steps=limits.steps,
        max_actions=limits.actions,
        max_turns_in_place=limits.turns_in_place,
        max_questions=limits.questions,
        early_end_is_stop=limits.as_stop,
        measures=config.measures,
        generation=_generation(config),
    )
    return RunInfo(tuple(command), protocol, config.seed, to_flat(config))


def _generation(config: EvalConfig) -> str:
    """How tokens are chosen under these options, profile and checkpoint; read from their files."""
    navigator = config.navigator
    if navigator.engine != "qwen" or not navigator.qwen.checkpoint:
        return ""
    from vln_ros.engine.checkpoint.model import checkpoint_generation
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.decode.answer import sampling_of

    qwen = navigator.qwen
    spec = load_profile(qwen.profile).generation
    return str(sampling_of(qwen.temperature, qwen.sampling, spec, checkpoint_generation(qwen.checkpoint)))


def make_jobs(episodes: Sequence[Episode], config: EvalConfig) -> list[Job]:
    """One for each episode; which are filmed depends on the seed and their place alone."""
    filmed = np.random.default_rng([config.seed, 1]).permutation(len(episodes))
    count = round(config.videos * len(episodes))
    films = set(filmed[:count].tolist())
    return [
        Job(number, episode, number - 1 in films)
        for number, episode in enumerate(episodes, config.first_episode + 1)
    ]


def build_pool(config: EvalConfig, farm: FarmConfig) -> WorkerPool:
    """The workers that the options ask for, none of them started."""
    if farm.backend == "ray":
        from vln_ros.evaluation.workers.ray_pool import RayPool

        return RayPool(config, farm)
    return ProcessPool(config) if farm.workers else InlinePool(config)


def evaluate(
    config: EvalConfig,
    farm: FarmConfig,
    out: Path,
    *,
    resume: bool,
    command: Sequence[str],
    on_ready: Callable[[], None] | None = None,
) -> RunResult:
    """Run what the options say, and leave a run folder with its report.

    Args:
        on_ready: called when a worker has loaded its model; again for every one.

    Raises:
        ConfigError: something that the options name does not exist or does not go together.
        NoWorkersError: no worker survives its start.
    """
    path = dataset_file(config, out / "dataset")
    episodes = chosen_episodes(config, path)
    folder_path = run_folder_of(out, farm)
    info = run_info(config, episodes, path, command)
    worker_config = config
    if config.navigator.engine in ("expert", "pixel_oracle"):
        expert = expert_of(config, path)
        worker_config = replace(config, navigator=replace(config.navigator, expert=expert))
    if farm.profiling.level != "off":
        recorded = replace(worker_config.navigator, profiling=farm.profiling)
        worker_config = replace(worker_config, navigator=recorded)
    with RunFolder(folder_path, info, resume=resume) as folder:
        jobs = shard(make_jobs(episodes, config), *parse_shard(farm.shard))
        open_jobs = [j for j in jobs if not folder.is_done(j.episode.episode_id)]
        cut_short = "interrupted (Ctrl-C, SIGTERM or SIGHUP)"
        complete = False
        try:
            with closing(
                Driver(build_pool(worker_config, farm), folder, farm.workers, config.sessions, on_ready)
            ) as driver:
                driver.run(SceneSchedule(open_jobs, farm.attempts), done=len(jobs) - len(open_jobs))
                if config.film_extremes:
                    driver.film(_shown(folder, jobs), farm.attempts)
            complete = True
        except Exception as error:
            cut_short = str(error) or type(error).__name__
            raise
        finally:
            for job in _shown(folder, jobs):
                folder.illustrate(episode_info(job.episode), plan_of(config.world, job.episode.scene_id))
            result = folder.finish(None, complete=complete, cut_short=cut_short)
    return result


def _shown(folder: RunFolder, jobs: Sequence[Job]) -> list[Job]:
    """Those that the report shows large."""
    by_id = {j.episode.episode_id: j for j in jobs}
    return [by_id[e.episode_id] for e in extremes(folder.results) if e.episode_id in by_id]


class Driver:
    """Keeps workers busy and writes down what they bring. Used from one thread.

    Args:
        pool: none of its workers is started yet. Closed with the driver.
        folder: where results go.
        workers: how many to have; 0 is one, in line.
        sessions: episodes that one works on at a time.
        on_ready: called for every worker that has started.
    """

    def __init__(
        self,
        pool: WorkerPool,
        folder: RunFolder,
        workers: int,
        sessions: int,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._pool = pool
        self._folder = folder
        self._sessions = sessions
        self._workers = max(1, workers)
        self._on_ready = on_ready
        self._started = False
        self._under_way = [0] * self._workers
        self._resting: set[int] = set()
        self._failed_starts = [0] * self._workers

    def run(self, schedule: Schedule, *, done: int = 0) -> None:
        """Until every job is done, refused or given up; ``done`` are so already, for the progress bar.

        Raises:
            ConfigError: a worker says that the options are wrong.
            NoWorkersError: no worker survives its start.
        """
        self._work(schedule, done, "episodes", self._folder.store)

    def film(self, jobs: Sequence[Job], attempts: int) -> None:
        """Run these once more for their videos; their lines stay."""
        folder = self._folder
        unfilmed = [replace(j, video=True) for j in jobs if not folder.has_video(j.episode.episode_id)]
        self._work(SceneSchedule(unfilmed, attempts), 0, "videos", folder.store_files)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _work(
        self, schedule: Schedule, done: int, what: str, store: Callable[[EpisodeOutcome], object]
    ) -> None:
        if not schedule.open:
            return
        if not self._started:
            self._started = True
            for worker in range(self._workers):
                self._pool.start_worker(worker)
        with tqdm(total=done + schedule.open, initial=done, desc=what, file=sys.stderr, disable=None) as bar:
            while True:
                self._hand_out(schedule)
                if not schedule.open:
                    return
                for worker, answer in self._pool.answers():
                    if isinstance(answer, Loss):
                        bar.update(self._replace(worker, answer, schedule))
                        continue
                    self._resting.add(worker)
                    for event in answer:
                        bar.update(self._take(event, worker, schedule, store))

    def _hand_out(self, schedule: Schedule) -> None:
        for worker in sorted(self._resting):
            jobs: list[Job] = []
            while self._under_way[worker] + len(jobs) < self._sessions:
                job = schedule.take(worker)
                if job is None:
                    break
                jobs.append(job)
            self._under_way[worker] += len(jobs)
            if self._under_way[worker]:
                self._resting.remove(worker)
                self._pool.give(worker, jobs)

    def _replace(self, worker: int, loss: Loss, schedule: Schedule) -> int:
        """Start another one; how many episodes are given up with the last."""
        given_up = schedule.lost(worker)
        self._resting.discard(worker)
        for job in given_up:
            e = job.episode
            self._folder.skip(Skip(e.episode_id, e.scene_id, f"given up: {loss.reason}"))
        self._under_way[worker] = 0
        self._failed_starts[worker] += 1
        if self._failed_starts[worker] >= _HOPELESS:
            raise NoWorkersError(f"{loss.reason}, {_HOPELESS} times in a row before it was ready")
        _LOG.warning("%s; another one takes its place", loss.reason)
        self._pool.start_worker(worker)
        return len(given_up)

    def _take(
        self, event: Event, worker: int, schedule: Schedule, store: Callable[[EpisodeOutcome], object]
    ) -> int:
        """How many episodes it ends."""
        match event:
            case Ready():
                self._failed_starts[worker] = 0
                if self._on_ready is not None:
                    self._on_ready()
                self._folder.identify(event.checkpoint, event.versions)
                return 0
            case Unable():
                raise ConfigError(event.reason)
            case Refused():
                schedule.done(worker, event.episode_id)
                skip = Skip(event.episode_id, event.scene_id, event.reason, event.engine_failure)
                self._folder.skip(skip)
            case Interrupted():
                self._under_way[worker] -= 1
                given_up = schedule.failed(worker, event.episode_id)
                if given_up is None:
                    _LOG.warning("episode %s has another try: %s", event.episode_id, event.reason)
                    return 0
                self._folder.skip(Skip(event.episode_id, event.scene_id, f"given up: {event.reason}"))
                return 1
            case EpisodeOutcome():
                store(event)
                schedule.done(worker, event.result.episode_id)
        self._under_way[worker] -= 1
        return 1
