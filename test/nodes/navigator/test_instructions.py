"""What becomes of an instruction, told by topic, over real DDS: navigator and executor in their processes, a
robot that drives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from driven_robot import DrivenRobot, driven_robot, in_order
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.parameter import Parameter
from ros_endings import gone_afterwards
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Pose
from vln_ros.ros import qos
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FORWARD: dict[str, Scalar] = {"engine": "paced", "paced.decision_ms": 0.0, "heartbeat_hz": 50.0}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrivenRobot]:
    """One that never says stop."""
    with driven_robot(tmp_path_factory.mktemp("forward"), "/forward", FORWARD) as (robot, graph):
        yield robot
        graph.check()


def limit(robot: DrivenRobot, **values: float) -> None:
    client = robot.create_client(SetParametersAtomically, "navigator/set_parameters_atomically")
    robot.wait(client.service_is_ready, "no parameters")
    wanted = [Parameter(f"limits.{k}", value=v).to_parameter_msg() for k, v in values.items()]
    future = client.call_async(SetParametersAtomically.Request(parameters=wanted))
    robot.wait(future.done, "no answer")
    assert future.result().result.successful, future.result().result.reason


def test_cancelled(shared: DrivenRobot) -> None:
    number = shared.tell("cancelled")
    shared.becomes(number, "driving")
    shared.moves()
    assert shared.call(shared.cancel, Trigger.Request())
    told = shared.becomes(number, "cancelled")
    assert told.cause == ""
    assert told.decisions > 0
    assert told.distance_m > 0.0
    shared.stands()
    assert in_order(shared.told, number) == ["accepted", "driving", "cancelled"]


def test_superseded_also_by_the_same_words(shared: DrivenRobot) -> None:
    first = shared.tell("again")
    shared.becomes(first, "driving")
    shared.tell("again")
    shared.wait(lambda: shared.told[-1][-1].number == first + 1, "the second was not accepted")
    told = shared.becomes(first, "superseded")
    assert str(first + 1) in told.reason
    shared.becomes(first + 1, "driving")
    shared.call(shared.cancel, Trigger.Request())
    shared.becomes(first + 1, "cancelled")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_duration_s": 1.5}, "1.5 s have passed"),
        ({"max_distance_m": 0.4}, "0.4 m are driven"),
        ({"max_decisions": 2}, "2 decisions are taken"),
    ],
    ids=["time", "way", "decisions"],
)
def test_limits(shared: DrivenRobot, limits: dict[str, float], reason: str) -> None:
    limit(shared, **limits)
    number = shared.tell(f"at most {reason}")
    told = shared.becomes(number, "aborted")
    assert (told.cause, told.reason) == ("limit", reason)
    shared.stands()
    limit(shared, **{name: type(value)(0) for name, value in limits.items()})


def test_a_fault_that_lasts_aborts_it_and_its_end_begins_nothing(shared: DrivenRobot) -> None:
    limit(shared, max_fault_s=1.0)
    number = shared.tell("until the scanner dies")
    shared.becomes(number, "driving")
    shared.silent.add("scan")
    told = shared.becomes(number, "aborted")
    assert told.cause == "fault"
    assert "no scan" in told.reason
    shared.silent.clear()
    shared.wait(lambda: shared.executor_says == "idle", "the fault is not over")
    shared.stands()
    limit(shared, max_fault_s=30.0)
    number = shared.tell("go on")
    shared.becomes(number, "driving")
    shared.call(shared.cancel, Trigger.Request())


def test_a_short_fault_and_a_pause_do_not_end_it(shared: DrivenRobot) -> None:
    number = shared.tell("with interruptions")
    shared.becomes(number, "driving")
    shared.silent.add("scan")
    shared.wait(lambda: "no scan" in shared.executor_says, "it does not miss the scanner")
    shared.silent.clear()
    shared.moves()
    assert shared.call(shared.pause, SetBool.Request(data=True))
    shared.stands()
    assert shared.call(shared.pause, SetBool.Request(data=False))
    shared.moves()
    assert in_order(shared.told, number) == ["accepted", "driving"]
    shared.call(shared.cancel, Trigger.Request())


def test_who_comes_late_finds_the_end_of_his(shared: DrivenRobot) -> None:
    numbers = [shared.tell(f"number {i}") for i in range(3)]
    shared.call(shared.cancel, Trigger.Request())
    shared.becomes(numbers[-1], "cancelled")
    seen = len(shared.told)
    late = shared.create_subscription(
        DiagnosticArray, "instruction_status", shared.hear_status, qos.latched()
    )
    shared.wait(lambda: len(shared.told) > seen, "the status is not latched")
    assert {t.number: t.status for t in shared.told[-1] if t.number in numbers} == {
        numbers[0]: "superseded",
        numbers[1]: "superseded",
        numbers[2]: "cancelled",
    }
    shared.destroy_subscription(late)


def test_a_bad_instruction_gets_no_number_and_ends_none(shared: DrivenRobot) -> None:
    number = shared.tell("a good one")
    shared.instruction.publish(String(data="   "))
    shared.becomes(number, "driving")
    shared.moves()
    assert shared.told[-1][-1].number == number
    shared.call(shared.cancel, Trigger.Request())


def test_a_navigator_that_is_deactivated_or_ended_says_so(tmp_path: Path) -> None:
    with driven_robot(tmp_path, "/ended", FORWARD) as (robot, graph):
        number = robot.tell("until it is deactivated")
        robot.becomes(number, "driving")
        change = robot.create_client(ChangeState, "navigator/change_state")
        robot.wait(change.service_is_ready, "no lifecycle")
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            robot.call(change, ChangeState.Request(transition=Transition(id=transition)))
        told = robot.becomes(number, "aborted")
        assert (told.cause, told.reason) == ("fault", "the navigator was deactivated")
        # The latched instruction is followed anew, under a number of its own.
        robot.becomes(number + 1, "driving")
        os.kill(graph.pid("ended.navigator"), signal.SIGINT)
        told = robot.becomes(number + 1, "aborted")
        assert told.reason == "the navigator has ended"
        robot.stands()


def test_the_executor_dies_and_the_navigator_says_so(tmp_path: Path) -> None:
    with driven_robot(tmp_path, "/orphan", {**FORWARD, "limits.max_fault_s": 2.5}) as (robot, graph):
        number = robot.tell("until nobody drives")
        robot.becomes(number, "driving")
        os.kill(graph.pid("orphan.executor"), signal.SIGKILL)
        told = robot.becomes(number, "aborted")
        assert told.cause == "fault"
        assert "executor has said nothing" in told.reason


def test_in_lockstep_each_episode_has_its_end(tmp_path: Path) -> None:
    """There no executor drives: the bridge does."""
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    short = sorted(every, key=lambda e: e.geodesic_distance_m)[:2]
    path = str(write_episodes(tmp_path, "val_unseen", short))
    bridge: dict[str, Scalar] = {
        "episodes": path, "run_folder": str(tmp_path / "run"), "video": False, "camera.width": 64,
        "camera.height": 48,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {"engine": "expert", "expert.episodes": path, "extrinsics": "parameters"}
    context = Context()
    context.init()
    robot = DrivenRobot(context, "/ears", Pose.identity())
    with gone_afterwards(context, robot), Graph(tmp_path / "logs", graph_environment()) as graph:
        topic = "/step/instruction_status"
        robot.create_subscription(DiagnosticArray, topic, robot.hear_status, qos.latched())
        graph.start(NodeSpec("navigator", {**navigator, "reliability": "reliable"}, namespace="/step"))
        graph.start(NodeSpec("sim_bridge", bridge, namespace="/step"))
        for number in (1, 2):
            robot.becomes(number, "succeeded")
        assert graph.wait("step.sim_bridge") == 0
    assert [t.status for t in robot.told[-1]] == ["succeeded", "succeeded"]


@pytest.fixture(scope="module")
def episode() -> Episode:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0], "room")
    return min(every, key=lambda e: e.geodesic_distance_m)


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory, episode: Episode) -> Iterator[tuple[DrivenRobot, Graph]]:
    """One that knows a single instruction: it stops at its goal, and fails at any other."""
    folder = tmp_path_factory.mktemp("guided")
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "expert.episodes": str(write_episodes(folder, "val_unseen", [episode])),
    }
    with driven_robot(folder / "logs", "/guided", navigator, episode.start) as running:
        yield running


def test_the_engine_fails(guided: tuple[DrivenRobot, Graph]) -> None:
    robot, _ = guided
    number = robot.tell("walk to the moon")
    told = robot.becomes(number, "aborted")
    assert told.cause == "engine failure"
    assert "walk to the moon" in told.reason


def test_the_model_says_stop(guided: tuple[DrivenRobot, Graph], episode: Episode) -> None:
    robot, graph = guided
    number = robot.tell(episode.instruction)
    told = robot.becomes(number, "succeeded")
    assert told.distance_m == pytest.approx(episode.geodesic_distance_m, rel=0.5, abs=1.0)
    assert in_order(robot.told, number) == ["accepted", "driving", "succeeded"]
    robot.stands()
    graph.check()
