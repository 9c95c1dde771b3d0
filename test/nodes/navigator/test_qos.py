"""The quality of service of a sensor's topic is what ROS's own parameters say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

from vln_ros.config import ExecutorConfig, NavigatorConfig, from_flat
from vln_ros.motion.executor import Executor
from vln_ros.nodes.executor.inputs import ExecutorInput
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC, SensorInput
from vln_ros.ros.parameter_files import check_parameter_file

pytestmark = pytest.mark.ros

OVERRIDES = f"""
/**:
  ros__parameters:
    qos_overrides:
      /{COLOR_TOPIC}:
        subscription: {{reliability: reliable, depth: 3}}
      /{DEPTH_TOPIC}:
        subscription: {{reliability: reliable}}
      /odom:
        subscription: {{reliability: reliable}}
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    path = tmp_path / "mine.yaml"
    path.write_text(OVERRIDES)
    context = Context()
    context.init(args=["--ros-args", "--params-file", str(path)])
    made = Node("listener", context=context)
    yield made
    made.destroy_node()
    context.shutdown()


def reliable(node: Node, topic: str) -> bool:
    (info,) = node.get_subscriptions_info_by_topic(topic)
    return bool(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE)


def test_the_navigators_topics_are_overridden_one_by_one(node: Node) -> None:
    config = from_flat(NavigatorConfig, {"extrinsics": "parameters"})
    SensorInput(node, config, lambda _: None)
    found = {topic: reliable(node, f"/{topic}") for topic in (COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC, "odom")}
    assert found == {COLOR_TOPIC: True, DEPTH_TOPIC: True, INFO_TOPIC: False, "odom": True}
    assert node.get_parameter(f"qos_overrides./{COLOR_TOPIC}.subscription.depth").value == 3
    assert node.get_parameter(f"qos_overrides./{DEPTH_TOPIC}.subscription.depth").value == config.image_depth


def test_the_executors_sensors_are_overridden_and_what_safety_rests_on_is_not(node: Node) -> None:
    config = from_flat(ExecutorConfig, {"extrinsics": "parameters"})
    ExecutorInput(node, config, Executor(config), lambda: 0.0, lambda: None, lambda: None)
    assert reliable(node, f"/{DEPTH_TOPIC}")
    assert reliable(node, "/odom")
    assert not reliable(node, f"/{INFO_TOPIC}")
    offered = node.get_parameters_by_prefix("qos_overrides")
    assert offered
    assert not any("action_queue" in name or "heartbeat" in name for name in offered)


def test_it_is_offered_again_when_a_node_is_activated_again(node: Node) -> None:
    config = from_flat(NavigatorConfig, {"extrinsics": "parameters"})
    SensorInput(node, config, lambda _: None)
    for subscription in list(node.subscriptions):
        node.destroy_subscription(subscription)
    SensorInput(node, config, lambda _: None)
    assert reliable(node, f"/{COLOR_TOPIC}")


def test_a_launch_takes_such_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OVERRIDES.replace("/**:", "/**/navigator:"))
    taken = check_parameter_file(path, "", ["navigator"])
    assert len(taken["navigator"]) == 4
