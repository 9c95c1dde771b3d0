"""What the page is told of the topics, whatever comes on them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Odometry, Path
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_endings import lone_node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import WebConfig
from vln_ros.datatypes import STOP, Action, ActionChunk, PixelGoal, PlaceGoal, PlaceSource, Pose
from vln_ros.nodes.web import inputs as inputs_module
from vln_ros.nodes.web.inputs import FeedInputs
from vln_ros.nodes.web.questions import QuestionTopics, answer_line
from vln_ros.nodes.web.reports import DiagnosticReports
from vln_ros.questions import Question, QuestionAnswer, QuestionRefusal, Spoken
from vln_ros.ros import convert, qos
from vln_ros.ros.questions import QUESTION_TOPIC, question_from_string, string_from_answer
from vln_ros.web.feed import Feed

pytestmark = pytest.mark.ros

CHUNK = ActionChunk(3, 1, 10**9, (Action(forward_m=0.25), Action(turn_rad=0.26), STOP))


class Page:
    """A node with the inputs, and who publishes to it, in one thread."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor) -> None:
        self.node, self._executor = node, executor
        self.feed = Feed()
        self.goals: list[int] = []
        self.inputs = FeedInputs(node, WebConfig(pose_hz=50.0), self.feed, self.goals.append)

    def publish(self, topic: str, msg: Any, reliable: bool = True) -> None:
        """Until it was heard."""
        publisher = self.node.create_publisher(type(msg), topic, qos.events())
        while not publisher.get_subscription_count():
            self._executor.spin_once(0.01)
        publisher.publish(msg)
        for _ in range(30):
            self._executor.spin_once(0.01)
        self.node.destroy_publisher(publisher)

    def spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._executor.spin_once(left_s)

    def wait(self, holds: Callable[[], bool | None]) -> None:
        end_s = time.monotonic() + 30.0
        while not holds():
            assert time.monotonic() < end_s
            self._executor.spin_once(0.01)

    def shown(self, kind: str) -> dict[str, Any]:
        return next(
            (
                json.loads(e.payload)
                for e in self.feed.newer({})
                if e.subject == kind and isinstance(e.payload, str)
            ),
            {},
        )

    def notes(self) -> list[tuple[str, str]]:
        notes = [json.loads(text) for _, text in self.feed.notes_after(0)]
        return [(n["what"], n["text"]) for n in notes]


@pytest.fixture
def page() -> Iterator[Page]:
    with lone_node("page") as (node, executor):
        yield Page(node, executor)


def queue(chunk: ActionChunk) -> JointTrajectory:
    return convert.trajectory_from_chunk(chunk, "base_link", 1.0, 1.0)


def test_a_queue_shrinks_as_it_is_executed(page: Page) -> None:
    page.publish("action_queue", queue(CHUNK))
    assert page.shown("queue") == {
        "kind": "queue",
        "actions": ["forward 25 cm", "left 15 deg", "stop"],
        "left": 3,
    }
    left = ActionChunk(3, 1, 10**9, CHUNK.actions[1:])
    page.publish("queue_progress", convert.trajectory_from_report(left, (), "base_link", 1.0, 1.0))
    assert page.shown("queue")["left"] == 2
    older = ActionChunk(2, 1, 10**9, ())
    page.publish("queue_progress", convert.trajectory_from_report(older, (), "base_link", 1.0, 1.0))
    assert page.shown("queue")["left"] == 2, "of another queue"


def test_the_point_that_a_model_names_is_shown_until_the_next_answer(page: Page) -> None:
    pixel, place = PixelGoal(100, 200, 10**9), PlaceGoal(1.0, 2.0, 10**9, PlaceSource.DEPTH)
    page.publish("action_queue", queue(replace(CHUNK, pixel_goal=pixel, place=place)))
    assert page.shown("goal") == {"kind": "goal", "row": 100, "column": 200, "stamp_ns": "1000000000"}
    assert page.shown("goal_place")["point"] == [1.0, 2.0] and page.goals == [10**9]
    page.publish("action_queue", queue(replace(CHUNK, queue=4, place=place)))
    assert page.shown("goal")["row"] == 100, "nobody was asked: it drives on to the same place"
    assert page.shown("goal_place")["point"] == [1.0, 2.0] and page.goals == [10**9]
    page.publish("action_queue", queue(replace(CHUNK, queue=5)))
    assert page.shown("goal")["row"] is None and page.shown("goal_place")["point"] is None
    page.publish("action_queue", queue(replace(CHUNK, queue=6, pixel_goal=pixel, place=place)))
    page.publish("instruction", String(data="Go back."))
    assert page.shown("goal")["row"] is None and page.shown("goal_place")["point"] is None


def test_an_instruction_begins_trail_path_and_queue_anew(page: Page) -> None:
    page.publish("action_queue", queue(CHUNK))
    page.publish("predicted_path", convert.path_from_chunk(CHUNK, Pose.planar(0.0, 0.0, 0.0), "odom"))
    assert len(page.shown("path_ahead")["points"]) == 4
    page.publish("instruction", String(data="  Go to the door. "))
    assert page.shown("task") == {"kind": "task", "text": "Go to the door."}
    assert page.shown("path_ahead")["points"] == page.shown("trail")["points"] == []
    assert page.shown("queue")["left"] == 0
    assert page.notes() == [("instruction", "Go to the door.")]


def test_what_a_silent_executor_has_said_last_holds_no_more(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = page.node.create_publisher(Header, "cmd_vel/heartbeat", qos.commands())
    state = page.node.create_publisher(String, "executor_state", qos.latched())
    state.publish(String(data="moving: forward 25 cm"))
    page.wait(lambda: page.inputs.state is not None and alive.get_subscription_count() > 0)
    monkeypatch.setattr(inputs_module, "EXECUTOR_TIMEOUT_S", -1.0)
    page.inputs.tick()
    assert page.shown("state")["level"] == "moving", "its life signs may have another name"
    for name in ("first", "second"):
        monkeypatch.setattr(inputs_module, "EXECUTOR_TIMEOUT_S", math.inf)
        alive.publish(Header(frame_id=name))
        page.wait(lambda name=name: page.inputs.executor == name)  # type: ignore[misc]
        page.inputs.tick()
        assert page.shown("state")["level"] == "moving"
        monkeypatch.setattr(inputs_module, "EXECUTOR_TIMEOUT_S", -1.0)
        page.inputs.tick()
        assert page.shown("state")["headline"] == "The executor is silent"


def test_reports_and_gauges_of_a_silent_node_hold_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed()
    reports = DiagnosticReports("/", feed)
    values = [KeyValue(key="frame rate [Hz]", value="10.0")]
    said = DiagnosticStatus(name="vln_ros: navigator", message="following", hardware_id="/", values=values)

    def shown() -> tuple[list[Any], list[Any]]:
        told = {e.subject: json.loads(e.payload) for e in feed.newer({})}
        return told["reports"]["reports"], told["gauges"]["gauges"]

    reports.hear(DiagnosticArray(status=[said]))
    reports.tick(time.monotonic() + 1.0)
    assert shown()[0][0]["summary"] == "following" and shown()[1]
    reports.tick(time.monotonic() + 20.0)
    (silent,), gauges = shown()
    assert silent["level"] == "stale" and "said nothing" in silent["summary"]
    assert not silent["rows"] and not gauges
    reports.hear(DiagnosticArray(status=[said]))
    assert shown()[0][0]["summary"] == "following" and shown()[1]


def test_where_the_robot_is_and_was(page: Page) -> None:
    for x_m in (0.0, 1.0):
        odometry = convert.odometry_from_pose(
            Pose.planar(x_m, 0.5, 1.0), 10**9, "odom", "base_link", 0.0, 0.0
        )
        page.publish("odom", odometry)
    assert page.shown("place") == {"kind": "place", "x_m": 1.0, "y_m": 0.5, "yaw_rad": 1.0}
    assert page.shown("trail")["points"][0] == [0.0, 0.5]


def test_obstacles_are_seen_from_above(page: Page) -> None:
    points = np.array([[1.0, 2.0, 0.1], [1.01, 2.0, 0.9], [-1.0, 0.0, 0.3]])
    page.publish("obstacles", convert.cloud_from_points(points, 10**9, "odom"))
    assert page.shown("obstacles")["points"] == [[-1.0, 0.0], [1.0, 2.0]]


def test_what_cannot_be_used_is_counted_and_the_rest_goes_on(page: Page) -> None:
    bad = Odometry()
    bad.pose.pose.position.x = math.nan
    page.publish("odom", bad)
    page.publish("action_queue", JointTrajectory(joint_names=["forward"]))
    page.publish(
        "predicted_path", Path(poses=[convert.stamped_from_pose(Pose.planar(0.0, 0.0, 0.0), 0, "odom")])
    )
    page.publish("obstacles", PointCloud2(width=5, point_step=12))
    page.publish("instruction", String(data=" "))
    assert page.inputs.refused["bad_joints"] == page.inputs.refused["bad_cloud"] == 1
    assert page.inputs.refused["empty_instruction"] == 1
    assert sum(page.inputs.refused.values()) == 4
    assert page.shown("place") == {}
    page.publish("action_queue", queue(CHUNK))
    assert page.shown("queue")["left"] == 3


def test_odometry_is_taken_no_more_often_than_it_is_shown(page: Page) -> None:
    """A robot's odometry comes ten times as often."""
    odometry = convert.odometry_from_pose(Pose.planar(0.0, 0.0, 0.0), 10**9, "odom", "base_link", 0.0, 0.0)
    publisher = page.node.create_publisher(Odometry, "odom", qos.sensor("reliable", 5))
    page.wait(lambda: publisher.get_subscription_count() > 0)
    shown: list[float] = []
    begun_s = time.monotonic()
    for k in range(200):
        odometry.pose.pose.position.x = float(k)
        publisher.publish(odometry)
        page.spin(0.005)
        if (x_m := page.shown("place").get("x_m")) is not None and x_m not in shown:
            shown.append(x_m)
    assert 2 < len(shown) <= (time.monotonic() - begun_s) * 50.0 + 1, "pose_hz = 50"
    assert shown == sorted(shown) and shown[-1] > 150.0, "the newest, not the oldest"


def test_a_navigator_that_is_starting_is_told_from_one_that_is_not_there(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.inputs.tick()
    assert "No navigator is running" in page.shown("navigator")["text"]
    other = rclpy.create_node("navigator", context=page.node.context)
    page.wait(lambda: ("navigator", "/") in page.node.get_node_names_and_namespaces())

    def says(text: str) -> bool:
        page.inputs.tick()
        return text in page.shown("navigator")["text"]

    page.wait(lambda: says("loads its model, for 0 s"))
    page.wait(lambda: says("for 1 s so far"))
    heartbeat = other.create_publisher(Header, "navigator_heartbeat", qos.sensor("reliable", 1))
    page.wait(lambda: heartbeat.get_subscription_count() > 0)
    heartbeat.publish(Header())
    page.wait(lambda: page.inputs.is_navigator_there)
    page.inputs.tick()
    assert page.shown("navigator")["text"] == ""
    monkeypatch.setattr(inputs_module, "NAVIGATOR_TIMEOUT_S", -1.0)
    page.wait(lambda: says("it has ended, or is not active"))  # and loads nothing
    other.destroy_node()


def test_obstacles_are_asked_for_only_while_somebody_looks(page: Page) -> None:
    publisher = page.node.create_publisher(PointCloud2, "obstacles", qos.diagnostics())
    for wanted in (True, False, False, True, True):
        page.inputs.watch(wanted)
        page.wait(lambda w=wanted: publisher.get_subscription_count() == int(w))  # type: ignore[misc]
    page.node.destroy_publisher(publisher)


def test_what_a_world_says_of_a_sentence_is_in_the_log(page: Page) -> None:
    page.publish("sim_bridge/live", String(data="The goal is the red lamp in the office, 2.0 m on foot"))
    assert page.notes() == [("world", "The goal is the red lamp in the office, 2.0 m on foot")]


def test_failures_and_what_the_model_held_back_are_in_the_log(page: Page) -> None:
    page.publish("decision_held", String(data="the model wanted to open the door"))
    page.publish("engine_failure", String(data="RuntimeError: no"))
    assert page.notes() == [("held", "the model wanted to open the door"), ("failure", "RuntimeError: no")]


def diagnostics(name: str, robot: str, *values: tuple[str, str], level: int = 0) -> DiagnosticArray:
    items = [KeyValue(key=k, value=v) for k, v in values]
    return DiagnosticArray(
        status=[
            DiagnosticStatus(name=name, hardware_id=robot, level=bytes([level]), message="fine", values=items)
        ]
    )


def test_gauges_are_of_this_robots_navigator() -> None:
    feed = Feed()
    reports = DiagnosticReports("/left", feed)
    reports.hear(diagnostics("vln_ros: navigator", "/right", ("decide p50 [ms]", "1")))
    reports.hear(diagnostics("somebody: navigator", "/left", ("decide p50 [ms]", "2")))
    assert [e.subject for e in feed.newer({})] == ["reports"]
    reports.hear(
        diagnostics("vln_ros: navigator", "/left", ("decide p50 [ms]", "12.34"), ("x", "1"), level=7)
    )
    (gauges,) = (json.loads(e.payload) for e in feed.newer({}) if e.subject == "gauges")
    assert gauges["gauges"] == [{"name": "decision", "value": "12", "unit": "ms"}]
    (shown,) = (json.loads(e.payload) for e in feed.newer({}) if e.subject == "reports")
    assert shown["reports"][0]["level"] == "stale"
    assert shown["reports"][0]["rows"] == [["decide p50 [ms]", "12.34"], ["x", "1"]]
    reports.hear(diagnostics("vln_ros: navigator", "", ("decide p50 [ms]", "much")))
    (gauges,) = (json.loads(e.payload) for e in feed.newer({}) if e.subject == "gauges")
    assert gauges["gauges"][0]["value"] == "much"


def test_answers_as_lines_of_the_log() -> None:
    question = Question("web-1", "where?", ("here", "there"))
    spoken = Spoken("here", (0.75, 0.25))
    line = answer_line(QuestionAnswer(question_id="web-1", question=question, spoken=spoken))
    assert line == ("answer", "where? – here (here 75%, there 25%)")
    cut = answer_line(
        QuestionAnswer(question_id="a", question=Question("a", "why?"), spoken=Spoken("so", cut=True))
    )
    assert cut == ("answer", "why? – so …")
    refused = QuestionAnswer(question_id="a", question=None, refusal=QuestionRefusal.BUSY, message="later")
    assert answer_line(refused) == ("unanswered", "later")


def test_a_question_ends_with_its_navigator(page: Page) -> None:
    """Else who has asked would wait for ever."""
    heard: list[Question] = []
    page.node.create_subscription(
        String, QUESTION_TOPIC, lambda m: heard.append(question_from_string(m, str)), qos.events()
    )
    questions = QuestionTopics(page.node, page.feed, page.inputs.refuse)
    questions.tick(is_navigator_there=False)

    def is_asked(words: str) -> bool:
        questions.ask(words, "somebody")
        return page.notes()[-1][0] == "question"

    for words in ("Where?", "Why?"):
        page.wait(lambda words=words: is_asked(words))  # type: ignore[misc]
        page.wait(lambda words=words: [q.text for q in heard][-1:] == [words])  # type: ignore[misc]
    answer = QuestionAnswer(question_id=heard[0].question_id, question=heard[0], spoken=Spoken("There."))
    page.publish("answer", string_from_answer(answer))
    questions.tick(is_navigator_there=True)
    before = len(page.notes())
    questions.tick(is_navigator_there=False)
    questions.tick(is_navigator_there=False)
    assert page.notes()[before:] == [("unanswered", "Why? \u2013 the navigator is silent: ask again")]
