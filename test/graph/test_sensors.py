"""Robots whose sensors are not ideal, through the real nodes."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from vln_ros.cli.arguments.sensors import KINDS, sensor_parameters
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, run_graph
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import CameraConfig, ConfigError, NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import Frame
from vln_ros.geometry.correspondence import TokenGrid, correspond
from vln_ros.nodes.navigator.cameras import RawFrame
from vln_ros.nodes.navigator.sensors import SensorInput
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes
from vln_ros.sim.worlds import camera_and_extrinsics

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
WIDTH, HEIGHT = 192, 144
CAMERA: dict[str, Scalar] = {"camera.width": WIDTH, "camera.height": HEIGHT}
GRID = TokenGrid(5, 7)
NEEDS_TF = pytest.mark.skipif(
    importlib.util.find_spec("tf2_msgs") is None, reason="needs TF's messages, which come from apt only"
)


def shortest() -> Episode:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    return min(every, key=lambda e: e.geodesic_distance_m)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("episodes"), "val_unseen", [shortest()])


def drive(folder: Path, episodes: Path, kinds: str, mode: str) -> str:
    """The expert's episode; what the navigator has warned of."""
    sensors = sensor_parameters(kinds)
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "run_folder": str(folder), "video": False, "mode": mode,
        "realtime_factor": 2.0, **CAMERA, **sensors.bridge,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {
        "engine": "expert", "expert.episodes": str(episodes), "extrinsics": "parameters",
        "expert.clearance_m": EXPERT_CLEARANCE_M if mode == "realtime" else 0.0,
        "reliability": "reliable", "use_sim_time": mode == "realtime", **sensors.nodes, **sensors.navigator,
    }  # fmt: skip
    assert run_graph(folder / "logs", bridge, navigator, sensors.nodes, graph_environment()) == 0
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["complete"]
    line = json.loads((folder / "episodes.jsonl").read_text("utf-8"))
    assert '"success": true' in json.dumps(line), line
    warned = [
        text
        for log in sorted((folder / "logs").glob("*.log"))
        for text in log.read_text("utf-8").splitlines()
        if re.search(r"\[(WARN|ERROR)\]", text)
    ]
    return "\n".join(warned)


@pytest.mark.parametrize(
    "kinds", ["distorted,own-depth,rvl", "fisheye", pytest.param("tf-odometry,own-depth", marks=NEEDS_TF)]
)
def test_every_frame_of_such_a_robot_is_taken(kinds: str, episodes: Path, tmp_path: Path) -> None:
    """In lockstep a frame that is refused would never be answered."""
    assert drive(tmp_path, episodes, kinds, "lockstep") == ""


@pytest.mark.parametrize(
    "kinds", ["distorted,own-depth,rvl", pytest.param("tf-odometry,fisheye", marks=NEEDS_TF)]
)
def test_the_executor_drives_by_such_sensors(kinds: str, episodes: Path, tmp_path: Path) -> None:
    """Obstacles are looked for in the depth as it comes; the floor is none."""
    drive(tmp_path, episodes, kinds, "realtime")


class Looker(Node):
    """The navigator's ears and nothing else."""

    def __init__(self, context: Context, options: dict[str, Scalar]) -> None:
        super().__init__("looker", context=context)
        self.frames: list[Frame] = []
        self.step = self.create_client(Trigger, "sim_bridge/turn_left")
        self.executor_ = SingleThreadedExecutor(context=context)
        self.executor_.add_node(self)
        config = from_flat(
            NavigatorConfig, {"extrinsics": "parameters", "reliability": "reliable", **options}
        )
        self.sensors = SensorInput(self, config, self._take)

    def _take(self, raw: RawFrame) -> None:
        self.frames.append(self.sensors.decode(raw, len(self.frames)))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until_s, f"{what}; {self.sensors.counts} {self.sensors.refused}"
            self.executor_.spin_once(0.05)


@pytest.mark.parametrize("kinds", ["", "distorted", "fisheye,own-depth", "distorted,own-depth,rvl"])
def test_over_topics_tokens_are_found_where_rays_say(kinds: str, episodes: Path, tmp_path: Path) -> None:
    sensors = sensor_parameters(kinds)
    context = Context()
    context.init(args=[])
    looker = Looker(context, {**sensors.nodes, **sensors.navigator})
    bridge: dict[str, Scalar] = {"episodes": str(episodes), "mode": "manual", **CAMERA, **sensors.bridge}
    try:
        with Graph(tmp_path / "logs", graph_environment() | own_domain_of_tests()) as graph:
            graph.start(NodeSpec("sim_bridge", bridge))
            looker.wait(lambda: len(looker.frames) > 0, "no frame came")
            looker.wait(looker.step.service_is_ready, "no service")
            before = looker.frames[-1]
            answer = looker.step.call_async(Trigger.Request())
            looker.wait(lambda: looker.frames[-1].stamp_ns > before.stamp_ns, "no second frame came")
            looker.wait(answer.done, "no answer")
    finally:
        looker.destroy_node()
        context.shutdown()
    assert not looker.sensors.refused
    check_tokens(before, looker.frames[-1])


def own_domain_of_tests() -> dict[str, str]:
    """The looker is in this process, whose domain was chosen before."""
    import os

    return {"ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]}


def check_tokens(before: Frame, after: Frame) -> None:
    world = EmbeddedWorld(*camera_and_extrinsics(CameraConfig(width=WIDTH, height=HEIGHT)))
    world.load(shortest().scene_id)
    assert abs(after.odom_from_base.yaw_rad - before.odom_from_base.yaw_rad) > 0.2
    found = correspond(after, [before], GRID, depth_tolerance=0.05)
    there = np.flatnonzero(found.found)
    assert len(there) > GRID.count / 3
    world.place(after.odom_from_base)
    camera, truth_m = after.camera, world.render()[1]
    u, v = found.anchors.pixel[there].astype(int).T
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(u))], 1)
    moved = before.odom_from_optical.inverse() @ after.odom_from_optical
    x, y, z = moved.transform(rays * truth_m[v, u].astype(float)[:, None]).T
    pixel = np.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], 1)
    expected = GRID.middles()[there] + (pixel - found.anchors.pixel[there]) * GRID.per_pixel(camera)
    row, column = np.divmod(found.token[there], GRID.columns)
    said = np.stack([column + 0.5, row + 0.5], 1) + found.offset[there]
    off = np.abs(said - expected).max(1)
    assert (off < 0.5).mean() > 0.95, "an anchor on an edge may take the other side's depth"
    assert math.isfinite(off.max())
    assert np.median(off) < 0.1


@pytest.mark.parametrize("text", ["bent", "distorted,bent", "distorted,fisheye"])
def test_kinds_that_are_none_or_exclude_each_other_are_said(text: str) -> None:
    with pytest.raises(ConfigError, match="--sensors"):
        sensor_parameters(text)


def test_every_kind_sets_options_that_there_are() -> None:
    for name, kind in KINDS.items():
        from_flat(NavigatorConfig, {**kind.nodes, **kind.navigator})
        assert kind.bridge, name
