"""`vln_ros say --follow` with real nodes: it ends when the run does, however that is, and says how."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from driven_robot import DrivenRobot, driven_robot
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger

from vln_ros.cli.graph import Graph
from vln_ros.config import Scalar
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
NAVIGATOR: dict[str, Scalar] = {"engine": "paced", "paced.decision_ms": 0.0}


class Follower:
    """`vln_ros say --follow` in a terminal of its own."""

    def __init__(self, robot: DrivenRobot, text: str, namespace: str) -> None:
        self.robot = robot
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vln_ros", "say", text, "--follow", "--namespace", namespace],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ends(self) -> tuple[int, str, str]:
        """While the robot lives on."""
        self.robot.wait(lambda: self.process.poll() is not None, "it follows a run that is over")
        out, error = self.process.communicate()
        assert "Traceback" not in error
        return self.process.returncode, out, error


@contextmanager
def following(robot: DrivenRobot, text: str, namespace: str) -> Iterator[Follower]:
    follower = Follower(robot, text, namespace)
    try:
        yield follower
    finally:
        follower.process.kill()
        follower.process.wait()


Running = tuple[DrivenRobot, Graph]


def number_of(robot: DrivenRobot, text: str) -> int:
    robot.wait(lambda: bool(robot.told) and robot.told[-1][-1].text == text, f"nobody has said {text!r}")
    return robot.told[-1][-1].number


def cancel(running: Running) -> str:
    robot, _ = running
    robot.call(robot.cancel, Trigger.Request())
    return "the run was cancelled: by the service cancel"


def other_words(running: Running) -> str:
    number = running[0].tell("something else")
    return f"the run was superseded: by instruction {number}"


def same_words(running: Running) -> str:
    robot, _ = running
    number = robot.told[-1][-1].number
    robot.tell(robot.told[-1][-1].text)
    return f"the run was superseded: by instruction {number + 1}"


def scanner_dies(running: Running) -> str:
    running[0].silent.add("scan")
    return "the run was aborted: .*no scan"


def deactivated(running: Running) -> str:
    robot, _ = running
    client = robot.create_client(ChangeState, "navigator/change_state")
    robot.wait(client.service_is_ready, "no lifecycle")
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        done = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        robot.wait(done.done, "no answer")
        assert done.result().success
    return "the run was aborted: the navigator was deactivated"


def killed(running: Running) -> str:
    _, graph = running
    os.kill(graph.pid("talk.navigator"), signal.SIGKILL)
    return "the navigator is gone, and the run with it"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that never says stop."""
    navigator = {**NAVIGATOR, "limits.max_fault_s": 2.0}
    with driven_robot(tmp_path_factory.mktemp("talk"), "/talk", navigator) as started:
        yield started


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "end", [cancel, other_words, same_words, scanner_dies, deactivated, killed], ids=lambda f: f.__name__
)  # the last one takes the navigator with it
def test_a_run_that_is_over_is_followed_no_longer(running: Running, end: Callable[[Running], str]) -> None:
    robot, _ = running
    text = f"until {end.__name__}"
    with following(robot, text, "talk") as follower:
        robot.becomes(number_of(robot, text), "driving")
        said = end(running)
        status, out, error = follower.ends()
    assert (status, out.count("it goes: ")) == (1, 1), (out, error)
    assert re.search(said, error), error
    robot.silent.clear()
    robot.wait(lambda: "no scan" not in robot.executor_says, "the fault is not over")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"limits.max_decisions": 2}, "2 decisions are taken"),
        ({"limits.max_duration_s": 2.0}, "2 s have passed"),
    ],
    ids=["decisions", "time"],
)
def test_a_limit_is_the_end(limit: dict[str, Scalar], said: str, tmp_path: Path) -> None:
    with (
        driven_robot(tmp_path, "/limit", {**NAVIGATOR, **limit}) as (robot, _),
        following(robot, "go", "limit") as follower,
    ):
        status, _, error = follower.ends()
        robot.stands()
    assert (status, f"the run was aborted: {said}" in error) == (1, True), error


@pytest.fixture(scope="module")
def episode() -> Episode:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0], "room")
    return min(every, key=lambda e: e.geodesic_distance_m)


@pytest.mark.timeout(180)
def test_the_model_says_stop_and_only_then_all_is_well(episode: Episode, tmp_path: Path) -> None:
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "expert.episodes": str(write_episodes(tmp_path, "val_unseen", [episode])),
    }
    with driven_robot(tmp_path / "logs", "/guided", navigator, episode.start) as (robot, _):
        with following(robot, episode.instruction, "guided") as follower:
            status, out, error = follower.ends()
        assert status == 0, error
        assert re.search(r"it goes: .*\n(.*\n)*the model says that it is there; \d+ queues, ", out)
        with following(robot, "walk to the moon", "guided") as follower:
            status, _, error = follower.ends()
        assert status == 1
        assert "walk to the moon" in error


def test_who_looks_in_the_wrong_namespace_is_told_where_robots_are(tmp_path: Path) -> None:
    with driven_robot(tmp_path, "/here", NAVIGATOR) as (robot, _):
        for command in (["say", "go"], ["ask", "what?"], ["stop"]):
            done = subprocess.Popen(
                [sys.executable, "-m", "vln_ros", *command, "--namespace", "there", "--wait-s", "3"],
                stderr=subprocess.PIPE,
                text=True,
            )
            robot.wait(lambda d=done: d.poll() is not None, "it waits for ever")  # type: ignore[misc]
            assert done.stderr is not None
            error = done.stderr.read()
            done.stderr.close()
            assert done.returncode == 1
            (there,) = re.findall(r"robots are in ([^)]*)\)", error)
            assert "/here" in there.split(", ") and "namespace /there" in error
