"""A run is recorded while it is shown, and played again without a robot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.cli import main
from vln_ros.cli.replay.command import recording
from vln_ros.ros.bag.reader import Bag, BagTopics, Stream

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SHIPPED_MB = 5


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def replayed(bag: str, folder: Path, *options: str) -> dict[str, dict[str, int]]:
    figures = folder / "figures.json"
    status = ended(
        "replay", bag, "--engine", "paced", "--speed", "0", "--no-video", "--decision-ms", "0",
        "--out", str(folder / "replay"), "--json", str(figures), *options,
    )  # fmt: skip
    assert status == 0
    found: dict[str, dict[str, int]] = json.loads(figures.read_text("utf-8"))
    return found


@pytest.mark.parametrize("sensors", ["", "distorted,own-depth"])
def test_a_demo_is_recorded_and_played_again(sensors: str, tmp_path: Path) -> None:
    status = ended(
        "demo", "--engine", "expert", "--episodes", "1", "--size", "96x72", "--no-video", "--record",
        "--sensors", sensors, "--out", str(tmp_path / "demo"),
    )  # fmt: skip
    assert status == 0
    (bag,) = (tmp_path / "demo/recording").iterdir()
    with Bag(bag, BagTopics()) as recorded:
        assert not recorded.lost
        frames = recorded.count(Stream.COLOR)
        assert recorded.is_compressed(Stream.COLOR)
        assert recorded.is_compressed(Stream.DEPTH)
        assert (Stream.DEPTH_INFO in recorded.connections) == ("own-depth" in sensors)
    assert frames > 3
    figures = replayed(str(bag), tmp_path)
    assert figures["refused"] == {}
    assert figures["frames"]["processed"] >= frames - 1


def test_the_shipped_recording_plays_without_a_camera(tmp_path: Path) -> None:
    folder = recording("shipped:flat")
    size = sum(p.stat().st_size for p in folder.rglob("*"))
    assert size <= SHIPPED_MB * 2**20
    figures = replayed("shipped:flat", tmp_path)
    assert figures["refused"] == {}
    assert figures["frames"]["processed"] > 20


def test_another_shipped_recording_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("replay", "shipped:kitchen") == 2
    assert "shipped:flat" in capsys.readouterr().err
