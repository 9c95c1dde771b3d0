"""Two robots side by side: everything twice, in two namespaces, at the same time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ROBOTS = ("left", "right")


def test_two_robots_follow_their_own_instructions(tmp_path: Path) -> None:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    short = sorted(every, key=lambda e: e.geodesic_distance_m)[:2]
    with Graph(tmp_path / "logs", graph_environment()) as graph:
        for robot, episode in zip(ROBOTS, short, strict=True):
            episodes = write_episodes(tmp_path / robot, "val_unseen", [episode])
            navigator: dict[str, Scalar] = {
                "engine": "expert",  # fails at an instruction that is not in its own file
                "extrinsics": "parameters",
                "expert.episodes": str(episodes),
                "reliability": "reliable",
            }
            bridge: dict[str, Scalar] = {
                "episodes": str(episodes),
                "run_folder": str(tmp_path / robot / "run"),
                "video": False,
                "camera.width": 64,
                "camera.height": 48,
            }
            graph.start(NodeSpec("sim_bridge", bridge, namespace=f"/{robot}"))
            graph.start(NodeSpec("navigator", navigator, namespace=f"/{robot}"))
        bridges = [f"{robot}.sim_bridge" for robot in ROBOTS]
        assert graph.wait(*bridges) == 0, [graph.log_path(b).read_text() for b in bridges]
    for robot, episode in zip(ROBOTS, short, strict=True):
        (line,) = (tmp_path / robot / "run/episodes.jsonl").read_text("utf-8").splitlines()
        record = json.loads(line)
        assert record["metrics"]["success"], record
        assert record["instruction"] == episode.instruction
