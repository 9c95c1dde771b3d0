"""The executor tells what it knows of obstacles, to whoever listens, and a navigator reads it."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from vln_ros.config import ExecutorConfig, from_flat
from vln_ros.datatypes import Pose, RangeScan
from vln_ros.motion.executor import Executor
from vln_ros.nodes.executor.report import ExecutorReport
from vln_ros.ros import convert, qos

pytestmark = pytest.mark.ros
DEADLINE_S = 20.0


def test_scans_are_told_in_the_odometry_frame_and_only_while_somebody_listens() -> None:
    core = Executor(from_flat(ExecutorConfig, {"safety.obstacles": "scan", "extrinsics": "parameters"}))
    core.odometry(1_000, Pose.planar(2.0, 1.0, math.pi / 2), 0.0)
    angles = np.linspace(-math.pi, math.pi, 360)
    core.scan(1_000, RangeScan(angles, np.full(360, 1.5)), Pose.identity(), 0.0)
    context = Context()
    context.init()
    node = Node("executor", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        report = ExecutorReport(node, "base_link")
        report.obstacles(core, "odom")
        heard: list[PointCloud2] = []
        node.create_subscription(PointCloud2, "obstacles", heard.append, qos.sensor("best_effort", 1))
        deadline_s = time.monotonic() + DEADLINE_S
        while not heard:
            assert time.monotonic() < deadline_s, "nothing was told"
            report.obstacles(core, "odom")
            executor.spin_once(0.05)
        points = convert.points_from_cloud(heard[0])
        assert heard[0].header.frame_id == "odom"
        np.testing.assert_allclose(points, core.obstacles.points, atol=1e-5)
        away_m = np.linalg.norm(points[:, :2] - [2.0, 1.0], axis=1)
        np.testing.assert_allclose(away_m, 1.5, atol=1e-5)
        assert len(points) > 300
    finally:
        executor.shutdown()
        node.destroy_node()
        context.shutdown()
