"""A run is recorded by the real nodes, and its decisions come out the same again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from ros_endings import gone_afterwards
from rosbags.highlevel import AnyReader

from vln_ros.cli import main
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar, TinyConfig
from vln_ros.engine.tiny import build_tiny
from vln_ros.ros import qos
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
EPISODES = 3
EXACT: dict[str, Scalar] = {
    "color_format": "as_published", "depth_format": "as_published", "compression": "zstd",
    "split_s": 2.0, "min_free_mb": 1,
}  # fmt: skip
"""What a run can be repeated from; in several files."""
SAID = ("cache fill [%]", "cached tokens", "frame rate [Hz]", "frame age [ms]")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not happen within {DEADLINE_S} s"
        time.sleep(0.05)


def wait_for_diagnostics() -> None:
    """Until the navigator has said all of ``SAID`` twice: the first time is in the bag by the second.

    Its diagnostics come once a second, and on a fast machine the episodes are over before the first.
    """
    context = Context()
    context.init()
    listener = rclpy.create_node("listener", context=context)
    spinner = SingleThreadedExecutor(context=context)
    spinner.add_node(listener)
    times = 0

    def hear(msg: DiagnosticArray) -> None:
        nonlocal times
        times += sum({v.key for v in status.values} >= set(SAID) for status in msg.status)

    with gone_afterwards(context, listener):
        listener.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.diagnostics())

        def heard_twice() -> bool:
            spinner.spin_once(0.05)
            return times >= 2

        wait_for(heard_twice, f"that the navigator says {SAID}")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short episodes in lockstep, decided by a small checkpoint."""
    folder = tmp_path_factory.mktemp("recording")
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])[:EPISODES]
    episodes = write_episodes(folder, "val_unseen", every)
    build_tiny(folder / "tiny", TinyConfig(seed=5))
    navigator: dict[str, Scalar] = {
        "qwen.checkpoint": str(folder / "tiny"),
        "qwen.stream.max_phrases": 1,  # many short queues
        "extrinsics": "parameters",
        "camera_z_m": 1.25,
        "reliability": "reliable",
    }
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "max_steps": 6, "camera.width": 64, "camera.height": 48,
        "listeners": 2,  # navigator and recorder
    }  # fmt: skip
    with Graph(folder / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("navigator", navigator))
        graph.start(NodeSpec("recorder", {"folder": str(folder / "bags"), **EXACT}))
        # The recorder has found the navigator before anything happens.
        wait_for(lambda: bool(list(folder.glob("bags/*/navigator.yaml"))), "the parameters' arrival")
        graph.start(NodeSpec("sim_bridge", bridge))
        assert graph.wait("sim_bridge") == 0
        wait_for_diagnostics()
    (bag,) = (folder / "bags").iterdir()
    return bag


def test_inputs_queues_and_diagnostics_are_in_the_bag(recording: Path) -> None:
    with AnyReader([recording]) as reader:
        count = {c.topic: c.msgcount for c in reader.connections}
        diagnostics = [
            data
            for c, _, data in reader.messages([c for c in reader.connections if c.topic == "/diagnostics"])
        ]
        latched = next(c for c in reader.connections if c.topic == "/instruction")
        durability = latched.ext.offered_qos_profiles[0].durability.name  # type: ignore[union-attr]
    assert EPISODES - 1 <= count["/instruction"] <= EPISODES  # see below
    assert durability == "TRANSIENT_LOCAL"
    assert count["/frame_processed"] <= count["/camera/color/image_raw"]
    for topic in ("/odom", "/action_queue", "/diagnostics", "/queue_progress", "/camera/color/camera_info"):
        assert count[topic] > 0, topic
    said = b"".join(diagnostics)
    for name in SAID:
        assert name.encode() in said, name
    parameters = yaml.safe_load((recording / "navigator.yaml").read_text("utf-8"))
    assert parameters["navigator"]["ros__parameters"]["extrinsics"] == "parameters"


def exact(bag: Path, folder: Path, *arguments: str) -> tuple[int, list[dict[str, object]]]:
    figures = folder / "figures.json"
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(bag), "--exact", "--json", str(figures), *arguments])
    return int(ended.value.code or 0), json.loads(figures.read_text("utf-8")) if figures.exists() else []


def test_the_same_checkpoint_decides_the_same_again(recording: Path, tmp_path: Path) -> None:
    status, runs = exact(recording, tmp_path)
    # The recorder may have found the bridge's camera a little after the navigator did.
    whole = [r for r in runs if not r["failure"]]
    assert len(runs) == EPISODES
    assert len(whole) >= EPISODES - 1
    for run in whole:
        assert run["decisions"] == run["equal"]
    assert max(int(str(run["decisions"])) for run in whole) > 2
    assert status == (0 if len(whole) == EPISODES else 1)


def test_another_checkpoint_is_told_apart(recording: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "other", TinyConfig(seed=4))
    status, runs = exact(recording, tmp_path, "--checkpoint", str(tmp_path / "other"))
    assert status == 1
    assert any("recorded" in str(r["first_difference"]) for r in runs)


def test_a_foreign_bag_is_refused(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(recording, foreign)
    (foreign / "navigator.yaml").unlink()
    assert exact(foreign, tmp_path)[0] == 2
    assert "only what this package has recorded" in capsys.readouterr().err


def test_a_disk_that_goes_ends_the_recording_and_not_the_recorder(tmp_path: Path) -> None:
    """The others of its launch would end with it. Who looks at the terminal reads of it."""
    parameters: dict[str, Scalar] = {"folder": str(tmp_path / "stick"), "min_free_mb": 0, "duration_s": 4.0}
    with Graph(tmp_path / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("recorder", parameters))
        wait_for(lambda: bool(list(tmp_path.glob("stick/*/*.mcap"))), "the recording's beginning")
        shutil.rmtree(tmp_path / "stick")
        assert graph.wait("recorder") == 1
    said = graph.log_path("recorder").read_text("utf-8")
    assert "Traceback" not in said
    assert said.count("recording ended: ") == 1
