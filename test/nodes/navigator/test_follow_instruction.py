"""The action follow_instruction over real DDS: each outcome, and what a client sees on the way."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from action_msgs.msg import GoalStatus
from driven_robot import ZERO, DrivenRobot, driven_robot
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action.client import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from ros_endings import gone_afterwards
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from vln_msgs_prefix import load_here, prefix, sourced

from vln_ros.cli.graph import graph_environment
from vln_ros.config import NavigatorConfig, Scalar
from vln_ros.datatypes import ActionChunk
from vln_ros.engine.worker import Cancel, Command, Start
from vln_ros.nodes.instruction_input import InstructionFilter
from vln_ros.nodes.navigator.instructions import InstructionHooks, Instructions
from vln_ros.ros import convert, qos
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FORWARD: dict[str, Scalar] = {"engine": "paced", "paced.decision_ms": 0.0}
NAMES = {
    GoalStatus.STATUS_SUCCEEDED: "succeeded",
    GoalStatus.STATUS_CANCELED: "canceled",
    GoalStatus.STATUS_ABORTED: "aborted",
}


class Goal:
    """A goal that was sent, as its client knows it."""

    def __init__(self, client: Client, **goal: Any) -> None:
        self.robot, self.type = client.robot, client.type
        self.feedback: list[Any] = []
        sent = client.action.send_goal_async(
            self.type.Goal(**goal), lambda m: self.feedback.append(m.feedback)
        )
        self.robot.wait(sent.done, "the goal was not answered")
        self.handle: Any = sent.result()
        self._result: Any = self.handle.get_result_async() if self.handle.accepted else None

    def drives(self) -> Goal:
        self.robot.wait(lambda: any(f.state == "driving" for f in self.feedback), "no feedback of driving")
        self.robot.moves()
        return self

    def cancel(self) -> Any:
        asked = self.handle.cancel_goal_async()
        self.robot.wait(asked.done, "the cancel was not answered")
        return asked.result()

    def ends(self) -> tuple[str, str, Any]:
        """What ROS calls its end, what the result does, and the result."""
        self.robot.wait(self._result.done, "the goal has no result")
        answer = self._result.result()
        kinds = self.type.Result
        names = ("STOPPED_BY_MODEL", "CANCELLED", "SUPERSEDED", "FAULT", "LIMIT", "ENGINE_FAILURE")
        (outcome,) = [name for name in names if getattr(kinds, name) == answer.result.outcome]
        return NAMES[answer.status], outcome, answer.result


class Client:
    def __init__(self, robot: DrivenRobot) -> None:
        from vln_msgs.action import FollowInstruction

        self.robot, self.type = robot, FollowInstruction
        self.action = ActionClient(robot, FollowInstruction, "follow_instruction")
        robot.wait(self.action.server_is_ready, "no action server")

    def send(self, instruction: str = "go", **limits: Any) -> Goal:
        goal = Goal(self, instruction=instruction, **limits)
        assert goal.handle.accepted
        return goal


@pytest.fixture(scope="module")
def built() -> Iterator[Path | None]:
    with pytest.MonkeyPatch.context() as patch:
        found = prefix()
        load_here(found, patch)
        yield found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, built: Path | None) -> Iterator[Client]:
    """Of a robot that never stops by itself."""
    environment = sourced(built, graph_environment())
    folder = tmp_path_factory.mktemp("forward")
    navigator = {**FORWARD, "limits.max_fault_s": 3.0}
    with driven_robot(folder, "/forward", navigator, environment=environment) as (robot, graph):
        yield Client(robot)
        graph.check()


def nonzero_after(robot: DrivenRobot, count: int) -> int:
    """How many control periods still drove after the first ``count``, until the robot stood for good."""
    robot.stands()
    return sum(velocity != ZERO for _, velocity in robot.commands[count:])


def test_feedback_and_a_cancel_that_stands_within_two_periods(client: Client) -> None:
    goal = client.send().drives()
    assert goal.cancel().goals_canceling
    count = len(client.robot.commands)
    assert nonzero_after(client.robot, count) <= 2
    ended, outcome, result = goal.ends()
    assert (ended, outcome) == ("canceled", "CANCELLED")
    assert result.decisions > 0
    assert result.distance_m > 0
    assert result.duration_s > 0.0
    first, last = goal.feedback[0], goal.feedback[-1]
    assert {f.number for f in goal.feedback} == {result.number}
    assert first.duration_s <= last.duration_s <= result.duration_s
    driving = [f for f in goal.feedback if f.actions_left]
    assert driving
    assert all("forward" in f.action for f in driving)


def test_the_same_by_topic(client: Client) -> None:
    robot = client.robot
    number = robot.tell("by topic")
    robot.becomes(number, "driving")
    robot.moves()
    robot.call(robot.cancel, Trigger.Request())
    count = len(robot.commands)
    assert nonzero_after(robot, count) <= 2
    assert robot.becomes(number, "cancelled").distance_m > 0.0


def test_a_goal_is_told_by_topic_too(client: Client) -> None:
    goal = client.send("by action").drives()
    told = client.robot.becomes(goal.feedback[-1].number, "driving")
    assert told.text == "by action"
    assert told.epoch == goal.feedback[-1].epoch
    goal.cancel()
    client.robot.becomes(told.number, "cancelled")


def test_superseded_by_a_goal_and_by_a_topic(client: Client) -> None:
    first = client.send("first").drives()
    second = client.send("second")
    assert first.ends()[:2] == ("aborted", "SUPERSEDED")
    second.drives()
    number = client.robot.tell("third")
    ended, outcome, result = second.ends()
    assert (ended, outcome) == ("aborted", "SUPERSEDED")
    assert str(number) in result.reason
    client.robot.becomes(number, "driving")
    fourth = client.send("fourth").drives()
    client.robot.becomes(number, "superseded")
    fourth.cancel()
    assert fourth.ends()[:2] == ("canceled", "CANCELLED")


def test_the_service_cancel_ends_a_goal_too(client: Client) -> None:
    goal = client.send().drives()
    client.robot.call(client.robot.cancel, Trigger.Request())
    ended, outcome, result = goal.ends()
    assert (ended, outcome) == ("aborted", "CANCELLED")
    assert "service" in result.reason
    client.robot.stands()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_duration_s": 1.5}, "1.5 s have passed"),
        ({"max_distance_m": 0.4}, "0.4 m are driven"),
        ({"max_decisions": 2}, "2 decisions are taken"),
    ],
    ids=["time", "way", "decisions"],
)
def test_limits_of_a_goal(client: Client, limits: dict[str, Any], reason: str) -> None:
    ended, outcome, result = client.send(**limits).ends()
    assert (ended, outcome, result.reason) == ("aborted", "LIMIT", reason)
    client.robot.stands()


def test_a_fault_that_lasts(client: Client) -> None:
    goal = client.send().drives()
    client.robot.silent.add("scan")
    client.robot.wait(lambda: "no scan" in goal.feedback[-1].reason, "feedback does not say why it stands")
    ended, outcome, result = goal.ends()
    assert (ended, outcome) == ("aborted", "FAULT")
    assert "no scan" in result.reason
    client.robot.silent.clear()
    client.robot.wait(lambda: client.robot.executor_says == "idle", "the fault is not over")
    client.robot.stands()


@pytest.mark.parametrize(
    "goal",
    [
        {"instruction": ""},
        {"instruction": "a\x07b"},
        {"instruction": "go", "max_duration_s": -1.0},
        {"instruction": "go", "max_distance_m": math.nan},
        {"instruction": "go", "max_duration_s": math.inf},
    ],
    ids=["empty", "control character", "negative", "nan", "infinite"],
)
def test_a_goal_that_is_none_is_rejected_and_disturbs_nobody(client: Client, goal: dict[str, Any]) -> None:
    running = client.send("a good one").drives()
    assert not Goal(client, **goal).handle.accepted
    client.robot.moves()
    running.cancel()
    assert running.ends()[1] == "CANCELLED"


def test_the_readable_twin_says_what_the_queue_says(client: Client) -> None:
    from vln_msgs.msg import ActionChunk as Twin

    robot = client.robot
    chunks: list[ActionChunk] = []
    twins: list[Any] = []
    heard = [
        robot.create_subscription(
            JointTrajectory,
            "action_queue",
            lambda m: chunks.append(convert.chunk_from_trajectory(m)),
            qos.events(),
        ),
        robot.create_subscription(Twin, "action_chunk", twins.append, qos.events()),
    ]
    goal = client.send().drives()
    robot.wait(lambda: len(twins) > 3 and len(chunks) > 3, "no queues")
    goal.cancel()
    robot.stands()
    by_number = {(t.instruction, t.queue, len(t.kinds)): t for t in twins}
    compared = 0
    for chunk in chunks:
        twin = by_number.get((chunk.instruction, chunk.queue, len(chunk.actions)))
        if twin is None:
            continue
        compared += bool(chunk.actions)
        assert twin.epoch == chunk.epoch
        assert convert.stamp_ns_from_time(twin.header.stamp) == chunk.frame_stamp_ns
        assert [int(kind) for kind in twin.kinds] == [int(action.kind) for action in chunk.actions]
        assert list(twin.amounts) == pytest.approx([a.forward_m + abs(a.turn_rad) for a in chunk.actions])
    assert compared > 1
    for subscription in heard:
        robot.destroy_subscription(subscription)


def test_a_navigator_that_rests_ends_the_goal_and_takes_none(tmp_path: Path, built: Path | None) -> None:
    environment = sourced(built, graph_environment())
    with driven_robot(tmp_path, "/rests", FORWARD, environment=environment) as (robot, graph):
        client = Client(robot)
        change = robot.create_client(ChangeState, "navigator/change_state")
        robot.wait(change.service_is_ready, "no lifecycle")

        def to(transition: int) -> None:
            assert robot.call(change, ChangeState.Request(transition=Transition(id=transition)))

        goal = client.send().drives()
        to(Transition.TRANSITION_DEACTIVATE)
        ended, outcome, result = goal.ends()
        assert (ended, outcome) == ("aborted", "FAULT")
        assert result.reason == "the navigator was deactivated"
        assert not Goal(client, instruction="while it rests").handle.accepted
        to(Transition.TRANSITION_ACTIVATE)
        goal = client.send("once more").drives()
        os.kill(graph.pid("rests.navigator"), signal.SIGINT)
        ended, outcome, result = goal.ends()
        assert (ended, outcome) == ("aborted", "FAULT")
        assert result.reason == "the navigator has ended"
        robot.stands()


@pytest.fixture(scope="module")
def episode() -> Episode:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0], "room")
    return min(every, key=lambda e: e.geodesic_distance_m)


def test_stopped_by_the_model_and_engine_failure(
    tmp_path: Path, built: Path | None, episode: Episode
) -> None:
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "expert.episodes": str(write_episodes(tmp_path, "val_unseen", [episode])),
    }
    environment = sourced(built, graph_environment())
    logs = tmp_path / "logs"
    with driven_robot(logs, "/guided", navigator, episode.start, environment) as (robot, graph):
        client = Client(robot)
        ended, outcome, result = client.send("walk to the moon").ends()
        assert (ended, outcome) == ("aborted", "ENGINE_FAILURE")
        assert "walk to the moon" in result.reason
        ended, outcome, result = client.send(episode.instruction).ends()
        assert (ended, outcome) == ("succeeded", "STOPPED_BY_MODEL")
        assert result.distance_m > 0.5
        robot.stands()
        graph.check()


def offers(robot: DrivenRobot) -> set[str]:
    """What its namespace has of an action."""
    own = f"{robot.get_namespace()}/follow_instruction"
    return {name for name, _ in robot.get_topic_names_and_types() if name.startswith(own)}


@pytest.mark.parametrize("half", [False, True], ids=["without the package", "with half of it"])
def test_without_the_package_everything_else_is_there(tmp_path: Path, built: Path | None, half: bool) -> None:
    if built is None:
        pytest.skip("vln_msgs is installed for every process")
    environment = sourced(built, graph_environment(), libraries=False) if half else graph_environment()
    with driven_robot(tmp_path, "/plain", FORWARD, environment=environment) as (robot, graph):
        number = robot.tell("go")
        robot.becomes(number, "driving")
        robot.moves()
        assert not offers(robot)
        robot.call(robot.cancel, Trigger.Request())
        robot.becomes(number, "cancelled")
        graph.check()
        log = graph.log_path("plain.navigator").read_text("utf-8")
        assert ("cannot be used" in log) == half


class _Told:
    """An action server and its client in one process: what the client sends lies there until it is spun."""

    def __init__(self, context: Context) -> None:
        from vln_msgs.action import FollowInstruction

        self.commands: list[Command] = []
        self.server = rclpy.create_node("told", context=context, namespace="/told")
        self.instructions = Instructions(
            self.server, NavigatorConfig(), 1, InstructionFilter(), itertools.count(1)
        )
        self.instructions.open(InstructionHooks(self.commands.append, lambda _: None, lambda _: None))
        self.client = rclpy.create_node("client", context=context, namespace="/told")
        self.person = self.client.create_publisher(String, "instruction", qos.commands())
        self.action = ActionClient(self.client, FollowInstruction, "follow_instruction")
        self.type = FollowInstruction
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self.server)
        self._spinner.add_node(self.client)

    def wait(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + 30.0
        while not condition():
            assert time.monotonic() < until_s
            self._spinner.spin_once(0.05)

    def goes(self, text: str) -> Any:
        """A goal that is being followed."""
        sent = self.action.send_goal_async(self.type.Goal(instruction=text))
        self.wait(sent.done)
        return sent.result()


@pytest.mark.parametrize("newer", ["goal", "topic"])
@pytest.mark.parametrize("cancels", [1, 2], ids=["once", "twice"])
def test_a_late_cancel_of_a_goal_that_was_superseded_leaves_the_newer_one_alone(
    newer: str, cancels: int, built: Path | None
) -> None:
    """Both lie there when the navigator comes to hear of them: the goal has ended, and its result is due."""
    context = Context()
    context.init()
    told = _Told(context)
    with gone_afterwards(context, told.server):
        told.wait(told.action.server_is_ready)
        told.wait(lambda: told.person.get_subscription_count() >= 2)
        first = told.goes("first")
        result = first.get_result_async()
        told.commands.clear()
        if newer == "goal":
            sent: Any = told.action.send_goal_async(told.type.Goal(instruction="second"))
        else:
            told.person.publish(String(data="second"))
        answers = [first.cancel_goal_async() for _ in range(cancels)]
        told.wait(lambda: result.done() and all(a.done() for a in answers) and bool(told.commands))
        told.wait(lambda: any(isinstance(c, Start) for c in told.commands))
        assert isinstance(told.commands[-1], Start), "the newer one goes on"
        if newer == "goal":
            assert len(told.commands) == 1
            assert result.result().result.outcome == told.type.Result.SUPERSEDED
            told.wait(sent.done)
            last = sent.result()
            ended = last.get_result_async()
            cancelled = last.cancel_goal_async()
            told.wait(lambda: cancelled.done() and ended.done())
            assert [type(c) for c in told.commands] == [Start, Cancel]
            assert ended.result().result.outcome == told.type.Result.CANCELLED
        told.client.destroy_node()
