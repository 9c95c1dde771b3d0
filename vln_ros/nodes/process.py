"""Starts a node's process and ends it with the right status."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
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
from vln_ros.nodes.ending import Ending
from vln_ros.nodes.lifecycle import ManagedNode
from vln_ros.ros.terminal.environment import PARENT, prepare_environment
from vln_ros.ros.terminal.notify import notify


class ProcessNode(Node):
    """The one node of a process.

    Attributes:
        done: complete it with the exit status to end the process; a node that serves never does.
            A signal completes it with None.
        computing: after :meth:`close`: a thread is deep in a computation still, which nobody waits for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.done = Future()
        self.computing = False

    def close(self) -> None:
        """End threads and finish files before the node is destroyed."""


_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """SIGTERM when the process that :data:`PARENT` names ends without a word: nobody else would stop the
    robot.

    Whoever runs a graph sets it for its nodes: our own supervisor, and the launch files. Without it (ros2
    run, systemd, nohup, a terminal) a node outlives whoever has started it, as everywhere.
    """
    parent = os.environ.pop(PARENT, None)  # a child of this node has another parent
    if parent is None or sys.platform != "linux":
        return
    if not parent.isdecimal():
        sys.exit(f"{PARENT} = {parent!r}: the number of the process to end with, or unset")
    if os.getppid() == int(parent):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # a prefix (a terminal, a debugger) lies between, or it ended before
        _watch(int(parent))


def _watch(process: int) -> None:
    """A thread waits for the end of a process that is not the parent."""
    try:
        ends = os.pidfd_open(process)
    except ProcessLookupError:
        sys.exit(f"process {process}, which this node is to end with ({PARENT}), has ended")

    def wait() -> None:
        poll = select.poll()
        poll.register(ends, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def run_node(make: Callable[[], ProcessNode | ManagedNode]) -> None:
    """Spin one node until SIGINT or SIGTERM; exits the process with 2 when it cannot be configured.

    One thread runs all callbacks, so the state of a node needs no locks; whatever takes long runs
    in a worker thread of its own. When ``close`` is called, the node can still publish. A process that was
    asked to end does so within a second, with status 0, in whatever state it is.

    A managed node is configured and activated if its option ``autostart`` says so.
    """
    ending = Ending()
    executor: SingleThreadedExecutor | None = None
    node: ProcessNode | ManagedNode | None = None
    status = 1
    try:
        prepare_environment()
        _end_with_parent()
        rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        if not isinstance(node, ManagedNode):
            notify("running", ready=True)
        elif not node.get_parameter("autostart").value:
            notify("unconfigured, a lifecycle manager brings it up", ready=True)
        elif not node.start():
            raise ConfigError(f"{node.get_name()} cannot start: {node.failure}")
        ending.complete(node.done, lambda: isinstance(node, ManagedNode) and node.configuring)
        executor = SingleThreadedExecutor()
        spin(node, executor)
        status = node.done.result() or 0
    except ConfigError as error:
        print(error, file=sys.stderr)
        if not isinstance(node, ManagedNode) or node.failure is None:  # it has said so itself
            notify(str(error))
        status = 2
    except KeyboardInterrupt:
        status = 0
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            ending.closing()
        if node is not None:
            node.close()
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.utilities.try_shutdown()
    # Launch repeats the terminal's Ctrl-C, and while Python ends, that would have its default effect.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if node is not None and node.computing:  # its thread is in a library that would be taken down under it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def spin(node: ProcessNode | ManagedNode, executor: SingleThreadedExecutor) -> None:
    """Until the node is done."""
    executor.add_node(node)
    # Executor.wake() does not make spin_once() return: a node without a timer or a message would never see
    # its end. And Executor.spin_until_future_complete adds a callback to the future with every message, which
    # a robot that runs for days has no memory for.
    end = node.create_guard_condition(lambda: None)
    node.done.add_done_callback(lambda _: end.trigger())
    while rclpy.utilities.ok() and not node.done.done():
        executor.spin_once()
