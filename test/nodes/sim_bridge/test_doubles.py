"""A second node of one kind: the robot stands until one of them has ended, and a restart is no second
node."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.node import Node
from robots import CameraRobot, WaitingNode
from ros_endings import gone_afterwards
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Pose, Velocity
from vln_ros.ros import convert, qos
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(300)]

DEADLINE_S = 60.0
NOTICED_S = 5.0
"""On a loaded machine, from when both are active. The bench holds the real limit."""
EXTRINSICS: dict[str, Scalar] = {"extrinsics": "parameters", "camera_z_m": 0.5, "diagnostics_hz": 10.0}
SPECS = {
    "navigator": NodeSpec("navigator", {**EXTRINSICS, "engine": "paced", "paced.decision_ms": 50.0}),
    # Time-outs that a loaded machine does not reach by itself.
    "executor": NodeSpec(
        "executor", {**EXTRINSICS, "safety.obstacles": "none", "safety.odometry_timeout_s": 2.0,
                     "safety.heartbeat_timeout_s": 1.0, "safety.frame_timeout_s": 3.0},
    ),
}  # fmt: skip


class Robot(CameraRobot):
    """Camera, and a base that does what it is told."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, depth_m=3.0, deadline_s=DEADLINE_S)
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.sensor("reliable", 50))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())
        self.said: dict[str, DiagnosticStatus] = {}
        self._pose, self._velocity, self._moved_s = Pose.identity(), Velocity(), time.monotonic()
        self.driven_m = 0.0
        self.create_timer(0.05, self._move)
        self.create_timer(0.1, self._see)

    def stand(self) -> None:
        self._velocity = Velocity()

    def _on_command(self, msg: Twist) -> None:
        self._velocity = convert.velocity_from_twist(msg)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            self.said[status.name.removeprefix("vln_ros: ")] = status

    def _move(self) -> None:
        now_s = time.monotonic()
        step_s, self._moved_s = now_s - self._moved_s, now_s
        v = self._velocity
        self._pose = self._pose @ Pose.planar(v.linear_m_s * step_s, 0.0, v.angular_rad_s * step_s)
        self.driven_m += abs(v.linear_m_s) * step_s
        self.publish_pose(self._pose, self.now_ns)

    def _see(self) -> None:
        stamp_ns = self.now_ns
        self.publish_info(stamp_ns)
        self.publish_images(stamp_ns)

    def heard(self) -> object:
        return self.said

    def drives(self, within_s: float = DEADLINE_S) -> float:
        begin_m = self.driven_m
        return self.wait(lambda: self.driven_m > begin_m + 0.2, "it does not drive", within_s)

    def says(self, node: str, *words: str) -> bool:
        """An error with all of these."""
        status = self.said.get(node)
        return status is not None and status.level == b"\x02" and all(w in status.message for w in words)


@contextmanager
def robot(folder: Path) -> Iterator[tuple[Robot, Graph]]:
    context = Context()
    context.init()
    it = Robot(context)
    with gone_afterwards(context, it), Graph(folder / "logs", graph_environment()) as graph:
        yield it, graph


@contextmanager
def driving(folder: Path) -> Iterator[tuple[Robot, Graph]]:
    with robot(folder) as (it, graph):
        for spec in SPECS.values():
            graph.start(spec)
        it.wait(lambda: {"navigator", "executor"} <= set(it.said), "they do not come up")
        it.instruction.publish(String(data="go to the sofa"))
        it.drives()
        yield it, graph


def second(name: str) -> NodeSpec:
    return NodeSpec(name, SPECS[name].parameters, key_suffix=" again")


def says_in_its_log(graph: Graph, key: str, words: str) -> bool:
    lines = graph.log_path(key).read_text("utf-8").splitlines()
    return any(words in line and "[ERROR]" in line for line in lines)


@pytest.mark.parametrize(
    ("which", "number"),
    [("the first", signal.SIGKILL), ("the second", signal.SIGTERM)],
    ids=["the first is killed", "the second ends"],
)
@pytest.mark.parametrize("name", SPECS)
def test_two_alive_stop_the_robot_until_one_of_them_ends(
    tmp_path: Path, name: str, which: str, number: signal.Signals
) -> None:
    with driving(tmp_path) as (it, graph):
        double = second(name)
        graph.start(double)
        pids = [f"process {graph.pid(key)} on" for key in (name, double.key)]
        log = graph.log_path(double.key)
        it.wait(lambda: ": active" in log.read_text("utf-8"), "no double")
        it.wait(lambda: it.says("executor", f"two {name}s", *pids), "no fault", NOTICED_S)
        it.listen(0.3)
        stood_m = it.driven_m
        it.listen(2.0)
        assert it.driven_m == stood_m
        for key in (name, double.key):  # each of them writes it down, as soon as it has heard the other
            it.wait(partial(says_in_its_log, graph, key, f"two {name}s"), f"{key} has not written it down")
        if name == "navigator":
            assert it.says("navigator", "two navigators", *pids)
        victim = name if which == "the first" else double.key
        os.kill(graph.pid(victim), number)
        graph.wait(victim)
        it.drives()
        it.wait(lambda: it.said["executor"].level == b"\x00", "the error stays")


@pytest.mark.parametrize("name", SPECS)
def test_killed_and_started_again_at_once_is_no_double(tmp_path: Path, name: str) -> None:
    """Its endpoints stay in the graph for the time of a lease; the robot does not wait for that."""
    with driving(tmp_path) as (it, graph):
        for _ in range(2):
            os.kill(graph.pid(name), signal.SIGKILL)
            graph.wait(name)
            graph.start(SPECS[name])
            topic = "cmd_vel/heartbeat" if name == "executor" else "navigator_heartbeat"
            assert it.count_publishers(topic) >= 1  # what is stale, or already the new one
            it.listen(0.5)  # what the base was told last has timed out, on a real one
            it.stand()
            it.drives()
        assert "two " not in "".join(p.read_text("utf-8") for p in (tmp_path / "logs").glob("*.log"))


def test_somebody_who_drives_beside_it_is_told_as_a_warning(tmp_path: Path) -> None:
    with driving(tmp_path) as (it, _):
        teleop = Node("teleop", context=it.context)
        voice = teleop.create_publisher(Twist, "cmd_vel", qos.commands())
        voice.publish(Twist())  # who stands does not drive
        it.listen(1.0)
        assert it.said["executor"].level == b"\x00"

        def warned() -> bool:
            voice.publish(convert.twist_from_velocity(Velocity(0.05)))
            status = it.said["executor"]
            return status.level == b"\x01" and "moves the base on /cmd_vel: /teleop" in status.message

        it.wait(warned, "nobody is warned")
        it.wait(lambda: it.said["executor"].level == b"\x00", "the warning stays")
        teleop.destroy_node()


# ---------------------------------------------------------------------------- bridges


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])[:1]
    return write_episodes(tmp_path_factory.mktemp("episodes"), "val_unseen", every)


def bridge(episodes: Path, mode: str, suffix: str = "") -> NodeSpec:
    parameters: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": mode, "camera.width": 64, "camera.height": 48,
    }  # fmt: skip
    return NodeSpec("sim_bridge", parameters, key_suffix=suffix)


class Ears(WaitingNode):
    """Listens to a robot, so that a bridge begins, and may speak as one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "ears", deadline_s=DEADLINE_S)
        self.stamps: list[int] = []
        self.said: list[DiagnosticStatus] = []
        sensor = qos.sensor("best_effort", 10)
        self.create_subscription(Clock, "/clock", self._on_clock, sensor)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.said.extend(msg.status)

    def _on_clock(self, msg: Clock) -> None:
        self.stamps.append(convert.stamp_ns_from_time(msg.clock))

    def heard(self) -> object:
        return self.said[-2:]

    def error(self) -> str:
        """The newest one of the bridge; empty: it says that all is well."""
        mine = [s for s in self.said if s.name == "vln_ros: sim_bridge"]
        return mine[-1].message if mine and mine[-1].level == b"\x02" else ""


@contextmanager
def ears(folder: Path) -> Iterator[tuple[Ears, Graph]]:
    context = Context()
    context.init()
    it = Ears(context)
    with gone_afterwards(context, it), Graph(folder / "logs", graph_environment()) as graph:
        yield it, graph


def refused(graph: Graph, spec: NodeSpec) -> str:
    """What it says when it does not start."""
    graph.start(spec)
    assert graph.wait(spec.key) == 2
    return graph.log_path(spec.key).read_text("utf-8")


@pytest.mark.parametrize("mode", ["lockstep", "realtime", "manual"])
def test_a_second_bridge_refuses_to_start_and_the_first_goes_on(
    tmp_path: Path, episodes: Path, mode: str
) -> None:
    """Also where the first one waits for a navigator and publishes neither clock nor odometry."""
    with ears(tmp_path) as (it, graph):
        graph.start(bridge(episodes, mode))
        it.wait(lambda: any(s.name == "vln_ros: sim_bridge" for s in it.said), "no bridge")
        pid = graph.pid("sim_bridge")
        said = refused(graph, bridge(episodes, mode, " again"))
        assert f"another bridge is there: /sim_bridge (process {pid} on" in said
        assert "ROS_DOMAIN_ID" in said
        assert "Traceback" not in said
        it.said.clear()
        it.wait(lambda: bool(it.said) and it.error() == "", "the first one does not go on")
        graph.check()


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_a_bridge_that_was_killed_is_started_again_at_once(tmp_path: Path, episodes: Path, mode: str) -> None:
    with ears(tmp_path) as (it, graph):
        for _ in range(2):
            graph.start(bridge(episodes, mode))
            it.said.clear()
            it.wait(lambda: any(s.name == "vln_ros: sim_bridge" for s in it.said), "no bridge")
            os.kill(graph.pid("sim_bridge"), signal.SIGKILL)
            graph.wait("sim_bridge")
        assert it.count_publishers("/clock") >= 1  # stale, and nobody minds


@pytest.mark.parametrize("topic", ["odom", "/clock"])
def test_a_bridge_refuses_to_start_beside_a_base_or_a_clock(
    tmp_path: Path, episodes: Path, topic: str
) -> None:
    with ears(tmp_path) as (it, graph):
        clock = it.create_publisher(Clock, "/clock", qos.sensor("best_effort", 1))
        odom = it.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))
        n = 0

        def speak() -> None:
            nonlocal n
            n += 1
            if topic == "odom":
                odom.publish(convert.odometry_from_pose(Pose.identity(), n, "odom", "base_link", 0.0, 0.0))
            else:
                clock.publish(Clock(clock=convert.time_from_stamp_ns(n)))

        it.create_timer(0.05, speak)
        graph.start(bridge(episodes, "realtime"))
        pid = graph.pid("sim_bridge")
        it.wait(
            lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "it starts"
        )
        assert graph.wait("sim_bridge") == 2
        said = graph.log_path("sim_bridge").read_text("utf-8")
        assert f"/{topic.lstrip('/')} comes from /ears already" in said
        assert "Traceback" not in said


def test_registered_but_silent_sources_are_no_obstacle(tmp_path: Path, episodes: Path) -> None:
    with ears(tmp_path) as (it, graph):
        it.create_publisher(Clock, "/clock", qos.sensor("best_effort", 1))
        it.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))
        graph.start(bridge(episodes, "realtime"))
        it.wait(lambda: any(s.name == "vln_ros: sim_bridge" for s in it.said), "no bridge")
        graph.check()
        assert it.error() == ""


def test_a_base_that_comes_later_makes_the_simulation_stand_until_it_is_gone(
    tmp_path: Path, episodes: Path
) -> None:
    with ears(tmp_path) as (it, graph):
        graph.start(bridge(episodes, "manual"))
        it.wait(lambda: any(s.name == "vln_ros: sim_bridge" for s in it.said), "no bridge")
        odom = it.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))
        foreign = convert.odometry_from_pose(Pose.identity(), 5, "odom", "base_link", 0.0, 0.0)
        timer = it.create_timer(0.05, lambda: odom.publish(foreign))
        it.wait(lambda: "/odom comes from /ears already" in it.error(), "it does not notice")
        it.destroy_timer(timer)
        it.said.clear()
        it.wait(lambda: bool(it.said) and it.error() == "", "it does not go on")
        graph.check()


@pytest.mark.parametrize("which", ["navigator", "navigator again"])
def test_in_lockstep_the_world_waits_until_one_of_two_navigators_has_ended(
    tmp_path: Path, episodes: Path, which: str
) -> None:
    """There is no executor that could stand: the two plan nothing."""
    expert: dict[str, Scalar] = {
        "engine": "expert", "expert.episodes": str(episodes), "expert.decision_ms": 600.0,
        "extrinsics": "parameters", "reliability": "reliable", "diagnostics_hz": 10.0,
    }  # fmt: skip
    with ears(tmp_path) as (it, graph):
        parameters = {**bridge(episodes, "lockstep").parameters, "run_folder": str(tmp_path / "run")}
        graph.start(NodeSpec("sim_bridge", {**parameters, "video": False}))
        graph.start(NodeSpec("navigator", expert))
        it.wait(lambda: len(it.stamps) > 2, "the episode does not begin")
        graph.start(NodeSpec("navigator", expert, key_suffix=" again"))
        pids = [f"process {graph.pid(key)} on" for key in ("navigator", "navigator again")]

        def told() -> bool:
            errors = [s.message for s in it.said if s.name == "vln_ros: navigator" and s.level == b"\x02"]
            return any(all(pid in e for pid in pids) for e in errors)

        it.wait(told, "nobody says so")
        it.listen(1.5)  # the queue that was under way
        stood = len(it.stamps)
        it.listen(1.5)
        assert set(it.stamps[stood:]) <= set(it.stamps[:stood])  # what nobody took is shown again
        os.kill(graph.pid(which), signal.SIGKILL)
        graph.wait(which)
        assert graph.wait("sim_bridge") == 0
    (line,) = (tmp_path / "run/episodes.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["ended"] == "stop"
