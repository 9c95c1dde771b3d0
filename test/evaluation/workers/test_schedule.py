"""Who runs what: whole scenes, longest first, nothing lost and nothing twice."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError
from vln_ros.datatypes import Pose
from vln_ros.evaluation.workers.schedule import Job, SceneSchedule, SliceSchedule, parse_shard, shard
from vln_ros.sim.episodes.episode import Episode


def job(number: int, scene: str, way_m: float = 5.0) -> Job:
    episode = Episode(
        episode_id=str(number),
        trajectory_id="0",
        scene_id=scene,
        start=Pose.identity(),
        goal=np.zeros(3),
        goal_radius_m=3.0,
        instruction="go",
        reference_path=np.zeros((1, 3)),
        geodesic_distance_m=way_m,
    )
    return Job(number, episode, False)


def jobs_of(sizes: dict[str, int]) -> list[Job]:
    names = [scene for scene, size in sizes.items() for _ in range(size)]
    return [job(n, scene) for n, scene in enumerate(names, 1)]


def ids(jobs: list[Job]) -> list[str]:
    return [j.episode.episode_id for j in jobs]


def test_the_longest_scene_first_and_each_worker_stays_in_its_own() -> None:
    schedule = SceneSchedule(jobs_of({"a": 2, "b": 4, "c": 3}), 3)
    seen: dict[int, list[str]] = {0: [], 1: []}
    for _ in range(3):
        for worker in (0, 1):
            taken = schedule.take(worker)
            assert taken is not None
            seen[worker].append(taken.episode.scene_id)
            schedule.done(worker, taken.episode.episode_id)
    assert seen == {0: ["b"] * 3, 1: ["c"] * 3}
    taken = schedule.take(1)  # "c" is empty: on to "a"
    assert taken is not None and taken.episode.scene_id == "a"


def test_help_is_worth_a_load_only_for_two_episodes() -> None:
    schedule = SceneSchedule(jobs_of({"a": 4}), 3)
    assert schedule.take(0) is not None
    assert schedule.take(1) is not None  # three were left
    assert schedule.take(2) is not None  # two were left
    assert schedule.take(3) is None  # one is: its owner takes it


def test_who_ends_three_workers_is_given_up_alone() -> None:
    schedule = SceneSchedule(jobs_of({"a": 5}), 3)
    given_up: list[Job] = []
    finished: list[str] = []
    for _ in range(50):
        flying: list[str] = []
        while len(flying) < 3 and (taken := schedule.take(0)) is not None:
            flying.append(taken.episode.episode_id)
        if not flying:
            break
        if "2" in flying:  # ends the worker, whoever is with it
            given_up += schedule.lost(0)
            continue
        for episode_id in flying:
            schedule.done(0, episode_id)
            finished.append(episode_id)
    assert ids(given_up) == ["2"]
    assert sorted(finished) == ["1", "3", "4", "5"]
    assert schedule.open == 0


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 6), max_size=8),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_under_any_losses_every_job_ends_exactly_once(
    sizes: dict[str, int], workers: int, sessions: int, seed: int
) -> None:
    chance = random.Random(seed)
    jobs = jobs_of(sizes)
    schedule = SceneSchedule(jobs, 3)
    flying: dict[int, list[str]] = {w: [] for w in range(workers)}
    ended: Counter[str] = Counter()
    for _ in range(2000):
        for worker in range(workers):
            while len(flying[worker]) < sessions and (taken := schedule.take(worker)) is not None:
                flying[worker].append(taken.episode.episode_id)
        if not schedule.open:
            break
        busy = [w for w in flying if flying[w]]
        assert busy, "something is open, and nobody works"
        worker = chance.choice(busy)
        if chance.random() < 0.2:
            ended.update(ids(schedule.lost(worker)))
            flying[worker] = []
        else:
            episode_id = flying[worker].pop(chance.randrange(len(flying[worker])))
            schedule.done(worker, episode_id)
            ended[episode_id] += 1
    assert ended == Counter(ids(jobs))


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 9), max_size=10), st.integers(1, 6))
def test_shards_are_whole_scenes_and_together_everything(sizes: dict[str, int], count: int) -> None:
    jobs = jobs_of(sizes)
    parts = [shard(jobs, k, count) for k in range(count)]
    assert sorted(n for part in parts for n in ids(part)) == sorted(ids(jobs))
    scenes = [{j.episode.scene_id for j in part} for part in parts]
    assert sum(map(len, scenes)) == len(sizes)
    costs = [sum(j.cost for j in part) for part in parts]
    largest = max((size * 8.0 for size in sizes.values()), default=0.0)
    assert max(costs) - min(costs) <= largest


def test_slices_are_the_fields() -> None:
    schedule = SliceSchedule(jobs_of({"a": 3, "b": 3}), 2)
    mine = []
    while (taken := schedule.take(1)) is not None:
        schedule.done(1, taken.episode.episode_id)
        mine.append(taken.number)
    assert mine == [2, 4, 6] and schedule.open == 3


@pytest.mark.parametrize("text", ["1", "2/2", "-1/3", "a/b", "0/0", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="shard"):
        parse_shard(text)
    assert parse_shard("") == (0, 1) and parse_shard("2/3") == (2, 3)
