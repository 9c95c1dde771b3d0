"""STOP: the executor is paused and the navigator's run ended, and both are asked until they have said so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from vln_ros.web.messages import Standstill as StandstillMessage

REPEAT_S = 0.3
"""A request that is not answered for so long is sent again: the node may have been restarted meanwhile."""
SETTLED_S = 0.5
"""After so long what an executor says of itself, and which one it is, belong together."""
UNHEARD_S = 2.0
"""An executor that has confirmed a STOP says within this time that it is paused."""


class _Call:
    """One request to one service, repeated until it is granted.

    Attributes:
        granted: the service has said that it is done.
    """

    def __init__(self, client: Client, request: object, changed: Callable[[], None]) -> None:
        self._client, self._request, self._changed = client, request, changed
        self._future: Future | None = None
        self._sent_s = 0.0
        self.granted = False

    @property
    def is_possible(self) -> bool:
        """Somebody offers the service."""
        return bool(self._client.service_is_ready())

    def push(self, now_s: float) -> None:
        """Send it, where it is due and somebody is there."""
        if self.granted or (self._future is not None and now_s - self._sent_s < REPEAT_S):
            return
        self.drop()
        if not self.is_possible:
            return
        self._sent_s = now_s
        self._future = self._client.call_async(self._request)
        self._future.add_done_callback(self._answered)

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            self._client.remove_pending_request(future)

    def _answered(self, future: Future) -> None:
        if future is self._future:
            response = future.result()
            self.granted = response is not None and bool(response.success)
            self._changed()


class Standstill:
    """Belongs to the node's thread.

    STOP asks for two things: that the executor stands (``executor/pause``) and that the navigator's run ends
    (``navigator/cancel``). A STOP that nobody hears yet is kept, and delivered to who comes. A release ends
    the run once more before the executor may take queues again: somebody may have given an instruction to a
    robot that was stopped.

    Args:
        node: gets the clients.
        said: gets what is to be shown.
    """

    def __init__(self, node: Node, said: Callable[[StandstillMessage], None]) -> None:
        self._said = said
        self._pause_client = node.create_client(SetBool, "executor/pause")
        self._cancel_client = node.create_client(Trigger, "navigator/cancel")
        self._pause: _Call | None = None
        self._cancel: _Call | None = None
        self._release: _Call | None = None
        self._stands: str | None = None
        self._free_s = math.inf
        self._say()

    def stop(self) -> None:
        """Ask for it now, also where it was asked for before."""
        self._forget()
        self._pause = _Call(self._pause_client, SetBool.Request(data=True), self.tick)
        self._cancel = _Call(self._cancel_client, Trigger.Request(), self.tick)
        self.tick()

    def release(self) -> bool:
        """Let the executor take queues again. Nothing moves by it. False: there is no executor."""
        if not self._pause_client.service_is_ready():
            return False
        self._forget()
        self._cancel = _Call(self._cancel_client, Trigger.Request(), self.tick)
        self._release = _Call(self._pause_client, SetBool.Request(data=False), self.tick)
        self.tick()
        return True

    @property
    def is_asked(self) -> bool:
        """STOP was pressed, and nobody has released the robot since."""
        return self._pause is not None

    def look(self, executor: str, is_paused: bool, is_silent: bool) -> str:
        """Whether the executor that has confirmed a STOP still stands by it.

        One that is silent, that was started anew, or that never says that it stands, is asked again. One that
        stands no more was released by somebody else, and the STOP is over. To be called with every state that
        it says, and regularly.

        Args:
            executor: which one was heard last.
            is_paused: it says that it is.
            is_silent: it says nothing any more.

        Returns:
            What there is to say of it; empty: nothing.
        """
        if self._pause is None:
            return ""
        if is_paused and not is_silent:  # also before the service answers: the state may be gone by then
            self._stands, self._free_s = executor, math.inf
        elif self._pause.granted and is_silent:
            self.stop()
        elif self._pause.granted:
            return self._look_at_free(executor)
        return ""

    def _look_at_free(self, executor: str) -> str:
        """What there is to say of one that has confirmed the STOP, and does not say that it stands."""
        now_s = time.monotonic()
        self._free_s = min(self._free_s, now_s)
        free_s = now_s - self._free_s
        if self._stands is None:
            if free_s <= UNHEARD_S:
                return ""
            self.stop()
            return "STOP again: the executor does not say that it stands"
        if free_s <= SETTLED_S:
            return ""
        if executor != self._stands:
            self.stop()
            return "STOP again: the executor was started anew"
        self._forget()
        self._say()
        return "released by somebody who does not use this page"

    def tick(self) -> None:
        """Send what is due, and repeat what was not answered."""
        now_s = time.monotonic()
        if self._pause is not None:
            self._pause.push(now_s)
        if self._cancel is not None:
            self._cancel.push(now_s)
            is_over = self._cancel.granted or not self._cancel.is_possible
            if self._release is not None and is_over:
                self._release.push(now_s)
        self._say()

    def _forget(self) -> None:
        for call in (self._pause, self._cancel, self._release):
            if call is not None:
                call.drop()
        self._pause = self._cancel = self._release = None
        self._stands, self._free_s = None, math.inf

    def _say(self) -> None:
        if self._pause is None or self._cancel is None:
            self._said(StandstillMessage(False, False, ""))
        elif self._pause.granted:
            run = "the run is over" if self._cancel.granted else "no navigator has confirmed it"
            self._said(StandstillMessage(True, True, f"The executor stands still; {run}."))
        elif not self._pause.is_possible:
            run = " The navigator has ended its run." if self._cancel.granted else ""
            text = f"No executor is there that could confirm it; it is asked as soon as one comes.{run}"
            self._said(StandstillMessage(True, False, text))
        else:
            self._said(StandstillMessage(True, False, "Sent; the executor has not confirmed it yet."))
