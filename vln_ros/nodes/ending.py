"""Ends a node at SIGINT and SIGTERM, whatever it is doing."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

from rclpy.task import Future

CALLBACK_GRACE_S = 0.3
"""How long the callback in progress may go on after a signal. All but those that load or wait are far
shorter."""
LIBRARY_GRACE_S = 0.3
"""How long its interruption may take to be noticed: a library looks for signals when it returns to Python."""


class Ending:
    """SIGINT and SIGTERM, from the first line of the process to its last.

    The first one completes :attr:`vln_ros.nodes.process.ProcessNode.done`, so that the callback in progress
    ends and the node can still say its last words: with rclpy's own handlers the context would be gone by
    then. What does not end by itself (weights that load, a world that is waited for) is interrupted after
    :data:`CALLBACK_GRACE_S`. Where nothing moves and no file is open yet, a process that is deep in a library
    even then is ended after :data:`LIBRARY_GRACE_S`.
    """

    def __init__(self) -> None:
        self._done: Future | None = None
        self._loading: Callable[[], bool] = lambda: True
        self._asked = self._interrupts = False
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        reading, writing = socket.socketpair()
        writing.setblocking(False)

        def wait() -> None:
            reading.recv(1)
            self._end()
            while reading.recv(64):  # to the end: launch repeats the terminal's Ctrl-C
                pass

        threading.Thread(target=wait, name="signals", daemon=True).start()
        for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job ignores it
            signal.signal(number, self._handle)
        # Python's own handlers wait until the wait set returns; the byte on this descriptor comes at once.
        signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)

    def _handle(self, *_: object) -> None:
        if self._interrupts and not self._closing.is_set():
            self._interrupts = False  # once
            raise KeyboardInterrupt

    def _end(self) -> None:
        """In the thread of the signals, after the first of them."""
        with self._lock:
            self._asked = True
            if self._done is not None and not self._done.done():
                self._done.set_result(None)
        if self._closing.wait(CALLBACK_GRACE_S):
            return
        with self._lock:
            if self._closing.is_set():
                return
            self._interrupts = True
            signal.pthread_kill(self._main, signal.SIGINT)  # ends a system call that waits, too
        if not self._closing.wait(LIBRARY_GRACE_S) and self._loading():
            os._exit(0)

    def complete(self, done: Future, loading: Callable[[], bool]) -> None:
        """From now on a signal completes ``done``; ``loading`` says whether the process may be ended in
        mid-call."""
        with self._lock:
            self._done, self._loading = done, loading
            if self._asked and not done.done():
                done.set_result(None)

    def closing(self) -> None:
        """The node is left: from now on nothing is interrupted."""
        self._closing.set()
        with self._lock:  # what was sent has come
            self._interrupts = False
