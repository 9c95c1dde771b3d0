"""Parameter files as real nodes read them, in any namespace."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.context import Context
from rclpy.node import Node

from vln_ros.cli.demo import EXPERT_CLEARANCE_M, SIMULATED_PLACES, SIMULATED_ROBOT
from vln_ros.config import NODES, to_flat
from vln_ros.ros.parameters import declare_config

pytestmark = pytest.mark.ros

PRESETS = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))


def test_the_simulated_base_is_the_demos() -> None:
    tree = yaml.safe_load((PRESETS[0].parent / "base_sim.yaml").read_text("utf-8"))
    common = {"extrinsics": "parameters"}  # from the camera's file
    assert tree["/**/executor"]["ros__parameters"] | common == SIMULATED_ROBOT
    expected = {"expert.clearance_m": EXPERT_CLEARANCE_M, **SIMULATED_PLACES}
    assert tree["/**/navigator"]["ros__parameters"] == expected


@pytest.mark.parametrize("namespace", ["", "/left/robot"])
@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_node_takes_its_part_of_the_file_and_no_other(path: Path, namespace: str) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    context = Context()
    context.init(args=["--ros-args", "--params-file", str(path)])
    try:
        for name, config in NODES.items():
            node = Node(name, namespace=namespace, context=context)
            found = to_flat(declare_config(node, config))
            expected = tree.get(f"/**/{name}", {"ros__parameters": {}})["ros__parameters"]
            default = to_flat(config())
            for parameter, value in found.items():
                wanted = expected.get(parameter, default[parameter])
                assert value == wanted or (value != value and math.isnan(wanted)), parameter
            node.destroy_node()
    finally:
        context.shutdown()
