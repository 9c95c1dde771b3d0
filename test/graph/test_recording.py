"""A run is recorded while it is shown, and played again without a robot."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.cli import main
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.cli.replay.command import recording
from vln_ros.config import Scalar
from vln_ros.ros.bag.reader import Bag, BagTopics, Stream
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import make_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SHIPPED_MB = 5
DEADLINE_S = 60.0


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


class Terminal:
    """In which a command of ours runs, in a session of its own; what it prints is in a file."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.file = folder / f"{arguments[0]}.txt"
        with self.file.open("w", encoding="utf-8") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vln_ros", *arguments],
                env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert self._process.poll() is None, self.file.read_text("utf-8")
            assert time.monotonic() < deadline_s, f"{what}\n{self.file.read_text('utf-8')}"
            time.sleep(0.05)

    def ctrl_c(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)

    def status(self) -> int:
        return self._process.wait(DEADLINE_S)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_a_running_demo_is_recorded_from_another_terminal_until_ctrl_c(tmp_path: Path) -> None:
    """Both in the domain of their terminals, as a person would who joins a robot's."""
    environment = {**graph_environment(), "PYTHONUNBUFFERED": "1"}
    demo = Terminal(
        tmp_path, environment, "demo", "--join", "--engine", "expert", "--mode", "realtime", "--episodes",
        "3", "--size", "96x72", "--no-video", "--out", str(tmp_path / "demo"),
    )  # fmt: skip
    bags = tmp_path / "bags"
    record = Terminal(tmp_path, environment, "record", "--out", str(bags))
    try:
        record.until(lambda: bytes_in(bags) > 200_000, "nothing is recorded")
        record.ctrl_c()
        assert record.status() == 0
    finally:
        record.close()
        demo.close()
    said = record.file.read_text("utf-8")
    (bag,) = bags.iterdir()
    assert f"recording to {bag}" in said
    assert re.search(rf"{bag}: \d+ messages, \d+\.\d MB\nnext: vln_ros replay {bag} plays it", said)
    assert "Traceback" not in said
    with Bag(bag, BagTopics()) as recorded:
        assert not recorded.lost
        assert recorded.count(Stream.COLOR) > 3
        assert recorded.count(Stream.ODOMETRY) > recorded.count(Stream.COLOR)
    figures = replayed(str(bag), tmp_path, "--instruction", "go on")
    assert figures["frames"]["processed"] > 3


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_a_robot_with_other_names_is_recorded_for_some_seconds(transport: str, tmp_path: Path) -> None:
    episodes = write_episodes(tmp_path, "val_unseen", make_episodes("val_unseen", 1, "room"))
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": "realtime", "transport": transport, "camera.width": 96,
        "camera.height": 72, "image_hz": 5.0,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {
        "engine": "paced", "extrinsics": "parameters", "use_sim_time": True, "color_transport": transport,
        "depth_transport": transport,
    }  # fmt: skip
    environment = graph_environment()
    bags = tmp_path / "bags"
    with Graph(tmp_path / "logs", environment) as graph:
        for name, parameters in (("sim_bridge", bridge), ("navigator", navigator)):
            graph.start(NodeSpec(name, parameters, namespace="/left", remaps={"odom": "wheel/odom"}))
        record = Terminal(
            tmp_path, environment, "record", "--out", str(bags), "--namespace", "left", "--odom-topic",
            "wheel/odom", "--duration-s", "4", "--color-transport", transport, "--depth-transport", transport,
        )  # fmt: skip
        try:
            assert record.status() == 0
        finally:
            record.close()
        graph.check()
    (bag,) = bags.iterdir()
    with Bag(bag, BagTopics()) as recorded:
        assert not recorded.lost
        assert recorded.connections[Stream.COLOR].topic == "/left/camera/color/image_raw/compressed"
        assert recorded.connections[Stream.ODOMETRY].topic == "/left/wheel/odom"
        assert recorded.count(Stream.COLOR) > 3
        assert recorded.count(Stream.DEPTH) > 3


def test_where_nobody_is_the_recording_of_nothing_is_said(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    record = Terminal(tmp_path, graph_environment(), "record", "--out", str(bags), "--duration-s", "1")
    try:
        assert record.status() == 1
    finally:
        record.close()
    said = record.file.read_text("utf-8")
    assert "/camera/color/image_raw/compressed, " in said
    assert "/odom: is the robot in this ROS domain" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--split-mb", "-1", "--split-mb = -1"),
        ("--jpeg-quality", "0", "--jpeg-quality = 0"),
        ("--storage", "zip", "zip"),
    ],
)
def test_an_option_that_cannot_be_is_said(
    option: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("record", "--out", str(tmp_path), option, value) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
