"""The action follow_instruction from a terminal: `ros2 action send_goal --feedback`. ros2cli is from apt."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("ros2action", reason="needs ros2cli and ros2action, which come from apt only")

from driven_robot import DrivenRobot, driven_robot
from std_srvs.srv import Trigger
from vln_msgs_prefix import prefix, sourced

from vln_ros.cli.graph import graph_environment
from vln_ros.config import Scalar
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ROS2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
END_S = 60.0


class Terminal:
    """In which `ros2 action send_goal --feedback` runs; what it has written so far is in a file."""

    def __init__(self, file: Path, environment: dict[str, str], namespace: str, goal: str) -> None:
        self._file = file
        command = [*ROS2, "action", "send_goal", "--feedback", f"{namespace}/follow_instruction"]
        with file.open("w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                [*command, "vln_msgs/action/FollowInstruction", goal],
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self._file.read_text("utf-8")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return sourced(prefix(), graph_environment())


@pytest.fixture(scope="module")
def episode() -> Episode:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    return min(every, key=lambda e: e.geodesic_distance_m)


@pytest.fixture(scope="module")
def guided(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], episode: Episode
) -> Iterator[DrivenRobot]:
    """A robot that knows the way of one instruction."""
    folder = tmp_path_factory.mktemp("guided")
    expert: dict[str, Scalar] = {
        "engine": "expert",
        "expert.episodes": str(write_episodes(folder, "val_unseen", [episode])),
    }
    with driven_robot(folder / "logs", "/guided", expert, episode.start, environment) as (robot, graph):
        yield robot
        graph.check()


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[DrivenRobot]:
    """A robot that never stops by itself."""
    paced: dict[str, Scalar] = {"engine": "paced", "paced.decision_ms": 0.0, "limits.max_fault_s": 2.0}
    folder = tmp_path_factory.mktemp("forward")
    with driven_robot(folder, "/forward", paced, environment=environment) as (robot, graph):
        yield robot
        graph.check()


@contextmanager
def sent(robot: DrivenRobot, folder: Path, environment: dict[str, str], goal: str) -> Iterator[Terminal]:
    terminal = Terminal(folder / "terminal.txt", environment, robot.get_namespace(), goal)
    try:
        yield terminal
    finally:
        terminal.close()


def ends(robot: DrivenRobot, terminal: Terminal) -> tuple[str, int, str]:
    """How ROS calls its end, its outcome, and everything that it has said."""
    robot.wait(lambda: terminal.process.poll() is not None, "the command does not end")
    text = terminal.text
    (status,) = re.findall(r"Goal finished with status: (\w+)", text)
    (outcome,) = re.findall(r"Result:\n\s+outcome: (\d+)", text)
    assert "Feedback:" in text
    return status, int(outcome), text


@pytest.mark.timeout(300)
def test_a_goal_that_the_model_ends_succeeds(
    guided: DrivenRobot, environment: dict[str, str], episode: Episode, tmp_path: Path
) -> None:
    with sent(guided, tmp_path, environment, f"{{instruction: {episode.instruction!r}}}") as terminal:
        status, outcome, text = ends(guided, terminal)
    assert (status, outcome) == ("SUCCEEDED", 1), text
    assert "state: driving" in text
    assert re.search(r"distance_m: 0\.[1-9]|distance_m: [1-9]", text), "feedback says how far it has come"
    guided.stands()


def test_an_instruction_that_the_engine_does_not_know_aborts(
    guided: DrivenRobot, environment: dict[str, str], tmp_path: Path
) -> None:
    with sent(guided, tmp_path, environment, "{instruction: walk to the moon}") as terminal:
        guided.wait(lambda: terminal.process.poll() is not None, "the command does not end")
        text = terminal.text
    assert "Goal finished with status: ABORTED" in text
    assert "outcome: 6" in text
    assert "walk to the moon" in text


def test_a_limit_aborts(forward: DrivenRobot, environment: dict[str, str], tmp_path: Path) -> None:
    with sent(forward, tmp_path, environment, "{instruction: go, max_distance_m: 0.4}") as terminal:
        status, outcome, text = ends(forward, terminal)
    assert (status, outcome) == ("ABORTED", 5), text
    assert "0.4 m are driven" in text
    forward.stands()


def test_the_service_cancels_what_a_terminal_has_sent(
    forward: DrivenRobot, environment: dict[str, str], tmp_path: Path
) -> None:
    """Ctrl-C would not: ros2cli has shut its context down before its cancel is sent (docs/robot/nav2.md)."""
    with sent(forward, tmp_path, environment, "{instruction: go}") as terminal:
        forward.wait(lambda: "state: driving" in terminal.text, "no feedback of driving")
        forward.moves()
        forward.call(forward.cancel, Trigger.Request())
        status, outcome, text = ends(forward, terminal)
    assert (status, outcome) == ("ABORTED", 2), text
    forward.stands()


def test_a_second_goal_supersedes_the_first(
    forward: DrivenRobot, environment: dict[str, str], tmp_path: Path
) -> None:
    with sent(forward, tmp_path, environment, "{instruction: first}") as first:
        forward.wait(lambda: "state: driving" in first.text, "no feedback of driving")
        number = forward.tell("second")
        status, outcome, text = ends(forward, first)
    assert (status, outcome) == ("ABORTED", 3), text
    assert str(number) in text.split("Result:")[1]


def test_a_fault_that_lasts_aborts_with_its_reason(
    forward: DrivenRobot, environment: dict[str, str], tmp_path: Path
) -> None:
    with sent(forward, tmp_path, environment, "{instruction: go}") as terminal:
        forward.wait(lambda: "state: driving" in terminal.text, "no feedback of driving")
        forward.silent.add("scan")
        status, outcome, text = ends(forward, terminal)
        forward.silent.clear()
    assert (status, outcome) == ("ABORTED", 4), text
    assert "no scan" in text.split("Result:")[1]
    forward.wait(lambda: forward.executor_says == "idle", "the fault is not over")


def test_a_goal_that_is_none_is_rejected(
    forward: DrivenRobot, environment: dict[str, str], tmp_path: Path
) -> None:
    with sent(forward, tmp_path, environment, "{instruction: ''}") as terminal:
        forward.wait(lambda: terminal.process.poll() is not None, "the command does not end")
    assert "Goal was rejected." in terminal.text


def test_the_terminal_shows_the_action(environment: dict[str, str]) -> None:
    shown = subprocess.run(
        [*ROS2, "interface", "show", "vln_msgs/action/FollowInstruction"],
        env=environment, capture_output=True, text=True, timeout=END_S, check=True,
    ).stdout  # fmt: skip
    assert "string instruction" in shown
    assert "max_distance_m" in shown
