"""A command's graph stays among itself: no robot hears it, and no other graph changes what it measures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from command_lines import beside_waiting
from geometry_msgs.msg import Twist
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from recorded_drives import replay_command, write_bag

from vln_ros.cli import graph as graph_module
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph, graph_environment
from vln_ros.config import ConfigError
from vln_ros.ros.terminal.environment import FAST_DDS_LOCALHOST_PROFILE, FAST_DDS_PROFILE, own_domain

pytestmark = pytest.mark.ros

DEMO = [sys.executable, "-m", "vln_ros", "demo", "--engine", "expert", "--size", "64x48", "--no-video"]
DEADLINE_S = 100.0


class Base:
    """A robot's base driver in the domain that the terminal has set: it listens to cmd_vel, as any does."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("base_driver", context=self.context)
        self.heard: dict[str, list[Twist]] = {"cmd_vel": [], "replay/cmd_vel": []}
        for topic, messages in self.heard.items():
            self.node.create_subscription(Twist, topic, messages.append, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.spin)
        self.thread.start()

    def spin(self) -> None:
        while not self.over.is_set():
            self.executor.spin_once(0.1)

    def moving(self, topic: str) -> int:
        return sum(bool(m.linear.x or m.angular.z) for m in self.heard[topic])

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def base() -> Iterator[Base]:
    base = Base()
    yield base
    base.close()


def run(command: list[str], **given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | given, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def domain_said(text: str) -> int:
    (found,) = set(re.findall(r"export ROS_DOMAIN_ID=(\d+)", text))
    return int(found)


@pytest.mark.slow
@pytest.mark.parametrize("join", [False, True], ids=["of its own", "joined"])
def test_a_demo_in_real_time_moves_a_robot_only_if_told_to_join(
    base: Base, tmp_path: Path, join: bool
) -> None:
    options = ["--mode", "realtime", "--speed", "4", "--episodes", "1", "--out", str(tmp_path / "run")]
    done = run([*DEMO, *options, *["--join"][:join]])
    assert done.returncode == 0, done.stdout + done.stderr
    users = int(os.environ["ROS_DOMAIN_ID"])
    if join:
        assert f"ROS domain {users}, joined" in done.stdout
        assert base.moving("cmd_vel") > 10  # or this test would prove nothing
    else:
        assert domain_said(done.stdout) != users
        assert not any(base.heard.values())


@pytest.mark.slow
@pytest.mark.parametrize("join", [False, True], ids=["of its own", "joined"])
def test_a_replay_moves_no_robot_even_if_told_to_join(base: Base, tmp_path: Path, join: bool) -> None:
    # Slowly: on a busy machine the base finds the executor late.
    done = run(replay_of_a_drive(tmp_path, "--speed", "0.3", *["--join"][:join]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not base.heard["cmd_vel"]
    if join:
        assert base.moving("replay/cmd_vel") > 0  # it did want to move
    else:
        assert domain_said(done.stdout) != int(os.environ["ROS_DOMAIN_ID"])
        assert not base.heard["replay/cmd_vel"]


def trajectories(folder: Path) -> dict[str, bytes]:
    found = {p.parent.name: p.read_bytes() for p in folder.glob("episodes/*/trajectory.jsonl")}
    assert found
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_demos_at_once_do_what_each_does_alone(tmp_path: Path) -> None:
    def start(name: str, split: str) -> subprocess.Popen[str]:
        command = [*DEMO, "--episodes", "2", "--split", split, "--out", str(tmp_path / name)]
        return subprocess.Popen(
            command, env=dict(os.environ), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    alone = start("alone", "val_unseen")
    text, _ = alone.communicate(timeout=DEADLINE_S)
    assert alone.returncode == 0, text
    both = [start("first", "val_unseen"), start("second", "val_seen")]
    domains = set()
    for process in both:
        text, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, text
        domains.add(domain_said(text))
    assert len(domains) == 2
    assert int(os.environ["ROS_DOMAIN_ID"]) not in domains
    assert trajectories(tmp_path / "first") == trajectories(tmp_path / "alone")
    assert trajectories(tmp_path / "second") != trajectories(tmp_path / "alone")


LOOK_ON = """
import sys, time, rclpy
rclpy.init()
node = rclpy.create_node("looks_on")
until = time.monotonic() + 30.0
while time.monotonic() < until:
    rclpy.spin_once(node, timeout_sec=0.1)
    if any(name == "executor" for name, _ in node.get_node_names_and_namespaces()):
        sys.exit(0)
sys.exit(1)
"""


@pytest.mark.slow
def test_the_line_that_is_printed_lets_others_look_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph_module.say_where.cache_clear()  # another test may have had it said
    with Graph(tmp_path, graph_environment()) as graph:
        graph.start(NodeSpec("executor", {"safety.obstacles": "none"}))
        domain = domain_said(capfd.readouterr().out)
        # As ros2 and rviz in a terminal of the user's: nothing of this package is set there.
        left_out = ("FASTRTPS_DEFAULT_PROFILES_FILE", "SKIP_DEFAULT_XML")
        terminal = {k: v for k, v in os.environ.items() if k not in left_out}
        terminal |= {"ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(tmp_path / "log")}
        done = subprocess.run([sys.executable, "-c", LOOK_ON], env=terminal, timeout=60.0, check=False)
    assert done.returncode == 0


# ------------------------------------------------------------------ the environment of a graph


def test_a_graph_takes_nothing_from_the_terminal_that_leads_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "ROS_DOMAIN_ID": "142", "ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF",
        "ROS_STATIC_PEERS": "10.0.0.7", "ROS_DISCOVERY_SERVER": "10.0.0.7:11811",
        "FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml", "CYCLONEDDS_URI": "/nowhere.xml",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    environment = graph_environment()
    assert environment["ROS_DOMAIN_ID"] == str(own_domain())
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(FAST_DDS_LOCALHOST_PROFILE)
    others = {"ROS_LOCALHOST_ONLY", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS"}
    assert not {*others, "ROS_DISCOVERY_SERVER", "CYCLONEDDS_URI"} & set(environment)


@pytest.mark.parametrize("text", ["300", "abc", "-1", "", " "])
def test_a_domain_that_is_none_matters_only_to_who_joins_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    assert graph_environment()["ROS_DOMAIN_ID"] == str(own_domain())
    if text:
        with pytest.raises(ConfigError, match="ROS_DOMAIN_ID"):
            graph_environment(join=True)
    else:
        assert graph_environment(join=True)["ROS_DOMAIN_ID"] == ""


def test_who_joins_reaches_as_far_as_the_terminal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    here = graph_environment(join=True)
    assert here["ROS_DOMAIN_ID"] == "42"
    assert here["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(FAST_DDS_LOCALHOST_PROFILE)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    beyond = graph_environment(join=True)
    assert beyond["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(FAST_DDS_PROFILE)
    assert beyond["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"


@dataclass(frozen=True)
class Wrong:
    """An environment in which ROS does not start, and what is said of it."""

    environment: dict[str, str]
    words: str
    options: tuple[str, ...] = ()


JOIN = ("--join",)
ONE_SENTENCE = {
    "middleware": Wrong({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}, "rmw_zenoh_cpp is not installed"),
    "logging": Wrong({"RCUTILS_COLORIZED_OUTPUT": "7"}, "RCUTILS_COLORIZED_OUTPUT"),
    "logs": Wrong({"ROS_LOG_DIR": "/dev/null"}, "/dev/null"),
    "what no table knows": Wrong({"RCL_ASSERT_RMW_ID_MATCHES": "rmw_other"}, "rmw_other"),
    "joins no domain": Wrong({"ROS_DOMAIN_ID": "300"}, "300", JOIN),
    "joins nobody": Wrong({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "OFF", JOIN),
    "joins by no profile": Wrong({"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, "/nowhere.xml", JOIN),
    "joins no peers": Wrong({"ROS_STATIC_PEERS": "nobody.invalid"}, "nobody.invalid", JOIN),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_SENTENCE)
def test_where_ros_does_not_start_a_demo_says_one_sentence(tmp_path: Path, case: str) -> None:
    wrong = ONE_SENTENCE[case]
    done = run(
        [*DEMO, "--episodes", "1", "--out", str(tmp_path / "run"), *wrong.options], **wrong.environment
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (sentence,) = [line for line in beside_waiting(done.stderr).splitlines() if line]
    assert sentence.startswith("vln_ros: ")
    assert wrong.words in sentence
    assert "Traceback" not in done.stdout


def replay_of_a_drive(folder: Path, *options: str) -> list[str]:
    bag = write_bag(folder / "bag", compressed=False, mcap=True)
    return replay_command(bag, folder / "run", "--decision-ms", "10", *options)


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_SENTENCE)
def test_where_ros_does_not_start_a_replay_says_one_sentence(tmp_path: Path, case: str) -> None:
    wrong = ONE_SENTENCE[case]
    done = run(replay_of_a_drive(tmp_path, *wrong.options), **wrong.environment)
    assert done.returncode == 2, done.stdout + done.stderr
    (sentence,) = [line for line in beside_waiting(done.stderr).splitlines() if line]
    assert sentence.startswith("vln_ros: ")
    assert wrong.words in sentence


GOES_ON = {
    "domain abc, no home, ASCII": {
        "ROS_DOMAIN_ID": "abc", "HOME": "", "PYTHONIOENCODING": "ascii", "LC_ALL": "C",
    },
    "home that cannot be written": {"HOME": "/proc/nowhere"},
    "this machine only, nobody finds anybody": {
        "ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF",
        "ROS_STATIC_PEERS": "nobody.invalid",
    },
    "profile, prefix and folder that are not there": {
        "FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml", "AMENT_PREFIX_PATH": "/nowhere",
        "TMPDIR": "/nowhere",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", GOES_ON)
def test_what_does_not_matter_to_a_graph_of_its_own_does_not_stop_it(tmp_path: Path, case: str) -> None:
    done = run([*DEMO, "--episodes", "1", "--out", str(tmp_path / "run")], **GOES_ON[case])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Success rate" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", GOES_ON)
def test_nor_does_it_stop_a_replay(tmp_path: Path, case: str) -> None:
    done = run(replay_of_a_drive(tmp_path), **GOES_ON[case])
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"decisions":' in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_demo_whose_output_nobody_reads_any_more_still_leaves_its_run(tmp_path: Path) -> None:
    command = " ".join([*DEMO, "--episodes", "1", "--out", str(tmp_path / "run")])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], env=dict(os.environ), text=True,
        capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 128 + signal.SIGPIPE)
    assert '"complete": true' in (tmp_path / "run/result.json").read_text("utf-8")


def test_a_process_that_enters_its_graph_has_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = dict(os.environ)
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("ROS_LOG_DIR", raising=False)
    try:
        environment = enter_graph(tmp_path)
        assert os.environ == environment
        assert "ROS_LOCALHOST_ONLY" not in os.environ
        assert os.environ["ROS_LOG_DIR"] == str(tmp_path)
    finally:
        os.environ.clear()
        os.environ.update(kept)


def test_what_cannot_be_joined_says_so(tmp_path: Path) -> None:
    for command in (
        ["replay", "bag", "--exact", "--join"],
        ["eval", "--join", "--checkpoint", "shipped:tiny", "--out", str(tmp_path / "run")],
    ):
        done = run([sys.executable, "-m", "vln_ros", *command])
        assert done.returncode == 2
        assert "--join" in done.stderr
    assert not (tmp_path / "run").exists()
