"""Ten thousand messages and requests of nonsense at the page: nothing escapes, nothing moves."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("aiohttp", reason="needs aiohttp, the extra web")

import aiohttp
from web_graph import Robot, robot_on_a_plain

from vln_ros.web.requests import LONGEST_BYTES

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGES, REQUESTS = 8_000, 2_000
KNOCKING, ANSWER_S = 20, 2.0
KINDS = (
    "stop", "release", "instruct", "ask", "leave", "view", "shown", "drive", "put", "begin", "", "__init__",
    "hello",
)  # fmt: skip
TEXTS = ("", "go", "camera", "none", "true", "\x00", "\ud83d", "</script>", "\u202e", "दरवाजा", "1" * 400)
FIELDS = ("text", "take_over", "name", "number", "kind", "x", "x_m", "y_m", "yaw_rad", "start")
WANTED = {
    "instruct": ("text",), "ask": ("text",), "view": ("name",), "shown": ("number",), "begin": ("start",),
    "put": ("x_m", "y_m", "yaw_rad"),
}  # fmt: skip
PATHS = (
    "/", "/ws", "/page.js", "/page.css", "/../node.py", "/%2e%2e/%2e%2e/etc/passwd", "//evil.example/", "/%",
    "/ws?viewer=" + "a" * 4000, "/?token=%ff%00", "/index.html?token=" + "é" * 50, "/\\..\\x", "/" + "a" * 99,
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW", "CONNECT")


class Nonsense:
    """What somebody might send; never a valid taking of the wheel, which moves robots rightly."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, depth: int = 0) -> object:
        r = self.random
        kind = r.randrange(9 if depth < 3 else 7)
        if kind == 0:
            return None
        if kind == 1:
            return r.random() < 0.5
        if kind == 2:
            return r.choice([0, 1, -1, 2**31, 2**63, -(2**70), 10**400])
        if kind == 3:
            return r.choice([0.5, 1e308, -1e-308])
        if kind < 7:
            return self.text()
        if kind == 7:
            return [self.value(depth + 1) for _ in range(r.randrange(4))]
        return {r.choice(FIELDS): self.value(depth + 1) for _ in range(r.randrange(4))}

    def text(self) -> str:
        r = self.random
        return r.choice(TEXTS) if r.random() < 0.8 else "a" * r.randrange(5000)

    def message(self) -> str | bytes:
        r = self.random
        form = r.randrange(10)
        if form < 6:  # nearly right, or right
            content: dict[str, object] = {"kind": r.choice(KINDS)}
            for field in WANTED.get(str(content["kind"]), ()):
                if r.random() < 0.9:
                    content[field] = self.value() if r.random() < 0.5 else self.text()
            if r.random() < 0.2:
                content[r.choice(FIELDS[2:])] = self.value()
            return json.dumps(content)
        if form == 6:
            return json.dumps(self.value())
        if form == 7:
            text = json.dumps({"kind": r.choice(KINDS), "text": self.text()})
            cut = r.randrange(len(text))
            return text[:cut] + r.choice('"{}[]\\,:x\x00') + text[cut + r.randrange(2) :]
        if form == 8:
            return r.choice(["[" * 5000, "NaN", "-", '{"kind":' * 500, "﻿{}", "stop", "\x00" * 100])
        return r.randbytes(r.randrange(300))


async def shout(robot: Robot, seed: int) -> int:
    """Messages over connections that are opened again whenever they end. How many were sent."""
    nonsense, sent = Nonsense(seed), 0
    base = robot.address.rstrip("/")
    async with aiohttp.ClientSession() as session:
        while sent < MESSAGES // 2:
            async with session.ws_connect(f"{base}/ws", headers={"Origin": base}, max_msg_size=0) as socket:
                reading = asyncio.ensure_future(drain(socket))
                for _ in range(200):
                    if socket.closed:
                        break
                    message = nonsense.message()
                    sent += 1
                    try:
                        if isinstance(message, bytes):
                            await socket.send_bytes(message)
                        else:
                            await socket.send_str(message)
                    except (ConnectionError, UnicodeEncodeError):
                        break
                if nonsense.random.random() < 0.3 and not socket.closed:  # too long: the connection ends
                    await socket.send_str("x" * (LONGEST_BYTES + 1))
                reading.cancel()
    return sent


async def drain(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


async def knock(robot: Robot, seed: int) -> list[int]:
    """Raw HTTP, well formed and not, from some connections at once. The statuses."""
    waiting = iter(range(REQUESTS))
    every = await asyncio.gather(*(knock_on(robot, seed + i, waiting) for i in range(KNOCKING)))
    return [status for statuses in every for status in statuses]


async def knock_on(robot: Robot, seed: int, waiting: Iterator[int]) -> list[int]:
    nonsense, statuses = Nonsense(seed), []
    r = nonsense.random
    host = robot.address.split("/")[2]
    for _ in waiting:
        headers = [("Host", r.choice([host, host, "evil.example", "", "[::1", "a" * 500]))]
        headers += [(name, r.choice(values)) for name, values in headers_of(host) if r.random() < 0.3]
        text = f"{r.choice(METHODS)} {r.choice(PATHS)} HTTP/1.1\r\n"
        text += "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n"
        raw = text.encode("utf-8") + (r.randbytes(50) if r.random() < 0.2 else b"")
        if r.random() < 0.1:
            raw = r.randbytes(r.randrange(1, 200))
        reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
        try:
            writer.write(raw)
            answer = await asyncio.wait_for(reader.read(40), ANSWER_S)  # of half a request there is none
            if answer.startswith(b"HTTP/1."):
                statuses.append(int(answer.split(b" ", 2)[1]))
        except (ConnectionError, asyncio.TimeoutError):
            continue
        finally:
            writer.close()
    return statuses


def headers_of(host: str) -> tuple[tuple[str, list[str]], ...]:
    """Right and wrong values of headers."""
    return (
        ("Origin", [f"http://{host}", "http://evil.example", "null", "\x7f", "http://[::1"]),
        ("Cookie", ["vln_ros_8765=x", "=;=;", "vln_ros_8765=" + "ÿ" * 20, "a=" + "b" * 3000]),
        ("Upgrade", ["websocket", "h2c"]),
        ("Connection", ["Upgrade", "close", "keep-alive"]),
        ("Sec-WebSocket-Version", ["13", "0", "x"]),
        ("Sec-WebSocket-Key", ["dGhlIHNhbXBsZSBub25jZQ==", "short"]),
        ("Content-Length", ["0", "-1", "99999999", "x"]),
        ("Transfer-Encoding", ["chunked", "gzip"]),
    )


async def attack(robot: Robot) -> tuple[int, list[int]]:
    base = robot.address.rstrip("/")
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{base}/ws?viewer={'d' * 32}", headers={"Origin": base}, max_msg_size=0
        ) as driver,
    ):
        await driver.send_str('{"kind": "drive", "take_over": false}')
        await driver.send_str('{"kind": "view", "name": "none"}')
        reading = asyncio.ensure_future(drain(driver))
        first, second, statuses = await asyncio.gather(shout(robot, 1), shout(robot, 2), knock(robot, 3))
        reading.cancel()
    return first + second, statuses


def test_nothing_escapes_and_nothing_moves(tmp_path: Path) -> None:
    with robot_on_a_plain(tmp_path, {"viewers": 10}) as robot:
        sent, statuses = asyncio.run(attack(robot))
        assert sent >= MESSAGES
        assert len(statuses) > REQUESTS / 2
        assert not [s for s in statuses if s >= 500 and s != 501], "an error that nobody was prepared for"
        commands = len(robot.plain.commands)
        robot.wait(lambda: len(robot.plain.commands) > commands + 10, "an executor that goes on")
        assert robot.plain.instructions == []
        assert not robot.plain.count_publishers("initialpose"), "this robot is not simulated"
        assert all(zero for _, zero in robot.plain.commands)
        assert asyncio.run(still_serves(robot)) == "welcome"
    for log in tmp_path.glob("*.log"):
        text = log.read_text("utf-8", "replace")
        assert "Traceback" not in text, text[-3000:]
        assert log.name != "web.log" or "[ERROR]" not in text, text[-3000:]


async def still_serves(robot: Robot) -> str:
    base = robot.address.rstrip("/")
    async with aiohttp.ClientSession() as session:
        async with session.get(base + "/") as answer:
            assert answer.status == 200
        async with session.ws_connect(f"{base}/ws", headers={"Origin": base}) as socket:
            return str(json.loads((await socket.receive()).data)["kind"])
