"""Decides which worker runs which episode: whole scenes, longest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vln_ros.config import ConfigError
from vln_ros.sim.episodes.episode import Episode

_EPISODE_M = 3.0
"""What an episode costs beside its way (start, first decision), as a length of way."""


@dataclass(frozen=True, eq=False)
class Job:
    """An episode to run.

    Attributes:
        number: of its instruction; depends on the dataset alone, so that results do not depend on the order.
        video: film it.
    """

    number: int
    episode: Episode
    video: bool

    @property
    def cost(self) -> float:
        """Grows with the time that it will take."""
        way_m = self.episode.geodesic_distance_m
        return _EPISODE_M + (way_m if way_m < 1e6 else 0.0)  # inf and NaN occur in broken files


class Schedule(Protocol):
    """Hands out jobs; knows who has which."""

    def take(self, worker: int) -> Job | None:
        """The next job for a worker; None: nothing for it now."""

    def done(self, worker: int, episode_id: str) -> None:
        """It has finished one."""

    def failed(self, worker: int, episode_id: str) -> Job | None:
        """It could not finish one, and is well; that is handed out again. Returns it if it is given up."""

    def lost(self, worker: int) -> list[Job]:
        """It is gone; what it had is handed out again. Returns what is given up."""

    @property
    def open(self) -> int:
        """Jobs that are not done."""


class SceneSchedule:
    """Whole scenes per worker, the longest first, dealt out as workers become free.

    A worker that has no scene left to begin helps with the one where most is left, if that is at least
    two episodes: the run ends sooner, for one more load.

    Args:
        jobs: what is to be done.
        attempts: a job is given up when this many workers were lost with it. One that was under way when a
            worker was lost runs alone the next time, so that it takes no innocent ones with it.
    """

    def __init__(self, jobs: Sequence[Job], attempts: int) -> None:
        self._attempts = attempts
        self._waiting: dict[str, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(job.episode.scene_id, deque()).append(job)
        self._scene_of: dict[int, str] = {}
        self._flying: dict[int, dict[str, Job]] = {}
        self._failures: dict[str, int] = {}

    @property
    def open(self) -> int:
        waiting = sum(len(queue) for queue in self._waiting.values())
        return waiting + sum(len(jobs) for jobs in self._flying.values())

    def take(self, worker: int) -> Job | None:
        flying = self._flying.setdefault(worker, {})
        if any(self._failures.get(e, 0) for e in flying):
            return None  # a suspect runs alone
        scene = self._scene_of.get(worker)
        if scene is None or not self._waiting.get(scene):
            scene = self._choose(worker)
        if scene is None:
            return None
        queue = self._waiting[scene]
        job = queue[0]
        if self._failures.get(job.episode.episode_id, 0) and flying:
            return None
        queue.popleft()
        self._scene_of[worker] = scene
        flying[job.episode.episode_id] = job
        if not queue:
            del self._waiting[scene]
        return job

    def _choose(self, worker: int) -> str | None:
        """The costliest scene that nobody has; else the one with most left, if it is worth a load."""
        others = {s for w, s in self._scene_of.items() if w != worker}
        free = {s: q for s, q in self._waiting.items() if s not in others}
        shared = {s: q for s, q in self._waiting.items() if len(q) > 1}
        for scenes in (free, shared):
            if scenes:
                return max(scenes, key=lambda s: (sum(j.cost for j in scenes[s]), s))
        # What is left belongs to others, one each; but who is lost takes nothing any more.
        alive = {s for w, s in self._scene_of.items() if w != worker and self._flying.get(w)}
        orphans = [s for s in self._waiting if s not in alive]
        return orphans[0] if orphans else None

    def done(self, worker: int, episode_id: str) -> None:
        del self._flying[worker][episode_id]

    def failed(self, worker: int, episode_id: str) -> Job | None:
        return self._again(self._flying[worker].pop(episode_id))

    def lost(self, worker: int) -> list[Job]:
        self._scene_of.pop(worker, None)
        jobs = self._flying.pop(worker, {}).values()
        return [job for job in jobs if self._again(job) is not None]

    def _again(self, job: Job) -> Job | None:
        """Wait for another attempt; the job itself if it has had all of them."""
        count = self._failures.get(job.episode.episode_id, 0) + 1
        self._failures[job.episode.episode_id] = count
        if count >= self._attempts:
            return job
        self._waiting.setdefault(job.episode.scene_id, deque()).append(job)
        return None


class SliceSchedule:
    """Every worker gets every n-th episode in the given order, as evaluation scripts of the field do it.

    Here to be measured against; see docs/evaluate/evaluation.md.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self._waiting = [deque(jobs[k::workers]) for k in range(workers)]
        self._flying: list[dict[str, Job]] = [{} for _ in range(workers)]

    @property
    def open(self) -> int:
        return sum(map(len, self._waiting)) + sum(map(len, self._flying))

    def take(self, worker: int) -> Job | None:
        if not self._waiting[worker]:
            return None
        job = self._waiting[worker].popleft()
        self._flying[worker][job.episode.episode_id] = job
        return job

    def done(self, worker: int, episode_id: str) -> None:
        del self._flying[worker][episode_id]

    def failed(self, worker: int, episode_id: str) -> Job | None:
        return self._flying[worker].pop(episode_id)

    def lost(self, worker: int) -> list[Job]:
        given_up = list(self._flying[worker].values())
        self._flying[worker].clear()
        return given_up


def parse_shard(text: str) -> tuple[int, int]:
    """``i/n``, ``0 <= i < n``; empty is ``0/1``. Raises ConfigError."""
    if not text:
        return 0, 1
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise ConfigError(f"shard = {text!r}: expected i/n, as in 0/4") from None
    if not 0 <= index < count:
        raise ConfigError(f"shard = {text!r}: the first number counts from 0 and stays below the second")
    return index, count


def shard(jobs: Sequence[Job], index: int, count: int) -> list[Job]:
    """Part ``index`` of ``count`` of the jobs: whole scenes, balanced by dealing out the longest first.

    The parts of one set of jobs are disjoint, and together they are the set.
    """
    scenes: dict[str, list[Job]] = {}
    for job in jobs:
        scenes.setdefault(job.episode.scene_id, []).append(job)
    loads = [0.0] * count
    mine: list[Job] = []
    for name in sorted(scenes, key=lambda s: (-sum(j.cost for j in scenes[s]), s)):
        lightest = loads.index(min(loads))
        loads[lightest] += sum(j.cost for j in scenes[name])
        if lightest == index:
            mine += scenes[name]
    return mine
