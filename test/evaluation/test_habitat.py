"""An evaluation in Habitat whose process fails: what is lost, what is said, and how often it is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from habitat_fakes import fake_python

from vln_ros.config import EvalConfig, FarmConfig, Scalar, from_flat
from vln_ros.evaluation.driver import evaluate
from vln_ros.evaluation.runs.results import RunResult, skips_line
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import make_scene_episodes

SEEDS = (900_003, 900_004, 900_005)
SLOW = pytest.mark.slow
WORKERS = [0, pytest.param(1, marks=SLOW)]


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    """Three scenes, two episodes each."""
    return [e for seed in SEEDS for e in make_scene_episodes("val_unseen", seed, "room")[:2]]


@pytest.fixture(scope="module")
def scenes(episodes: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for scene in {e.scene_id for e in episodes}:
        write_scene(root, Scene(scene, AGENT_RADIUS_M))
    return root


def run(
    folder: Path,
    scenes: Path,
    episodes: list[Episode],
    farm: FarmConfig,
    fake: dict[str, str],
    **values: Scalar,
) -> tuple[RunResult, int]:
    """The result, and how often a simulator with cameras was made."""
    calls = folder / "calls"
    python = fake_python(folder, FAKE_HABITAT_CALLS=str(calls), **fake)
    dataset = write_episodes(folder / "dataset", "val_unseen", episodes)
    given: dict[str, Scalar] = {
        "world": "habitat",
        "dataset": str(dataset),
        "episodes": 0,
        "navigator.engine": "paced",
        "navigator.paced.decision_ms": 0.0,
        "max_steps": 4,
        "camera.width": 32,
        "camera.height": 24,
        "habitat.python": python,
        "habitat.scenes": str(scenes),
        "habitat.radius_m": AGENT_RADIUS_M,
    }
    config = from_flat(EvalConfig, {**given, **{n.replace("__", "."): v for n, v in values.items()}})
    result = evaluate(config, farm, folder / "out", resume=False, command=["test"])
    return result, len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.mark.parametrize("workers", WORKERS)
def test_a_gpu_that_is_not_there_is_said_in_the_table_and_tried_twice(
    tmp_path: Path, scenes: Path, episodes: list[Episode], workers: int
) -> None:
    result, started = run(tmp_path, scenes, episodes, FarmConfig(workers=workers), {}, habitat__gpu=0)
    assert len(result.skipped) == len(episodes) and not result.episodes
    assert started <= 3
    assert all("unable to find CUDA device 0 among 1 EGL devices" in s.reason for s in result.skipped)
    text = skips_line(result.skipped, 0)
    assert "unable to find CUDA device 0" in text
    for chatter in ("PluginManager", "llvmpipe", "SceneGraph", "GL_ARB", "Deconstructing"):
        assert chatter not in text


@pytest.mark.parametrize(
    ("workers", "call"),
    [(0, "load:1"), (0, "step:2"), (0, "render:1"), (0, "render:3"), pytest.param(1, "step:2", marks=SLOW)],
)
def test_a_process_that_dies_once_costs_no_episode(
    tmp_path: Path, scenes: Path, episodes: list[Episode], workers: int, call: str
) -> None:
    fake = {"FAKE_HABITAT_DIES": call, "FAKE_HABITAT_ONCE": str(tmp_path / "once")}
    result, started = run(tmp_path, scenes, episodes, FarmConfig(workers=workers), fake)
    assert len(result.episodes) == len(episodes) and not result.skipped
    assert started == 2


@pytest.mark.parametrize("workers", WORKERS)
def test_a_scene_that_it_does_not_survive_takes_no_other_with_it(
    tmp_path: Path, scenes: Path, episodes: list[Episode], workers: int
) -> None:
    poison = episodes[2].scene_id
    name = re.sub(r".*/", "", poison)
    farm = FarmConfig(workers=workers)
    result, started = run(tmp_path, scenes, episodes, farm, {"FAKE_HABITAT_POISON": name})
    assert {s.scene_id for s in result.skipped} == {poison} and len(result.skipped) == 2
    assert len(result.episodes) == len(episodes) - 2
    assert all("cannot import" in s.reason for s in result.skipped)
    assert started <= 4  # twice for it, once before and once after


@pytest.mark.parametrize("workers", WORKERS)
def test_a_process_that_dies_in_every_episode_ends_the_run_with_all_of_them_skipped(
    tmp_path: Path, scenes: Path, episodes: list[Episode], workers: int
) -> None:
    farm = FarmConfig(workers=workers, attempts=2)
    result, started = run(tmp_path, scenes, episodes[:2], farm, {"FAKE_HABITAT_DIES": "step:2"})
    assert len(result.skipped) == 2 and not result.episodes
    assert all("the driver fell over" in s.reason and "SIGKILL" in s.reason for s in result.skipped)
    assert started == 4  # two attempts each


def test_several_robots_in_one_worker_lose_what_is_lost_only(
    tmp_path: Path, scenes: Path, episodes: list[Episode]
) -> None:
    fake = {"FAKE_HABITAT_DIES": "step:3", "FAKE_HABITAT_ONCE": str(tmp_path / "once")}
    result, started = run(tmp_path, scenes, episodes, FarmConfig(workers=0), fake, sessions=2)
    assert len(result.episodes) == len(episodes) and not result.skipped
    assert started == 3
