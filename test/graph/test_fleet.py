"""Two robots with one fleet navigator, in the embedded world at the same time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from robots import WaitingNode
from ros_endings import gone_afterwards
from std_msgs.msg import String

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Velocity
from vln_ros.ros import convert, qos
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import make_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(600)]

DEADLINE_S = 120.0
ROBOTS = ("left", "right")
CAMERA: dict[str, Scalar] = {"camera.width": 64, "camera.height": 48}
POLICY: dict[str, Scalar] = {"engine": "qwen", "qwen.checkpoint": "shipped:tiny", "qwen.device": "cpu"}
NAVIGATOR: dict[str, Scalar] = {"extrinsics": "parameters", "reliability": "reliable"}
OWN_CLOCK = {"/clock": "clock"}
"""Each robot has its own simulated time, as it has its own /tf."""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def bridge(folder: Path, episodes: Sequence[Episode], **more: Scalar) -> dict[str, Scalar]:
    path = write_episodes(folder, "val_unseen", list(episodes))
    return {
        "episodes": str(path), "run_folder": str(folder / "run"), "video": False, **CAMERA, **more,
    }  # fmt: skip


def fleet(navigator: dict[str, Scalar], **each: dict[str, Scalar]) -> NodeSpec:
    """``each``: by robot."""
    own = {f"/{robot}/navigator": values for robot, values in each.items()}
    return NodeSpec(
        "fleet",
        {"robots": ",".join(ROBOTS)},
        beside={"navigator": {**NAVIGATOR, **navigator}, **own},
        remaps=OWN_CLOCK,
    )


def test_both_do_what_each_does_with_a_navigator_of_its_own(tmp_path: Path) -> None:
    """In lockstep everything can be repeated, so it is the same to the last action."""
    every = make_episodes("val_unseen", 4, "room")
    episodes = dict(zip(ROBOTS, (every[:2], every[2:]), strict=True))
    for way in ("shared", "own"):
        with Graph(tmp_path / way / "logs", graph_environment()) as graph:
            for robot in ROBOTS:
                spec = bridge(tmp_path / way / robot, episodes[robot])
                graph.start(NodeSpec("sim_bridge", spec, namespace=f"/{robot}"))
                if way == "own":
                    graph.start(NodeSpec("navigator", {**NAVIGATOR, **POLICY}, namespace=f"/{robot}"))
            if way == "shared":
                graph.start(fleet(POLICY))
            bridges = [f"{robot}.sim_bridge" for robot in ROBOTS]
            assert graph.wait(*bridges) == 0, [graph.log_path(b).read_text() for b in bridges]
    decided = 0
    for robot in ROBOTS:
        for episode in episodes[robot]:
            runs = [tmp_path / way / robot / "run/episodes" / episode.episode_id for way in ("shared", "own")]
            shared, own = (lines(run / "trajectory.jsonl") for run in runs)
            assert shared == own
            shared, own = (lines(run / "decisions.jsonl") for run in runs)
            assert [d["actions"] for d in shared] == [d["actions"] for d in own]
            decided += len(own)
    assert decided > 8


class Bystander(WaitingNode):
    """Hears what both bases are told, where both robots are, and what their executors say."""

    def __init__(self, context: Context, graph: Graph) -> None:
        super().__init__(context, "bystander", deadline_s=DEADLINE_S, graph=graph)
        self.commands: dict[str, list[tuple[float, Velocity]]] = {robot: [] for robot in ROBOTS}
        self.places: dict[str, list[np.ndarray]] = {robot: [] for robot in ROBOTS}
        self.said = dict.fromkeys(ROBOTS, "")
        for robot in ROBOTS:
            self._hear(robot)

    def _hear(self, robot: str) -> None:
        def command(msg: Twist) -> None:
            self.commands[robot].append((time.monotonic(), convert.velocity_from_twist(msg)))

        def odometry(msg: Odometry) -> None:
            position = msg.pose.pose.position
            self.places[robot].append(np.array([position.x, position.y]))

        def state(msg: String) -> None:
            self.said[robot] = msg.data

        self.create_subscription(Twist, f"/{robot}/cmd_vel", command, qos.sensor("reliable", 50))
        self.create_subscription(Odometry, f"/{robot}/odom", odometry, qos.sensor("best_effort", 50))
        self.create_subscription(String, f"/{robot}/executor_state", state, qos.latched())

    def heard(self) -> object:
        return self.said

    def drives(self, robot: str) -> bool:
        """It was told to, and has moved by it."""
        recent = self.commands[robot][-5:]
        return len(recent) == 5 and all(v.linear_m_s > 0.1 for _, v in recent)

    def stands(self, robot: str) -> bool:
        """It was told nothing else for long, and is where it was."""
        recent, places = self.commands[robot][-20:], self.places[robot][-20:]
        return (
            len(recent) == len(places) == 20
            and {v for _, v in recent} == {Velocity()}
            and float(np.abs(np.ptp(places, axis=0)).max()) < 1e-6
        )


@contextmanager
def bystander(graph: Graph) -> Iterator[Bystander]:
    context = Context()
    context.init()
    node = Bystander(context, graph)
    with gone_afterwards(context, node):
        yield node


def test_both_reach_their_goals_though_the_fleet_is_killed_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is gone both stand, each by its own executor; then both go on."""
    environment = graph_environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    farthest = sorted(make_episodes("val_unseen", 12, "room"), key=lambda e: -e.geodesic_distance_m)[:2]
    simulated: dict[str, Scalar] = {"mode": "realtime", "image_hz": 5.0, "answer_timeout_s": 300.0}
    with Graph(tmp_path / "logs", environment) as graph, bystander(graph) as seen:
        own: dict[str, dict[str, Scalar]] = {}
        for robot, episode in zip(ROBOTS, farthest, strict=True):
            spec = bridge(tmp_path / robot, [episode], **simulated)
            own[robot] = {"expert.episodes": spec["episodes"]}
            graph.start(NodeSpec("sim_bridge", spec, namespace=f"/{robot}", remaps=OWN_CLOCK))
            executor: dict[str, Scalar] = {
                "use_sim_time": True, "safety.obstacles": "none", "extrinsics": "parameters",
            }  # fmt: skip
            graph.start(NodeSpec("executor", executor, namespace=f"/{robot}", remaps=OWN_CLOCK))
        served = fleet({"engine": "expert", "use_sim_time": True}, **own)
        graph.start(served)
        seen.wait(lambda: all(map(seen.drives, ROBOTS)), "not both drive")
        os.kill(graph.pid("fleet"), signal.SIGKILL)
        graph.wait("fleet")
        seen.wait(lambda: all(map(seen.stands, ROBOTS)), "not both stand")
        assert all("no navigator heartbeat" in said for said in seen.said.values()), seen.said
        graph.start(served)
        bridges = [f"{robot}.sim_bridge" for robot in ROBOTS]
        assert graph.wait(*bridges) == 0, [graph.log_path(b).read_text() for b in bridges]
    for robot in ROBOTS:
        (record,) = lines(tmp_path / robot / "run/episodes.jsonl")
        assert record["metrics"]["success"], record
