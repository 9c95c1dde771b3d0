"""What viewers ask for, brought from the server's thread into the node's."""

from __future__ import annotations

import queue
from collections.abc import Callable

from rclpy.node import Node


class CommandMailbox:
    """Runs what another thread hands over in the node's own thread, in order, as soon as that is free."""

    def __init__(self, node: Node) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken = node.create_guard_condition(self._run)

    def put(self, command: Callable[[], None]) -> None:
        """From any thread; never waits."""
        self._waiting.put(command)
        self._woken.trigger()

    def _run(self) -> None:
        for _ in range(self._waiting.qsize()):
            self._waiting.get_nowait()()
