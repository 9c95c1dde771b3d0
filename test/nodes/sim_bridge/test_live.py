"""Mode live: a world that goes on by itself, in which a person's sentences are understood and judged."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, Twist
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from robots import WaitingNode
from ros_endings import gone_afterwards
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Action, ActionChunk, Pose, Velocity
from vln_ros.evaluation.runs.lines import read_episodes
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros import convert, qos
from vln_ros.ros.starts import NOT_PUT, estimate_from_pose, starts_from_status
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.episodes.sentences import Named, nearest
from vln_ros.sim.splits import begin_episode, begin_scene

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
        self.estimates = self.create_publisher(PoseWithCovarianceStamped, "initialpose", 5)  # as rviz's
        self.starts: list[DiagnosticStatus] = []
        self.maps: list[OccupancyGrid] = []
        self.plans: list[CompressedImage] = []
        self.create_subscription(DiagnosticStatus, "sim_bridge/starts", self._on_starts, qos.latched())
        self.create_subscription(OccupancyGrid, "sim_bridge/map", self._on_map, qos.latched())
        self.create_subscription(CompressedImage, "sim_bridge/plan", self._on_plan, qos.latched())
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

    def _on_starts(self, msg: DiagnosticStatus) -> None:
        self.starts.append(msg)

    def _on_map(self, msg: OccupancyGrid) -> None:
        self.maps.append(msg)

    def _on_plan(self, msg: CompressedImage) -> None:
        self.plans.append(msg)

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

    def estimate(self, msg: PoseWithCovarianceStamped) -> str:
        """Somebody wants the robot there; what the world says of it."""
        before = len(self.news)
        self.estimates.publish(msg)
        self.wait(lambda: any("put at" in n or NOT_PUT in n for n in self.news[before:]), "no word of it")
        return "\n".join(self.news[before:])

    def choose(self, start: str) -> str:
        """By the parameter; why it was refused, if it was."""
        request = SetParameters.Request(parameters=[Parameter("episode", value=start).to_parameter_msg()])
        self.wait(self.parameters.service_is_ready, "no parameters")
        future = self.parameters.call_async(request)
        self.wait(future.done, "no answer")
        (result,) = future.result().results
        return "" if result.successful else str(result.reason)

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
        node.wait(lambda: node.estimates.get_subscription_count() == 1, "the bridge does not listen")
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


def in_odom(pose: Pose, frame: str = "odom") -> PoseWithCovarianceStamped:
    return estimate_from_pose(pose, 0, frame)


def spot(distance_m: float) -> Pose:
    """A free place at about that distance from the room's first start."""
    low, high = np.zeros(2), np.array(SCENE.flat.size_m)
    places = np.random.default_rng(3).uniform(low, high, (500, 2))
    free = places[SCENE.walkable.contains(places)]
    away_m = np.linalg.norm(free - START.start.position[:2], axis=1)
    x, y = free[int(np.abs(away_m - distance_m).argmin())]
    return Pose.planar(float(x), float(y), 1.25)


def test_a_person_puts_the_robot_on_the_map_and_that_ends_the_run(others: tuple[Others, Path]) -> None:
    node, run = others
    before = len(read_episodes(run / "episodes.jsonl", repair=False))
    node.say("stop at the lamp", "The goal is the ")
    there = spot(1.0)
    said = node.estimate(in_odom(there, "/odom"))
    assert "not reached: put elsewhere" in said and "the robot was put at" in said
    node.hear(3)
    assert same(node.poses[-1][1], there)
    assert max(np.diff([stamp for stamp, _ in node.poses[-8:]])) > 5 * 10**9, "it was carried"
    (ended,) = read_episodes(run / "episodes.jsonl", repair=False)[before:]
    assert ended.ended == "put elsewhere" and not ended.metrics.success  # type: ignore[union-attr]
    lamp = nearest(SCENE, Named("lamp"), there.position)
    assert lamp is not None
    node.say("stop at the lamp", f"{lamp.distance_m:.1f} m on foot")
    node.stop("reached")
    node.turn(3)
    node.wait(node.reset.service_is_ready, "no reset")
    node.wait(node.reset.call_async(Trigger.Request()).done, "no answer")
    node.hear(3)
    assert same(node.poses[-1][1], there), "a reset leads back to the place of one's choice"


SOFA = next(f for f in SCENE.flat.furniture if f.category == "sofa")
IN_SOFA = ((SOFA.footprint[0] + SOFA.footprint[2]) / 2, (SOFA.footprint[1] + SOFA.footprint[3]) / 2)


def raw(**fields: float) -> PoseWithCovarianceStamped:
    """Of values that no pose has."""
    msg = in_odom(START.start)
    for name, value in fields.items():
        setattr(msg.pose.pose.orientation if name[0] == "q" else msg.pose.pose.position, name[-1], value)
    return msg


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (raw(px=math.nan), "not finite"),
        (raw(py=-math.inf), "not finite"),
        (raw(qz=math.nan), "not finite"),
        (raw(qz=0.0, qw=0.0), "quaternion"),
        (raw(qx=0.6, qy=0.0, qz=0.0, qw=0.8), "upright"),
        (raw(px=1e9), "farther away"),
        (in_odom(START.start, "map"), "in the frame 'map'"),
        (in_odom(START.start, ""), "in the frame ''"),
        (in_odom(Pose.planar(*IN_SOFA, 0.0)), f"the {SOFA.name} is there; the nearest free place is ("),
        (in_odom(Pose.planar(0.0, 1.0, 0.0)), "a wall is there; the nearest free place is ("),
        (in_odom(Pose.planar(-0.03, 1.0, 0.0)), "a wall is there; the nearest free place is ("),
        (in_odom(Pose.planar(0.12, 1.0, 0.0)), "a wall is there; the nearest free place is ("),
        (in_odom(Pose.planar(-50.0, 2.0, 0.0)), "it is outside the flat; the nearest free place is ("),
        (in_odom(Pose.planar(2.0, 5000.0, 0.0)), "it is outside the flat"),
    ],
)
def test_a_wrong_place_is_refused_with_words_and_changes_nothing(
    others: tuple[Others, Path], estimate: PoseWithCovarianceStamped, words: str
) -> None:
    node, _ = others
    node.say("walk past the dragon", "names no thing")
    node.hear(2)
    before, said = node.poses[-1][1], node.estimate(estimate)
    assert said.startswith(NOT_PUT) and words in said, said
    node.hear(3)
    assert same(node.poses[-1][1], before)
    assert node.stop("over") == "over (stop); it was not scored", "the run went on"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("77", "none of the 2 episodes"),
        ("", "none of the 2 episodes"),
        ("embedded/castle_900000/castle_900000.glb", "no scene"),
        ("embedded/room_900000/room_900001.glb", "no scene"),
        ("embedded/room_000003/room_000003.glb", "seed 3 is not in val_unseen"),
        ("../room", "no scene"),
    ],
)
def test_a_start_that_is_none_is_refused_with_the_reason(
    others: tuple[Others, Path], start: str, words: str
) -> None:
    node, _ = others
    before = node.poses[-1][1]
    assert words in node.choose(start)
    node.hear(3)
    assert same(node.poses[-1][1], before)


def test_another_flat_is_a_world_to_talk_in(others: tuple[Others, Path]) -> None:
    node, _ = others
    other = Scene(scene_id(900_003, "small"), AGENT_RADIUS_M)
    start = begin_scene("val_unseen", other)[0].start
    maps, plans = len(node.maps), len(node.plans)
    assert node.choose(other.flat.scene_id) == ""
    node.wait(lambda: len(node.maps) > maps and len(node.plans) > plans, "no plan of it")
    node.hear(3)
    assert same(node.poses[-1][1], start)
    shown = starts_from_status(node.starts[-1])
    assert shown.current == other.flat.scene_id and shown.current in dict(shown.offered)
    assert all(room.name in shown.here for room in other.flat.rooms)
    info = node.maps[-1].info
    assert info.width * info.resolution > other.flat.size_m[0] > 4.0
    assert node.maps[-1].header.frame_id == "odom"
    cells = np.array(node.maps[-1].data).reshape(info.height, info.width)
    column, row = (
        int((c - o) / info.resolution)
        for c, o in zip(start.position[:2], (info.origin.position.x, info.origin.position.y), strict=True)
    )
    assert cells[row, column] == 0 and cells[0, 0] == 100
    rgb = convert.rgb_from_compressed(node.plans[-1])
    assert rgb.shape[1] / rgb.shape[0] == pytest.approx(info.width / info.height)
    named = other.flat.furniture[0]
    said = node.say(f"stop at the {named.name}", "on foot")
    assert f"The goal is the {named.name}" in said
    node.stop("reached")
    for _ in range(5):
        before = len(node.news)
        assert node.choose("anywhere") == ""
        node.wait(lambda n=before: any("put at" in x for x in node.news[n:]), "no word of it")  # type: ignore[misc]
        node.hear(2)
        assert other.walkable.contains(node.poses[-1][1].position[None, :2])[0]
    assert node.choose("1") == ""
    node.hear(3)
    assert same(node.poses[-1][1], START.start)
    assert starts_from_status(node.starts[-1]).current == "1"


def test_the_navigator_ends_its_run_before_the_robot_is_put_elsewhere(others: tuple[Others, Path]) -> None:
    node, _ = others
    there = spot(0.8)
    cancelled: list[Pose] = []

    def cancel(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        cancelled.append(node.poses[-1][1])
        response.success = True
        return response

    service = node.create_service(Trigger, "navigator/cancel", cancel)
    try:
        before = node.poses[-1][1]
        # The bridge has to find the service: until then nobody is there who could drive.
        for _ in range(100):
            node.estimate(in_odom(there))
            if cancelled:
                break
            node.estimate(in_odom(before))
            node.hear(2)
        assert cancelled and same(cancelled[-1], before)
        node.hear(3)
        assert same(node.poses[-1][1], there)
    finally:
        node.destroy_service(service)


def test_a_navigator_that_does_not_answer_is_not_waited_for_and_a_sentence_comes_first(
    others: tuple[Others, Path],
) -> None:
    node, _ = others
    silent = Node("silent", context=node.context)
    silent.create_service(Trigger, "navigator/cancel", lambda _, response: response)  # nobody spins it
    try:
        node.wait(lambda: node.count_services("navigator/cancel") == 1, "no service")
        node.hear(20)  # the bridge finds it, too
        before, there = node.poses[-1][1], spot(1.3)
        begun_s = time.monotonic()
        assert "put at" in node.estimate(in_odom(there))
        assert time.monotonic() - begun_s > 1.0, "the bridge has waited for it"
        node.hear(3)
        assert same(node.poses[-1][1], there)
        told = len(node.news)
        node.estimates.publish(in_odom(before))
        node.hear(5)
        node.told.publish(convert.string_from_instruction("walk on"))
        node.wait(lambda: any("a sentence came first" in n for n in node.news[told:]), "no word of it")
        node.hear(60)
        assert same(node.poses[-1][1], there)
    finally:
        silent.destroy_node()
