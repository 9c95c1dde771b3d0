"""Nav2's lifecycle manager with the executor and the navigator: its part played over their real services.

nav2_lifecycle_manager (Jazzy; the later ones with a limit of time for each answer) waits for the services of
every node, configures all in their order, then activates all; it deactivates and cleans up in reverse, and
asks each node after each transition for its state. Bonds are off (docs/robot/nav2.md).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from driven_robot import EXECUTOR, NAVIGATOR, DrivenRobot
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from ros_endings import gone_afterwards

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Pose

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ORDER = ("navigator", "executor")
AFTER = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
}


class Manager:
    """What nav2_lifecycle_manager does of each of its commands. Each answers whether it succeeded."""

    def __init__(self, robot: DrivenRobot) -> None:
        self._robot = robot
        self._change = {n: robot.create_client(ChangeState, f"{n}/change_state") for n in ORDER}
        self._get = {n: robot.create_client(GetState, f"{n}/get_state") for n in ORDER}
        for client in (*self._change.values(), *self._get.values()):
            robot.wait(client.service_is_ready, "a node does not come")

    def _answer(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self._robot.wait(future.done, "no answer")
        return future.result()

    def state(self, name: str) -> int:
        return int(self._answer(self._get[name], GetState.Request()).current_state.id)

    def _one(self, name: str, transition: int) -> bool:
        asked = ChangeState.Request(transition=Transition(id=transition))
        done = self._answer(self._change[name], asked).success
        return bool(done) and self.state(name) == AFTER[transition]

    def _all(self, transition: int, hard: bool = False) -> bool:
        forward = transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        for name in ORDER if forward else reversed(ORDER):
            if not self._one(name, transition) and not hard:
                return False
        return True

    def startup(self) -> bool:
        return self._all(Transition.TRANSITION_CONFIGURE) and self._all(Transition.TRANSITION_ACTIVATE)

    def pause(self) -> bool:
        return self._all(Transition.TRANSITION_DEACTIVATE)

    def resume(self) -> bool:
        return self._all(Transition.TRANSITION_ACTIVATE)

    def reset(self, hard: bool = False) -> bool:
        return self._all(Transition.TRANSITION_DEACTIVATE, hard) and self._all(
            Transition.TRANSITION_CLEANUP, hard
        )

    def shutdown(self) -> None:
        for transition in list(AFTER)[2:]:
            self._all(transition)


@contextmanager
def managed(folder: Path, navigator: dict[str, Scalar]) -> Iterator[tuple[DrivenRobot, Manager, Graph]]:
    context = Context()
    context.init()
    robot = DrivenRobot(context, "/managed", Pose.identity())
    with gone_afterwards(context, robot), Graph(folder, graph_environment()) as graph:
        for name, parameters in (("executor", EXECUTOR), ("navigator", {**NAVIGATOR, **navigator})):
            graph.start(NodeSpec(name, {**parameters, "autostart": False}, namespace="/managed"))
        yield robot, Manager(robot), graph


def test_startup_pause_resume_reset_and_shutdown(tmp_path: Path) -> None:
    paced: dict[str, Scalar] = {"engine": "paced", "paced.decision_ms": 0.0}
    with managed(tmp_path, paced) as (robot, manager, graph):
        assert manager.startup()
        robot.wait(lambda: robot.executor_says == "idle", "the executor is not ready")
        number = robot.tell("go")
        robot.becomes(number, "driving")
        robot.moves()

        assert manager.pause()
        robot.wait(lambda: robot.commands[-1][1].linear_m_s == 0.0, "the last velocity is not zero")
        stands_at = robot.pose.position
        told = robot.becomes(number, "aborted")
        assert told.reason == "the navigator was deactivated"
        seen = len(robot.commands)

        assert manager.resume()
        assert (robot.pose.position == stands_at).all(), "nothing moves an inactive robot"
        assert len(robot.commands) >= seen
        # The latched instruction is there for who becomes active: it is followed anew.
        robot.becomes(number + 1, "driving")
        robot.moves()

        assert manager.reset()
        assert {manager.state(name) for name in ORDER} == {State.PRIMARY_STATE_UNCONFIGURED}
        assert manager.startup()
        robot.becomes(number + 2, "driving")

        manager.shutdown()
        assert {manager.state(name) for name in ORDER} == {State.PRIMARY_STATE_FINALIZED}
        graph.check()
        for name in ORDER:
            os.kill(graph.pid(f"managed.{name}"), signal.SIGINT)
        assert graph.wait(*(f"managed.{name}" for name in ORDER)) == 0


def test_a_bring_up_that_fails_leaves_nothing_half_and_can_be_tried_again(tmp_path: Path) -> None:
    episodes = tmp_path / "val_unseen.json.gz"
    expert: dict[str, Scalar] = {"engine": "expert", "expert.episodes": str(episodes)}
    with managed(tmp_path / "logs", expert) as (robot, manager, graph):
        assert not manager.startup(), "there are no episodes"
        assert {manager.state(name) for name in ORDER} == {State.PRIMARY_STATE_UNCONFIGURED}
        manager.reset(hard=True)
        manager.shutdown()
        graph.check()
        assert {manager.state(name) for name in ORDER} == {State.PRIMARY_STATE_FINALIZED}
        assert robot.commands == [], "nobody has moved it"
