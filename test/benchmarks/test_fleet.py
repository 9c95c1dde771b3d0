"""The bench of several robots: what it hears, and what it makes of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.suites import fleet
from vln_ros.cli import main
from vln_ros.cli.bench.record import read_record
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Velocity

FIGURES = fleet.FleetFigures(
    robots=2, way=fleet.SHARED, decisions_per_s=10.04, p50_ms=80.4, p95_ms=120.0, memory_mb=500.2,
    least_share=0.951, stood_ms=[510.0, 530.0, 590.0], heartbeat_timeout_ms=500.0,
)  # fmt: skip


def test_the_table_has_each_way() -> None:
    figures = [asdict(FIGURES), asdict(replace(FIGURES, way=fleet.EACH, decisions_per_s=8.0))]
    text = fleet.section(json.loads(json.dumps(figures)))
    assert "| 2 | one fleet | 10.0 | 80 / 120 | 500 | 0.95 | 530 / 590 (3) |" in text
    assert "| 2 | a navigator each | 8.0 |" in text
    assert "time-out of 500 ms" in text


@pytest.mark.parametrize("given", [["--robots", "0"], ["--seconds", "0"], ["--kills", "0"]])
def test_what_cannot_be_measured_is_said(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "fleet", *given])
    assert ended.value.code == 2
    assert "must be positive" in capsys.readouterr().err


class Drivers:
    """A listener whose clock is the number of looks: how many robots drive at each."""

    def __init__(self, driving: list[int]) -> None:
        self._driving, self._looks = driving, 0
        self.waited_s = 0.0

    def moving(self) -> list[str]:
        self._looks += 1
        return [f"robot{i}" for i in range(self._driving[min(self._looks, len(self._driving)) - 1])]

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        for _ in range(int(timeout_s)):
            self.waited_s += 1.0
            if condition():
                return True
        return False


@pytest.mark.parametrize(
    ("robots", "driving", "found", "waited_s"),
    [
        (4, [0, 1, 2], 2, 3),  # half of them
        (3, [1, 2], 2, 2),  # half of three are two
        (1, [0, 1], 1, 2),
        (4, [1], 1, fleet.HALF_DRIVES_S + 1),  # never half: with one
        (4, [0] * 50 + [1], 1, 51),
        (4, [0], 0, fleet.DRIVES_S),  # none
    ],
)
def test_it_goes_on_with_those_that_drive(
    robots: int, driving: list[int], found: int, waited_s: float
) -> None:
    listener = Drivers(driving)
    assert len(fleet.drivers(listener, robots)) == found  # type: ignore[arg-type]
    assert listener.waited_s == waited_s


def test_a_row_that_fails_late_loses_none_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(folder: Path, environment: object, episodes: object, count: int, *_: object) -> object:
        if count == 8:
            raise RuntimeError("none of 4 robots drives within 120 s")
        return replace(FIGURES, robots=count)

    for name, value in {
        "_measure": measure, "enter_graph": lambda _: {}, "write_laps": lambda *_: tmp_path
    }.items():  # fmt: skip
        monkeypatch.setattr(fleet, name, value)
    path = tmp_path / "fleet.json"
    with pytest.raises(RuntimeError, match="none of 4"):
        main(["bench", "fleet", "--robots", "2", "8", "--json", str(path)])
    kept = read_record(path)
    assert [f["robots"] for f in kept.figures] == [2, 2]
    assert kept.note


@pytest.mark.ros
@pytest.mark.slow
def test_it_hears_answers_and_when_a_robot_stands() -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    import rclpy
    from rclpy.context import Context
    from ros_endings import gone_afterwards
    from sensor_msgs.msg import CameraInfo
    from trajectory_msgs.msg import JointTrajectory

    from benchmarks.measure.fleet import FleetListener
    from vln_ros.nodes.navigator.sensors import INFO_TOPIC
    from vln_ros.ros import convert, qos

    context = Context()
    context.init()
    robot = rclpy.create_node("robot", context=context, namespace="/a")
    with gone_afterwards(context, robot):
        listener = FleetListener(context, ["a", "b"])
        infos = robot.create_publisher(CameraInfo, INFO_TOPIC, qos.sensor("reliable", 5))
        queues = robot.create_publisher(JointTrajectory, "action_queue", qos.events())
        camera = CameraModel.from_hfov(64, 48, 1.4)
        hold = ActionChunk(1, 1, 5, ())
        queue = replace(hold, queue=2, actions=(Action(forward_m=0.25),))

        def answered() -> bool:
            infos.publish(convert.info_from_camera(camera, 5, "optical"))
            for chunk in (hold, replace(queue, frame_stamp_ns=4), queue):  # of the second no frame was seen
                queues.publish(convert.trajectory_from_chunk(chunk, "base_link", 0.5, 1.0))
            return bool(listener.answers["a"])

        assert listener.wait(answered, 60.0)
        assert all(0.0 <= took_ms < 60e3 for _, took_ms in listener.answers["a"])
        assert not listener.answers["b"]
        assert not listener.wait(lambda: False, 0.01)

        now_s, fast = time.monotonic(), Velocity(0.3, 0.0)
        assert listener.moving() == []
        listener.commands["b"].extend([(now_s - 9.0, Velocity()), (now_s, fast)])
        assert listener.moving() == ["b"]
        assert listener.stood_ms("b", now_s - 1.0) == math.inf
        listener.commands["b"].extend([(now_s + 0.1, Velocity()), (now_s + 0.2, Velocity())])
        assert listener.stood_ms("b", now_s - 1.0) == pytest.approx(1100.0)
        assert listener.stood_ms("b", now_s + 0.05) == pytest.approx(50.0)
        listener.close()


def test_its_memory_is_its_own(tmp_path: Path) -> None:
    import os

    assert 5.0 < fleet.process_memory_mb(os.getpid()) < 5000.0
