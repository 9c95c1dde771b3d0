"""Answers as goals for Nav2: by topic and by the action navigate_to_pose; what cancels them."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from driven_robot import NAVIGATOR, DrivenRobot
from geometry_msgs.msg import PoseStamped
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.node import Node
from ros_endings import gone_afterwards
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from vln_msgs_prefix import loaded_here, sourced

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import ConfigError, NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    CameraModel,
    Frame,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
)
from vln_ros.engine.decision import Progress
from vln_ros.nodes.navigator.nav2 import Nav2Drive, navigate_to_pose
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level

pytestmark = pytest.mark.ros
DEADLINE_S = 20.0
NUMBERS = itertools.count(1)
CAMERA = CameraModel.from_hfov(8, 8, 1.0)
TURN, FORWARD = Action(turn_rad=0.26), Action(forward_m=0.25)


class Robot:
    """A node with a Nav2Drive, another in Nav2's place, and a clock that is turned by hand."""

    def __init__(self, context: Context, goals: str, put: Callable[[Progress], None] | None = None) -> None:
        namespace = f"robot_{next(NUMBERS)}"  # each test has topics of its own
        self.node = Node("navigator", context=context, namespace=namespace)
        self.nav2 = Node("bt_navigator", context=context, namespace=namespace)
        for node in (self.node, self.nav2):
            node.get_logger().set_level(LoggingSeverity.FATAL)
        self.executor = SingleThreadedExecutor(context=context)
        for node in (self.node, self.nav2):
            self.executor.add_node(node)
        self.goals: list[PoseStamped] = []
        self.stops: list[Header] = []
        self.nav2.create_subscription(PoseStamped, "goal_pose", self.goals.append, qos.commands())
        self.nav2.create_subscription(Header, "stopped", self.stops.append, qos.commands())
        self.state_pub = self.nav2.create_publisher(String, "executor_state", qos.latched())
        self.now_s, self.stamp_ns, self.queue = 100.0, 0, 1
        self.reports: list[Progress] = []
        config = from_flat(NavigatorConfig, {"drive": "nav2", "nav2.goals": goals})
        self.drive = Nav2Drive(self.node, config, put or self.reports.append, lambda: self.now_s)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, what
            self.executor.spin_once(0.05)

    def frame(self, pose: Pose) -> Frame:
        self.stamp_ns += 100
        rgb = np.zeros((8, 8, 3), np.uint8)
        return Frame(0, self.stamp_ns, rgb, None, CAMERA, pose, pose)

    def see(self, pose: Pose) -> None:
        self.now_s += 0.1
        self.drive.observe(self.frame(pose))

    def answer(self, *actions: Action, place: tuple[float, float] | None = None) -> ActionChunk:
        """Given at the origin."""
        frame = self.frame(Pose.identity())
        self.queue += 1
        goal = None if place is None else PlaceGoal(*place, frame.stamp_ns, PlaceSource.DEPTH)
        pixel = None if place is None else PixelGoal(1, 2, frame.stamp_ns)
        chunk = ActionChunk(self.queue, 1, frame.stamp_ns, actions, place=goal, pixel_goal=pixel)
        self.drive.follow(chunk, frame)
        return chunk

    def hold(self) -> None:
        self.queue += 1
        self.drive.follow(ActionChunk(self.queue, 1, self.stamp_ns, ()), None)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.nav2.destroy_node()


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    made = Context()
    made.init()
    yield made
    made.shutdown()


@pytest.fixture
def by_topic(context: Context) -> Iterator[Robot]:
    robot = Robot(context, "topic")
    robot.until(lambda: robot.node.count_subscribers("goal_pose") == 1, "nobody hears goals")
    yield robot
    robot.drive.destroy()
    robot.close()


def test_a_place_goes_out_as_a_pose_and_ends_when_odometry_says_so(by_topic: Robot) -> None:
    robot = by_topic
    chunk = robot.answer(place=(3.0, 3.0))
    robot.until(lambda: len(robot.goals) == 1, "no goal came")
    goal = robot.goals[0]
    assert (goal.header.frame_id, goal.pose.position.x, goal.pose.position.y) == ("odom", 3.0, 3.0)
    assert 2.0 * math.atan2(goal.pose.orientation.z, goal.pose.orientation.w) == pytest.approx(math.pi / 4)
    robot.see(Pose.planar(1.0, 1.0, 0.8))
    assert robot.reports[-1].remaining > 64, "more than any decide_ahead: nobody is asked"
    robot.see(Pose.planar(2.9, 2.9, 0.8))
    assert (robot.reports[-1].queue, robot.reports[-1].remaining) == (chunk.queue, 0)
    assert robot.drive.counts["goals reached"] == 1
    assert not robot.stops


def test_a_queue_with_a_stop_ends_the_run_when_its_end_is_reached(by_topic: Robot) -> None:
    robot = by_topic
    chunk = robot.answer(TURN, FORWARD, STOP)
    robot.until(lambda: len(robot.goals) == 1, "no goal came")
    robot.see(Pose.planar(0.1, 0.0, 0.26))
    assert robot.reports[-1].remaining > 0
    robot.see(Pose.planar(0.25 * math.cos(0.26), 0.25 * math.sin(0.26), 0.26))
    assert (robot.reports[-1].queue, robot.reports[-1].remaining) == (chunk.queue, 0)
    robot.until(lambda: len(robot.stops) == 1, "nobody was told of the stop")


def test_a_stop_alone_needs_no_goal(by_topic: Robot) -> None:
    robot = by_topic
    robot.answer(STOP)
    robot.until(lambda: len(robot.stops) == 1, "nobody was told of the stop")
    robot.see(Pose.identity())
    assert robot.reports[-1].remaining == 0
    assert not robot.goals


def cancelled(robot: Robot, cancel: Callable[[], None]) -> None:
    """What was driven to is no goal any more: by topic the goal is then where the robot is."""
    chunk = robot.answer(place=(3.0, 0.0))
    robot.until(lambda: len(robot.goals) == 1, "no goal came")
    robot.see(Pose.planar(1.25, 0.5, 0.0))
    cancel()
    robot.until(lambda: len(robot.goals) >= 2, "the goal was not taken back")
    assert (robot.goals[1].pose.position.x, robot.goals[1].pose.position.y) == (1.25, 0.5)
    assert robot.drive.counts["goals cancelled"] == 1
    before = len(robot.reports)
    robot.see(Pose.planar(3.0, 0.0, 0.0))
    assert all(r.queue != chunk.queue for r in robot.reports[before:]), "it is not reached any more"


def test_a_hold_cancels(by_topic: Robot) -> None:
    """Which is what cancel, pause, a new instruction, a failed engine and a second navigator are."""
    cancelled(by_topic, by_topic.hold)


def test_the_end_of_the_node_cancels(context: Context) -> None:
    robot = Robot(context, "topic")
    robot.until(lambda: robot.node.count_subscribers("goal_pose") == 1, "nobody hears goals")
    robot.answer(place=(3.0, 0.0))
    robot.until(lambda: len(robot.goals) == 1, "no goal came")
    robot.drive.destroy()
    robot.until(lambda: len(robot.goals) == 2, "the goal was not taken back")
    robot.close()


def test_frames_that_end_cancel_and_are_an_error(by_topic: Robot) -> None:
    robot = by_topic

    def silence() -> None:
        robot.now_s += 1.5
        robot.until(lambda: robot.drive.problem is not None, "nobody noticed")

    cancelled(robot, silence)
    assert robot.drive.problem is not None
    assert robot.drive.problem[0] is Level.ERROR
    assert "no frame for 1 s" in robot.drive.health(Health(Level.OK, "following")).summary
    assert any(r.queue == 0 for r in robot.reports), "as a flushed queue: the model is asked again"
    robot.answer(place=(4.0, 0.0))
    assert robot.drive.problem is None


def test_a_fault_of_an_executor_cancels(by_topic: Robot) -> None:
    robot = by_topic

    def fault() -> None:
        robot.state_pub.publish(String(data="stopped: no odometry"))
        robot.until(lambda: robot.drive.problem is not None, "nobody noticed")

    cancelled(robot, fault)
    assert robot.drive.problem is not None
    assert "no odometry" in robot.drive.problem[1]


def test_a_robot_that_stands_is_given_up_with_a_reason(by_topic: Robot) -> None:
    robot = by_topic
    robot.answer(place=(3.0, 0.0))
    for _ in range(160):
        robot.see(Pose.identity())
    assert robot.drive.counts["goals given up: the robot stands"] == 1
    assert robot.reports[-1].queue == 0
    assert robot.drive.health(Health(Level.OK, "following")).level is Level.WARN


def test_the_next_answer_replaces_the_goal(by_topic: Robot) -> None:
    robot = by_topic
    robot.answer(place=(3.0, 0.0))
    second = robot.answer(place=(0.0, 3.0))
    robot.until(lambda: robot.goals[-1:] != [] and robot.goals[-1].pose.position.y == 3.0, "no second goal")
    robot.see(Pose.planar(3.0, 0.0, 0.0))
    assert robot.reports[-1].remaining > 0, "the first one counts no more"
    robot.see(Pose.planar(0.0, 2.9, 0.0))
    assert (robot.reports[-1].queue, robot.reports[-1].remaining) == (second.queue, 0)


def test_what_is_reported_is_never_told_under_a_lock_that_the_worker_holds(context: Context) -> None:
    """The worker says queues under its own lock, and reports are put into it under the same one."""
    worker_lock, reports = threading.Lock(), []

    def put(progress: Progress) -> None:
        assert worker_lock.acquire(timeout=5.0), "a deadlock"
        worker_lock.release()
        reports.append(progress)

    robot = Robot(context, "topic", put)
    with worker_lock:
        robot.answer(place=(3.0, 0.0))
        robot.hold()
        robot.answer(STOP)
    robot.see(Pose.identity())
    assert [r.remaining > 0 for r in reports] == [True, False]
    robot.drive.destroy()
    robot.close()


def test_without_nav2_msgs_the_action_is_refused_with_a_remedy_and_auto_takes_the_topic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("nav2_msgs", "nav2_msgs.action"):
        monkeypatch.setitem(sys.modules, name, None)
    assert navigate_to_pose("topic") is None
    assert navigate_to_pose("auto") is None
    with pytest.raises(ConfigError, match="ros-jazzy-nav2-msgs"):
        navigate_to_pose("action")


@pytest.fixture(scope="module")
def nav2_msgs() -> Iterator[Path | None]:
    with loaded_here("nav2_msgs") as found:
        yield found


@pytest.mark.usefixtures("nav2_msgs")
def test_with_nav2_msgs_auto_takes_the_action() -> None:
    assert navigate_to_pose("action") is navigate_to_pose("auto")
    assert navigate_to_pose("action").__name__ == "NavigateToPose"
    assert navigate_to_pose("topic") is None


class Nav2Server:
    """The action server in Nav2's place: goals are taken or not, and end when the test says so."""

    def __init__(self, node: Node, *, accepts: bool = True) -> None:
        self.ending: dict[int, str] = {}
        """How a goal ends that is being ended, by the identity of its handle."""
        self.handles: list[ServerGoalHandle] = []
        self.cancelled = 0
        self._action = navigate_to_pose("action")
        self.server = ActionServer(
            node,
            self._action,
            "navigate_to_pose",
            execute_callback=self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT if accepts else GoalResponse.REJECT,
            handle_accepted_callback=self.handles.append,
            cancel_callback=self._cancel,
        )

    def _cancel(self, _: ServerGoalHandle) -> CancelResponse:
        self.cancelled += 1
        return CancelResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> Any:
        getattr(handle, self.ending[id(handle)])()
        return self._action.Result()

    def tell(self, distance_m: float, recoveries: int) -> None:
        """Feedback of the newest goal."""
        feedback = self._action.Feedback(distance_remaining=distance_m, number_of_recoveries=recoveries)
        self.handles[-1].publish_feedback(feedback)

    def end(self, how: str, number: int = -1) -> None:
        handle = self.handles[number]
        self.ending[id(handle)] = how
        handle.execute()


@pytest.fixture
def by_action(context: Context, nav2_msgs: Path | None) -> Iterator[Robot]:
    robot = Robot(context, "action")
    yield robot
    robot.drive.destroy()
    robot.close()


def test_what_nav2_says_of_its_goal_is_told_and_of_no_other(by_action: Robot) -> None:
    robot = by_action
    server = Nav2Server(robot.nav2)

    def told() -> dict[str, object]:
        return {k: v for k, v in robot.drive.health(Health(Level.OK, "")).values if k.startswith("Nav2")}

    robot.answer(place=(3.0, 0.5))
    robot.until(lambda: len(server.handles) == 1, "no goal came")
    assert told() == {}
    server.tell(2.345, 1)
    robot.until(lambda: told() != {}, "feedback was not heard")
    assert told() == {"Nav2: way to the goal [m]": 2.35, "Nav2: recoveries": 1} or told() == {
        "Nav2: way to the goal [m]": 2.34,  # as a float32
        "Nav2: recoveries": 1,
    }
    robot.hold()
    assert told() == {}
    robot.until(lambda: server.cancelled == 1, "it was not cancelled")
    server.tell(1.0, 2)  # of the goal that is none any more
    robot.answer(place=(2.0, 0.5))
    robot.until(lambda: len(server.handles) == 2 and robot.drive.taken, "no second goal")
    assert told() == {}


@pytest.mark.parametrize(
    ("how", "name"), [("succeed", "goals reached"), ("abort", "goals that Nav2 gave up")]
)
def test_the_result_of_the_action_drives_the_next_question(by_action: Robot, how: str, name: str) -> None:
    robot = by_action
    server = Nav2Server(robot.nav2)
    chunk = robot.answer(place=(3.0, 0.5))
    robot.until(lambda: len(server.handles) == 1, "no goal came")
    robot.see(Pose.planar(1.0, 0.0, 0.0))
    server.end(how)
    robot.until(lambda: robot.drive.counts[name] == 1, "the result was not heard")
    robot.see(Pose.planar(1.0, 0.0, 0.0))
    last = robot.reports[-1]
    assert (last.queue, last.remaining) == ((chunk.queue if how == "succeed" else 0), 0)


def test_the_action_is_cancelled_also_when_the_goal_is_taken_late(by_action: Robot) -> None:
    robot = by_action
    server = Nav2Server(robot.nav2)
    robot.answer(place=(3.0, 0.5))
    robot.hold()  # before Nav2 has taken it
    robot.until(lambda: server.cancelled == 1, "a goal that was taken late goes on")
    robot.answer(place=(2.0, 0.5))
    robot.until(lambda: len(server.handles) == 2 and robot.drive.taken, "no second goal")
    robot.hold()
    robot.until(lambda: server.cancelled == 2, "it was not cancelled")


def test_a_goal_that_is_refused_or_not_taken_is_given_up(by_action: Robot) -> None:
    robot = by_action
    robot.answer(place=(3.0, 0.5))
    for _ in range(60):
        robot.see(Pose.planar(0.0, 0.0, 0.01))
    robot.until(lambda: robot.drive.counts["goals that nobody took"] == 1, "it waits for ever")
    Nav2Server(robot.nav2, accepts=False)
    robot.answer(place=(3.0, 0.5))
    robot.until(lambda: robot.drive.counts["goals that nobody took"] == 2, "the refusal was not heard")
    assert robot.drive.problem is not None


class DrivenByNav2:
    """A fake Nav2: it moves the base to its newest goal, tells how far it is, and drops the goals before.

    Args:
        robot: its base, and the node of its action server.
    """

    def __init__(self, robot: DrivenRobot) -> None:
        self.robot, self.server = robot, Nav2Server(robot)
        robot.create_timer(0.05, self._drive)

    @property
    def goals(self) -> list[Pose]:
        return [convert.pose_from_stamped(handle.request.pose) for handle in self.server.handles]

    def _drive(self) -> None:
        for number, handle in enumerate(self.server.handles):
            if not handle.is_active or id(handle) in self.server.ending:
                continue
            if handle.is_cancel_requested:
                self.server.end("canceled", number)
            elif handle is not self.server.handles[-1]:
                self.server.end("abort", number)  # preempted
            else:
                self._step(self.goals[-1], number)

    def _step(self, goal: Pose, number: int) -> None:
        pose = self.robot.pose
        left = goal.position[:2] - pose.position[:2]
        left_m = float(np.linalg.norm(left))
        if left_m < 0.02:
            self.robot.pose = goal
            self.server.end("succeed", number)
            return
        x_m, y_m = pose.position[:2] + left * min(1.0, 0.03 / left_m)
        self.robot.pose = Pose.planar(float(x_m), float(y_m), goal.yaw_rad)
        self.server.tell(left_m, 0)


@pytest.mark.slow
def test_a_navigator_drives_a_robot_by_nav2_and_cancel_ends_it(
    tmp_path: Path, nav2_msgs: Path | None
) -> None:
    """The real navigator in its process, as drive:=nav2 starts it: no executor, and Nav2's action."""
    paced: dict[str, Scalar] = {"engine": "paced", "paced.decision_ms": 0.0, "drive": "nav2"}
    environment = sourced(nav2_msgs, graph_environment())
    context = Context()
    context.init()
    robot = DrivenRobot(context, "/by_nav2", Pose.identity())
    with gone_afterwards(context, robot), Graph(tmp_path, environment) as graph:
        nav2 = DrivenByNav2(robot)
        graph.start(NodeSpec("navigator", {**NAVIGATOR, **paced}, namespace="/by_nav2"))
        robot.wait(robot.cancel.service_is_ready, "no navigator")
        robot.wait(lambda: robot.instruction.get_subscription_count() > 0, "nobody hears instructions")
        number = robot.tell("go")
        robot.becomes(number, "driving")
        robot.wait(lambda: len(nav2.goals) >= 3, "no goal follows the one that is reached")
        xs_m = [goal.position[0] for goal in nav2.goals]
        # A goal counts as reached a tenth of a metre before it.
        assert all(after - before > 0.1 for before, after in pairwise([0.0, *xs_m])), "each leads forward"
        robot.call(robot.cancel, Trigger.Request())
        robot.becomes(number, "cancelled")
        robot.wait(lambda: nav2.server.cancelled >= 1, "the goal was not cancelled")
        stands_at, goals = robot.pose.position.copy(), len(nav2.server.handles)
        until_s = time.monotonic() + 1.0
        robot.wait(lambda: time.monotonic() > until_s, "")
        assert len(nav2.server.handles) == goals, "it drives on"
        assert np.linalg.norm(robot.pose.position - stands_at) < 0.1
        assert robot.commands == [], "only Nav2 moves this base"
        graph.check()
