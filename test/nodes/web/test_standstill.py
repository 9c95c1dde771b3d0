"""STOP, with an executor that is released elsewhere, falls silent or is started anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_endings import lone_node
from std_srvs.srv import SetBool, Trigger

from vln_ros.nodes.web import standstill as module
from vln_ros.nodes.web.standstill import Standstill
from vln_ros.web.messages import Standstill as StandstillMessage

pytestmark = pytest.mark.ros


class Robot:
    """The two services, and a STOP that asks them."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor) -> None:
        self._executor = executor
        self.said = StandstillMessage(False, False, "")
        self.asked: list[str] = []
        node.create_service(SetBool, "executor/pause", self._on_pause)
        node.create_service(Trigger, "navigator/cancel", self._on_cancel)
        self.standstill = Standstill(node, self._say)

    def _say(self, said: StandstillMessage) -> None:
        self.said = said

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.asked.append("pause" if request.data else "release")
        response.success = True
        return response

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.asked.append("cancel")
        response.success = True
        return response

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(3000):
            if holds():
                return
            self._executor.spin_once(0.01)
            self.standstill.tick()
        raise AssertionError(f"{self.said}, asked for {self.asked}")

    def stop(self) -> None:
        self.standstill.stop()
        self.confirmed()

    def confirmed(self) -> None:
        self.until(lambda: self.said.confirmed and "run is over" in self.said.text)
        self.asked.clear()


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    monkeypatch.setattr(module, "SETTLED_S", -1.0)
    with lone_node("page") as (node, executor):
        yield Robot(node, executor)


def test_who_is_released_elsewhere_is_stopped_no_more(robot: Robot) -> None:
    look = robot.standstill.look
    assert not look("first", is_paused=False, is_silent=False), "nobody has stopped it"
    robot.stop()
    assert not look("first", is_paused=False, is_silent=False), "its word may come later than its answer"
    assert not look("first", is_paused=True, is_silent=False)
    assert "released" in look("first", is_paused=False, is_silent=False)
    assert not robot.said.asked and not robot.standstill.is_asked
    assert not look("first", is_paused=False, is_silent=False), "said once"
    assert not robot.asked


def test_an_executor_that_is_started_anew_is_stopped_too(robot: Robot) -> None:
    robot.stop()
    robot.standstill.look("first", is_paused=True, is_silent=False)
    assert "started anew" in robot.standstill.look("second", is_paused=False, is_silent=False)
    assert robot.said.asked
    robot.until(lambda: robot.asked.count("pause") == 1)
    robot.confirmed()
    robot.standstill.look("second", is_paused=True, is_silent=False)
    assert "released" in robot.standstill.look("second", is_paused=False, is_silent=False)


def test_who_is_released_as_soon_as_it_stands_is_stopped_no_more(robot: Robot) -> None:
    """Its state may come before the answer of its service, and be another one behind it."""
    robot.standstill.stop()
    assert not robot.standstill.look("first", is_paused=True, is_silent=False)
    robot.confirmed()
    assert "released" in robot.standstill.look("first", is_paused=False, is_silent=False)
    assert not robot.standstill.is_asked


def test_who_never_says_that_it_stands_is_stopped_again(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNHEARD_S", -1.0)
    robot.stop()
    assert "does not say" in robot.standstill.look("first", is_paused=False, is_silent=False)
    assert robot.said.asked and not robot.said.confirmed
    robot.until(lambda: "pause" in robot.asked)


def test_a_stop_is_not_confirmed_by_an_executor_that_has_fallen_silent(robot: Robot) -> None:
    robot.stop()
    robot.standstill.look("first", is_paused=True, is_silent=False)
    robot.standstill.look("first", is_paused=True, is_silent=True)
    assert robot.said.asked and not robot.said.confirmed
    robot.until(lambda: "pause" in robot.asked)
