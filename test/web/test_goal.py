"""The point that a model names, on the page: in the picture that it was asked about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp, the extra web")

from browsers import Complaints, launched

from vln_ros.config import WebConfig
from vln_ros.web.feed import Feed
from vln_ros.web.messages import GOAL_PICTURE, Goal, GoalPlace, PathAhead, Place
from vln_ros.web.server import PageServer

pytestmark = pytest.mark.browser

FIRST_NS, PERIOD_NS = 1_700_000_000_123_456_789, 100_000_000
COLOR_AT = """([x, y]) => {
  const canvas = document.getElementById("goal");
  return Array.from(canvas.getContext("2d").getImageData(x, y, 1, 1).data).slice(0, 3);
}"""


class NoRobot:
    """Nobody is asked for anything here."""

    def instruct(self, text: str, who: str) -> None: ...
    def ask(self, text: str, who: str) -> None: ...
    def stop(self, who: str) -> None: ...
    def release(self, who: str) -> None: ...
    def put(self, x_m: float, y_m: float, yaw_rad: float, who: str) -> None: ...
    def begin(self, start: str, who: str) -> None: ...
    def watch(self, views: frozenset[str]) -> None: ...


@pytest.fixture
def shown() -> Iterator[tuple[Feed, Any]]:
    """A feed, and a page that shows it."""
    feed, errors, complaints = Feed(), list[str](), Complaints()
    server = PageServer(WebConfig(port=0), NoRobot(), feed, "robot", errors.append)
    complaints.expected = ("getImageData",)  # the test looks at pixels
    server.start()
    try:
        with launched() as browser:
            context = browser.new_context()
            complaints.listen(context)
            page = context.new_page()
            page.goto(server.addresses[0])
            page.wait_for_function("() => document.getElementById('connection').textContent === 'connected'")
            yield feed, page
    finally:
        server.close()
    assert not errors and not complaints.texts


def show(feed: Feed, page: Any, number: int) -> None:
    """The picture of this number is on the screen; each has another grey, and half of the camera's size."""
    jpeg = cv2.imencode(".jpg", np.full((120, 160, 3), 40 * number, np.uint8))[1].tobytes()
    stamp_ns = FIRST_NS + number * PERIOD_NS
    page.evaluate(
        "() => document.addEventListener('picture-shown', (e) => { window.shownNs = e.detail.stampNs; })"
    )
    feed.put_picture("camera", stamp_ns, jpeg, 0.5)
    page.wait_for_function("stamp => window.shownNs === stamp", arg=str(stamp_ns))


def test_a_goal_is_drawn_where_it_was_named(shown: tuple[Feed, Any]) -> None:
    feed, page = shown
    for number in range(1, 6):
        show(feed, page, number)
    assert page.is_hidden("#goal")
    feed.put(Goal(100, 200, str(FIRST_NS + 2 * PERIOD_NS + 1_000)))
    page.wait_for_selector("#goal", state="visible")
    x, y, radius = 100, 50, 160 / 22
    assert page.evaluate(COLOR_AT, [5, 5])[0] in range(76, 85), (
        "the picture that was answered, not the newest"
    )
    red, green, blue = page.evaluate(COLOR_AT, [round(x + radius), y])
    assert red > 200 and green > 160 and blue < 120, "a ring around the point"
    assert page.evaluate(COLOR_AT, [x, y])[0] in range(76, 85), "through which it is seen"
    feed.put(Goal(None, None, ""))
    page.wait_for_selector("#goal", state="hidden")


@pytest.mark.parametrize("picture_first", [True, False])
def test_a_page_that_is_opened_later_shows_the_goal(shown: tuple[Feed, Any], picture_first: bool) -> None:
    feed, page = shown
    jpeg = cv2.imencode(".jpg", np.full((120, 160, 3), 80, np.uint8))[1].tobytes()

    def put(what: int) -> None:
        if what:
            feed.put_picture(GOAL_PICTURE, FIRST_NS, jpeg, 0.5)
        else:
            feed.put(Goal(100, 200, str(FIRST_NS)))

    put(int(picture_first))
    put(int(not picture_first))
    feed.put(GoalPlace((3.0, 1.0)))
    page.reload()
    page.wait_for_selector("#goal", state="visible")
    assert page.is_visible("#no-picture"), "it is no picture of now"
    assert page.evaluate(COLOR_AT, [5, 5])[0] in range(76, 85)
    assert page.evaluate(COLOR_AT, [round(100 + 160 / 22), 50])[0] > 200
    show(feed, page, 3)
    assert page.is_visible("#goal")
    feed.put(Goal(None, None, ""))
    page.wait_for_selector("#goal", state="hidden")
    page.reload()
    show(feed, page, 4)
    assert page.is_hidden("#goal"), "the picture is there still, and no goal"


def test_the_map_shows_the_place_that_is_driven_to(shown: tuple[Feed, Any]) -> None:
    feed, page = shown
    page.add_init_script(
        """const arc = CanvasRenderingContext2D.prototype.arc;
        CanvasRenderingContext2D.prototype.arc = function (...at) {
          if (this.canvas.id === "map") window.ring = at.slice(0, 2);
          return arc.apply(this, at);
        };"""
    )
    feed.put(Place(0.0, 0.0, 0.0))
    feed.put(PathAhead(((0.0, 0.0), (0.5, 0.0))))
    feed.put(GoalPlace((0.0, 1.5)))
    page.reload()
    page.wait_for_function("() => window.ring")
    width, height = page.evaluate("(() => { const m = document.getElementById('map'); "
                                  "return [m.clientWidth, m.clientHeight]; })()")  # fmt: skip
    x, y = page.evaluate("window.ring")
    assert x < width / 2 and y < height / 2 - 30, "above the robot, not where the path ends, at its right"


def test_a_goal_in_a_picture_that_was_not_shown_is_not_drawn_elsewhere(shown: tuple[Feed, Any]) -> None:
    feed, page = shown
    show(feed, page, 1)
    feed.put(Goal(10, 10, str(FIRST_NS + 20 * PERIOD_NS)))
    show(feed, page, 2)
    assert page.is_hidden("#goal")
