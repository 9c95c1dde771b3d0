"""Robot and navigator in two network namespaces: the link goes and returns, the robot stands and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.cli.bench import link as bench_link

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_a_cut_link_stops_the_robot_and_its_return_moves_it_again(tmp_path: Path) -> None:
    if reason := bench_link.cannot():
        pytest.skip(reason)
    figures = bench_link.measure(tmp_path / "cut", 4.0)
    assert figures.to_zero_s is not None
    assert figures.to_zero_s < 2.0  # heartbeat_timeout_s is 0.5; the machine may be loaded
    assert figures.moved_m < 0.01
    assert figures.said.startswith("stopped: no ")
    assert figures.to_moving_s is not None
