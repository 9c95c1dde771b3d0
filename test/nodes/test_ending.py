"""Every node, in every state, ends within a second of either signal: nothing is left for kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.context import Context
from rclpy.serialization import serialize_message
from robots import WaitingNode
from ros_endings import gone_afterwards
from rosbags.highlevel import AnyReader

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar, TinyConfig
from vln_ros.datatypes import CameraModel, Pose, Velocity
from vln_ros.engine.tiny import build_tiny
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos
from vln_ros.ros.bag.writer import BagWriter
from vln_ros.ros.terminal.environment import PARENT
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(300)]

DEADLINE_S = 60.0
LIMIT_S = 1.0
LOADED_MACHINE_S = 4.0
"""Added to the limit: the processor may be somebody else's. What does not end by itself never does."""
CONFIGURE = (Transition.TRANSITION_CONFIGURE,)
ACTIVATE = (*CONFIGURE, Transition.TRANSITION_ACTIVATE)
WAYS: dict[str, tuple[int, ...]] = {
    "unconfigured": (),
    "inactive": CONFIGURE,
    "active": ACTIVATE,
    "deactivated": (*ACTIVATE, Transition.TRANSITION_DEACTIVATE),
    "cleaned up": (*CONFIGURE, Transition.TRANSITION_CLEANUP),
    "finalized": (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,),
    "finalized from active": (*ACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN),
}
MANAGED: dict[str, dict[str, Scalar]] = {
    "navigator": {"autostart": False, "engine": "paced", "extrinsics": "parameters"},
    "executor": {"autostart": False, "extrinsics": "parameters"},
}
PLAIN = ("inspector", "recorder", "sim_bridge", "bag_player", "web", "fleet")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Observer(WaitingNode):
    """Sees from outside what a node is doing."""

    def __init__(self, context: Context, graph: Graph, logs: Path) -> None:
        super().__init__(context, "observer", deadline_s=DEADLINE_S, graph=graph)
        self.graph = graph
        self._logs = logs
        # A client that is made anew may be answered before it is known.
        self._changes: dict[str, Client] = {}

    def heard(self) -> str:
        return "\n".join(f"{p.name}:\n{p.read_text('utf-8')}" for p in sorted(self._logs.glob("*.log")))

    def present(self, name: str) -> None:
        self.wait(lambda: name in self.get_node_names(), f"{name} is not there")

    def change(self, name: str, transition: int, wait: bool = True) -> None:
        client = self._changes.get(name) or self.create_client(ChangeState, f"{name}/change_state")
        self._changes[name] = client
        self.wait(client.service_is_ready, f"no {name}")
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        if wait:
            self.wait(future.done, f"{name} does not answer")
            assert future.result().success


@contextmanager
def observed(folder: Path) -> Iterator[Observer]:
    context = Context()
    context.init()
    with Graph(folder / "logs", graph_environment()) as graph:
        observer = Observer(context, graph, folder / "logs")
        with gone_afterwards(context, observer):
            yield observer


def ends(observer: Observer, name: str, number: signal.Signals) -> None:
    """It does so in time, with status 0, and without a traceback."""
    pid = observer.graph.pid(name)
    begun_s = time.monotonic()
    os.kill(pid, number)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < begun_s + LIMIT_S + LOADED_MACHINE_S, (
            f"{name} does not end by {number.name}"
        )
        time.sleep(0.01)
    log = observer.graph.log_path(name).read_text("utf-8")
    assert observer.graph.wait(name) == 0, log
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])[:1]
    return write_episodes(tmp_path_factory.mktemp("episodes"), "val_unseen", every)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("simulated", [False, True], ids=["wall", "no clock"])
@pytest.mark.parametrize("state", WAYS)
@pytest.mark.parametrize("name", MANAGED)
def test_a_managed_node(
    tmp_path: Path, name: str, state: str, simulated: bool, number: signal.Signals
) -> None:
    with observed(tmp_path) as observer:
        observer.graph.start(NodeSpec(name, {**MANAGED[name], "use_sim_time": simulated}))
        observer.present(name)
        for transition in WAYS[state]:
            observer.change(name, transition)
        ends(observer, name, number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("simulated", [False, True], ids=["wall", "no clock"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_node(
    tmp_path: Path, episodes: Path, name: str, simulated: bool, number: signal.Signals
) -> None:
    """The bridge and the player wait for somebody who listens."""
    parameters: dict[str, dict[str, Scalar]] = {
        "inspector": {},
        "web": {"port": 0},
        "recorder": {"folder": str(tmp_path / "bags")},
        "sim_bridge": {"episodes": str(episodes), "camera.width": 64, "camera.height": 48},
        "bag_player": {"bag": str(short_bag(tmp_path)), "instruction": "go"},
        "fleet": {"robots": "left,right"},
    }
    beside: dict[str, dict[str, Scalar]] = {
        "navigator": {"engine": "paced", "extrinsics": "parameters", "use_sim_time": simulated},
    }  # fmt: skip
    with observed(tmp_path) as observer:
        spec = NodeSpec(name, {**parameters[name], "use_sim_time": simulated}, beside=beside)
        observer.graph.start(spec)
        observer.present(name)
        ends(observer, name, number)


def short_bag(folder: Path) -> Path:
    """A recording of one frame."""
    stamp_ns, camera = 10**18, CameraModel.from_hfov(64, 48, 1.4)
    messages = {
        COLOR_TOPIC: convert.image_from_rgb(np.zeros((48, 64, 3), np.uint8), stamp_ns, "optical"),
        DEPTH_TOPIC: convert.image_from_depth(np.ones((48, 64), np.float32), stamp_ns, "optical"),
        INFO_TOPIC: convert.info_from_camera(camera, stamp_ns, "optical"),
        "odom": convert.odometry_from_pose(Pose.identity(), stamp_ns, "odom", "base_link", 0.0, 0.0),
    }
    writer = BagWriter(folder / "short", "mcap", 2**20)
    for topic, message in messages.items():
        writer.topic(f"/{topic}", type(message), qos.events())(stamp_ns, serialize_message(message))
    writer.close()
    return folder / "short"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_what_was_recorded_while_the_clock_stood_can_be_read(tmp_path: Path, number: signal.Signals) -> None:
    with observed(tmp_path) as observer:
        said: list[DiagnosticArray] = []
        observer.create_subscription(DiagnosticArray, "/diagnostics", said.append, qos.diagnostics())
        parameters: dict[str, Scalar] = {"folder": str(tmp_path / "bags"), "use_sim_time": True}
        observer.graph.start(NodeSpec("recorder", parameters))
        commands = observer.create_publisher(Twist, "cmd_vel", qos.commands())
        observer.wait(lambda: commands.get_subscription_count() > 0, "it does not record")

        def written() -> bool:
            commands.publish(convert.twist_from_velocity(Velocity(0.1)))
            values = [{v.key: v.value for v in m.status[0].values} for m in said]
            return any(int(v["messages"]) > 5 for v in values)

        observer.wait(written, "nothing is written")
        ends(observer, "recorder", number)
    (bag,) = (tmp_path / "bags").iterdir()
    with AnyReader([bag]) as reader:
        assert {c.topic: c.msgcount for c in reader.connections}["/cmd_vel"] >= 3


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("autostart", [True, False], ids=["autostart", "service"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_navigator_that_loads_weights(
    tmp_path: Path, file: str, autostart: bool, number: signal.Signals
) -> None:
    """From a disk that does not answer: a pipe that nobody writes to. Python opens the one, a library the
    other."""
    build_tiny(tmp_path / "tiny", TinyConfig(layers=2))
    (tmp_path / "tiny" / file).unlink()
    os.mkfifo(tmp_path / "tiny" / file)
    with observed(tmp_path) as observer:
        parameters: dict[str, Scalar] = {
            "engine": "qwen", "qwen.checkpoint": str(tmp_path / "tiny"), "extrinsics": "parameters",
            "autostart": autostart,
        }  # fmt: skip
        observer.graph.start(NodeSpec("navigator", parameters))
        observer.present("navigator")
        if not autostart:
            observer.change("navigator", Transition.TRANSITION_CONFIGURE, wait=False)
        log = observer.graph.log_path("navigator")
        observer.wait(lambda: "s so far" in log.read_text("utf-8"), "it does not say that it loads")
        ends(observer, "navigator", number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_fleet_that_loads_weights(tmp_path: Path, number: signal.Signals) -> None:
    """One robot's navigator waits for the disk, the other one's for the first."""
    build_tiny(tmp_path / "tiny", TinyConfig(layers=2))
    (tmp_path / "tiny/model.safetensors").unlink()
    os.mkfifo(tmp_path / "tiny/model.safetensors")
    with observed(tmp_path) as observer:
        navigator: dict[str, Scalar] = {
            "engine": "qwen", "qwen.checkpoint": str(tmp_path / "tiny"), "extrinsics": "parameters",
        }  # fmt: skip
        observer.graph.start(NodeSpec("fleet", {"robots": "left,right"}, beside={"navigator": navigator}))
        log = observer.graph.log_path("fleet")
        for robot in ("left", "right"):
            observer.wait(
                lambda r=robot: f"[{r}.navigator]: configuring" in log.read_text("utf-8"),  # type: ignore[misc]
                f"{robot} does not say that it loads",
            )
        ends(observer, "fleet", number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_bridge_whose_world_does_not_come_up(
    tmp_path: Path, episodes: Path, number: signal.Signals
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 600\n")
    python.chmod(0o755)
    with observed(tmp_path) as observer:
        parameters: dict[str, Scalar] = {
            "episodes": str(episodes), "world": "habitat", "habitat.python": str(python),
        }  # fmt: skip
        observer.graph.start(NodeSpec("sim_bridge", parameters))
        observer.wait((tmp_path / "started").exists, "the world is not asked for")
        ends(observer, "sim_bridge", number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("name", ["navigator", "sim_bridge"])
def test_in_the_middle_of_an_episode_and_of_a_decision(
    tmp_path: Path, episodes: Path, name: str, number: signal.Signals
) -> None:
    """The model computes for a minute, and the bridge waits for it."""
    with observed(tmp_path) as observer:
        navigator: dict[str, Scalar] = {
            "engine": "paced", "paced.decision_ms": 60000.0, "extrinsics": "parameters",
            "reliability": "reliable",
        }  # fmt: skip
        bridge: dict[str, Scalar] = {
            "episodes": str(episodes), "camera.width": 64, "camera.height": 48,
            "run_folder": str(tmp_path / "run"),
        }  # fmt: skip
        processed: list[str] = []

        def hear(msg: DiagnosticArray) -> None:
            """Said again and again: frame_processed is said once, maybe before the observer is known."""
            processed.extend(
                v.value
                for s in msg.status
                for v in s.values
                if v.key == "frames processed" and v.value != "0"
            )

        observer.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.diagnostics())
        observer.graph.start(NodeSpec("navigator", navigator))
        observer.graph.start(NodeSpec("sim_bridge", bridge))
        observer.wait(lambda: bool(processed), "no frame was taken in")
        ends(observer, name, number)


PARENT_OF_NODE = """
import os, subprocess, sys, time
command = [sys.executable, "-m", "vln_ros.nodes.executor.node", "--ros-args", "-p", "extrinsics:=parameters"]
if sys.argv[1] == "prefix":
    command = ["sh", "-c", '"$@"; true', "sh", *command]
environment = dict(os.environ)
if sys.argv[1] != "unsupervised":
    environment[sys.argv[2]] = str(os.getpid())
subprocess.Popen(command, env=environment, stdout=open(sys.argv[3], "wb"), stderr=subprocess.STDOUT)
time.sleep(600)
"""


def node_processes(domain: str) -> list[int]:
    """Of the executor, in this domain."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            b"vln_ros.nodes.executor.node" in arguments[1:4]
            and f"ROS_DOMAIN_ID={domain}".encode() in environment
        ):
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of the end of another process")
@pytest.mark.parametrize(("kind", "outlives"), [("direct", False), ("prefix", False), ("unsupervised", True)])
def test_a_node_ends_with_the_launch_that_names_itself_and_with_no_other(
    tmp_path: Path, kind: str, outlives: bool
) -> None:
    """Also where something stands between the two; a node that nobody supervises (nohup, ros2 run) lives
    on."""
    environment = graph_environment()
    log = tmp_path / "executor.log"
    command = [sys.executable, "-c", PARENT_OF_NODE, kind, PARENT, str(log)]
    parent = subprocess.Popen(command, env=environment)

    def wait(condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what}: {log.read_text('utf-8')}"
            time.sleep(0.05)

    try:
        wait(lambda: log.exists() and "active" in log.read_text("utf-8"), "the executor is not active")
        (pid,) = node_processes(environment["ROS_DOMAIN_ID"])
        parent.kill()
        parent.wait()
        if outlives:
            with pytest.raises(ChildProcessError):  # no child of ours: only the time can tell that it stays
                os.waitpid(pid, 0)
            time.sleep(LIMIT_S)
            assert node_processes(environment["ROS_DOMAIN_ID"]) == [pid]
        else:
            wait(lambda: not node_processes(environment["ROS_DOMAIN_ID"]), "it outlives its launch")
    finally:
        parent.kill()
        for left in node_processes(environment["ROS_DOMAIN_ID"]):
            os.kill(left, signal.SIGTERM)
