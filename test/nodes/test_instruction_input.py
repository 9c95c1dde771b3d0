"""An instruction is heard by every node that listens to it, whoever sends it and however; and once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMsg
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robots import WaitingNode
from ros_endings import gone_afterwards
from rosbags.highlevel import AnyReader
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import ActionChunk, Pose
from vln_ros.nodes.instruction_input import InstructionFilter
from vln_ros.ros import convert, qos

DEADLINE_S = 60.0
QUIET_S = 1.0
WAYS: dict[str, QoSProfile] = {
    f"{reliability.name} {durability.name}": QoSProfile(
        depth=depth, reliability=reliability, durability=durability
    )
    for reliability, durability, depth in itertools.product(
        (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT),
        (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE),
        (10,),
    )
}
LATCHED = "RELIABLE TRANSIENT_LOCAL"


def sent(seconds: float, number: int = 1) -> dict[str, int]:
    return {"source_timestamp": int(seconds * 1e9), "publication_sequence_number": number}


def test_copies_are_told_from_words_that_are_said_again() -> None:
    heard = InstructionFilter()
    assert heard.is_new("go", sent(1.0), latched=False)
    assert not heard.is_new("go", sent(1.0), latched=True)  # the other subscription
    assert not heard.is_new("go", sent(1.0), latched=False)  # the third
    assert heard.is_new("go", sent(2.0, 2), latched=True)
    assert not heard.is_new("go", sent(2.0, 2), latched=False)
    assert heard.is_new("stop", sent(2.0, 2), latched=False)  # another publisher, at the same time


def test_what_was_latched_before_does_not_come_after_what_was_said_since() -> None:
    heard = InstructionFilter()
    assert heard.is_new("stop here", sent(5.0), latched=False)
    assert not heard.is_new("go to the sofa", sent(3.0), latched=True)
    # Live it counts, even from a publisher whose clock is behind.
    assert heard.is_new("go to the sofa", sent(3.0), latched=False)
    heard.forget()
    assert not heard.is_new("go to the sofa", sent(3.0), latched=True)
    assert heard.is_new("stop here", sent(5.0), latched=True)


def test_what_is_kept_is_bounded() -> None:
    heard = InstructionFilter()
    for n in range(10_000):
        assert heard.is_new("go", sent(1.0, n), latched=False)
    assert heard.is_new("go", sent(1.0, 9_001), latched=False)  # forgotten: fewer than a thousand are kept


class Person(WaitingNode):
    """Tells in every way, and hears the navigator's answers."""

    def __init__(self, context: Context, graph: Graph, namespace: str) -> None:
        super().__init__(context, "person", namespace, deadline_s=DEADLINE_S, graph=graph)
        self.graph = graph
        self.voices = {
            way: self.create_publisher(String, "instruction", profile) for way, profile in WAYS.items()
        }
        self.holds: list[ActionChunk] = []
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.events())
        self._change = self.create_client(ChangeState, "navigator/change_state")

    def _on_queue(self, msg: JointTrajectory) -> None:
        self.holds.append(convert.chunk_from_trajectory(msg))

    def heard(self) -> object:
        return self.holds[-3:]

    def tell(self, way: str, text: str) -> None:
        self.voices[way].publish(String(data=text))

    @property
    def number(self) -> int:
        """Of the newest instruction that the navigator has answered."""
        return max((c.instruction for c in self.holds), default=0)

    def heard_by(self, listeners: int) -> None:
        """Every voice reaches as many subscriptions as it can."""
        # A latched reliable voice is heard by all three kinds, a volatile reliable one by two, best effort by
        # one.
        self.wait(
            lambda: all(v.get_subscription_count() >= listeners for v in self.voices.values()),
            "nobody listens",
        )

    def change(self, transition: int) -> None:
        assert self.call(self._change, ChangeState.Request(transition=Transition(id=transition)))


@contextmanager
def person(folder: Path, namespace: str = "") -> Iterator[Person]:
    context = Context()
    context.init()
    with Graph(folder / "logs", graph_environment()) as graph:
        it = Person(context, graph, namespace)
        with gone_afterwards(context, it):
            yield it


def navigator(autostart: bool = True, namespace: str = "") -> NodeSpec:
    parameters: dict[str, Scalar] = {
        "engine": "paced", "extrinsics": "parameters", "autostart": autostart,
    }  # fmt: skip
    return NodeSpec("navigator", parameters, namespace=namespace)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    # In a namespace of its own: the other tests have navigators, too.
    with person(tmp_path_factory.mktemp("told"), "/told") as it:
        it.graph.start(navigator(namespace="/told"))
        it.heard_by(1)
        # A listener that is known may not know the speaker yet.
        for way in WAYS:
            before = it.number
            while it.number == before:
                it.tell(way, "do you hear me?")
                it.listen(0.3)
        it.listen(QUIET_S)
        yield it


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_navigator_hears_every_publisher_and_each_message_once(told: Person, way: str) -> None:
    before = told.number
    told.tell(way, "go to the fridge")
    told.wait(lambda: told.number > before, f"{way} is not heard")
    told.listen(QUIET_S)
    assert told.number == before + 1
    told.tell(way, "go to the fridge")  # a person says the same again: a new run
    told.wait(lambda: told.number > before + 1, f"{way} is not heard again")
    told.listen(QUIET_S)
    assert told.number == before + 2


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(WAYS, 2)))
def test_one_after_the_other_each_ends_the_one_before(told: Person, first: str, second: str) -> None:
    before = told.number
    told.tell(first, "go to the sofa")
    told.wait(lambda: told.number == before + 1, f"{first} is not heard")
    told.tell(second, "stop here, turn round")
    told.wait(lambda: told.number == before + 2, f"{second} is not heard")
    told.listen(0.3)
    assert told.number == before + 2


@pytest.mark.ros
@pytest.mark.slow
def test_who_comes_late_follows_the_latched_one_and_not_what_was_taken_back(tmp_path: Path) -> None:
    with person(tmp_path) as it:
        it.tell(LATCHED, "go to the sofa")
        it.graph.start(navigator(autostart=False))
        it.change(Transition.TRANSITION_CONFIGURE)
        it.change(Transition.TRANSITION_ACTIVATE)
        it.wait(lambda: it.number == 1, "the latched instruction is not heard on activation")
        it.change(Transition.TRANSITION_DEACTIVATE)
        it.change(Transition.TRANSITION_ACTIVATE)
        it.wait(lambda: it.number == 2, "it is not followed anew")
        while it.number == 2:
            it.tell("RELIABLE VOLATILE", "stop here")
            it.listen(0.3)
        it.listen(QUIET_S)
        told = it.number
        it.change(Transition.TRANSITION_DEACTIVATE)
        it.change(Transition.TRANSITION_ACTIVATE)
        it.listen(2.0 * QUIET_S)
        assert it.number == told  # it does not go to the sofa again


@pytest.mark.ros
@pytest.mark.slow
def test_the_recorder_writes_each_once_and_the_inspector_begins_a_trail_with_each(tmp_path: Path) -> None:
    with person(tmp_path) as it:
        trails: list[PathMsg] = []
        it.create_subscription(PathMsg, "inspector/trail", trails.append, qos.diagnostics())
        odometry = it.create_publisher(Odometry, "odom", qos.sensor("reliable", 10))
        it.graph.start(NodeSpec("recorder", {"folder": str(tmp_path / "bags")}))
        it.graph.start(NodeSpec("inspector", {}))
        it.heard_by(2)
        it.wait(lambda: odometry.get_subscription_count() == 2, "no trail is made")
        x_m = 0.0

        def drive() -> None:
            nonlocal x_m
            x_m += 0.5
            odometry.publish(
                convert.odometry_from_pose(Pose.planar(x_m, 0.0, 0.0), 1, "odom", "base_link", 0.0, 0.0)
            )
            it.listen(0.1)

        for way in WAYS:
            while not trails or len(trails[-1].poses) < 3:
                drive()
            it.tell(way, f"by {way}")
            driven_m = x_m
            while not trails or trails[-1].poses[0].pose.position.x < driven_m:
                drive()
        it.listen(QUIET_S)
    (bag,) = (tmp_path / "bags").iterdir()
    with AnyReader([bag]) as reader:
        read: Callable[[bytes, str], Any] = reader.deserialize
        texts = [
            read(data, c.msgtype).data
            for c, _, data in reader.messages([c for c in reader.connections if c.topic == "/instruction"])
        ]
    assert texts == [f"by {way}" for way in WAYS]
