"""The server with its thread and real connections: who gets what, who may do what, who waits for whom."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp, the extra web")

import aiohttp
from yarl import URL

from vln_ros.config import ConfigError, WebConfig, from_flat
from vln_ros.web.feed import Feed
from vln_ros.web.messages import Standstill, Task
from vln_ros.web.server import HEADERS, PageServer

DEADLINE_S = 20.0
TOKEN = "0123456789abcdef"


@dataclass
class Done:
    """What the robot was asked for."""

    calls: list[tuple[str, ...]] = field(default_factory=list)
    watched: frozenset[str] = frozenset()
    errors: list[str] = field(default_factory=list)

    def instruct(self, text: str, who: str) -> None:
        self.calls.append(("instruct", text))

    def ask(self, text: str, who: str) -> None:
        self.calls.append(("ask", text))

    def stop(self, who: str) -> None:
        self.calls.append(("stop", who))

    def release(self, who: str) -> None:
        self.calls.append(("release",))

    def put(self, x_m: float, y_m: float, yaw_rad: float, who: str) -> None:
        self.calls.append(("put", f"{x_m} {y_m} {yaw_rad}"))

    def begin(self, start: str, who: str) -> None:
        self.calls.append(("begin", start))

    def watch(self, views: frozenset[str]) -> None:
        self.watched = views


@contextmanager
def served(**options: Any) -> Iterator[tuple[PageServer, Done, Feed]]:
    done, feed = Done(), Feed()
    server = PageServer(from_flat(WebConfig, {"port": 0, **options}), done, feed, "robot", done.errors.append)
    server.start()
    try:
        yield server, done, feed
    finally:
        server.close()
    assert not done.errors


class Page:
    """A page that is open: what it has heard."""

    def __init__(self, socket_: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket_
        self.heard: list[dict[str, Any]] = []
        self.pictures: list[bytes] = []

    async def ask(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"kind": kind, **fields}))

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Read until it holds."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline_s, what
            try:
                message = await self.socket.receive(timeout=0.5)
            except asyncio.TimeoutError:
                continue
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            if message.type is aiohttp.WSMsgType.TEXT:
                self.heard.append(json.loads(message.data))
            else:
                self.pictures.append(message.data)

    def last(self, kind: str) -> dict[str, Any]:
        return next((m for m in reversed(self.heard) if m["kind"] == kind), {})

    async def until_last(self, kind: str, **fields: Any) -> None:
        await self.until(lambda: fields.items() <= self.last(kind).items(), f"{kind} {fields}")


@asynccontextmanager
async def opened(server: PageServer, viewer: str = "") -> AsyncIterator[Page]:
    base = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as session:
        url = f"{base}/ws?viewer={viewer}"
        async with session.ws_connect(url, headers={"Origin": base}) as socket_:
            yield Page(socket_)


async def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.01)


def test_the_page_and_its_files_and_nothing_else() -> None:
    async def look(server: PageServer) -> None:
        base = f"http://127.0.0.1:{server.port}"
        async with aiohttp.ClientSession() as session:
            for name, kind in (
                ("", "text/html"),
                ("page.js", "text/javascript"),
                ("page.css", "text/css"),
                ("icon.svg", "image/svg+xml"),
            ):
                async with session.get(f"{base}/{name}") as answer:
                    assert answer.status == 200
                    assert answer.content_type == kind
                    assert HEADERS.items() <= answer.headers.items()
            for name in (
                "server.py",
                "page",
                "..",
                "%2e%2e/server.py",
                "page/index.html",
                "x" * 3000,
                "%00",
                "ws/",
                "INDEX.HTML",
            ):
                async with session.get(URL(f"{base}/{name}", encoded=True)) as answer:
                    assert answer.status == 404, name
                    assert HEADERS.items() <= answer.headers.items()
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                async with session.request(method, f"{base}/", data=b"x") as answer:
                    assert answer.status == 405, method

    with served() as (server, _, _feed):
        asyncio.run(look(server))


def test_everything_the_page_names_is_served_and_nothing_is_from_outside() -> None:
    import re
    from importlib.resources import files

    folder = files("vln_ros.web") / "page"
    names = {f.name for f in folder.iterdir()}
    for file in folder.iterdir():
        text = file.read_text("utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), f"{file.name} leads outside"
        assert "style=" not in text, "inline styles are forbidden by the page's own rules"
        for named in re.findall(r'(?:href|src)="([^"]+)"|from "\./([^"]+)"', text):
            assert set(filter(None, named)) <= names


def test_a_token_is_asked_for_taken_and_kept_out_of_the_address() -> None:
    async def look(server: PageServer) -> None:
        base = f"http://127.0.0.1:{server.port}"
        wrong = ("/", "/?token=", f"/?token={TOKEN[:-1]}", "/?token=0123456789abcdeg", "/page.js")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            for path in wrong:
                async with session.get(base + path) as answer:
                    assert answer.status == 403
                    assert "token" in await answer.text()
            for query in ("", "?token=wrong"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(f"{base}/ws{query}", headers={"Origin": base})
                assert refused.value.status == 403
            async with session.get(f"{base}/?token={TOKEN}", allow_redirects=False) as answer:
                assert answer.status == 303
                assert answer.headers["Location"] == "/"
                cookie = answer.headers["Set-Cookie"]
                assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
            async with session.get(f"{base}/") as answer:
                assert answer.status == 200
            async with session.ws_connect(f"{base}/ws", headers={"Origin": base}) as socket_:
                assert json.loads((await socket_.receive()).data)["kind"] == "welcome"
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{base}/ws", headers={"Origin": "http://evil.example"})

    with served(token=TOKEN) as (server, done, _feed):
        asyncio.run(look(server))
        assert not done.calls


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://evil.example", "Host": "evil.example"},
    ],
)
def test_a_foreign_page_gets_no_connection(headers: dict[str, str]) -> None:
    async def look(server: PageServer) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"http://127.0.0.1:{server.port}/ws", headers=headers)
            assert refused.value.status == 403

    with served() as (server, done, _feed):
        asyncio.run(look(server))
        assert server.viewers == 0
        assert not done.calls


def test_a_name_that_leads_here_from_elsewhere_gets_no_page() -> None:
    async def look(server: PageServer) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{server.port}/", headers={"Host": "evil.example"}) as answer,
        ):
            assert answer.status == 403

    with served() as (server, _, _feed):
        asyncio.run(look(server))


def test_connecting_asks_the_robot_for_nothing_and_tells_everything() -> None:
    async def look(server: PageServer, done: Done, feed: Feed) -> None:
        feed.put(Task("before"))
        feed.note("instruction", "before")
        async with opened(server) as page:
            await page.until_last("task", text="before")
            await page.until_last("driving", you=False, who="", viewers=1)
            assert page.heard[0]["kind"] == "welcome"
            assert page.heard[0]["examples"] == ["Go.", "Stop."]
            assert page.last("note")["text"] == "before"
            await wait_for(lambda: done.watched == {"camera"}, "pictures are wanted")
        await wait_for(lambda: done.watched == frozenset(), "pictures are wanted no more")
        assert not done.calls

    with served(examples=" Go. ;; Stop.;") as (server, done, feed):
        asyncio.run(look(server, done, feed))


def test_only_the_driver_instructs_and_releases_and_anybody_stops_and_asks() -> None:
    async def look(server: PageServer, done: Done) -> None:
        async with opened(server) as first, opened(server) as second:
            await second.ask("instruct", text="go")
            await second.until_last("refused")
            await second.ask("release")
            await first.ask("drive", take_over=False)
            await first.until_last("driving", you=True)
            await second.until_last("driving", you=False, who="127.0.0.1", viewers=2)
            await second.ask("drive", take_over=False)
            await second.ask("instruct", text="go")
            await second.ask("ask", text="where?")
            await second.ask("stop")
            await wait_for(lambda: len(done.calls) == 2, "a question and a stop")
            assert done.calls == [("ask", "where?"), ("stop", "127.0.0.1")]
            await first.ask("instruct", text="go")
            await first.ask("release")
            await wait_for(lambda: len(done.calls) == 4, "the driver")
            await second.ask("drive", take_over=True)
            await second.until_last("driving", you=True)
            await first.until_last("driving", you=False)
            await first.ask("instruct", text="no")
            await second.ask("instruct", text="yes")
            await wait_for(lambda: len(done.calls) == 5, "the other driver")
            assert done.calls[2:] == [("instruct", "go"), ("release",), ("instruct", "yes")]

    with served() as (server, done, _feed):
        asyncio.run(look(server, done))


def test_only_the_driver_puts_a_simulated_robot_elsewhere() -> None:
    async def look(server: PageServer, done: Done) -> None:
        async with opened(server) as first, opened(server) as second:
            await second.ask("put", x_m=1, y_m=2, yaw_rad=0)
            await second.until_last("refused", text="take the wheel first")
            await first.ask("drive", take_over=False)
            await second.until_last("driving", you=False, who="127.0.0.1", viewers=2)
            requests: tuple[dict[str, Any], ...] = (
                {"kind": "put", "x_m": 1, "y_m": 2, "yaw_rad": 0},
                {"kind": "begin", "start": "1"},
            )
            for request in requests:
                second.heard.clear()
                await second.ask(**request)
                await second.until_last("refused", text="somebody else drives: take over first")
            assert not done.calls
            await first.ask("put", x_m=1.5, y_m=2, yaw_rad=-1)
            await first.ask("begin", start="7")
            await wait_for(lambda: len(done.calls) == 2, "the driver")
            assert done.calls == [("put", "1.5 2 -1"), ("begin", "7")]

    with served() as (server, done, _feed):
        asyncio.run(look(server, done))


def test_a_page_that_is_loaded_again_still_drives_and_a_duplicate_does_not_twice() -> None:
    name = "a" * 32

    async def look(server: PageServer, done: Done) -> None:
        async with opened(server, name) as page:
            await page.ask("drive", take_over=False)
            await page.until_last("driving", you=True)
        async with opened(server, name) as page:
            await page.until_last("driving", you=True)
            async with opened(server, name) as duplicate:
                await duplicate.until_last("driving", you=True)
                await page.until_last("driving", you=False)
                await page.ask("instruct", text="go")
                await page.until_last("refused")
        assert not done.calls

    with served() as (server, done, _feed):
        asyncio.run(look(server, done))


@pytest.mark.parametrize("gone", ["continue", "hold"])
def test_a_driver_that_is_gone_stops_the_robot_if_so_configured(gone: str) -> None:
    async def look(server: PageServer, done: Done, feed: Feed) -> None:
        async with opened(server) as watcher:
            async with opened(server) as driver:
                await driver.ask("drive", take_over=False)
                await driver.until_last("driving", you=True)
            await watcher.until_last("note", text="the driver's page is gone")
        assert [c[0] for c in done.calls] == (["stop"] if gone == "hold" else [])

    with served(driver_gone=gone, driver_grace_s=0.1) as (server, done, feed):
        asyncio.run(look(server, done, feed))


def test_a_viewer_that_is_gone_stops_nothing() -> None:
    async def look(server: PageServer, done: Done) -> None:
        async with opened(server) as driver:
            await driver.ask("drive", take_over=False)
            async with opened(server) as viewer:
                await viewer.until_last("driving", viewers=2)
            await driver.until_last("driving", you=True, viewers=1)
            await asyncio.sleep(0.5)
        assert not done.calls

    with served(driver_gone="hold", driver_grace_s=0.1) as (server, done, _feed):
        asyncio.run(look(server, done))


def test_more_pages_than_may_be_are_refused() -> None:
    async def look(server: PageServer) -> None:
        async with opened(server), opened(server):
            await wait_for(lambda: server.viewers == 2, "two viewers")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with opened(server):
                    pass
            assert refused.value.status == 503
        await wait_for(lambda: server.viewers == 0, "none")
        async with opened(server) as page:
            await page.until_last("driving", viewers=1)

    with served(viewers=2) as (server, _, _feed):
        asyncio.run(look(server))


def test_pictures_come_no_faster_than_they_are_shown_and_the_newest_wins() -> None:
    async def look(server: PageServer, feed: Feed) -> None:
        async with opened(server) as page:
            await page.until_last("driving", viewers=1)
            for i in range(50):
                feed.put_picture("camera", i, b"\xff\xd8")
                feed.put(Task(str(i)))
            await page.until_last("task", text="49")
            assert len(page.pictures) <= 2, "two are on their way, none was shown"
            feed.put_picture("camera", 999, b"\xff\xd8")
            number = int.from_bytes(page.pictures[-1][1:5], "big")
            await page.ask("shown", number=12345)
            await page.ask("shown", number=number)
            seen = len(page.pictures)
            await page.until(lambda: len(page.pictures) > seen, "the next picture")
            assert int.from_bytes(page.pictures[-1][5:13], "big") == 999
            await page.ask("view", name="none")
            await page.ask("ask", text="a barrier")
            await wait_for(lambda: server.viewers == 1, "there")

    with served() as (server, _, feed):
        asyncio.run(look(server, feed))


def test_a_viewer_that_stalls_holds_nobody_up_and_can_still_stop() -> None:
    async def look(server: PageServer, done: Done, feed: Feed) -> None:
        big = b"\xff\xd8" + bytes(300_000)
        async with opened(server) as stalled, opened(server) as page:
            await page.until_last("driving", viewers=2)
            for i in range(40):  # far more than all buffers between hold
                feed.put_picture("camera", i, big)
                feed.put(Task(f"{i} " + "x" * 100_000))
                await page.until(lambda i=i: page.last("task").get("text", "").startswith(f"{i} "), "text")  # type: ignore[misc]
                for picture in page.pictures:
                    await page.ask("shown", number=int.from_bytes(picture[1:5], "big"))
                page.pictures.clear()
            await stalled.ask("stop")
            await wait_for(lambda: bool(done.calls), "the stop of who reads nothing")

    with served(viewer_timeout_s=600.0) as (server, done, feed):
        asyncio.run(look(server, done, feed))


def test_who_stops_hears_that_it_came_also_where_nothing_changes_by_it() -> None:
    """A page sends its STOP again until then: its connection may have ended unseen."""

    async def look(server: PageServer, done: Done, feed: Feed) -> None:
        feed.put(Standstill(True, True, "It stands."))
        async with opened(server) as page, opened(server) as other:
            for one in (page, other):
                await one.until_last("standstill", asked=True)
                one.heard.clear()
            await page.ask("stop")
            await page.until_last("standstill", asked=True)
            await other.ask("ask", text="a barrier")
            await wait_for(lambda: len(done.calls) == 2, "both")
            feed.put(Task("another barrier"))
            await other.until_last("task", text="another barrier")
            assert not other.last("standstill")

    with served() as (server, done, feed):
        asyncio.run(look(server, done, feed))


def test_the_longest_sentence_that_can_be_typed_comes_whatever_its_letters() -> None:
    page_text = (files("vln_ros.web") / "page/index.html").read_text("utf-8")
    longest = max(map(int, re.findall(r'maxlength="(\d+)"', page_text)))

    async def look(server: PageServer, done: Done) -> None:
        async with opened(server) as page:
            await page.ask("drive", take_over=False)
            await page.ask("instruct", text="\u8d70" * longest)
            await wait_for(lambda: bool(done.calls), "the instruction")
            assert done.calls == [("instruct", "\u8d70" * longest)]

    with served() as (server, done, _):
        asyncio.run(look(server, done))


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = Done()
        server = PageServer(from_flat(WebConfig, {"port": port}), done, Feed(), "robot", done.errors.append)
        with pytest.raises(ConfigError, match=rf"port = {port}.*another program.*0 takes one"):
            server.start()
        server.close()


def test_an_address_that_is_not_of_this_machine_is_said() -> None:
    done = Done()
    server = PageServer(
        from_flat(WebConfig, {"host": "192.0.2.1", "port": 0}), done, Feed(), "robot", done.errors.append
    )
    with pytest.raises(ConfigError, match=r"host = '192\.0\.2\.1'"):
        server.start()
