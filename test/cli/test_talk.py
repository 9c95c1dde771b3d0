"""`vln_ros say`, `ask` and `stop` with real nodes: they find them, and what they say is what happened."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("torch", reason="needs the engine's libraries")

from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from progress_lines import complaints
from rclpy.context import Context
from robots import WaitingNode
from ros_endings import gone_afterwards
from std_msgs.msg import String

from vln_ros.cli.demo import SIMULATED_ROBOT, write_split
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.ros import qos
from vln_ros.ros.terminal.environment import claim_domain

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0


def run(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vln_ros", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, complaints(done.stderr)


class Watcher(WaitingNode):
    """Where the robot is, what it is sent, and what its executor says."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "watcher", deadline_s=DEADLINE_S)
        self.place: tuple[float, float] | None = None
        self.sent: list[bool] = []
        self.state = ""
        self.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("best_effort", 10))
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.commands())
        self.create_subscription(String, "executor_state", self._on_state, qos.latched())

    def _on_odometry(self, msg: Odometry) -> None:
        self.place = (msg.pose.pose.position.x, msg.pose.pose.position.y)

    def _on_command(self, msg: Twist) -> None:
        self.sent.append(bool(msg.linear.x or msg.angular.z))

    def _on_state(self, msg: String) -> None:
        self.state = msg.data

    def heard(self) -> object:
        return self.state

    def hear(self, commands: int) -> None:
        """So many commands more, and forget those before."""
        for _ in range(200):  # what has piled up while nobody has listened
            self.spinner.spin_once(0.0)
        self.sent.clear()
        self.wait(lambda: len(self.sent) >= commands, "no commands come")


def alive(graph: Graph) -> bool:
    """True, or the reason why a node has ended."""
    graph.check()
    return True


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watcher]:
    folder: Path = tmp_path_factory.mktemp("talk")
    episodes = write_split(folder / "dataset", "val_unseen", 1, "flat")
    context = Context()
    context.init()
    node = Watcher(context)
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes),
        "mode": "realtime",
        "camera.width": 64,
        "camera.height": 48,
        "max_episode_s": 3600.0,
    }
    navigator: dict[str, Scalar] = {
        "engine": "qwen",
        "qwen.checkpoint": "shipped:tiny",
        "qwen.stream.min_allowed": 0.0,
        "extrinsics": "parameters",
        "reliability": "reliable",
        "use_sim_time": True,
    }
    executor: dict[str, Scalar] = {"use_sim_time": True, **SIMULATED_ROBOT, "safety.obstacles": "none"}
    with gone_afterwards(context, node), Graph(folder / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("sim_bridge", bridge))
        graph.start(NodeSpec("navigator", navigator))
        graph.start(NodeSpec("executor", executor))
        node.wait(lambda: alive(graph) and node.place is not None, "no odometry came")
        yield node  # the robot may reach its goal before the last test is over, and the bridge then ends


@pytest.mark.parametrize("command", [["say", "go on"], ["ask", "what?"], ["stop"], ["stop", "--release"]])
def test_nobody_there_is_said_with_the_place(command: Sequence[str]) -> None:
    status, out, error = run(*command, "--domain", "231", "--namespace", "left/", "--wait-s", "0.3")
    assert status == 1 and not out
    assert "ROS domain 231, namespace /left:" in error and "0.3 s" in error
    assert "--domain" in error


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["say", ""], "instruction is empty"),
        (["say", "go\x07on"], "control characters"),
        (["say", "x" * 5000], "5000 characters"),
        (["ask", "  "], "no words"),
        (["ask", "door?", "--choice", "yes"], "1 choices"),
        (["ask", "door?", "--choice", "yes", "--choice", "yes"], "alike"),
        (["ask", "what?", "--domain", "233"], "--domain = 233"),
        (["say", "go", "--domain", "-1"], "--domain = -1"),
        (["stop", "--domain", "x"], "invalid int value"),
        (["stop", "--namespace", "a b"], "--namespace = 'a b'"),
        (["stop", "--wait-s", "0"], "--wait-s"),
        (["stop", "--wait-s", "nan"], "--wait-s"),
        (["say"], "instruction"),
        (["say", "go", "to", "the", "door"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_said(command: Sequence[str], words: str) -> None:
    status, out, error = run(*command)
    assert status == 2 and not out
    assert words in error


def test_say_ask_stop_release_and_say_again(robot: Watcher) -> None:
    status, out, error = run("say", "walk into the kitchen, then stop at the red chair")
    assert (status, error) == (0, "")
    assert re.match(r"taken as instruction \d+; it goes: ", out)
    assert any(word in out for word in ("forward 25 cm", "left 15 deg", "right 15 deg", "stop"))

    status, out, error = run("ask", "what do you see?")
    assert (status, error) == (0, "")
    assert out.strip()

    status, out, error = run("ask", "is there a door?", "--choice", "yes", "--choice", "no")
    assert (status, error) == (0, "")
    lines = [line.split("%  ") for line in out.splitlines()]
    assert {choice for _, choice in lines} == {"yes", "no"}
    assert float(lines[0][0]) >= float(lines[1][0])
    assert sum(float(share) for share, _ in lines) == pytest.approx(100.0, abs=0.2)

    status, out, error = run("ask", "is there a door?", "--choice", "yes", "--choice", "no", "--json")
    tree = json.loads(out)
    assert tree["status"] == "answered" and len(tree["probabilities"]) == 2

    status, out, error = run("stop")
    assert (status, error) == (0, "")
    assert "the robot stands" in out and "cancelled" in out
    robot.hear(10)
    assert not any(robot.sent)
    assert "paused" in robot.state
    place = robot.place

    status, out, error = run("say", "walk into the kitchen")
    assert status == 1 and not out
    assert "nothing was said" in error and "--release" in error
    robot.hear(10)
    assert robot.place == place

    status, out, error = run("stop", "--release")
    assert (status, error) == (0, "")
    assert "next instruction" in out
    robot.hear(20)
    assert not any(robot.sent), "nothing moves by a release alone"
    assert robot.place == place

    status, out, error = run("say", "turn around and walk out of the room")
    assert status == 0 and "it goes: " in out


def test_a_question_that_is_refused_is_an_error_with_its_reason(robot: Watcher) -> None:
    status, out, error = run("ask", "why " * 1000)
    assert status == 1 and not out
    assert "too_long" in error and "questions.max_question_tokens" in error


def test_only_a_navigator_can_be_told_that_its_run_is_over(tmp_path: Path) -> None:
    """On a GPU machine, or in lockstep: nothing is promised of a robot that nobody has told to stand."""
    with Graph(tmp_path, graph_environment()) as graph:
        graph.start(NodeSpec("navigator", {"engine": "paced", "extrinsics": "parameters"}, namespace="/gpu"))
        status, out, error = run("stop", "--namespace", "/gpu", "--wait-s", "30")
        assert status == 1 and not out
        assert "no executor" in error and "the run is cancelled" in error
        status, out, error = run("ask", "what?", "--namespace", "gpu", "--wait-s", "30")
        assert status == 1 and "no_model" in error
        graph.check()


def test_a_stop_that_names_no_robot_stops_every_one(tmp_path: Path) -> None:
    """Who is in a hurry names none; to let one go again it must be named."""
    executor: dict[str, Scalar] = {"safety.obstacles": "none", "extrinsics": "parameters"}
    with ExitStack() as stack:
        claims: list[socket.socket] = []
        env = graph_environment() | {"ROS_DOMAIN_ID": str(claim_domain(claims))}  # no other robot is there
        for claim in claims:
            stack.enter_context(claim)
        graph = stack.enter_context(Graph(tmp_path, env))
        for name in ("left", "right"):
            graph.start(NodeSpec("executor", executor, namespace=f"/{name}"))
        # Both are there: a namespace each, which waits for its executor.
        for name in ("left", "right"):
            status, out, error = run("stop", "--release", "--namespace", name, "--wait-s", "30", env=env)
            assert status == 0, error
        status, out, error = run("stop", env=env)
        assert (status, error) == (0, "")
        for name in ("left", "right"):
            assert f"/{name}: the robot stands" in out
            assert f"vln_ros stop --release --namespace /{name}" in out
        status, out, error = run("stop", "--release", "--wait-s", "1", env=env)
        assert status == 1 and not out
        assert "robots are in /left, /right" in error
        status, out, error = run("stop", "--namespace", "left", env=env)
        assert status == 0 and "/right" not in out
        graph.check()


INTERRUPTED = """
import os, signal, sys
from std_msgs.msg import String
from vln_ros.cli import interrupt
from vln_ros.cli.talk.person import Person
signal.signal(signal.SIGTERM, interrupt)
def hear(_):
    os.kill(os.getpid(), signal.SIGTERM)
    print("heard to the end")
with Person() as person:
    publisher = person.node.create_publisher(String, "x", 1)
    person.hear(String, "x", hear, 1)
    person.node.create_timer(0.02, lambda: publisher.publish(String()))
    try:
        person.until(lambda: False, None)
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
"""


def test_an_interruption_waits_for_the_call_of_ros_that_is_under_way() -> None:
    """Amid one rclpy would make an error of its own of it."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout == "heard to the end\ninterrupted\n"
