"""Robots whose sensors are not ideal, through the real nodes."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger
from vln_msgs_prefix import loaded_here, sourced

from vln_ros.cli.arguments.sensors import KINDS, sensor_parameters
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, run_graph
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import CameraConfig, ConfigError, NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import Frame, wrap_angle
from vln_ros.geometry.correspondence import TokenGrid, correspond
from vln_ros.nodes.navigator.node import Navigator
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes
from vln_ros.sim.worlds import camera_and_extrinsics

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
WIDTH, HEIGHT = 192, 144
CAMERA: dict[str, Scalar] = {"camera.width": WIDTH, "camera.height": HEIGHT}
SMALL: dict[str, Scalar] = {
    "camera.width": 64, "camera.height": 48, "sensors.depth_width": 106, "sensors.depth_height": 60,
}  # fmt: skip
"""In real time, for a machine that is busy."""
GRID = TokenGrid(5, 7)


@pytest.fixture(scope="module")
def tf2_msgs() -> Iterator[Path | None]:
    """TF's messages, for this process and, by :func:`with_tf`, for the nodes'."""
    with loaded_here("tf2_msgs") as found:
        yield found


@pytest.fixture(scope="module")
def with_tf(tf2_msgs: Path | None) -> dict[str, str]:
    """The environment of a graph whose nodes have them."""
    return sourced(tf2_msgs, graph_environment())


def shortest() -> Episode:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    return min(every, key=lambda e: e.geodesic_distance_m)


def facing_its_way() -> Episode:
    """One that can turn and then go forward: its way begins where it looks."""
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])

    def off_rad(episode: Episode) -> float:
        ahead = episode.reference_path[1] - episode.reference_path[0]
        return abs(wrap_angle(math.atan2(ahead[1], ahead[0]) - episode.start.yaw_rad))

    return min(every, key=off_rad)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("episodes"), "val_unseen", [shortest()])


def drive(folder: Path, episodes: Path, kinds: str, mode: str, environment: dict[str, str]) -> str:
    """The expert's episode; what the nodes have warned of."""
    sensors = sensor_parameters(kinds)
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "run_folder": str(folder), "video": False, "mode": mode,
        "realtime_factor": 2.0, **(SMALL if mode == "realtime" else CAMERA), **sensors.bridge,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {
        "engine": "expert", "expert.episodes": str(episodes), "extrinsics": "parameters",
        "expert.clearance_m": EXPERT_CLEARANCE_M if mode == "realtime" else 0.0,
        "reliability": "reliable", "use_sim_time": mode == "realtime", **sensors.nodes, **sensors.navigator,
    }  # fmt: skip
    assert run_graph(folder / "logs", bridge, navigator, sensors.nodes, environment) == 0
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


@pytest.mark.parametrize("kinds", ["distorted,own-depth,rvl", "fisheye", "tf-odometry,own-depth"])
def test_every_frame_of_such_a_robot_is_taken(
    kinds: str, episodes: Path, tmp_path: Path, with_tf: dict[str, str]
) -> None:
    """In lockstep a frame that is refused would never be answered."""
    assert drive(tmp_path, episodes, kinds, "lockstep", with_tf) == ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kinds", ["distorted,own-depth,rvl", "tf-odometry,fisheye"])
def test_the_executor_drives_by_such_sensors(
    kinds: str, episodes: Path, tmp_path: Path, with_tf: dict[str, str]
) -> None:
    """Obstacles are looked for in the depth as it comes; the floor is none."""
    drive(tmp_path, episodes, kinds, "realtime", with_tf)


class Looker:
    """The navigator, whose frames are looked at, and who has the robot step.

    Args:
        options: parameters of the navigator.
    """

    def __init__(self, options: dict[str, Scalar]) -> None:
        frames = self.frames = list[Frame]()

        class Seen(Navigator):
            def on_frame(self, frame: Frame, observe_ms: float) -> None:
                frames.append(frame)
                super().on_frame(frame, observe_ms)

        given = {"extrinsics": "parameters", "reliability": "reliable", "engine": "paced", **options}
        words = [word for name, value in given.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
        rclpy.init(args=["--ros-args", *words])
        self.navigator, self._person = Seen(), rclpy.create_node("person")
        assert self.navigator.start(), self.navigator.failure
        self._executor = SingleThreadedExecutor()
        for node in (self.navigator, self._person):
            self._executor.add_node(node)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until_s, what
            self._executor.spin_once(0.05)

    def steps(self, service: str) -> tuple[Frame, Frame]:
        """The newest frame before and after a step."""
        client = self._person.create_client(Trigger, f"sim_bridge/{service}")
        self.wait(client.service_is_ready, "no service")
        self.wait(lambda: len(self.frames) > 0, "no frame came")
        before = self.frames[-1]
        answer = client.call_async(Trigger.Request())
        self.wait(lambda: self.frames[-1].stamp_ns > before.stamp_ns, f"no frame after {service}")
        self.wait(answer.done, "no answer")
        return before, self.frames[-1]

    def close(self) -> None:
        self.navigator.close()
        self._executor.shutdown()
        for node in (self.navigator, self._person):
            node.destroy_node()
        rclpy.shutdown()


@pytest.mark.parametrize(
    "kinds",
    [
        "", "distorted", "fisheye", "own-depth", "rvl", "tf-odometry", "distorted,own-depth,rvl",
        "fisheye,own-depth,tf-odometry",
    ],
)  # fmt: skip
def test_over_topics_tokens_are_found_where_rays_say(
    kinds: str, tmp_path: Path, with_tf: dict[str, str]
) -> None:
    """From the bridge's process through DDS to the frames that the navigator's engine is given."""
    episode = facing_its_way()
    episodes = write_episodes(tmp_path, "val_unseen", [episode])
    sensors = sensor_parameters(kinds)
    bridge: dict[str, Scalar] = {"episodes": str(episodes), "mode": "manual", **CAMERA, **sensors.bridge}
    # The navigator is in this process, whose domain was chosen before.
    environment = with_tf | {"ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]}
    looker = Looker({**sensors.nodes, **sensors.navigator})
    try:
        with Graph(tmp_path / "logs", environment) as graph:
            graph.start(NodeSpec("sim_bridge", bridge))
            turn, forward = looker.steps("turn_left"), looker.steps("move_forward")
    finally:
        looker.close()
    assert abs(turn[1].odom_from_base.yaw_rad - turn[0].odom_from_base.yaw_rad) > 0.2
    moved_m = forward[1].odom_from_base.position - forward[0].odom_from_base.position
    assert np.linalg.norm(moved_m) > 0.2
    check_tokens(episode.scene_id, *turn)
    check_tokens(episode.scene_id, *forward)


def check_tokens(scene_id: str, before: Frame, after: Frame) -> None:
    world = EmbeddedWorld(*camera_and_extrinsics(CameraConfig(width=WIDTH, height=HEIGHT)))
    world.load(scene_id)
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
