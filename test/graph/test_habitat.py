"""The graph over real topics with Habitat behind the bridge, and what happens when Habitat dies in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from habitat_fakes import fake_python

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import make_scene_episodes

pytestmark = [pytest.mark.slow, pytest.mark.ros]


def run_in_habitat(folder: Path, mode: str, count: int, **variables: str) -> list[dict[str, Any]]:
    made = make_scene_episodes("val_unseen", 900_003, "small")[:count]
    write_scene(folder / "scenes", Scene(made[0].scene_id, AGENT_RADIUS_M))
    episodes = str(write_episodes(folder, "val_unseen", made))
    bridge: dict[str, Scalar] = {
        "world": "habitat",
        "habitat.python": fake_python(folder, **variables),
        "habitat.scenes": str(folder / "scenes"),
        "habitat.radius_m": AGENT_RADIUS_M,
        "camera.width": 64,
        "camera.height": 48,
        "episodes": episodes,
        "mode": mode,
        "image_hz": 2.0,
        "max_episode_s": 6.0,  # of real time: to see it drive is enough
        "run_folder": str(folder / "run"),
        "video": False,
        "answer_timeout_s": 90.0,
    }
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "expert.episodes": episodes,
        "reliability": "reliable",
        "use_sim_time": mode == "realtime",
        "extrinsics": "parameters",
    }
    with Graph(folder / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("sim_bridge", bridge))
        graph.start(NodeSpec("navigator", navigator))
        if mode == "realtime":
            graph.start(NodeSpec("executor", {"use_sim_time": True, "extrinsics": "parameters"}))
        status = graph.wait("sim_bridge")
    assert status == 0, graph.log_path("sim_bridge").read_text("utf-8")
    return [json.loads(line) for line in (folder / "run" / "episodes.jsonl").read_text("utf-8").splitlines()]


def test_lockstep_goes_on_after_habitat_has_died(tmp_path: Path) -> None:
    once = {"FAKE_HABITAT_DIES": "step", "FAKE_HABITAT_ONCE": str(tmp_path / "once")}
    done = run_in_habitat(tmp_path, "lockstep", 2, **once)
    (episode,) = done
    assert episode["ended"] == "stop"
    assert episode["metrics"]["navigation_error_m"] < 1.0
    (skip,) = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["skipped"]
    assert "SIGKILL" in skip["reason"]
    assert "the driver fell over" in skip["reason"]


def test_real_time_drives_with_cmd_vel(tmp_path: Path) -> None:
    (episode,) = run_in_habitat(tmp_path, "realtime", 1)
    assert episode["ended"] in {"time limit", "stop"}, episode
    assert episode["metrics"]["path_length_m"] > 0.1
