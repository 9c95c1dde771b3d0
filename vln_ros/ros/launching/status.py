"""Says in plain lines what became of each node that a launch has started, and how the launch ends."""

from __future__ import annotations

import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from launch.actions import Shutdown
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.logging import get_logger
from launch_ros.actions import Node

from vln_ros.ros.terminal.notify import ADDRESS, READY, STATUS, notify

CANNOT_BE_CONFIGURED = 2
"""The status of a node that refuses its parameters: starting it again would change nothing."""
_ASKED_TO_END = {0, 128 + signal.SIGINT, -signal.SIGINT, -signal.SIGTERM}
_LONGEST_BYTES = 4096
_LOGGER = get_logger("vln_ros")


@dataclass
class _Launched:
    """Everything of this package that a launch has started, included files too.

    Attributes:
        states: what was said last, by node.
        ready: those that have said that they are.
        running: those whose process has not ended.
    """

    states: dict[str, str] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)

    @staticmethod
    def of(context: LaunchContext) -> _Launched:
        """The one of a launch."""
        found: _Launched | None = context.get_locals_as_dict().get(__name__)
        if found is None:
            found = _Launched()
            context.extend_globals({__name__: found})
        return found

    def __str__(self) -> str:
        return "; ".join(f"{name} {state}" for name, state in self.states.items())


class PackageNode(Node):
    """A node of this package under launch. What it tells of itself is said, and a failure of it ends launch.

    Args:
        name: of the node.
        respawn: start it again when it has died; not if it refuses its parameters.
        finished: why launch shuts down when the node is done; empty for a node that never is.
        last: asked when it is done: whether no other one is waited for.
        additional_env: of its process.
        arguments: of launch_ros's Node.
    """

    def __init__(
        self,
        name: str,
        *,
        respawn: bool,
        finished: str,
        last: Callable[[], bool],
        additional_env: dict[str, str],
        **arguments: Any,
    ) -> None:
        self._address = f"vln_ros/{uuid.uuid4().hex}"
        self._respawns, self._finished, self._is_last = respawn, finished, last
        self._said = ""
        self._begun_s: float | None = None  # until it is ready
        super().__init__(
            name=name,
            additional_env={**additional_env, ADDRESS: f"@{self._address}"},
            respawn=respawn,
            respawn_delay=2.0,
            on_exit=self._on_end,
            **arguments,
        )

    def execute(self, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
        """Start it."""
        if context.is_shutdown:  # launch starts nothing any more
            return None
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.setblocking(False)
        self._told.bind(f"\0{self._address}")
        actions: list[LaunchDescriptionEntity] | None = super().execute(context)
        context.asyncio_loop.add_reader(self._told.fileno(), self._hear, context)
        _Launched.of(context).running.add(self._label)
        self._begin(context)
        return actions

    @property
    def _label(self) -> str:
        return str(self.node_name).lstrip("/")

    def _begin(self, context: LaunchContext) -> None:
        self._said, self._begun_s = "", time.monotonic()
        self._say(context, "starting")

    def _say(self, context: LaunchContext, state: str, *, failed: bool = False) -> None:
        """On the log; and to who has started launch, of all nodes together."""
        (_LOGGER.error if failed else _LOGGER.info)(f"{self._label}: {state}")
        launched = _Launched.of(context)
        launched.states[self._label] = state
        notify(str(launched), ready=launched.ready >= {*launched.states})

    def _hear(self, context: LaunchContext) -> None:
        """What the node's process tells."""
        try:
            text = self._told.recv(_LONGEST_BYTES).decode("utf-8", "replace")
        except BlockingIOError:
            return
        told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        self._said = told.get(STATUS, self._said)
        took = ""
        if READY in told and self._begun_s is not None:
            took, self._begun_s = f" after {time.monotonic() - self._begun_s:.1f} s", None
            _Launched.of(context).ready.add(self._label)
        self._say(context, f"{self._said}{took}")

    def _on_end(self, event: ProcessExited, context: LaunchContext) -> LaunchDescriptionEntity | None:
        """Raising is the one way to a status of launch other than 0; all else is shut down in order."""
        while self._has_more():
            self._hear(context)
        status, why = event.returncode, self._reason(event.returncode)
        if context.is_shutdown:
            if status in _ASKED_TO_END:
                self._end(context, "ended")
                return None
            self._end(context, f"failed: {why}", failed=True)
            raise RuntimeError(f"{self._label} was told to end and ended with status {status}")
        if status == 0 and self._finished:
            self._end(context, f"done, {self._finished}")
            return Shutdown(reason=self._finished) if self._is_last() else None
        if self._respawns and status != CANNOT_BE_CONFIGURED:
            self._say(context, f"failed: {why}; it is started again", failed=True)
            self._begin(context)
            return None
        self._end(context, f"failed: {why}", failed=True)
        raise RuntimeError(
            f"{self._label} has ended with status {status} ({why}): everything ends, the robot stands"
        )

    def _end(self, context: LaunchContext, state: str, *, failed: bool = False) -> None:
        """For good; the last of all sums up."""
        context.asyncio_loop.remove_reader(self._told.fileno())
        self._told.close()
        self._say(context, state, failed=failed)
        launched = _Launched.of(context)
        launched.running.discard(self._label)
        if not launched.running:
            _LOGGER.info(f"everything has ended: {launched}")

    def _has_more(self) -> bool:
        try:
            return bool(self._told.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def _reason(self, status: int) -> str:
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        if status == CANNOT_BE_CONFIGURED and self._said:
            return self._said
        return f"status {status}" if status else "it has ended, and nobody has told it to"
