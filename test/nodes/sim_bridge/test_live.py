"""Mode live: a world that goes on by itself, in which a person's sentences are understood and judged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from robots import WaitingNode
from ros_endings import gone_afterwards
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Action, ActionChunk, Pose, Velocity
from vln_ros.evaluation.runs.lines import read_episodes
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.episodes.sentences import Named, nearest
from vln_ros.sim.splits import begin_episode

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0
SCENE = Scene(scene_id(900_000, "room"), AGENT_RADIUS_M)
START = begin_episode("val_unseen", 0, SCENE)
LAMP = nearest(SCENE, Named("lamp"), START.start.position)
FORWARD = Action(forward_m=0.25)


class Others(WaitingNode):
    """Navigator, executor and person in one: hears the robot, moves it, says that it has stopped."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "others", deadline_s=DEADLINE_S)
        sensor = qos.sensor("reliable", 50)
        self.told = self.create_publisher(String, "instruction", qos.events())
        self.queue = self.create_publisher(JointTrajectory, "action_queue", qos.events())
        self.stopped = self.create_publisher(Header, "stopped", qos.commands())
        self.velocity = self.create_publisher(Twist, "cmd_vel", qos.commands())
        self.reset = self.create_client(Trigger, "sim_bridge/reset")
        self.parameters = self.create_client(SetParameters, "sim_bridge/set_parameters")
        self.news: list[str] = []
        self.instructions: list[str] = []
        self.poses: list[tuple[int, Pose]] = []
        self.images = 0
        self.success: float | None = None
        self._numbers = 0
        self.create_subscription(String, "sim_bridge/live", self._on_news, qos.events())
        self.create_subscription(String, "instruction", self._on_instruction, qos.latched())
        self.create_subscription(Odometry, "odom", self._on_odometry, sensor)
        self.create_subscription(Image, COLOR_TOPIC, self._on_image, sensor)
        self.create_subscription(Image, DEPTH_TOPIC, lambda _: None, sensor)
        self.create_subscription(CameraInfo, INFO_TOPIC, lambda _: None, sensor)
        self.create_subscription(Float64, "sim_bridge/measures/success", self._on_success, qos.latched())

    def _on_news(self, msg: String) -> None:
        self.news.append(msg.data)

    def _on_instruction(self, msg: String) -> None:
        self.instructions.append(msg.data)

    def _on_odometry(self, msg: Odometry) -> None:
        self.poses.append((convert.stamp_ns_from_time(msg.header.stamp), convert.pose_from_odometry(msg)))

    def _on_image(self, _: Image) -> None:
        self.images += 1

    def _on_success(self, msg: Float64) -> None:
        self.success = msg.data

    def heard(self) -> object:
        return self.news

    def hear(self, count: int) -> None:
        """So many odometry messages more."""
        before = len(self.poses)
        self.wait(lambda: len(self.poses) >= before + count, "the world stands")

    def say(self, text: str, news: str) -> str:
        """The bridge understands it, and a navigator takes it up with a hold and one queue."""
        before = len(self.news)
        self._numbers += 1
        self.told.publish(convert.string_from_instruction(text))
        self.wait(lambda: any(n.find(news) >= 0 for n in self.news[before:]), f"{text!r}: no {news!r}")
        for actions in ((), (FORWARD,)):
            chunk = ActionChunk(self._numbers, self._numbers, self.poses[-1][0], actions)
            self.queue.publish(convert.trajectory_from_chunk(chunk, "base_link", 0.5, 1.0))
            self.hear(3)  # the bridge keeps the newest only, and its world goes on meanwhile
        return "\n".join(self.news[before:])

    def stop(self, news: str) -> str:
        before = len(self.news)
        self.stopped.publish(Header(stamp=convert.time_from_stamp_ns(self.poses[-1][0])))
        self.wait(lambda: any(n.find(news) >= 0 for n in self.news[before:]), f"stopped: no {news!r}")
        return self.news[-1]

    def turn(self, periods: int) -> None:
        """Turn in place for so many odometry periods."""
        for _ in range(periods):
            self.velocity.publish(convert.twist_from_velocity(Velocity(0.0, 0.5)))
            self.hear(1)
        self.velocity.publish(Twist())
        self.hear(2)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Others, Path]]:
    folder: Path = tmp_path_factory.mktemp("live")
    assert LAMP is not None
    beside = replace(START, episode_id="2", start=Pose.planar(LAMP.place[0], LAMP.place[1], 0.0))
    episodes = write_episodes(folder, "starts", [START, beside])
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": "live", "run_folder": str(folder / "run"), "video": False,
        "camera.width": 32, "camera.height": 24, "odometry_hz": 20.0, "image_hz": 5.0,
        "max_episode_s": 3600.0,
    }  # fmt: skip
    context = Context()
    context.init()
    node = Others(context)
    with gone_afterwards(context, node), Graph(folder / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("sim_bridge", bridge))
        node.wait(lambda: alive(graph) and len(node.poses) > 3, "no odometry came")
        node.wait(lambda: node.told.get_subscription_count() == 2, "the bridge does not listen")
        node.wait(lambda: node.stopped.get_subscription_count() == 1, "the bridge does not listen")
        node.wait(lambda: node.velocity.get_subscription_count() == 1, "the bridge does not listen")
        yield node, folder / "run"
        graph.check()


def alive(graph: Graph) -> bool:
    """True, or the reason why a node has ended."""
    graph.check()
    return True


def same(a: Pose, b: Pose) -> bool:
    return bool(np.allclose(a.position, b.position, atol=1e-6)) and math.isclose(
        a.yaw_rad, b.yaw_rad, abs_tol=1e-6
    )


def test_the_world_goes_on_and_nothing_moves_by_itself(others: tuple[Others, Path]) -> None:
    node, _ = others
    node.hear(10)
    node.wait(lambda: node.images > 2, "no images")
    assert all(same(pose, START.start) for _, pose in node.poses)
    assert not node.instructions, "the episode's own instruction is told to nobody"


def test_a_sentence_is_understood_and_judged_and_the_world_goes_on(others: tuple[Others, Path]) -> None:
    node, run = others
    first = len(node.poses)
    assert LAMP is not None
    said = node.say("please stop at the lamp", "The goal is the ")
    assert "words that the flats' instructions do not have: please." in said
    assert f"The goal is the {LAMP.item.name}" in said and f"{LAMP.distance_m:.1f} m on foot" in said
    node.turn(5)
    away_m = SCENE.walkable.distance(node.poses[-1][1].position[:2], LAMP.place[:2])
    verdict = node.stop("reached")
    assert verdict.startswith("not reached: it stopped")
    assert f"{away_m:.1f} m from its place beside the {LAMP.item.name}" in verdict
    node.wait(lambda: node.success == 0.0, "no measure")
    node.hear(5)
    (episode,) = read_episodes(run / "episodes.jsonl", repair=False)
    assert episode.instruction == "please stop at the lamp" and episode.ended == "stop"
    assert episode.decisions == 1
    stamps = np.array([stamp for stamp, _ in node.poses[first:]])
    steps = np.diff(stamps)
    assert (steps > 0).all() and steps.max() < 10**9, "no jump of time between runs"
    places = np.array([pose.position for _, pose in node.poses[first:]])
    assert np.abs(np.diff(places, axis=0)).max() < 0.05, "nobody carries the robot"
    turned = [pose.yaw_rad for _, pose in node.poses[first:]]
    assert abs(turned[-1] - turned[0]) > 0.02


@pytest.mark.parametrize(
    ("text", "news"),
    [
        ("walk past the dragon", "names no thing"),
        ("stop at the purple lamp", "There is no purple lamp here"),
        ("stop at the toilet", "There is no toilet here"),
    ],
)
def test_what_names_nothing_that_is_here_is_not_scored(
    others: tuple[Others, Path], text: str, news: str
) -> None:
    node, run = others
    before = len(read_episodes(run / "episodes.jsonl", repair=False))
    said = node.say(text, news)
    assert "not scored" in said
    if "There is no" in news:
        assert f"the {SCENE.flat.furniture[0].name}" in said, "what there is, is said"
    assert node.stop("over") == "over (stop); it was not scored"
    assert len(read_episodes(run / "episodes.jsonl", repair=False)) == before


def test_another_sentence_ends_the_first(others: tuple[Others, Path]) -> None:
    node, run = others
    before = len(read_episodes(run / "episodes.jsonl", repair=False))
    node.say("stop at the lamp", "The goal is the ")
    said = node.say("stop by the sofa", "The goal is the orange sofa")
    assert "not reached: another sentence" in said
    node.stop("reached")
    added = read_episodes(run / "episodes.jsonl", repair=False)[before:]
    assert [e.ended for e in added] == ["another sentence", "stop"]


def test_the_robot_can_be_put_at_another_start(others: tuple[Others, Path]) -> None:
    node, _ = others
    node.say("stop at the lamp", "The goal is the ")
    request = SetParameters.Request(parameters=[Parameter("episode", value="2").to_parameter_msg()])
    assert node.response(node.parameters, request).results[0].successful
    assert LAMP is not None
    there = Pose.planar(LAMP.place[0], LAMP.place[1], 0.0)
    node.hear(3)
    assert same(node.poses[-1][1], there)
    assert max(np.diff([stamp for stamp, _ in node.poses])) > 5 * 10**9, "it was carried, it did not jump"
    node.say("stop at the lamp", "0.0 m on foot")
    assert node.stop("reached").startswith("reached: it stopped 0.0 m")
    node.wait(lambda: node.success == 1.0, "no measure")
    node.turn(3)
    answer = node.response(node.reset, Trigger.Request())
    assert answer.success and "waits for a sentence" in answer.message
    node.hear(3)
    assert same(node.poses[-1][1], there)


def test_what_is_no_sentence_changes_nothing(others: tuple[Others, Path]) -> None:
    node, _ = others
    before = len(node.news)
    node.told.publish(String(data=""))
    node.told.publish(String(data="go\x07"))
    node.hear(10)
    assert len(node.news) == before
