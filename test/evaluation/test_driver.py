"""A whole evaluation: the same numbers however it is run, and whoever is killed."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spawned import be_killed, fail

from vln_ros.config import (
    ConfigError,
    EvalConfig,
    FarmConfig,
    NavigatorConfig,
    ProfilingConfig,
    Scalar,
    from_flat,
)
from vln_ros.engines import build_engine, build_loop
from vln_ros.evaluation import driver as driver_module
from vln_ros.evaluation.driver import Driver, NoWorkersError, evaluate, make_jobs, run_info
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.metrics import summary_table
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.runs.lines import trajectory_lines
from vln_ros.evaluation.runs.loading import load_result, load_run
from vln_ros.evaluation.runs.results import RunResult
from vln_ros.evaluation.runs.run_folder import RunFolder
from vln_ros.evaluation.workers.pool import Answer, Loss, ProcessPool, how_it_ended
from vln_ros.evaluation.workers.schedule import SceneSchedule
from vln_ros.evaluation.workers.worlds import build_worlds, chosen_episodes, dataset_file
from vln_ros.profiling import spans
from vln_ros.profiling.files import read_recordings
from vln_ros.sim.episodes.episode import Episode, read_episodes, write_episodes
from vln_ros.sim.splits import make_episodes

SMALL: dict[str, Scalar] = {
    "kind": "room",
    "camera.width": 32,
    "camera.height": 24,
    "navigator.engine": "expert",
    "episodes": 7,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    write_episodes(root, "val_unseen", make_episodes("val_unseen", 7, "room"))
    return root


def config_of(dataset: Path, **changes: Scalar) -> EvalConfig:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return from_flat(EvalConfig, {**SMALL, "dataset": str(dataset), **named})


def run(
    dataset: Path, out: Path, farm: FarmConfig | None = None, *, resume: bool = False, **changes: Scalar
) -> RunResult:
    farm = farm or FarmConfig(workers=0)
    return evaluate(config_of(dataset, **changes), farm, out, resume=resume, command=["test"])


def numbers(result: RunResult) -> dict[str, tuple[Any, ...]]:
    """What must not depend on who ran it."""
    return {e.episode_id: (e.scene_id, e.ended, e.decisions, repr(e.metrics)) for e in result.episodes}


def trajectories(out: Path) -> dict[str, str]:
    return {p.parent.name: p.read_text() for p in out.glob("episodes/*/trajectory.jsonl")}


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Path]:
    out = tmp_path_factory.mktemp("undisturbed")
    return run(dataset, out), out


def test_a_run_leaves_results_maps_and_a_page(dataset: Path, undisturbed: tuple[RunResult, Path]) -> None:
    result, out = undisturbed
    assert result.summary.episodes == 7 and result.summary.success.mean == 1.0 and not result.skipped
    tree = json.loads((out / "result.json").read_text())
    assert tree["complete"] and tree["protocol"]["max_steps"] == 500
    assert tree["protocol"]["not_a_number"] and tree["config"]["navigator.engine"] == "expert"
    assert tree["costs"]["prepared"] == 2 and tree["costs"]["forwards"] is None
    assert tree["costs"]["waited_s"] > 0
    page = (out / "report.html").read_text()
    assert "Where the time went" in page and page.count("map of episode") == 7
    assert len(list(out.glob("episodes/*/map.png"))) == 7 and not list(out.glob("episodes/*/video.mp4"))


def test_ndtw_only_against_ground_truth(
    dataset: Path, undisturbed: tuple[RunResult, Path], tmp_path: Path
) -> None:
    shutil.copytree(dataset, tmp_path / "part")
    truth = tmp_path / "part" / "val_unseen" / "val_unseen_gt.json.gz"
    content = json.loads(gzip.decompress(truth.read_bytes()))
    lost = [*content][::2]
    truth.write_bytes(gzip.compress(json.dumps({k: v for k, v in content.items() if k not in lost}).encode()))
    result = run(tmp_path / "part", tmp_path / "out")
    whole = {e.episode_id: e.metrics for e in undisturbed[0].episodes}
    for e in result.episodes:
        before = whole[e.episode_id]
        assert e.metrics is not None and before is not None
        if e.episode_id in lost:
            assert math.isnan(e.metrics.ndtw) and math.isnan(e.metrics.sdtw)
        else:
            assert (e.metrics.ndtw, e.metrics.sdtw) == (before.ndtw, before.sdtw)
    s = result.summary
    assert (s.no_ground_truth, s.ndtw.count, s.sdtw.count, s.spl.count) == (4, 3, 3, 7)
    said = "4 of 7 have no step-level ground truth"
    assert said in summary_table(s) and said in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "result.json").read_text())["summary"]["no_ground_truth"] == 4
    assert any(said in note for note in load_run(tmp_path / "out").notes)
    assert undisturbed[0].summary.no_ground_truth == 0

    truth.unlink()
    s = run(tmp_path / "part", tmp_path / "none").summary
    assert (s.no_ground_truth, s.ndtw.count) == (7, 0)
    assert run(tmp_path / "part", tmp_path / "basic", measures="basic").summary.no_ground_truth == 0


def test_it_takes_the_decisions_of_the_pipeline(dataset: Path, undisturbed: tuple[RunResult, Path]) -> None:
    config = config_of(dataset)
    path = dataset_file(config, dataset)
    navigator = from_flat(NavigatorConfig, {"engine": "expert", "expert.episodes": str(path)})
    world = build_worlds(config, 1)[0]
    loop = build_loop(build_engine(navigator), navigator)
    for episode in chosen_episodes(config, path):
        run = EpisodeRun(
            world,
            episode,
            start_ns=0,
            step_period_ns=500_000_000,
            limits=EpisodeLimits(500),
            recorder=EpisodeRecorder(episode_info(episode), None),
        )
        run_lockstep(run, loop, 1)
        record = run.finish()
        assert trajectory_lines(record) == trajectories(undisturbed[1])[episode.episode_id]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_recorded_run_is_the_same_and_leaves_its_timings(
    dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path], workers: int
) -> None:
    profiling = ProfilingConfig(level="spans", folder=str(tmp_path / "profiling"))
    result = run(dataset, tmp_path, FarmConfig(workers=workers, profiling=profiling))
    assert numbers(result) == numbers(undisturbed[0])
    (timings,) = read_recordings(tmp_path / "profiling")
    assert timings.process == "worker-0"
    assert timings.count("instruction") == 7
    assert timings.count("decision") >= sum(e.decisions for e in result.episodes)
    assert spans.active() is None


@pytest.mark.parametrize("sessions", [2, 3])
def test_side_by_side_is_the_same(
    dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path], sessions: int
) -> None:
    result = run(dataset, tmp_path, sessions=sessions)
    assert numbers(result) == numbers(undisturbed[0])
    assert trajectories(tmp_path) == trajectories(undisturbed[1])


def test_what_is_asked_is_filmed(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "share", videos=0.3, episodes=4)
    assert len(list(tmp_path.glob("share/episodes/*/video.mp4"))) == 1
    run(dataset, tmp_path / "extremes", film_extremes=True, episodes=3)
    assert len(list(tmp_path.glob("extremes/episodes/*/video.mp4"))) == 3
    lines = (tmp_path / "extremes" / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 3  # the second runs are in no number
    assert (tmp_path / "extremes" / "report.html").read_text().count("<video ") == 3


def test_basic_measures_are_the_others_less(
    dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path]
) -> None:
    result = run(dataset, tmp_path, measures="basic")
    full = {e.episode_id: e.metrics for e in undisturbed[0].episodes}
    for e in result.episodes:
        a, b = e.metrics, full[e.episode_id]
        assert a is not None and b is not None
        assert (a.success, a.spl, a.navigation_error_m) == (b.success, b.spl, b.navigation_error_m)
        assert a.oracle_success is None and np.isnan(a.ndtw)
    assert result.summary.oracle_success.count == result.summary.ndtw.count == 0


def test_shards_are_disjoint_and_resumed_on_their_own(dataset: Path, tmp_path: Path) -> None:
    found: list[str] = []
    for k in range(2):
        for resume in (False, True):
            result = run(dataset, tmp_path, FarmConfig(workers=0, shard=f"{k}/2"), resume=resume)
        found += [e.episode_id for e in result.episodes]
        assert (tmp_path / f"shard_{k}_of_2" / "report.html").exists()
    assert sorted(found) == [str(n) for n in range(1, 8)]


def bad_dataset(root: Path) -> Path:
    """Seven episodes: one in a scene that is not there, one that starts in a wall."""
    import dataclasses

    from vln_ros.datatypes import Pose

    episodes: list[Episode] = list(make_episodes("val_unseen", 7, "room"))
    episodes[1] = dataclasses.replace(episodes[1], scene_id="mp3d/gone/gone.glb")
    episodes[4] = dataclasses.replace(episodes[4], start=Pose.planar(-50.0, 0.0, 0.0))
    return write_episodes(root, "val_unseen", episodes)


def test_what_cannot_be_run_is_counted_and_shown(tmp_path: Path) -> None:
    path = bad_dataset(tmp_path)
    result = run(path, tmp_path / "out", navigator__expert__episodes=str(path))
    assert sorted(s.episode_id for s in result.skipped) == ["2", "5"]
    assert result.summary.episodes == 5
    reasons = {s.episode_id: s.reason for s in result.skipped}
    assert "mp3d/gone/gone.glb" in reasons["2"] and "does not fit" in reasons["5"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 of 7 episodes could not be" in page and "mp3d/gone" in page
    again = run(path, tmp_path / "out", resume=True, navigator__expert__episodes=str(path))
    assert len(again.skipped) == 2 and again.summary.episodes == 5


def test_refusals_name_the_remedy(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no split 'val_seen' in .*val_seen\.json\.gz nor .* holds val_unseen"
    ):
        run(dataset, tmp_path / "a", split="val_seen")
    with pytest.raises(ConfigError, match="has only 7 episodes"):
        run(dataset, tmp_path / "a", first_episode=7)
    with pytest.raises(ConfigError, match=r"checkpoint is empty"):
        run(dataset, tmp_path / "b", navigator__engine="qwen")
    with pytest.raises(ConfigError, match="say how many"):
        evaluate(EvalConfig(episodes=0), FarmConfig(workers=0), tmp_path, resume=False, command=[])
    run(dataset, tmp_path / "c", episodes=1)
    with pytest.raises(ConfigError, match="holds a run already"):
        run(dataset, tmp_path / "c", episodes=1)
    with pytest.raises(ConfigError, match="another"):
        run(dataset, tmp_path / "c", episodes=2, resume=True)


class KillingPool(ProcessPool):
    """Kills a worker in the midst of its first episode, and the next in its second ..."""

    kills = 0

    def give(self, worker: int, orders: Any) -> None:
        super().give(worker, orders)
        if orders and self.kills < 2:
            self.kills += 1
            os.kill(self.pid(worker), signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (fail, "worker 4 ended: ValueError: the scene has no floor"),
        (be_killed, "worker 4 was killed by SIGKILL (out of memory? see dmesg)"),
    ],
)
def test_a_worker_that_ends_says_of_what(dataset: Path, end: Any, said: str) -> None:
    pool = ProcessPool(config_of(dataset), end)
    pool.start_worker(4)
    answers: list[Answer] = []
    while not answers:
        answers = pool.answers()
    assert answers == [(4, Loss(said))]
    pool.close()


def test_how_processes_end() -> None:
    assert how_it_ended(3, "") == "ended with status 3"
    assert how_it_ended(-signal.SIGTERM, "") == "was killed by SIGTERM"
    assert how_it_ended(-99, "") == "was killed by signal 99"
    assert how_it_ended(1, "OSError: no") == "ended: OSError: no"


@pytest.mark.slow
def test_killed_workers_cost_nothing(
    dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "ProcessPool", KillingPool)
    result = run(dataset, tmp_path, FarmConfig(workers=2))
    assert numbers(result) == numbers(undisturbed[0]) and not result.skipped
    assert trajectories(tmp_path) == trajectories(undisturbed[1])
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 7


class DeadPool:
    """Nobody survives; for what the driver does then."""

    def __init__(self, after_ready: bool) -> None:
        self.after_ready = after_ready
        self.started: list[int] = []
        self.ready: set[int] = set()

    def start_worker(self, worker: int) -> None:
        self.started.append(worker)

    def give(self, worker: int, orders: Any) -> None: ...

    def answers(self) -> list[Answer]:
        from vln_ros.evaluation.workers.worker import Ready

        if self.after_ready and 0 not in self.ready:
            self.ready.add(0)
            return [(0, [Ready("", {})])]
        self.ready.clear()
        return [(0, Loss("worker 0 ended with status -9"))]

    def close(self) -> None: ...


def test_a_poisonous_episode_is_given_up_and_a_stillborn_crew_is_reported(
    dataset: Path, tmp_path: Path
) -> None:
    config = config_of(dataset, episodes=2)
    path = dataset_file(config, dataset)
    episodes = chosen_episodes(config, path)
    info = run_info(config, episodes, path, ["test"])
    jobs = make_jobs(episodes, config)
    with RunFolder(tmp_path / "a", info, resume=False) as folder:
        with closing(Driver(DeadPool(after_ready=True), folder, 1, 1)) as driver:
            driver.run(SceneSchedule(jobs, 3))
        result = folder.finish(None)
    assert [s.episode_id for s in result.skipped] == ["1", "2"]
    assert "given up: worker 0 ended with status -9" in result.skipped[0].reason
    dead = DeadPool(after_ready=False)
    with (
        RunFolder(tmp_path / "b", info, resume=False) as folder,
        pytest.raises(NoWorkersError, match="3 times in a row before it was ready"),
    ):
        Driver(dead, folder, 1, 1).run(SceneSchedule(jobs, 3))


@pytest.mark.slow
def test_a_killed_driver_is_taken_up_again(
    dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path]
) -> None:
    command = [sys.executable, "-m", "vln_ros", "eval", "--out", str(tmp_path), "--dataset", str(dataset)]
    command += [f"--{name}={SMALL[name]}" for name in ("kind", "episodes")] + ["--engine=expert"]
    command += ["--set=camera.width=32", "--set=camera.height=24", "--workers=1"]
    log = tmp_path / "episodes.jsonl"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 100.0
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not json.loads((tmp_path / "result.json").read_text())["complete"]
    result = run(dataset, tmp_path, resume=True)
    assert numbers(result) == numbers(undisturbed[0])
    assert len(log.read_text().splitlines()) == 7
    assert len(read_episodes(dataset_file(config_of(dataset), dataset))) == 7


@pytest.mark.slow
@pytest.mark.ros
def test_the_graph_takes_the_same_steps(
    dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path]
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    command = [sys.executable, "-m", "vln_ros", "eval", "--via=graph", f"--dataset={dataset}", "--kind=room"]
    command += ["--episodes=3", "--engine=expert", "--set=camera.width=32", "--set=camera.height=24"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, timeout=110)
    result = load_result(tmp_path)
    assert result.complete and result.info.config["via"] == "graph"
    expected = {i: n for i, n in numbers(undisturbed[0]).items() if i in ("1", "2", "3")}
    assert numbers(result) == expected
    for episode_id, text in trajectories(tmp_path).items():
        poses = [json.loads(line) for line in text.splitlines()]
        theirs = [json.loads(line) for line in trajectories(undisturbed[1])[episode_id].splitlines()]
        for a, b in zip(poses, theirs, strict=True):  # the clock goes on between the graph's episodes
            assert {k: v for k, v in a.items() if k != "stamp_ns"} == {
                k: v for k, v in b.items() if k != "stamp_ns"
            }
    again = subprocess.run([*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True, timeout=60)
    assert again.returncode == 2 and "holds a run already" in again.stderr


@pytest.mark.slow
def test_ray_does_the_same(dataset: Path, tmp_path: Path, undisturbed: tuple[RunResult, Path]) -> None:
    pytest.importorskip("ray", reason="Ray is optional")
    result = run(dataset, tmp_path, FarmConfig(workers=2, backend="ray"))
    assert numbers(result) == numbers(undisturbed[0])
    assert trajectories(tmp_path) == trajectories(undisturbed[1])


def test_without_ray_the_message_says_what_to_do(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"requirements-ray.txt, or use backend processes"):
        run(dataset, tmp_path, FarmConfig(workers=1, backend="ray"), episodes=1)
