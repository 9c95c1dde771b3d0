"""Mode live in Habitat, with one that is no renderer: the robot is put elsewhere on its floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from geometry_msgs.msg import PoseWithCovarianceStamped
from habitat_fakes import fake_python
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_endings import gone_afterwards
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Pose
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos
from vln_ros.ros.starts import NOT_PUT, estimate_from_pose
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0


class Listener(Node):
    """Hears the robot, so that its world goes on, and what is said of it."""

    def __init__(self, context: Context) -> None:
        super().__init__("listener", context=context)
        sensor = qos.sensor("reliable", 20)
        self.poses: list[Pose] = []
        self.news: list[str] = []
        self.maps: list[OccupancyGrid] = []
        self.create_subscription(Odometry, "odom", self._on_odometry, sensor)
        for type_, topic in ((Image, COLOR_TOPIC), (Image, DEPTH_TOPIC), (CameraInfo, INFO_TOPIC)):
            self.create_subscription(type_, topic, lambda _: None, sensor)
        self.create_subscription(String, "sim_bridge/live", self._on_news, qos.events())
        self.create_subscription(OccupancyGrid, "sim_bridge/map", self.maps.append, qos.latched())
        self.estimates = self.create_publisher(PoseWithCovarianceStamped, "initialpose", 5)
        self.parameters = self.create_client(SetParameters, "sim_bridge/set_parameters")
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def _on_odometry(self, msg: Odometry) -> None:
        self.poses.append(convert.pose_from_odometry(msg))

    def _on_news(self, msg: String) -> None:
        self.news.append(msg.data)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s, f"{what}; {self.news}"
            self._executor.spin_once(0.05)

    def put(self, pose: Pose) -> str:
        before = len(self.news)
        self.estimates.publish(estimate_from_pose(pose, 0, "odom"))
        self.wait(lambda: len(self.news) > before, "no word of it")
        self.hear(3)
        return self.news[-1]

    def hear(self, count: int) -> None:
        before = len(self.poses)
        self.wait(lambda: len(self.poses) >= before + count, "the world stands")


def test_the_robot_is_put_elsewhere_or_refused_and_the_world_goes_on(tmp_path: Path) -> None:
    episodes = make_scene_episodes("val_unseen", 900_003, "small")[:2]
    scene = Scene(episodes[0].scene_id, AGENT_RADIUS_M)
    write_scene(tmp_path / "scenes", scene)
    bridge: dict[str, Scalar] = {
        "world": "habitat", "habitat.python": fake_python(tmp_path), "mode": "live",
        "habitat.scenes": str(tmp_path / "scenes"), "camera.width": 32, "camera.height": 24,
        "episodes": str(write_episodes(tmp_path, "starts", episodes)), "odometry_hz": 20.0, "image_hz": 5.0,
    }  # fmt: skip
    context = Context()
    context.init()
    node = Listener(context)
    with gone_afterwards(context, node), Graph(tmp_path / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("sim_bridge", bridge))

        def ready() -> bool:
            graph.check()
            return len(node.poses) > 3 and node.estimates.get_subscription_count() == 1

        node.wait(ready, "a world that goes on")
        node.wait(lambda: bool(node.maps), "a map")
        assert 0 in node.maps[0].data and 100 in node.maps[0].data
        there = episodes[1].start
        assert "put at" in node.put(there)
        assert np.allclose(node.poses[-1].position, there.position, atol=0.02)
        assert node.put(Pose.planar(-60.0, 3.0, 0.0)).startswith(f"{NOT_PUT}a robot cannot stand at (")
        assert np.allclose(node.poses[-1].position, there.position, atol=0.02), (
            "a wrong place changes nothing"
        )
        node.wait(node.parameters.service_is_ready, "no parameters")
        for start, words in (
            ("anywhere", ""),
            ("77", "none of the 2"),
            (scene.flat.scene_id, "none of the 2"),
        ):
            parameters = [Parameter("episode", value=start).to_parameter_msg()]
            future = node.parameters.call_async(SetParameters.Request(parameters=parameters))
            node.wait(future.done, "no answer")
            (result,) = future.result().results
            assert result.successful == (not words) and words in result.reason
        node.hear(3)
        x, y = (float(c) for c in node.poses[-1].position[:2])
        assert 0.0 < x < scene.flat.size_m[0] and 0.0 < y < scene.flat.size_m[1]
        assert "put at" in node.news[-1]
