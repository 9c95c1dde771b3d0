"""Serves the page and its connections, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import secrets
import socket as sockets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from importlib.resources import files
from typing import Protocol

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from vln_ros.config import ConfigError, WebConfig
from vln_ros.web.access import Access
from vln_ros.web.driver import DriverSeat
from vln_ros.web.feed import Feed
from vln_ros.web.messages import VIEWS, Driving, Refused, Standstill, Welcome
from vln_ros.web.requests import (
    LONGEST_BYTES,
    Ask,
    Begin,
    Drive,
    Instruct,
    Leave,
    Put,
    Release,
    Request,
    RequestError,
    Shown,
    Stop,
    View,
    parse,
)
from vln_ros.web.viewer import Viewer

CONTENT = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    # Nothing from outside, nothing inline, in nobody's frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
CLOSE_S = 0.3
"""How long the connections may take to end when the process does."""
LOOK_PERIOD_S = 0.2
"""How often one looks whether the driver has been gone for too long."""
ALIVE_PERIOD_S = 1.0
"""Every page hears something so often: one that does not knows that its connection has ended."""
_IDENTITY = re.compile(r"[0-9a-f]{16,64}")


class Robot(Protocol):
    """What the page may do to the robot. Called in the server's thread; none of these waits."""

    def instruct(self, text: str, who: str) -> None: ...
    def ask(self, text: str, who: str) -> None: ...
    def stop(self, who: str) -> None: ...
    def release(self, who: str) -> None: ...
    def put(self, x_m: float, y_m: float, yaw_rad: float, who: str) -> None: ...
    def begin(self, start: str, who: str) -> None: ...
    def watch(self, views: frozenset[str]) -> None:
        """Somebody looks at these pictures, and nobody at others."""


class PageServer:
    """One server for all viewers.

    Args:
        config: what the user has said.
        robot: gets what viewers ask for.
        feed: what they see.
        name: of the robot, for people.
        report: gets a sentence about an error that nobody was prepared for.

    Attributes:
        port: that it listens at, once started.

    Raises:
        ConfigError: a token that can be guessed.
    """

    def __init__(
        self, config: WebConfig, robot: Robot, feed: Feed, name: str, report: Callable[[str], None]
    ) -> None:
        self._config, self._robot, self._feed, self._report = config, robot, feed, report
        self._name = name
        self._examples = tuple(filter(None, map(str.strip, config.examples.split(";"))))
        self.access = Access(config.host, config.token)
        self.port = config.port
        self.refused = 0
        """Requests that were understood by nobody."""
        self._seat = DriverSeat(config.driver_grace_s)
        self._viewers: list[Viewer] = []
        self._watched: frozenset[str] = frozenset()
        self._pages = _read_pages()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._up: Future[int] = Future()

    @property
    def viewers(self) -> int:
        """How many pages are open."""
        return len(self._viewers)

    @property
    def addresses(self) -> list[str]:
        """What a person types into the browser."""
        return self.access.addresses(self.port)

    def start(self) -> None:
        """Listen. Raises ConfigError where that is not possible."""
        self._thread.start()
        try:
            self.port = self._up.result()
        except OSError as error:
            self._thread.join()
            c = self._config
            why = "another program listens there" if error.errno == errno.EADDRINUSE else str(error.strerror)
            remedy = (
                "0 takes one that is free" if error.errno == errno.EADDRINUSE else "127.0.0.1 always works"
            )
            raise ConfigError(
                f"host = {c.host!r}, port = {c.port}: the page cannot be served: {why}; {remedy}"
            ) from error
        self._feed.on_change(self._wake_from_elsewhere)

    def close(self) -> None:
        """End every connection, and the thread."""
        self._feed.on_change(lambda: None)
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    # ------------------------------------------------------------------ in the server's thread from here

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._on_error)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _logger(self) -> logging.Logger:
        """What aiohttp writes its errors to: those of who talks nonsense are counted, others reported."""
        logger = logging.Logger("web")
        logger.addHandler(_ServerLog(self._count, self._report))
        return logger

    def _count(self) -> None:
        self.refused += 1

    def _on_error(self, _: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        self._report(f"the page's server: {context.get('exception') or context.get('message')!r}")

    async def _serve(self) -> None:
        app = web.Application(client_max_size=LONGEST_BYTES)
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/ws", self._on_connection)
        app.router.add_get("/{name:[a-z_]*\\.?[a-z]*}", self._on_page)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_S, logger=self._logger()
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._config.host, self._config.port)
            try:
                await site.start()
            except OSError as error:
                self._up.set_exception(error)
                return
            self._up.set_result(int(runner.addresses[0][1]))
            alive_s = time.monotonic()
            while not self._end.is_set():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._end.wait(), LOOK_PERIOD_S)
                self._look_for_the_driver()
                if time.monotonic() - alive_s > ALIVE_PERIOD_S:
                    alive_s = time.monotonic()
                    self._say_who_drives()
            closing = [v.socket.close(code=WSCloseCode.GOING_AWAY) for v in self._viewers]
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), CLOSE_S)
        finally:
            await runner.cleanup()

    def _wake_from_elsewhere(self) -> None:
        if not self._viewers:  # who comes later reads all of it
            return
        with contextlib.suppress(RuntimeError):  # it ends
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for viewer in self._viewers:
            viewer.wake()

    @property
    def _cookie(self) -> str:
        return f"vln_ros_{self.port}"

    def _why_refused(self, request: web.Request) -> str:
        """For people; empty: it is not."""
        if why := self.access.why_not_here(request.host):
            return why
        if not self.access.is_token(request.cookies.get(self._cookie, "")) and not self.access.is_token(
            request.query.get("token", "")
        ):
            return "this page asks for the token of the address that the node has printed when it started"
        return ""

    async def _on_page(self, request: web.Request) -> web.Response:
        name = request.match_info["name"] or "index.html"
        if (page := self._pages.get(name)) is None:
            return web.Response(status=404, text="there is no such page\n")
        if why := self._why_refused(request):
            return web.Response(status=403, text=f"Refused: {why}.\n")
        if name == "index.html" and request.query.get("token"):
            # Out of the address, where people would copy it from, into a cookie that no script can read. Lax:
            # who follows a link from elsewhere is let in, and connections are judged by their origin.
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(self._cookie, self.access.token, httponly=True, samesite="Lax", path="/")
            return answer
        body, content = page
        return web.Response(body=body, content_type=content, charset="utf-8")

    async def _on_connection(self, request: web.Request) -> web.StreamResponse:
        why = self._why_refused(request) or self.access.why_foreign(
            request.headers.get("Origin"), request.host
        )
        if why:
            return web.Response(status=403, text=f"Refused: {why}.\n")
        if len(self._viewers) >= self._config.viewers:
            return web.Response(status=503, text=f"{len(self._viewers)} pages are open, as many as may be.\n")
        socket = web.WebSocketResponse(
            heartbeat=self._config.viewer_timeout_s, max_msg_size=LONGEST_BYTES, compress=False
        )
        await socket.prepare(request)
        viewer = self._welcomed(request, socket)
        sender = asyncio.ensure_future(self._send(viewer))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._hear(viewer, message.data)
                elif message.type is WSMsgType.BINARY:
                    self._refuse(viewer, "a request is text")
        finally:
            sender.cancel()
            self._viewers.remove(viewer)
            if all(v.identity != viewer.identity for v in self._viewers):
                self._seat.gone(viewer.identity, time.monotonic())
            self._say_who_drives()
            self._say_what_is_watched()
        return socket

    def _welcomed(self, request: web.Request, socket: web.WebSocketResponse) -> Viewer:
        """The viewer behind a new connection."""
        identity = request.query.get("viewer", "")
        if not _IDENTITY.fullmatch(identity):
            identity = secrets.token_hex(16)
        for other in self._viewers:
            if other.identity == identity:  # a tab that was duplicated, or a connection that ended unseen
                other.identity = secrets.token_hex(16)
        welcome = Welcome(self._name, self._examples, time.time())
        viewer = Viewer(identity, request.remote or "somebody", socket, self._feed, welcome)
        self._viewers.append(viewer)
        self._seat.connected(identity)
        self._say_who_drives()
        self._say_what_is_watched()
        return viewer

    async def _send(self, viewer: Viewer) -> None:
        with contextlib.suppress(ConnectionError):  # whoever reads sees it end
            await viewer.send()

    # ------------------------------------------------------------------ what viewers ask for

    def _hear(self, viewer: Viewer, text: str) -> None:
        try:
            request = parse(text)
        except RequestError as error:
            self._refuse(viewer, str(error))
            return
        self._obey(viewer, request)

    def _refuse(self, viewer: Viewer, why: str) -> None:
        self.refused += 1
        viewer.tell(Refused(why))

    def _obey(self, viewer: Viewer, request: Request) -> None:
        if isinstance(request, Stop):  # first: nothing may come before it
            self._robot.stop(viewer.name)
            viewer.repeat(Standstill)  # also where nothing changes by it: the page must know that it came
        elif isinstance(request, Shown):
            viewer.shown(request.number)
        elif isinstance(request, View):
            viewer.show(request.name)
            self._say_what_is_watched()
        elif isinstance(request, Ask):
            self._robot.ask(request.text, viewer.name)
        elif isinstance(request, Drive | Leave):
            self._change_driver(viewer, request)
        elif self._seat.holder != viewer.identity:
            who = "somebody else drives: take over first" if self._seat.holder else "take the wheel first"
            viewer.tell(Refused(who))
        elif isinstance(request, Instruct):
            self._robot.instruct(request.text, viewer.name)
        elif isinstance(request, Release):
            self._robot.release(viewer.name)
        elif isinstance(request, Put):
            self._robot.put(request.x_m, request.y_m, request.yaw_rad, viewer.name)
        elif isinstance(request, Begin):
            self._robot.begin(request.start, viewer.name)

    def _change_driver(self, viewer: Viewer, request: Drive | Leave) -> None:
        before = self._seat.holder
        if isinstance(request, Leave):
            if self._seat.give_up(viewer.identity):
                self._feed.note("driver", f"{viewer.name} drives no more")
        elif not self._seat.take(viewer.identity, take_over=request.take_over):
            viewer.tell(Refused("somebody else drives: take over first"))
        elif before != viewer.identity:
            self._feed.note("driver", f"{viewer.name} {'has taken over' if before else 'drives'}")
        self._say_who_drives()

    def _look_for_the_driver(self) -> None:
        if not self._seat.expire(time.monotonic()):
            return
        if self._config.driver_gone == "hold":
            self._robot.stop("the driver's page is gone")
        self._feed.note("driver", "the driver's page is gone")
        self._say_who_drives()

    def _say_who_drives(self) -> None:
        holder = self._seat.holder
        there = next((v.name for v in self._viewers if v.identity == holder), "a page that is not connected")
        for viewer in self._viewers:
            you = viewer.identity == holder
            viewer.tell_driving(Driving(you, there if holder else "", len(self._viewers)))

    def _say_what_is_watched(self) -> None:
        watched = frozenset(v.view for v in self._viewers) & frozenset(VIEWS)
        if watched != self._watched:
            self._watched = watched
            self._robot.watch(watched)


class _ServerLog(logging.Handler):
    """Tells requests that cannot be read from errors of our own."""

    def __init__(self, count: Callable[[], None], report: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._count, self._report = count, report

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | ConnectionError):
            self._count()
        else:
            self._report(f"the page's server: {record.getMessage()}: {error!r}")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _read_pages() -> dict[str, tuple[bytes, str]]:
    """Every file of the page with its type: nothing else can be asked for."""
    folder = files("vln_ros.web") / "page"
    return {
        f.name: (f.read_bytes(), CONTENT[f.name.rpartition(".")[2]]) for f in folder.iterdir() if f.is_file()
    }


def host_name() -> str:
    """Of this machine, as people know it."""
    return sockets.gethostname()
