"""A simulated robot is put elsewhere from the page, with the real nodes over DDS."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("aiohttp", reason="needs aiohttp, the extra web")

import aiohttp
from browsers import Complaints, launched
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_endings import gone_afterwards
from std_msgs.msg import String
from web_graph import printed_address

from vln_ros.cli.demo import SIMULATED_ROBOT
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar
from vln_ros.datatypes import Pose
from vln_ros.ros import convert, qos
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import begin_scene

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(240)]

DEADLINE_S = 60.0
NONSENSE = 400
SCENE = Scene(scene_id(900_003, "small"), AGENT_RADIUS_M)
OTHER = Scene(scene_id(900_001, "room"), AGENT_RADIUS_M)


class Observer(Node):
    """Hears where the robot is and what is said of it."""

    def __init__(self, context: Context) -> None:
        super().__init__("observer", context=context)
        self.poses: list[Pose] = []
        self.commands: list[Twist] = []
        self.states: list[str] = []
        self.news: list[str] = []
        self.ended: dict[str, str] = {}
        self.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("best_effort", 50))
        self.create_subscription(Twist, "cmd_vel", self.commands.append, qos.events())
        self.create_subscription(String, "executor_state", self._on_state, qos.latched())
        self.create_subscription(String, "sim_bridge/live", self._on_news, qos.events())
        self.create_subscription(DiagnosticArray, "instruction_status", self._on_status, qos.latched())
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def _on_odometry(self, msg: Odometry) -> None:
        self.poses.append(convert.pose_from_odometry(msg))

    def _on_state(self, msg: String) -> None:
        self.states.append(msg.data)

    def _on_news(self, msg: String) -> None:
        self.news.append(msg.data)

    def _on_status(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            values = {v.key: v.value for v in status.values}
            self.ended[values["instruction"]] = status.message

    def spin(self) -> None:
        self._executor.spin_once(0.02)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s, f"{what}; {self.news} {self.states[-3:]}"
            self.spin()

    @property
    def is_moving(self) -> bool:
        last = self.commands[-1] if self.commands else Twist()
        return bool(last.linear.x != 0.0 or last.angular.z != 0.0)


class World:
    """The graph, who hears it, and where its page is."""

    def __init__(self, graph: Graph, observer: Observer, address: str, folder: Path) -> None:
        self.graph, self.observer, self.address, self.folder = graph, observer, address, folder

    def stands_at(self, place: Pose) -> None:
        """From the next message on."""
        heard = len(self.observer.poses)
        self.observer.wait(lambda: len(self.observer.poses) > heard + 5, "odometry")
        assert near(self.observer.poses[-1], place)


def near(a: Pose, b: Pose) -> bool:
    away_m = float(np.linalg.norm(a.position[:2] - b.position[:2]))
    return away_m < 0.02 and abs(math.remainder(a.yaw_rad - b.yaw_rad, 2 * math.pi)) < 0.02


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("starts")
    episodes = write_episodes(folder, "starts", begin_scene("val_unseen", SCENE))
    simulated: dict[str, Scalar] = {"use_sim_time": True}
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": "live", "camera.width": 64, "camera.height": 48, "image_hz": 5.0,
        "max_episode_s": 3600.0,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {"engine": "paced", "extrinsics": "parameters", "reliability": "reliable"}
    context = Context()
    context.init()
    observer = Observer(context)
    with gone_afterwards(context, observer), Graph(folder / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("web", {"port": 0, "driver_grace_s": 0.2, **simulated}))
        graph.start(NodeSpec("sim_bridge", bridge))
        graph.start(NodeSpec("executor", {**simulated, **SIMULATED_ROBOT, "safety.obstacles": "none"}))
        graph.start(NodeSpec("navigator", {**navigator, **simulated}))
        log = graph.log_path("web")

        def ready() -> bool:
            graph.check()
            served = bool(printed_address(log)) and len(observer.poses) > 10
            return served and bool(observer.states) and not observer.states[-1].startswith("stopped")

        observer.wait(ready, "a robot that could go")
        yield World(graph, observer, printed_address(log), folder)
        graph.check()
    for name in ("web", "sim_bridge", "executor", "navigator"):
        text = (folder / f"logs/{name}.log").read_text("utf-8", "replace")
        assert "Traceback" not in text, text[-3000:]


class Page:
    """A page that a program has opened: it asks, and reads what it is told."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, observer: Observer) -> None:
        self.socket, self._observer = socket, observer
        self.heard: list[dict[str, Any]] = []
        self.plans = 0

    async def ask(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"kind": kind, **fields}))

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """While both the page and the graph are listened to."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s, f"{what}: {self.heard[-5:]} {self._observer.news}"
            self._observer.spin()
            try:
                message = await self.socket.receive(timeout=0.02)
            except asyncio.TimeoutError:
                continue
            if message.type is aiohttp.WSMsgType.TEXT:
                self.heard.append(json.loads(message.data))
            elif message.type is aiohttp.WSMsgType.BINARY:
                self.plans += message.data[0] == 3

    def last(self, kind: str) -> dict[str, Any]:
        return next((m for m in reversed(self.heard) if m["kind"] == kind), {})

    async def told(self, what: str, words: str) -> None:
        """A line of the log from now on."""
        before = len(self.heard)

        def holds() -> bool:
            lines = (m for m in self.heard[before:] if m["kind"] == "note" and m["what"] == what)
            return any(words in m["text"] for m in lines)

        await self.until(holds, f"{what} {words}")


def on_a_page(world: World, act: Callable[[Page], Any]) -> None:
    async def open_and_act() -> None:
        base = world.address.rstrip("/")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{base}/ws", headers={"Origin": base}, max_msg_size=0) as socket,
        ):
            page = Page(socket, world.observer)
            await page.ask("drive", take_over=True)
            await page.ask("view", name="none")
            await page.until(lambda: page.last("driving").get("you", False), "the wheel")
            await act(page)

    asyncio.run(open_and_act())


def free_place(seed: int) -> Pose:
    lot = np.random.default_rng(seed)
    while True:
        place = lot.uniform((0.0, 0.0), SCENE.flat.size_m)
        if SCENE.walkable.narrowed(0.3).contains(place[None])[0]:
            return Pose.planar(float(place[0]), float(place[1]), float(lot.uniform(-3.0, 3.0)))


def request_of(place: Pose) -> dict[str, float]:
    x, y = (float(c) for c in place.position[:2])
    return {"x_m": x, "y_m": y, "yaw_rad": place.yaw_rad}


def test_connecting_moves_nothing_and_shows_plan_and_starts(world: World) -> None:
    before = world.observer.poses[-1]

    async def look(page: Page) -> None:
        await page.until(lambda: bool(page.last("starts")) and page.plans > 0, "starts and plan")
        offered = dict(page.last("starts")["offered"])
        starts = {e.episode_id for e in begin_scene("val_unseen", SCENE)}
        assert {"anywhere", OTHER.flat.scene_id, *starts} <= set(offered)
        assert all(room.name in page.last("starts")["here"] for room in SCENE.flat.rooms)
        area = page.last("world_map")
        assert area["width_m"] >= SCENE.flat.size_m[0] and area["height_m"] >= SCENE.flat.size_m[1]

    on_a_page(world, look)
    world.stands_at(before)


def test_putting_the_robot_elsewhere_ends_the_run_and_it_stands_there(world: World) -> None:
    observer, there = world.observer, free_place(1)

    async def act(page: Page) -> None:
        await page.ask("instruct", text="Walk on for ever.")
        await page.until(lambda: observer.is_moving, "the robot's going")
        asked = len(page.heard)
        await page.ask("put", **request_of(there))
        await page.until(lambda: any("was put at" in n for n in observer.news), "its being put")
        await page.until(lambda: not observer.is_moving, "its standing")
        commands, heard = len(observer.commands), len(observer.poses)
        await page.until(lambda: len(observer.commands) > commands + 30, "commands that go on")
        assert all(c.linear.x == 0.0 and c.angular.z == 0.0 for c in observer.commands[commands:])
        assert all(near(pose, there) for pose in observer.poses[heard:])
        await page.until(lambda: "cancelled" in observer.ended.get("Walk on for ever.", ""), "its end")
        assert any("over (put elsewhere)" in n for n in observer.news)
        await page.until(lambda: not page.last("state")["headline"].startswith("Stands:"), "no fault")
        notes = [(m["what"], m["text"]) for m in page.heard[asked:] if m["kind"] == "note"]
        assert not [text for what, text in notes if what == "refused"]
        # And it goes from there.
        await page.ask("instruct", text="Walk on from here.")
        await page.until(lambda: observer.is_moving, "the robot's going again")
        await page.ask("stop")
        await page.until(lambda: not observer.is_moving, "its standing")
        await page.ask("release")

    on_a_page(world, act)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"x_m": -40.0, "y_m": 1.0, "yaw_rad": 0.0}, "it is outside the flat; the nearest free place"),
        ({"x_m": 0.0, "y_m": 1.0, "yaw_rad": 0.0}, "a wall is there; the nearest free place"),
    ],
)
def test_a_place_that_is_not_free_is_refused_with_words(
    world: World, place: dict[str, float], words: str
) -> None:
    before = world.observer.poses[-1]

    async def act(page: Page) -> None:
        await page.ask("put", **place)
        await page.told("refused", words)

    on_a_page(world, act)
    world.stands_at(before)


def test_a_thing_in_the_way_is_named(world: World) -> None:
    x0, y0, x1, y1 = SCENE.flat.furniture[0].footprint

    async def act(page: Page) -> None:
        await page.ask("put", x_m=(x0 + x1) / 2, y_m=(y0 + y1) / 2, yaw_rad=0.0)
        await page.told("refused", f"the {SCENE.flat.furniture[0].name} is there; the nearest free place is")

    on_a_page(world, act)


def test_another_flat_is_chosen_and_one_that_is_none_is_refused(world: World) -> None:
    start = begin_scene("val_unseen", OTHER)[0].start

    async def act(page: Page) -> None:
        for wrong in (
            "embedded/room_000001/room_000001.glb",
            "embedded/hall_900001/hall_900001.glb",
            "",
            "x",
        ):
            await page.ask("begin", start=wrong)
            await page.told("refused", "not put there: ")
        await page.until(lambda: bool(page.last("world_map")), "the map")
        before, plans = page.last("world_map"), page.plans
        await page.ask("begin", start=OTHER.flat.scene_id)
        await page.until(lambda: page.last("starts")["current"] == OTHER.flat.scene_id, "the other flat")
        await page.until(lambda: page.last("world_map") != before and page.plans > plans, "its plan")
        assert OTHER.flat.rooms[0].name in page.last("starts")["here"]

    on_a_page(world, act)
    world.stands_at(start)
    back = begin_scene("val_unseen", SCENE)[0]

    async def act_back(page: Page) -> None:
        await page.ask("begin", start=back.episode_id)
        await page.until(lambda: page.last("starts").get("current") == back.episode_id, "the first flat")

    on_a_page(world, act_back)
    world.stands_at(back.start)


def test_nonsense_of_the_driver_puts_the_robot_nowhere_but_where_it_fits(world: World) -> None:
    lot = random.Random(7)
    values: tuple[Any, ...] = (
        0,
        1,
        -1,
        2.5,
        1e4,
        -1e4,
        1e308,
        10**400,
        None,
        True,
        "1",
        "nan",
        [],
        {},
        [1.0],
        3.3,
    )

    async def act(page: Page) -> None:
        for _ in range(NONSENSE):
            kind = lot.choice(("put", "put", "begin"))
            names = ("x_m", "y_m", "yaw_rad") if kind == "put" else ("start",)
            fields = {name: lot.choice(values) for name in names if lot.random() < 0.95}
            if kind == "begin" and lot.random() < 0.5:
                fields["start"] = lot.choice(
                    ("\x00", "\ud83d", "../..", "embedded/", "a" * 5000, "अ", "anywhere ")
                )
            if lot.random() < 0.05:
                fields["z_m"] = 1.0
            await page.ask(kind, **fields)
            await page.until(lambda: True, "")
            if lot.random() < 0.1:
                world.observer.spin()
        for text in ('{"kind": "put", "x_m": NaN, "y_m": 1, "yaw_rad": 0}', '{"kind": "put", "x_m": 1e999}'):
            await page.socket.send_str(text)
        heard = len(world.observer.poses)
        await page.until(lambda: len(world.observer.poses) > heard + 100, "a world that goes on")
        await page.ask("put", **request_of(free_place(3)))
        await page.told("world", "was put at")

    on_a_page(world, act)
    world.stands_at(free_place(3))


def test_rviz_puts_the_robot_as_well(world: World) -> None:
    """Its "2D Pose Estimate" publishes so."""
    observer, there = world.observer, free_place(5)
    estimates = observer.create_publisher(PoseWithCovarianceStamped, "initialpose", 5)
    observer.wait(lambda: estimates.get_subscription_count() == 1, "a bridge that listens")
    msg = PoseWithCovarianceStamped()
    msg.header.frame_id = "odom"
    msg.pose.pose = convert.pose_to_pose(there)
    news = len(observer.news)
    estimates.publish(msg)
    observer.wait(lambda: any("was put at" in n for n in observer.news[news:]), "its being put")
    world.stands_at(there)
    observer.destroy_publisher(estimates)


class Finger:
    """Presses on the map of a page at places of the world."""

    def __init__(self, page: Any) -> None:
        self.page = page
        columns, rows = (math.ceil((side_m + 0.6) / 0.05 - 1e-6) for side_m in SCENE.flat.size_m)
        self.width_m, self.height_m = columns * 0.05, rows * 0.05
        self.middle = np.array([self.width_m / 2 - 0.3, SCENE.flat.size_m[1] + 0.3 - self.height_m / 2])

    def pixel(self, x_m: float, y_m: float) -> tuple[float, float]:
        box = self.page.locator("#map").bounding_box()
        scale = min(box["width"] / self.width_m, box["height"] / self.height_m)
        du, dv = np.array([x_m, y_m]) - self.middle
        return box["x"] + box["width"] / 2 + du * scale, box["y"] + box["height"] / 2 - dv * scale

    def press(self, place: Pose, drag_m: float = 0.0) -> None:
        x, y = place.position[:2]
        self.page.mouse.move(*self.pixel(x, y))
        self.page.mouse.down()
        if drag_m:
            to = x + drag_m * math.cos(place.yaw_rad), y + drag_m * math.sin(place.yaw_rad)
            self.page.mouse.move(*self.pixel(*to), steps=4)
        self.page.mouse.up()


@pytest.mark.browser
def test_a_person_puts_the_robot_on_the_map(world: World) -> None:
    observer, complaints = world.observer, Complaints()
    with launched() as browser, ExitStack() as closing:
        context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
        closing.callback(context.close)
        complaints.listen(context)
        page = context.new_page()
        finger = Finger(page)

        def waits(holds: Callable[[], bool], what: str) -> None:
            deadline_s = time.monotonic() + DEADLINE_S
            while not holds():
                assert time.monotonic() < deadline_s, f"{what}; {observer.news} {page.text_content('#log')}"
                observer.spin()
                page.wait_for_timeout(10)

        def stands(place: Pose, turned: bool = True) -> bool:
            here = observer.poses[-1]
            away_m = float(np.linalg.norm(here.position[:2] - place.position[:2]))
            off_rad = abs(math.remainder(here.yaw_rad - place.yaw_rad, 2 * math.pi))
            return away_m < 0.06 and (off_rad < 0.1) is turned

        page.goto(world.address)
        page.wait_for_selector("#world", state="visible")
        page.wait_for_function("() => document.getElementById('here').textContent.includes('; ')")
        page.wait_for_function("() => document.getElementById('driving').textContent.includes('Nobody')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.select_option("#start", begin_scene("val_unseen", SCENE)[0].episode_id)
        page.click("#world button[type=submit]")
        waits(lambda: near(observer.poses[-1], begin_scene("val_unseen", SCENE)[0].start), "the start")
        page.evaluate("document.getElementById('place').scrollIntoView()")  # not behind STOP
        page.wait_for_timeout(1000)  # the view of the map comes to rest

        before, news, there = observer.poses[-1], len(observer.news), free_place(8)
        finger.press(there, drag_m=1.0)
        page.wait_for_timeout(300)
        observer.spin()
        assert len(observer.news) == news and near(observer.poses[-1], before), "no button was pressed"
        page.click("#put")
        assert page.is_visible("#putting")
        finger.press(there, drag_m=1.0)
        waits(lambda: stands(there), "its place and heading")
        assert page.is_hidden("#putting")
        heading = observer.poses[-1].yaw_rad
        page.click("#put")
        x, y = (float(c) for c in free_place(9).position[:2])
        other = Pose.planar(x, y, heading)
        finger.press(other)
        waits(lambda: stands(other), "its place, with the heading that it had")
        page.click("#put")
        finger.press(Pose.planar(0.0, 1.0, 0.0))
        waits(lambda: "a wall is there; the nearest" in page.text_content("#not-put"), "a refusal")
        assert stands(other)
        # By the keyboard alone.
        page.focus("#start")
        page.keyboard.press("Home")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        waits(lambda: not stands(other) and not stands(other, turned=False), "a place by lot")
        assert page.is_hidden("#not-put") and page.is_hidden("#refusal")
        # Who does not drive puts it nowhere.
        second = context.new_page()
        second.goto(world.address)
        second.wait_for_selector("#world", state="visible")
        before = observer.poses[-1]
        second.click("#world button[type=submit]")
        second.wait_for_function(
            "() => document.getElementById('refusal').textContent.includes('Somebody else drives')"
        )
        page.wait_for_timeout(300)
        observer.spin()
        assert near(observer.poses[-1], before)
    assert not complaints.texts


@pytest.mark.browser
def test_the_page_shows_nothing_of_it_once_the_world_is_gone(world: World, tmp_path: Path) -> None:
    """As on a robot, which has no such world."""
    with launched() as browser, Graph(tmp_path / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("web", {"port": 0}, key_suffix=".alone", namespace="/robot"))
        log = graph.log_path("robot.web.alone")
        world.observer.wait(lambda: bool(printed_address(log)), "a page")
        page = browser.new_page()
        page.goto(printed_address(log))
        page.wait_for_function("() => document.getElementById('connection').textContent === 'connected'")
        assert page.is_hidden("#world")
        assert not world.observer.count_publishers("/robot/initialpose")
        page.evaluate(
            """() => {
              const socket = new WebSocket(`ws://${location.host}/ws`);
              socket.onopen = () => {
                socket.send('{"kind": "drive", "take_over": true}');
                socket.send('{"kind": "put", "x_m": 1, "y_m": 1, "yaw_rad": 0}');
                socket.send('{"kind": "begin", "start": "1"}');
              };
            }"""
        )
        page.wait_for_function(
            "() => document.getElementById('log').textContent.split('only a simulated robot').length === 3"
        )
        assert not world.observer.count_publishers("/robot/initialpose")
