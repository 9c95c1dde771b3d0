"""The bridge's services and topics, over real topics, in both worlds."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from geometry_msgs.msg import TransformStamped, Twist, TwistStamped
from habitat_fakes import fake_python
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from robots import WaitingNode
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vln_ros.axes import base_from_optical
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import BridgeConfig, Scalar
from vln_ros.datatypes import Action, ActionChunk, ActionKind, Pose, Velocity
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.nodes.sim_bridge.episodes import EpisodeOrder
from vln_ros.nodes.sim_bridge.manual import STEP_SERVICES
from vln_ros.nodes.sim_bridge.realtime import RealTime
from vln_ros.ros import convert, qos
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.splits import make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
LIVE = ("distance_to_goal_m", "path_length_m", "steps", "collisions")
FINAL = ("success", "oracle_success", "spl", "navigation_error_m", "ndtw", "sdtw", "success_rate")
WORLDS = ("embedded", "habitat")


class Person(WaitingNode):
    """Calls services, and notes what is published."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "person", deadline_s=DEADLINE_S)
        self.triggers = {
            name: self.create_client(Trigger, f"sim_bridge/{name}") for name in ("reset", *STEP_SERVICES)
        }
        self.parameters = self.create_client(SetParameters, "sim_bridge/set_parameters")
        self.measures: dict[str, float] = {}
        self.poses: dict[int, Pose] = {}
        self.episodes: list[str] = []
        self.instructions: list[str] = []
        for name in LIVE + FINAL:
            profile = qos.diagnostics() if name in LIVE else qos.latched()

            def note(msg: Float64, name: str = name) -> None:
                self.measures[name] = msg.data

            self.create_subscription(Float64, f"sim_bridge/measures/{name}", note, profile)
        self.create_subscription(String, "sim_bridge/episode", self._on_episode, qos.latched())
        self.create_subscription(String, "instruction", self._on_instruction, qos.latched())
        self.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("reliable", 100))

    def _on_episode(self, msg: String) -> None:
        self.episodes.append(msg.data)

    def _on_instruction(self, msg: String) -> None:
        self.instructions.append(msg.data)

    def _on_odometry(self, msg: Odometry) -> None:
        self.poses[convert.stamp_ns_from_time(msg.header.stamp)] = convert.pose_from_odometry(msg)

    def heard(self) -> object:
        return self.measures, self.episodes

    def trigger(self, name: str) -> tuple[bool, str]:
        response = self.response(self.triggers[name], Trigger.Request())
        return response.success, response.message

    def load(self, episode_id: str) -> tuple[bool, str]:
        request = SetParameters.Request(
            parameters=[Parameter("episode", value=episode_id).to_parameter_msg()]
        )
        (result,) = self.response(self.parameters, request).results
        return result.successful, result.reason


@pytest.fixture(scope="module")
def made() -> tuple[Episode, ...]:
    """Three of a flat's episodes, the shortest first."""
    every = make_scene_episodes("val_unseen", 900_003, "small")
    return tuple(sorted(every, key=lambda e: e.geodesic_distance_m)[:3])


@contextmanager
def bridge(folder: Path, made: tuple[Episode, ...], world: str, **given: Scalar) -> Iterator[Person]:
    options: dict[str, Scalar] = {
        "episodes": str(write_episodes(folder, "val_unseen", made)),
        "run_folder": str(folder / "run"),
        "world": world,
        "video": False,
        "camera.width": 64,
        "camera.height": 48,
        **given,
    }
    if world == "habitat":
        write_scene(folder / "scenes", Scene(made[0].scene_id, AGENT_RADIUS_M))
        options |= {
            "habitat.python": fake_python(folder),
            "habitat.scenes": str(folder / "scenes"),
            "habitat.radius_m": AGENT_RADIUS_M,
        }
    context = Context()
    context.init()
    person = Person(context)
    try:
        with Graph(folder / "logs", graph_environment()) as graph:
            graph.start(NodeSpec("sim_bridge", options))
            if options.get("mode") != "manual":
                navigator: dict[str, Scalar] = {
                    "engine": "expert",
                    "expert.episodes": options["episodes"],
                    "expert.decision_ms": 50.0,  # so that there is something to interrupt
                    "reliability": "reliable",
                    "extrinsics": "parameters",
                }
                # without it nothing begins before somebody can interrupt it
                person.wait(person.parameters.service_is_ready, "the bridge did not come up")
                person.wait(lambda: person.count_publishers("odom") > 0, "the bridge has no topics")
                graph.start(NodeSpec("navigator", navigator))
            yield person
            if options.get("mode") != "manual":
                assert graph.wait("sim_bridge") == 0
    finally:
        person.spinner.shutdown()
        person.destroy_node()
        context.shutdown()


def results(folder: Path) -> dict[str, dict[str, float]]:
    """Measures by episode; each is there once."""
    rows = [json.loads(line) for line in (folder / "run/episodes.jsonl").read_text("utf-8").splitlines()]
    by_id = {row["episode_id"]: row["metrics"] for row in rows}
    assert len(by_id) == len(rows)
    return by_id


@pytest.mark.parametrize("world", WORLDS)
def test_somebody_elses_program_runs_episodes_step_by_step(
    tmp_path: Path, made: tuple[Episode, ...], world: str
) -> None:
    first, second, third = made
    with bridge(tmp_path, made, world, mode="manual", episode=second.episode_id) as person:
        person.wait(lambda: person.episodes == [second.episode_id], "no episode began")
        ok, why = person.load("no such thing")
        assert not ok
        assert "'no such thing': none of the 3 episodes" in why
        assert person.load(first.episode_id) == (True, "")
        person.wait(lambda: person.episodes[-1] == first.episode_id, "the asked one did not begin")
        person.wait(lambda: person.instructions[-1:] == [first.instruction], "no instruction")
        person.wait(lambda: "distance_to_goal_m" in person.measures, "no distance at the start")
        start_m = person.measures["distance_to_goal_m"]
        assert start_m == pytest.approx(first.geodesic_distance_m, rel=0.02)

        ok, said = person.trigger("turn_left")
        assert (ok, said) == (True, "step 1, 0.00 m travelled, 0 collisions")
        person.wait(lambda: person.measures.get("steps") == 1, "the step was not counted")

        def turned_deg() -> float:
            """Since the start, by the newest odometry."""
            yaw_rad = person.poses[max(person.poses)].yaw_rad
            return math.degrees(math.remainder(yaw_rad - first.start.yaw_rad, 2 * math.pi))

        person.wait(lambda: abs(turned_deg() - 15.0) < 0.01, "the turn was not published")
        ok, said = person.trigger("reset")
        assert ok
        assert first.episode_id in said
        person.wait(lambda: person.measures["steps"] == 0, "it did not begin anew")
        person.wait(lambda: abs(turned_deg()) < 0.01, "the robot is not back at its start")

        names = {kind: name for name, kind in STEP_SERVICES.items()}
        assert first.actions is not None
        for kind in first.actions:
            ok, said = person.trigger(names[kind])
            assert ok, said
        assert kind == ActionKind.STOP
        assert said.endswith("the episode has ended: stop")
        person.wait(lambda: set(FINAL) <= set(person.measures), "final measures are missing")
        steps = len(first.actions)
        person.wait(lambda: person.measures["steps"] == steps, "the last step is missing")
        assert person.measures["success"] == person.measures["success_rate"] == 1.0
        assert person.measures["spl"] > 0.8
        assert person.measures["navigation_error_m"] == pytest.approx(
            person.measures["distance_to_goal_m"], abs=1e-6
        )
        assert len(person.poses) > 1

        assert person.trigger("move_forward")[0] is False
        ok, why = person.load(first.episode_id)
        assert not ok
        assert "has its result" in why
        assert person.trigger("reset")[0]
        person.wait(lambda: person.episodes[-1] == second.episode_id, "the next one did not begin")
        assert "ended: stop" in person.trigger("stop")[1]
        assert person.trigger("reset")[0]
        person.wait(lambda: person.episodes[-1] == third.episode_id, "the last one did not begin")
        assert person.trigger("stop")[0]
        ok, why = person.trigger("reset")
        assert not ok
        assert "no episode is left" in why
    done = results(tmp_path)
    assert [m["success"] for m in done.values()] == [True, False, False]
    assert list(done) == [e.episode_id for e in made]
    assert done[first.episode_id]["steps"] == len(first.actions)
    assert json.loads((tmp_path / "run/result.json").read_text("utf-8"))["complete"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_reset_amid_a_run_changes_no_number(tmp_path: Path, made: tuple[Episode, ...], world: str) -> None:
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    with bridge(undisturbed, made, world):
        pass
    with bridge(disturbed, made, world) as person:
        person.wait(lambda: person.measures.get("steps", 0) >= 2, "it does not move")
        at = person.measures["steps"]
        assert person.trigger("reset")[0]
        person.wait(lambda: person.measures["steps"] < at, "it did not begin anew")
        person.wait(lambda: person.measures["steps"] >= 2, "it does not move")
        assert person.load(made[2].episode_id)[0]
        person.wait(lambda: made[2].episode_id in person.episodes, "the asked one did not begin")
    measured = results(disturbed)
    assert measured == results(undisturbed)
    assert next(iter(measured)) == made[2].episode_id  # the one that was asked for came first


def test_a_queue_for_the_frame_that_is_shown_goes_on_whoever_spoke_before(
    tmp_path: Path, made: tuple[Episode, ...]
) -> None:
    """Two navigators hold in any order, and then one of them answers what both have seen long since."""
    episodes = write_episodes(tmp_path, "val_unseen", made[:1])
    options: dict[str, Scalar] = {"episodes": str(episodes), "camera.width": 64, "camera.height": 48}
    context = Context()
    context.init()
    person = Person(context)
    queues = person.create_publisher(JointTrajectory, "action_queue", qos.events())
    processed = person.create_publisher(Header, "frame_processed", qos.events())
    for image, topic in ((Image, COLOR_TOPIC), (Image, DEPTH_TOPIC), (CameraInfo, INFO_TOPIC)):
        person.create_subscription(image, topic, lambda _: None, qos.sensor("best_effort", 1))

    def say(navigator: str, number: int, *actions: Action) -> None:
        chunk = ActionChunk(number, 1, max(person.poses, default=0), actions, epoch=ord(navigator))
        queues.publish(convert.trajectory_from_chunk(chunk, "base_link", 0.5, 1.0))

    try:
        with Graph(tmp_path / "logs", graph_environment()) as graph:
            graph.start(NodeSpec("sim_bridge", options))

            def begun() -> bool:
                say("A", 1)
                return bool(person.poses)

            person.wait(begun, "no episode begins")
            number = 1
            for holds in ("", "A", "B", "AB", "BA", "ABA", "BAB", "BB", "BBA"):
                for answers in "AB":
                    shown = max(person.poses)
                    stamp = convert.time_from_stamp_ns(shown)
                    processed.publish(Header(stamp=stamp, frame_id="base_link"))
                    for navigator in holds:
                        number += 1
                        say(navigator, number)
                    number += 1
                    say(answers, number, Action(turn_rad=math.radians(15.0)))
                    person.wait(
                        partial(lambda before: max(person.poses) > before, shown),
                        f"after the holds {holds!r}, the answer of {answers} is not executed",
                    )
    finally:
        person.spinner.shutdown()
        person.destroy_node()
        context.shutdown()


def test_the_order_of_episodes(made: tuple[Episode, ...]) -> None:
    a, b, c = made
    done: set[str] = {a.episode_id}
    order = EpisodeOrder(made, done.__contains__)
    assert len(order) == 2
    order.put_first(order.find(c.episode_id))
    assert [order.next(), order.next(), order.next()] == [c, b, None]
    order.put_first(b)
    order.put_first(b)
    assert len(order) == 1
    with pytest.raises(ValueError, match="has its result"):
        order.find(a.episode_id)


@pytest.mark.parametrize(
    ("called_at_s", "passed"),
    [
        ([0.0, 0.02, 0.04, 0.06], [1, 1, 1, 1]),
        ([0.0, 0.019, 0.041, 0.059], [1, 1, 1, 1]),  # a timer that trembles
        ([0.0, 0.049, 0.06, 0.08], [1, 2, 1, 1]),  # a picture took longer than a period
        ([0.0, 0.069, 0.12, 0.14], [1, 3, 3, 1]),
        ([0.0, 5.0, 5.02, 5.04], [1, 1, 1, 1]),  # the machine stood still: simulated time did, too
    ],
)
def test_periods_that_a_picture_took_are_made_up_for(
    monkeypatch: pytest.MonkeyPatch, called_at_s: list[float], passed: list[int]
) -> None:
    class Counting(RealTime):
        count = 0

        def _pass(self, run: Any) -> None:
            self._run = run
            self.count += 1

    now_s = 100.0
    monkeypatch.setattr("vln_ros.nodes.sim_bridge.realtime.time", SimpleNamespace(monotonic=lambda: now_s))
    node = SimpleNamespace(create_subscription=lambda *_: None)
    host: Any = SimpleNamespace(config=BridgeConfig(), node=node)
    run: Any = SimpleNamespace(ended=None)
    mode, counts = Counting(host), []
    for at_s in called_at_s:
        now_s, before = 100.0 + at_s, mode.count
        mode.tick(run)
        counts.append(mode.count - before)
    assert counts == passed


@pytest.mark.parametrize("stamped", [False, True], ids=["Twist", "TwistStamped"])
def test_in_real_time_the_base_takes_what_the_parameter_says_and_publishes_its_frames(
    tmp_path: Path, made: tuple[Episode, ...], stamped: bool
) -> None:
    """The frames only where TF's messages are there; where they are not it says so."""
    options: dict[str, Scalar] = {
        "episodes": str(write_episodes(tmp_path, "val_unseen", made)),
        "mode": "realtime",
        "camera.width": 64,
        "camera.height": 48,
        "camera.height_m": 0.9,
        "camera.pitch_down_deg": 20.0,
        "stamped_cmd_vel": stamped,
    }
    context = Context()
    context.init()
    person = Person(context)
    queues = person.create_publisher(JointTrajectory, "action_queue", qos.commands())
    velocities = person.create_publisher(TwistStamped if stamped else Twist, "cmd_vel", qos.commands())
    velocity, hold = Velocity(angular_rad_s=0.5), ActionChunk(1, 1, 0, (), epoch=1)
    for image, topic in ((Image, COLOR_TOPIC), (Image, DEPTH_TOPIC), (CameraInfo, INFO_TOPIC)):
        person.create_subscription(image, topic, lambda _: None, qos.sensor("best_effort", 1))
    tf = importlib.util.find_spec("tf2_msgs") is not None
    moved: dict[str, TransformStamped] = {}
    if tf:
        from tf2_msgs.msg import TFMessage

        def note(msg: TFMessage) -> None:
            moved.update({t.child_frame_id: t for t in msg.transforms})

        person.create_subscription(TFMessage, "/tf", note, qos.frames())
        person.create_subscription(TFMessage, "/tf_static", note, qos.static_frames())

    def turns() -> bool:
        queues.publish(convert.trajectory_from_chunk(hold, "base_link", 0.5, 1.0))  # the episode may begin
        if stamped:
            velocities.publish(convert.stamped_from_velocity(velocity, 1, "base_link"))
        else:
            velocities.publish(convert.twist_from_velocity(velocity))
        poses = [person.poses[stamp] for stamp in sorted(person.poses)]
        return len(poses) > 1 and abs(poses[-1].yaw_rad - poses[0].yaw_rad) > 0.3

    try:
        with Graph(tmp_path / "logs", graph_environment()) as graph:
            graph.start(NodeSpec("sim_bridge", options))
            person.wait(turns, "it does not turn")
            assert graph.log_path("sim_bridge").read_text("utf-8").count("tf2_msgs") == (0 if tf else 1)
            if tf:
                person.wait(lambda: len(moved) == 2, "no frames")
                mounted = moved["camera_color_optical_frame"]
                assert mounted.header.frame_id == "base_link"
                extrinsics = base_from_optical(0.0, 0.0, 0.9, pitch_down_rad=math.radians(20.0))
                assert np.allclose(
                    convert.pose_from_transform(mounted.transform).matrix, extrinsics.matrix, atol=1e-9
                )
                assert moved["base_link"].header.frame_id == "odom"
                stamp_ns = convert.stamp_ns_from_time(moved["base_link"].header.stamp)
                person.wait(lambda: stamp_ns in person.poses, "frame and odometry have different stamps")
                assert np.allclose(
                    convert.pose_from_transform(moved["base_link"].transform).matrix,
                    person.poses[stamp_ns].matrix,
                    atol=1e-9,
                )
    finally:
        person.spinner.shutdown()
        person.destroy_node()
        context.shutdown()
