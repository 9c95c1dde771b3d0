"""A short run of ``vln_ros bench faults``: real processes, real topics, the embedded world in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from benchmarks.measure.fault_rig import Rig
from benchmarks.measure.faults import make_faults

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(600)]

LOADED_MACHINE_S = 1.0
"""For the robot to be told to stand, and again for its base to hear it. The bench holds the real limits, on
a quiet machine."""
SOME = ("no odometry", "no heartbeat", "odometry of a camera", "depth of zeros",
        "depth NaN near a wall", "depth stands still",
        "scan NaN", "clock stands", "odometry NaN", "obstacle in depth", "cancel",
        "new instruction", "navigator killed", "second navigator", "second executor")  # fmt: skip


def test_every_kind_of_fault_stops_the_robot_and_it_goes_on_afterwards(tmp_path: Path) -> None:
    faults = make_faults()
    with Rig(tmp_path, 3, LOADED_MACHINE_S) as rig:
        figures = {name: rig.measure(name, faults[name], 1) for name in SOME}
    for name, f in figures.items():
        assert (f.reason, f.flushed, f.still, f.resumed) == (1, 1, 1, 1), (name, f)
        assert f.max_ms < 3e3 * LOADED_MACHINE_S, (name, f)
