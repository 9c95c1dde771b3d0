"""Whole graphs: real processes, real topics."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.axes import base_from_optical
from vln_ros.cli.graph import Graph, GraphError, NodeSpec, graph_environment
from vln_ros.config import BridgeConfig, NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import CameraModel
from vln_ros.engines import build_engine, build_loop
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.record import EpisodeRecord, EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.runs.lines import decision_lines, trajectory_lines
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import read_episodes, write_episodes
from vln_ros.sim.splits import first_seeds, make_episodes, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
RESET_PAUSE_NS = 10_000_000_000
CAMERA: dict[str, Scalar] = {"camera.width": 64, "camera.height": 48}


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of a flat's episodes, the shortest first."""
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    short = sorted(every, key=lambda e: e.geodesic_distance_m)[:2]
    return write_episodes(tmp_path_factory.mktemp("episodes"), "val_unseen", short)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def expert(episodes: Path) -> dict[str, Scalar]:
    return {"engine": "expert", "expert.episodes": str(episodes)}


POLICY: dict[str, Scalar] = {"engine": "qwen", "qwen.checkpoint": "shipped:tiny", "qwen.device": "cpu"}


def run_graph(
    folder: Path, episodes: Path, bridge: dict[str, Scalar], realtime: bool, engine: dict[str, Scalar]
) -> dict[str, Any]:
    navigator: dict[str, Scalar] = {**engine, "extrinsics": "parameters", "reliability": "reliable"}
    with Graph(folder / "logs", graph_environment()) as graph:
        spec = {"episodes": str(episodes), "run_folder": str(folder), "video": False, **CAMERA, **bridge}
        graph.start(NodeSpec("sim_bridge", spec))
        graph.start(NodeSpec("navigator", {**navigator, "use_sim_time": realtime}))
        if realtime:
            graph.start(NodeSpec("executor", {"use_sim_time": True, "safety.obstacles": "none"}))
        assert graph.wait("sim_bridge") == 0
    result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    return result


def run_without_ros(
    path: Path, engine: dict[str, Scalar], pitch_down_deg: float = 0.0
) -> list[EpisodeRecord]:
    navigator = from_flat(NavigatorConfig, engine)
    bridge = from_flat(BridgeConfig, CAMERA)
    hfov_rad = bridge.camera.hfov_deg * 3.141592653589793 / 180.0
    camera = CameraModel.from_hfov(bridge.camera.width, bridge.camera.height, hfov_rad)
    pitch_down_rad = math.radians(pitch_down_deg)
    extrinsics = base_from_optical(0.0, 0.0, bridge.camera.height_m, pitch_down_rad=pitch_down_rad)
    world = EmbeddedWorld(camera, extrinsics)
    loop = build_loop(build_engine(navigator), navigator)
    records, start_ns = [], RESET_PAUSE_NS
    for number, episode in enumerate(read_episodes(path), start=1):
        run = EpisodeRun(
            world,
            episode,
            start_ns=start_ns,
            step_period_ns=round(bridge.step_period_s * 1e9),
            limits=EpisodeLimits(bridge.max_steps),
            recorder=EpisodeRecorder(episode_info(episode), None),
        )
        run_lockstep(run, loop, number)
        start_ns = run.stamp_ns + RESET_PAUSE_NS
        records.append(run.finish())
    return records


def without_latency(decisions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in d.items() if "latency" not in k} for d in decisions]


def test_lockstep_is_repeatable_and_the_same_as_without_ros(tmp_path: Path, episodes: Path) -> None:
    engine = expert(episodes)
    results = [run_graph(tmp_path / name, episodes, {}, False, engine) for name in ("a", "b")]
    assert results[0]["complete"]
    records = run_without_ros(episodes, engine)
    assert len(records) == 2
    for record in records:
        folder = Path("episodes") / record.info.episode_id
        first, second = tmp_path / "a" / folder, tmp_path / "b" / folder
        trajectory = lines(first / "trajectory.jsonl")
        assert trajectory == lines(second / "trajectory.jsonl")
        decisions = without_latency(lines(first / "decisions.jsonl"))
        assert decisions == without_latency(lines(second / "decisions.jsonl"))
        assert record.ended == "stop"
        assert record.metrics is not None
        assert record.metrics.success
        assert trajectory == [json.loads(line) for line in trajectory_lines(record).splitlines()]
        expected = without_latency([json.loads(line) for line in decision_lines(record).splitlines()])
        assert decisions == expected
        assert len(decisions) > 2


def test_the_shipped_policy_does_the_same_with_and_without_ros(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "val_unseen", make_episodes("val_unseen", 3, "room"))
    assert run_graph(tmp_path / "run", path, {}, False, POLICY)["complete"]
    records = run_without_ros(path, POLICY)
    assert len(records) == 3
    for record in records:
        folder = tmp_path / "run/episodes" / record.info.episode_id
        steps = [json.loads(line) for line in trajectory_lines(record).splitlines()]
        assert lines(folder / "trajectory.jsonl") == steps
        expected = without_latency([json.loads(line) for line in decision_lines(record).splitlines()])
        decisions = without_latency(lines(folder / "decisions.jsonl"))
        assert [d["actions"] for d in decisions] == [d["actions"] for d in expected]
        assert len(decisions) > 1


def test_pixels_lead_to_the_same_with_and_without_ros(tmp_path: Path) -> None:
    """Text, pixel, depth, place, plan and queue: bit for bit, with the place on the wire."""
    path = write_episodes(tmp_path, "val_unseen", make_episodes("val_unseen", 2, "room"))
    engine: dict[str, Scalar] = {"engine": "pixel_oracle", "expert.episodes": str(path)}
    bridge: dict[str, Scalar] = {"camera.pitch_down_deg": 30.0}
    there = {**engine, "camera_pitch_down_deg": 30.0}
    assert run_graph(tmp_path / "run", path, bridge, False, there)["complete"]
    places = 0
    for record in run_without_ros(path, engine, 30.0):
        folder = tmp_path / "run/episodes" / record.info.episode_id
        steps = [json.loads(line) for line in trajectory_lines(record).splitlines()]
        assert lines(folder / "trajectory.jsonl") == steps
        assert record.ended == "stop"
        assert record.metrics is not None
        assert record.metrics.success
        expected = without_latency([json.loads(line) for line in decision_lines(record).splitlines()])
        assert without_latency(lines(folder / "decisions.jsonl")) == expected
        places += sum(d["pixel_goal"] is not None for d in expected)
    assert places >= 2, "it was not pixels that led there"


def test_real_time_with_cmd_vel_reaches_the_goal(tmp_path: Path, episodes: Path) -> None:
    bridge: dict[str, Scalar] = {
        "mode": "realtime",
        "realtime_factor": 5.0,
        "episode_count": 1,
        "image_hz": 5.0,
    }
    run_graph(tmp_path, episodes, bridge, True, expert(episodes))
    (episode,) = lines(tmp_path / "episodes.jsonl")
    assert episode["ended"] == "stop", episode
    (folder,) = (tmp_path / "episodes").iterdir()
    steps = lines(folder / "trajectory.jsonl")
    assert steps[-1]["stamp_ns"] > steps[0]["stamp_ns"]
    assert max(s["linear_m_s"] or 0.0 for s in steps) > 0.1
    metrics = episode["metrics"]
    assert metrics["success"], metrics


def test_a_node_that_ends_ends_the_graph_with_its_reason(tmp_path: Path) -> None:
    with (
        Graph(tmp_path, graph_environment()) as graph,
        pytest.raises(
            GraphError, match=r"navigator ended with status 2(?s:.*)unknown parameter 'engin'.*'engine'"
        ),
    ):
        graph.start(NodeSpec("executor", {"safety.obstacles": "none"}))
        graph.start(NodeSpec("navigator", {"engin": "paced"}))
        graph.wait("executor")


REFUSALS = {
    "out of range": (["decide_ahead:=-1"], ("decide_ahead", "-1", "[0, 64]")),
    "not a choice": (["engine:=magic"], ("engine", "magic", "qwen, expert, pixel_oracle, paced")),
    "wrong type": (["engine:=paced", "heartbeat_hz:=fast"], ("heartbeat_hz", "float")),
    "no checkpoint named": (["engine:=qwen"], ("qwen.checkpoint", "shipped:tiny")),
    "no such checkpoint": (["qwen.checkpoint:=/nowhere/model"], ("/nowhere/model",)),
    "no such profile": (["qwen.checkpoint:=/nowhere", "qwen.profile:=nobody"], ("nobody", "tiny")),
    "no such episodes": (["engine:=expert", "expert.episodes:=/nowhere.json.gz"], ("/nowhere.json.gz",)),
}


def test_what_cannot_be_configured_ends_with_two_and_says_why() -> None:
    started = {}
    for name, (parameters, _) in REFUSALS.items():
        command = [sys.executable, "-m", "vln_ros.nodes.navigator.node", "--ros-args"]
        for parameter in parameters:
            command += ["-p", parameter]
        started[name] = subprocess.Popen(command, env=graph_environment(), stderr=subprocess.PIPE, text=True)
    wrong = {}
    for name, process in started.items():
        _, text = process.communicate(timeout=DEADLINE_S)
        words = REFUSALS[name][1]
        if process.returncode != 2 or "Traceback" in text or not all(word in text for word in words):
            wrong[name] = (process.returncode, text)
    assert not wrong


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Polls what no event tells of: the processes of others."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not happen within {DEADLINE_S} s"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "early"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGKILL, False)],
)
def test_an_interrupted_command_leaves_no_node_behind(
    tmp_path: Path, episodes: Path, number: signal.Signals, early: bool
) -> None:
    command = [sys.executable, "-m", "vln_ros", "demo", "--engine", "expert", "--kind", "flat"]
    command += ["--episodes", "3", "--size", "640x480"]
    out = tmp_path / "run"
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--out", str(out)], env=dict(os.environ), stdout=output, stderr=output
        )
    try:
        wait_for(lambda: process.poll() is not None or len(children_of(process.pid)) == 2, "two nodes")
        nodes = children_of(process.pid)
        assert len(nodes) == 2, (tmp_path / "output").read_text("utf-8")
        if not early:
            wait_for(lambda: "instruction 1" in (out / "logs/navigator.log").read_text("utf-8"), "a run")
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == (-9 if number == signal.SIGKILL else 130)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGKILL:
        wait_for(lambda: not [pid for pid in nodes if is_alive(pid)], "the nodes' end")
        return
    assert not [pid for pid in nodes if is_alive(pid)]
    text = (tmp_path / "output").read_text("utf-8") + (out / "logs/navigator.log").read_text("utf-8")
    if not early:  # in the middle of an import the interpreter may say where it was
        assert "Traceback" not in text
        assert not json.loads((out / "result.json").read_text("utf-8"))["complete"]
