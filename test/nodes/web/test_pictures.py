"""Pictures for the page: which are taken, and which is the one that was answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_endings import lone_node
from sensor_msgs.msg import Image

from vln_ros.config import WebConfig
from vln_ros.nodes.web.pictures import KEPT, NEAR_NS, PictureStream
from vln_ros.ros import convert, qos
from vln_ros.web.feed import Feed
from vln_ros.web.messages import GOAL_PICTURE

pytestmark = pytest.mark.ros

FIRST_NS, PERIOD_NS = 10**9, 10**8


class Camera:
    """A camera, and the stream of its pictures, in one thread."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor) -> None:
        self._executor = executor
        self.feed, self.refused = Feed(), list[str]()
        self.stream = PictureStream(
            node, WebConfig(image_hz=60.0), self.feed, "camera", "picture", False,
            lambda error: self.refused.append(error.reason),
        )  # fmt: skip
        self.publisher = node.create_publisher(Image, "picture", qos.sensor("reliable", 5))

    def wait(self, holds: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 30.0
        while not holds():
            assert time.monotonic() < end_s
            self._executor.spin_once(0.01)

    def look(self, number: int) -> None:
        """A picture whose grey is its number."""
        self.wait(lambda: self.publisher.get_subscription_count() > 0)
        rgb = np.full((48, 64, 3), number, np.uint8)
        self.publisher.publish(convert.image_from_rgb(rgb, FIRST_NS + number * PERIOD_NS, "camera"))
        for _ in range(4):
            self._executor.spin_once(0.01)

    def goal(self) -> int | None:
        """The grey of the picture that was answered."""
        for entry in self.feed.newer({}):
            if entry.subject == GOAL_PICTURE:
                assert isinstance(entry.payload, bytes)
                picture = cv2.imdecode(np.frombuffer(entry.payload[17:], np.uint8), cv2.IMREAD_COLOR)
                assert picture is not None
                return round(float(picture.mean()))
        return None


@pytest.fixture
def camera() -> Iterator[Camera]:
    with lone_node("page") as (node, executor):
        made = Camera(node, executor)
        yield made
        made.stream.close()
    assert not made.refused


def test_the_picture_that_was_answered_is_kept_for_pages_that_are_opened_later(camera: Camera) -> None:
    camera.stream.watch(True)
    for number in range(1, 9):
        camera.look(10 * number)
    camera.stream.show_goal(FIRST_NS + 40 * PERIOD_NS)
    assert camera.goal() == 40
    camera.stream.show_goal(FIRST_NS + 60 * PERIOD_NS + NEAR_NS // 2)
    assert camera.goal() == 60, "the nearest in time"
    camera.stream.show_goal(FIRST_NS + 200 * PERIOD_NS)
    assert camera.goal() == 60, "of that time there is none"


def test_nobody_looks_and_nothing_is_taken_until_a_model_answers_with_points(camera: Camera) -> None:
    camera.stream.watch(True)
    camera.wait(lambda: camera.publisher.get_subscription_count() == 1)
    camera.stream.watch(False)
    camera.wait(lambda: camera.publisher.get_subscription_count() == 0)
    camera.stream.show_goal(FIRST_NS)
    assert camera.goal() is None, "of this one there is no picture"
    for number in range(1, KEPT + 20):
        camera.look(number)
    assert camera.stream.encoded == 0, "nobody looks"
    camera.stream.show_goal(FIRST_NS + (KEPT + 10) * PERIOD_NS)
    assert camera.goal() == KEPT + 10
    camera.stream.show_goal(FIRST_NS + 3 * PERIOD_NS)
    assert camera.goal() == KEPT + 10, "so long ago nobody remembers"
    camera.stream.watch(True)
    camera.look(100)
    camera.wait(lambda: camera.stream.encoded > 0)
    camera.stream.watch(False)
    camera.look(101)
    assert camera.publisher.get_subscription_count() == 1
