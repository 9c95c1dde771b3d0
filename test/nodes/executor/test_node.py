"""The executor in its own process: what the base hears from it, to the last message."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robots import WaitingNode
from ros_endings import gone_afterwards
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import STOP, Action, ActionChunk, Pose, Velocity
from vln_ros.ros import convert, qos

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 30.0
FAR = Action(forward_m=9.0)
ZERO = Velocity()
# Time-outs that a loaded machine does not reach by itself.
PARAMETERS: dict[str, Scalar] = {
    "diagnostics_hz": 10.0,
    "action_timeout_s": 60.0,
    "safety.obstacles": "scan",
    "extrinsics": "parameters",
    "safety.odometry_timeout_s": 2.0,
    "safety.heartbeat_timeout_s": 2.0,
    "safety.frame_timeout_s": 2.0,
    "safety.obstacle_timeout_s": 2.0,
}


class Base(WaitingNode):
    """A base that notes what it is told and says that it stands where it is; and all that belongs to it."""

    def __init__(self, context: Context, namespace: str) -> None:
        super().__init__(context, "base", namespace, deadline_s=DEADLINE_S)
        self.odom = self.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))
        self.scan = self.create_publisher(LaserScan, "scan", qos.sensor("reliable", 10))
        self.heartbeat = self.create_publisher(Header, "navigator_heartbeat", qos.commands())
        self.queue = self.create_publisher(JointTrajectory, "action_queue", qos.commands())
        self.instruction = self.create_publisher(String, "instruction", qos.latched())
        self.pause = self.create_client(SetBool, "executor/pause")
        self.change = self.create_client(ChangeState, "executor/change_state")
        self.commands: list[Velocity] = []
        self.progress: list[ActionChunk] = []
        self.stopped = 0
        self.values: dict[str, str] = {}
        self.summary = ""
        self.hear(Twist)
        self.create_subscription(
            JointTrajectory, "queue_progress", self._on_progress, qos.sensor("reliable", 50)
        )
        self.create_subscription(Header, "stopped", self._on_stopped, qos.commands())
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())
        self.silent: set[str] = set()
        self.pose = Pose.identity()
        self.nearest_m = 3.0
        self.number = 0
        self.create_timer(0.02, self._on_timer)

    def hear(self, type_: type[Twist] | type[TwistStamped]) -> None:
        """Take commands of this type; may be called again once :attr:`listening` is destroyed."""
        self.listening = self.create_subscription(
            type_, "cmd_vel", self._on_command, qos.sensor("reliable", 50)
        )

    def _on_command(self, msg: Twist | TwistStamped) -> None:
        twist = msg.twist if isinstance(msg, TwistStamped) else msg
        self.commands.append(convert.velocity_from_twist(twist))

    def _on_progress(self, msg: JointTrajectory) -> None:
        self.progress.append(convert.chunk_from_trajectory(msg))

    def _on_stopped(self, _: Header) -> None:
        self.stopped += 1

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        (status,) = msg.status
        if status.hardware_id == self.get_namespace():
            self.values, self.summary = {v.key: v.value for v in status.values}, status.message

    @property
    def now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def odometry(self) -> Odometry:
        return convert.odometry_from_pose(self.pose, self.now_ns, "odom", "base_link", 0.0, 0.0)

    def _on_timer(self) -> None:
        stamp = convert.time_from_stamp_ns(self.now_ns)
        if "odom" not in self.silent:
            self.odom.publish(self.odometry())
        if "heartbeat" not in self.silent:
            frame = convert.time_from_stamp_ns(1) if "frames" in self.silent else stamp
            self.heartbeat.publish(Header(stamp=frame))
        if "scan" not in self.silent:
            self.scan.publish(
                LaserScan(
                    header=Header(stamp=stamp), angle_min=-0.5, angle_max=0.5, angle_increment=0.1,
                    range_min=0.1, range_max=10.0, ranges=[self.nearest_m] * 11,
                )
            )  # fmt: skip

    def heard(self) -> object:
        return self.summary, self.values, self.commands[-3:]

    def offer(self, *actions: Action, instruction: int = 1, epoch: int = 0) -> None:
        self.number += 1
        chunk = ActionChunk(self.number, instruction, self.now_ns, actions, epoch=epoch)
        self.queue.publish(convert.trajectory_from_chunk(chunk, "base_link", 0.5, 1.0))

    def says(self, summary: str) -> None:
        self.wait(lambda: self.summary.startswith(summary), f"it does not say {summary!r}")

    def moves(self) -> None:
        begun = len(self.commands)
        self.wait(lambda: any(v.linear_m_s > 0.1 for v in self.commands[begun:]), "it does not move")

    def stands(self) -> None:
        begun = len(self.commands)
        self.wait(lambda: self.commands[begun:].count(ZERO) >= 3, "it does not stand")
        assert self.commands[-1] == ZERO


@contextmanager
def executor(folder: Path, namespace: str) -> Iterator[tuple[Base, Graph]]:
    context = Context()
    context.init()
    node = Base(context, namespace)
    with gone_afterwards(context, node), Graph(folder, graph_environment()) as graph:
        graph.start(NodeSpec("executor", PARAMETERS, namespace=namespace))

        def connected() -> bool:
            graph.check()
            inputs = (node.odom, node.queue, node.instruction, node.heartbeat, node.scan)
            return all(p.get_subscription_count() for p in inputs) and node.summary == "idle"

        def heard() -> bool:
            node.offer()
            return node.values["queue"] != "0"

        node.wait(connected, "the executor did not come up")
        # A publisher that knows its listener may not be known to it yet: until then what it sends is lost.
        node.wait(heard, "the executor hears no queue")
        yield node, graph


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    with executor(tmp_path_factory.mktemp("executor"), "/shared") as (node, graph):
        yield node
        graph.check()


@pytest.fixture
def base(shared: Base) -> Base:
    """Idle, whatever the test before has left."""
    shared.silent.clear()
    shared.nearest_m = 3.0
    shared.number += 100
    shared.call(shared.pause, SetBool.Request(data=False))
    shared.offer()
    shared.wait(lambda: "stopped: no" not in shared.summary, "still missing something")
    return shared


def test_queue_hold_and_stop(base: Base) -> None:
    base.offer(FAR)
    base.moves()
    base.offer()  # a hold
    base.stands()
    base.offer(STOP)
    base.wait(lambda: base.stopped == 1, "stop was not told")
    base.says("finished")
    base.wait(
        lambda: [c.queue for c in base.progress if not c.actions][-1] == base.number, "its end was not told"
    )
    base.offer(FAR, instruction=2)
    base.moves()


@pytest.mark.parametrize(
    ("silent", "reason"),
    [
        ("odom", "no odometry"),
        ("heartbeat", "no navigator heartbeat"),
        ("frames", "no frames at the navigator"),
        ("scan", "no scan"),
    ],
)
def test_what_stops_coming_stops_the_robot_until_it_is_back(base: Base, silent: str, reason: str) -> None:
    base.offer(FAR, instruction=9)
    base.moves()
    base.silent.add(silent)
    base.says(f"stopped: {reason}")
    base.stands()
    reports = len(base.progress)
    base.silent.clear()
    base.says("idle")  # it does not go on by itself
    base.wait(lambda: any(c.queue == 0 for c in base.progress[reports:]), "the navigator must know")
    base.stands()
    base.offer(FAR, instruction=9)
    base.moves()


def test_bad_messages_are_counted_and_stop_it(base: Base) -> None:
    for n, value in enumerate((math.nan, math.inf, -1.0), start=1):
        base.offer(FAR, instruction=10)
        base.moves()
        bad = convert.trajectory_from_chunk(ActionChunk(999, 10, 0, (FAR,)), "base_link", 0.5, 1.0)
        bad.points[0].positions[0] = value
        base.queue.publish(bad)
        base.says("stopped: queue not usable")
        assert int(base.values["refused messages"]) == n
        base.stands()
    base.offer(FAR, instruction=10)
    base.moves()
    nan = base.odometry()
    nan.pose.pose.position.y = math.nan
    base.odom.publish(nan)
    base.wait(lambda: base.values.get("stopped by odometry not usable") == "1", "NaN did not stop it")
    base.stands()


def test_an_odometry_jump_waits_for_somebody(base: Base) -> None:
    base.offer(FAR, instruction=11)
    base.moves()
    base.pose = base.pose @ Pose.planar(2.0, 0.0, 0.0)
    base.says("stopped: odometry jumped")
    base.stands()
    base.offer(FAR, instruction=11)
    base.stands()
    base.call(base.pause, SetBool.Request(data=False))
    base.offer(FAR, instruction=11)
    base.moves()
    base.pose = base.pose @ Pose.planar(2.0, 0.0, 0.0)
    base.says("stopped: odometry jumped")
    base.offer(FAR, instruction=12)  # a new instruction serves as well
    base.moves()


def test_an_obstacle_ahead_stops_it_and_turning_away_is_allowed(base: Base) -> None:
    base.offer(FAR, instruction=13)
    base.moves()
    base.nearest_m = 0.35
    base.says("stopped: obstacle")
    base.stands()
    base.offer(FAR, instruction=13)
    base.stands()
    base.offer(Action(turn_rad=1.0), instruction=13)
    begun = len(base.commands)
    base.wait(lambda: any(v.angular_rad_s > 0.1 for v in base.commands[begun:]), "it does not turn")


def test_pause_holds_through_new_queues(base: Base) -> None:
    base.offer(FAR, instruction=14)
    base.moves()
    assert base.call(base.pause, SetBool.Request(data=True))
    base.says("stopped: paused")
    base.offer(FAR, instruction=15)
    base.stands()
    base.call(base.pause, SetBool.Request(data=False))
    base.says("idle")
    base.offer(FAR, instruction=15)
    base.moves()


def test_a_new_instruction_stops_it_before_the_navigator_has_heard(base: Base) -> None:
    base.offer(FAR, instruction=15)
    base.moves()
    reports = len(base.progress)
    base.instruction.publish(convert.string_from_instruction("go back"))
    base.says("idle")
    base.wait(lambda: any(c.queue == 0 for c in base.progress[reports:]), "the navigator must know")
    base.stands()
    base.offer(FAR, instruction=16)
    base.moves()


@pytest.mark.parametrize("durability", list(DurabilityPolicy)[1:3], ids=lambda d: d.name)
@pytest.mark.parametrize("reliability", list(ReliabilityPolicy)[1:3], ids=lambda r: r.name)
def test_an_instruction_stops_it_however_it_is_published(
    base: Base, reliability: ReliabilityPolicy, durability: DurabilityPolicy
) -> None:
    voice = base.create_publisher(
        String, "instruction", QoSProfile(depth=10, reliability=reliability, durability=durability)
    )
    base.offer(FAR, instruction=16)
    base.moves()

    def told() -> bool:  # a listener that is known may not know the speaker yet
        voice.publish(convert.string_from_instruction("go back"))
        return base.summary == "idle"

    base.wait(told, "it goes on")
    base.stands()
    base.destroy_publisher(voice)


def test_a_restarted_navigator_is_listened_to(base: Base) -> None:
    base.offer(FAR, instruction=16)
    base.moves()
    base.number = 0
    base.offer(epoch=1)
    base.stands()
    base.offer(FAR, epoch=1)
    base.moves()
    base.number = 10_000
    base.offer(instruction=1)


def test_a_base_that_does_not_hear_it_is_told_of(base: Base) -> None:
    """DDS connects different types with nobody, and says nothing."""
    base.offer(FAR)
    base.moves()
    base.destroy_subscription(base.listening)
    base.wait(lambda: "nobody listens on /shared/cmd_vel" in base.summary, "nobody is missed")
    base.offer()
    base.wait(lambda: base.summary == "idle", "it needs no base to stand")
    base.hear(TwistStamped)
    said = (
        "/shared/base takes TwistStamped on /shared/cmd_vel, and Twist is sent: set stamped_cmd_vel to true"
    )
    base.wait(lambda: said in base.summary, "the other type is not told of")
    base.destroy_subscription(base.listening)
    base.hear(Twist)
    base.wait(lambda: "cmd_vel" not in base.summary, "it is told of still")


def test_deactivated_it_stands_and_activated_it_drives_again(base: Base) -> None:
    base.offer(FAR, instruction=17)
    base.moves()
    for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert base.call(base.change, ChangeState.Request(transition=Transition(id=step)))
        base.wait(lambda: base.commands[-1] == ZERO, "the base was left moving")
    base.wait(lambda: base.odom.get_subscription_count() == 0, "it still hears")
    base.wait(lambda: base.count_publishers("cmd_vel") == 0, "it can still speak")
    told = len(base.commands)
    for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert base.call(base.change, ChangeState.Request(transition=Transition(id=step)))
    base.wait(lambda: base.summary == "idle" and len(base.commands) > told, "it did not come back")
    base.offer(FAR, instruction=17)
    base.moves()


def test_simulated_time_that_nobody_tells_is_a_fault(tmp_path: Path) -> None:
    context = Context()
    context.init()
    base = Base(context, "/timeless")
    with gone_afterwards(context, base), Graph(tmp_path, graph_environment()) as graph:
        graph.start(NodeSpec("executor", {**PARAMETERS, "use_sim_time": True}, namespace="/timeless"))
        base.says("stopped: the control clock stands")
        base.stands()
        graph.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_thing_the_base_hears_is_zero(tmp_path: Path, number: signal.Signals) -> None:
    # In a namespace of its own: beside the one that the other tests share it would stand.
    with executor(tmp_path, f"/{number.name}") as (base, graph):
        base.offer(FAR)
        base.moves()
        os.kill(graph.pid(f"{number.name}.executor"), number)
        base.wait(lambda: base.commands[-1] == ZERO, "the base was left moving")
        assert graph.wait(f"{number.name}.executor") == 0
