"""Starting and ending a node's process."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import rclpy
import rclpy.utilities
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from vln_ros.config import ConfigError
from vln_ros.nodes.managed import ManagedNode
from vln_ros.ros.environment import PARENT, prepare_environment


class ProcessNode(Node):
    """The one node of a process.

    Attributes:
        done: complete it with the exit status to end the process; a node that serves never does.
            A signal completes it with None.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.done = Future()

    def close(self) -> None:
        """End threads and finish files before the node is destroyed."""


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _complete_on_signal(done: Future) -> None:
    """From now on SIGINT and SIGTERM complete ``done`` and do nothing else.

    With rclpy's own handlers the context is gone before a node can publish its last message, and
    Python's wait until the wait set returns; the byte on the wake-up descriptor comes at once.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def wait() -> None:
        while reading.recv(1):  # to the end: launch repeats the terminal's Ctrl-C
            if not done.done():
                done.set_result(None)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writing.detach())


_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """SIGTERM when the process that runs the graph ends without a word: nobody else would stop the robot."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before
        sys.exit(1)


def run_node(make: Callable[[], ProcessNode | ManagedNode]) -> None:
    """Spin one node until SIGINT or SIGTERM; exits the process with 2 when it cannot be configured.

    One thread runs all callbacks, so the state of a node needs no locks; whatever takes long runs
    in a worker thread of its own. When ``close`` is called, the node can still publish.

    A managed node is configured and activated if its option ``autostart`` says so.
    """
    prepare_environment()
    signal.signal(signal.SIGINT, _interrupt)  # a shell's background job would ignore it
    signal.signal(signal.SIGTERM, _interrupt)
    _end_with_parent()
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
        if isinstance(node, ManagedNode) and node.get_parameter("autostart").value and not node.start():
            node.close()
            raise ConfigError(f"{node.get_name()} cannot start: {node.failure}")
    except ConfigError as error:
        print(error, file=sys.stderr)
        rclpy.utilities.try_shutdown()
        sys.exit(2)
    except KeyboardInterrupt:
        rclpy.utilities.try_shutdown()
        sys.exit(130)
    _complete_on_signal(node.done)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    # Executor.spin_until_future_complete adds a callback to the future with every message, which a robot
    # that runs for days has no memory for.
    node.done.add_done_callback(lambda _: executor.wake())
    try:
        while rclpy.utilities.ok() and not node.done.done():
            executor.spin_once()
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.utilities.try_shutdown()
    # Launch repeats the terminal's Ctrl-C, and while Python ends, that would have its default effect.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(node.done.result() or 0)
