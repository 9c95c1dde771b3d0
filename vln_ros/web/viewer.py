"""One page that is open somewhere: what it has been sent, and what it gets next."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import web

from vln_ros.web.feed import Feed
from vln_ros.web.messages import VIEWS, Driving, Message, encode, kind_of

IN_FLIGHT = 2
"""Pictures that may be on their way to a page: the next one comes when one of them is on the screen. So what
a slow network holds back is never older than that."""
_WORDS_KEPT = 20


class Viewer:
    """Belongs to the server's thread. Its sender is a task of its own: who stalls, stalls alone.

    Args:
        identity: secret by which a page is known when it connects again.
        name: for people.
        socket: to write to.
        feed: to read from.
        welcome: the first message.

    Attributes:
        view: the pictures that it shows.
        sent: how many messages and pictures it was sent.
    """

    def __init__(
        self, identity: str, name: str, socket: web.WebSocketResponse, feed: Feed, welcome: Message
    ) -> None:
        self.identity, self.name, self.socket = identity, name, socket
        self.view = VIEWS[0]
        self.sent = 0
        self._feed = feed
        self._seen: dict[str, int] = {}
        self._noted = 0
        self._in_flight: set[int] = set()
        self._words: deque[str] = deque([encode(welcome)], maxlen=_WORDS_KEPT)
        self._driving: Driving | None = None
        self._wake = asyncio.Event()
        self._wake.set()

    def wake(self) -> None:
        """There may be something new."""
        self._wake.set()

    def tell(self, message: Message) -> None:
        """Something for this viewer alone. Of many that it does not read the oldest are lost."""
        self._words.append(encode(message))
        self._wake.set()

    def tell_driving(self, driving: Driving) -> None:
        """Who drives, as this viewer sees it."""
        self._driving = driving
        self._wake.set()

    def show(self, view: str) -> None:
        """Send these pictures from now on."""
        self.view = view
        self._seen.pop(view, None)
        self._in_flight.clear()
        self._wake.set()

    def repeat(self, kind: type[Message]) -> None:
        """Send the newest of these once more."""
        self._seen.pop(kind_of(kind), None)
        self._wake.set()

    def shown(self, number: int) -> None:
        """A picture is on the screen. Numbers that were not sent mean nothing."""
        self._in_flight.discard(number)
        self._wake.set()

    async def send(self) -> None:
        """Send what is new, until the connection ends."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._words:
                await self._send(self._words.popleft())
            driving, self._driving = self._driving, None
            if driving is not None:
                await self._send(encode(driving))
            for number, text in self._feed.notes_after(self._noted):
                self._noted = number
                await self._send(text)
            for entry in self._feed.newer(self._seen):
                is_full = len(self._in_flight) >= IN_FLIGHT
                if entry.subject in VIEWS and (entry.subject != self.view or is_full):
                    continue
                self._seen[entry.subject] = entry.version
                if entry.subject in VIEWS:
                    self._in_flight.add(entry.version & 0xFFFFFFFF)
                await self._send(entry.payload)

    async def _send(self, payload: str | bytes) -> None:
        self.sent += 1
        if isinstance(payload, str):
            await self.socket.send_str(payload)
        else:
            await self.socket.send_bytes(payload)
