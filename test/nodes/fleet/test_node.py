"""The fleet node over real DDS: what happens to one robot is its own, as with a navigator of its own."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from driven_robot import EXECUTOR, NAVIGATOR, DrivenRobot
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rclpy.context import Context
from ros_endings import gone_afterwards
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import ConfigError
from vln_ros.datatypes import Pose
from vln_ros.engine.turns import EngineThread
from vln_ros.engines import SharedEngines
from vln_ros.nodes.fleet.node import namespaces_of
from vln_ros.nodes.fleet.robot_thread import RobotThread
from vln_ros.nodes.navigator.node import Navigator
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC
from vln_ros.ros import convert, qos

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(400)]

DEADLINE_S = 60.0
POLICY = "engine: qwen, qwen.checkpoint: 'shipped:tiny', qwen.profile: tiny, qwen.device: cpu"
ROBOTS = ("left", "right")


class Pair:
    """Two robots that are served by one fleet, each with its own executor."""

    def __init__(self, context: Context, graph: Graph) -> None:
        self.graph = graph
        self.left, self.right = (DrivenRobot(context, f"/{name}", Pose.identity()) for name in ROBOTS)
        self.left.spinner.add_node(self.right)
        self.right.spinner = self.left.spinner
        self.said: dict[str, str] = {}
        self.right.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics()
        )

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "vln_ros: fleet":
                self.said = {v.key: v.value for v in status.values}

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        self.left.wait(condition, what)

    def drive(self) -> None:
        """Both follow an instruction of their own."""
        for robot in (self.left, self.right):
            robot.silent.clear()
            robot.tell(f"go ahead, {robot.get_namespace()}")
        self.left.moves()
        self.right.moves()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    context = Context()
    context.init()
    with Graph(tmp_path_factory.mktemp("logs"), graph_environment()) as graph:
        robots = Pair(context, graph)
        with gone_afterwards(context, robots.left):
            for name in ROBOTS:
                graph.start(NodeSpec("executor", EXECUTOR, namespace=f"/{name}"))
            paced = {**NAVIGATOR, "engine": "paced", "paced.decision_ms": 20.0}
            graph.start(NodeSpec("fleet", {"robots": "left, /right"}, beside={"navigator": paced}))
            for robot in (robots.left, robots.right):
                robot.wait(robot.cancel.service_is_ready, f"no navigator for {robot.get_namespace()}")
                robot.wait(lambda r=robot: r.executor_says == "idle", "no executor")  # type: ignore[misc]
            yield robots
            robots.right.destroy_node()


def silent_camera(robot: DrivenRobot) -> None:
    robot.silent.add("camera")


def silent_odometry(robot: DrivenRobot) -> None:
    robot.silent.add("odom")


def odometry_that_is_no_number(robot: DrivenRobot) -> None:
    robot.silent.add("odom")
    publisher = robot.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))

    def publish() -> None:
        if "odom" in robot.silent:
            msg = convert.odometry_from_pose(robot.pose, robot.now_ns, "odom", "base_link", 0.0, 0.0)
            msg.pose.pose.position.x = math.nan
            publisher.publish(msg)

    robot.create_timer(0.05, publish)


def pictures_that_are_none(robot: DrivenRobot) -> None:
    robot.silent.add("camera")
    publishers = [
        robot.create_publisher(Image, topic, qos.sensor("reliable", 10))
        for topic in (COLOR_TOPIC, DEPTH_TOPIC)
    ]

    def publish() -> None:
        if "camera" in robot.silent:
            for publisher in publishers:
                rgb = np.zeros((48, 64, 3), np.uint8)
                msg = convert.image_from_rgb(rgb, robot.now_ns, "optical")
                msg.encoding, msg.step = "yuv_of_nobody", 7
                publisher.publish(msg)

    robot.create_timer(0.05, publish)


@pytest.mark.parametrize(
    "fault",
    [silent_camera, silent_odometry, odometry_that_is_no_number, pictures_that_are_none],
    ids=lambda f: f.__name__,
)
def test_a_robot_whose_sensors_fail_stands_and_the_other_goes_on(
    pair: Pair, fault: Callable[[DrivenRobot], None]
) -> None:
    pair.drive()
    fault(pair.left)
    pair.left.stands()
    pair.right.moves()
    pair.left.silent.clear()
    pair.left.moves()  # by itself, as soon as there is something to go by
    pair.graph.check()


def test_a_robot_that_floods_its_topics_harms_no_other(pair: Pair) -> None:
    pair.drive()
    publisher = pair.left.create_publisher(Image, COLOR_TOPIC, qos.sensor("best_effort", 1))
    message = convert.image_from_rgb(np.zeros((480, 640, 3), np.uint8), pair.left.now_ns, "optical")
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set():
            publisher.publish(message)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        pair.right.moves()
        pair.right.moves()
    finally:
        ended.set()
        flooding.join()
        pair.left.destroy_publisher(publisher)


def test_cancel_and_pause_are_of_one_robot(pair: Pair) -> None:
    pair.drive()
    assert pair.left.call(pair.left.cancel, Trigger.Request())
    pair.left.stands()
    pair.right.moves()
    assert pair.right.call(pair.right.pause, SetBool.Request(data=True))
    pair.right.stands()
    pair.left.tell("go ahead, once more")
    pair.left.moves()
    assert pair.right.call(pair.right.pause, SetBool.Request(data=False))
    pair.right.moves()


def test_each_navigator_has_its_own_lifecycle(pair: Pair) -> None:
    """Deactivated, and even without its engine: the other robot's weights stay, and it comes back."""
    pair.drive()
    client = pair.left.create_client(ChangeState, "navigator/change_state")
    pair.wait(client.service_is_ready, "no lifecycle")
    for down, up in (
        ((Transition.TRANSITION_DEACTIVATE,), (Transition.TRANSITION_ACTIVATE,)),
        (
            (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP),
            (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE),
        ),
    ):
        for transition in down:
            assert pair.left.call(client, ChangeState.Request(transition=Transition(id=transition)))
        pair.left.stands()
        pair.right.moves()
        for transition in up:
            assert pair.left.call(client, ChangeState.Request(transition=Transition(id=transition)))
        pair.left.moves()
    pair.right.moves()


def test_the_fleet_says_how_many_it_serves(pair: Pair) -> None:
    pair.wait(lambda: pair.said.get("robots") == "2", "it says nothing")
    assert pair.said["robots lost"] == "0"
    assert int(pair.said["decisions"]) > 0


# ------------------------------------------------------------------ in this process


def test_a_callback_that_fails_ends_its_own_robot_only() -> None:
    """A fault of our own, which ends a process with one navigator."""
    rclpy.init(args=["fleet", "--ros-args", "-p", "engine:=paced", "-p", "extrinsics:=parameters"])
    ended: list[RobotThread] = []
    over = threading.Event()

    def on_end(robot: RobotThread) -> None:
        ended.append(robot)
        over.set()

    engines = SharedEngines()
    thread = EngineThread(engines)
    navigators = [Navigator(engines, thread, f"/{name}") for name in ROBOTS]
    robots = [RobotThread(navigator, on_end) for navigator in navigators]
    beats = threading.Semaphore(0)

    def fail() -> None:
        raise ZeroDivisionError("a fault of ours")

    try:
        assert [n.get_fully_qualified_name() for n in navigators] == ["/left/navigator", "/right/navigator"]
        navigators[0].create_timer(0.2, fail)
        for robot in robots:
            robot.start()
        assert over.wait(DEADLINE_S)
        assert [r.name for r in ended] == ["/left"] and isinstance(ended[0].failure, ZeroDivisionError)
        assert robots[0].wait(DEADLINE_S)
        navigators[1].create_timer(0.05, beats.release)
        for _ in range(3):
            assert beats.acquire(timeout=DEADLINE_S), "the other one does not go on"
        assert robots[1].failure is None
    finally:
        for robot in robots:
            robot.end()
        assert all(robot.wait(DEADLINE_S) for robot in robots)
        rclpy.shutdown()


@pytest.mark.parametrize(
    ("robots", "found"),
    [("left", ["/left"]), (" left, /right/ ,a/b ", ["/left", "/right", "/a/b"]), ("left,", ["/left"])],
)
def test_robots_are_named_by_namespaces(robots: str, found: list[str]) -> None:
    assert namespaces_of(robots) == found


@pytest.mark.parametrize(
    ("robots", "said"),
    [
        ("", "robots is empty"),
        (" , ", "robots is empty"),
        ("left,/left", "/left stands twice"),
        ("left,/", "in no namespace"),
        ("left,2nd", "/2nd is no namespace"),
        ("left right", "is no namespace"),
    ],
)
def test_what_names_no_robots_is_refused(robots: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        namespaces_of(robots)


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        (f"{POLICY}, qwen.dtype: float32", f"{POLICY}, qwen.dtype: bfloat16", "they share one model"),
        ("engine: expert", "engine: expert", "navigator cannot start: expert.episodes is empty"),
        ("engine: paced, profiling.level: spans", "engine: paced", "profiling.level = 'spans'"),
        ("engine: paced", "engine: paced, heartbeat_hz: 0.0", "heartbeat_hz = 0.0"),
        ("engine: paced, hartbeat_hz: 5.0", "engine: paced", "did you mean 'heartbeat_hz'"),
    ],
)
def test_a_robot_that_cannot_begin_is_said_at_once(left: str, right: str, said: str, tmp_path: Path) -> None:
    parameters = tmp_path / "fleet.yaml"
    parameters.write_text(
        "/fleet: {ros__parameters: {robots: 'left,right'}}\n"
        f"/left/navigator: {{ros__parameters: {{extrinsics: parameters, {left}}}}}\n"
        f"/right/navigator: {{ros__parameters: {{extrinsics: parameters, {right}}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "vln_ros", "node", "fleet", "--ros-args", "--params-file", str(parameters)],
        env=graph_environment(), capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
