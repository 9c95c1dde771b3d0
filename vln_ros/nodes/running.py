"""Starting and ending a node's process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rclpy
import rclpy.utilities
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from vln_ros.config import ConfigError
from vln_ros.ros.environment import prepare_environment


class ProcessNode(Node):
    """The one node of a process.

    Attributes:
        done: complete it with the exit status to end the process; a node that serves never does.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.done = Future()

    def close(self) -> None:
        """End threads and finish files before the node is destroyed."""


def run_node(make: Callable[[], ProcessNode]) -> None:
    """Spin one node until SIGINT or SIGTERM; exits the process with 2 when it cannot be configured.

    One thread runs all callbacks, so the state of a node needs no locks; whatever takes long runs
    in a worker thread of its own.
    """
    prepare_environment()
    rclpy.init(args=sys.argv)
    try:
        node = make()
    except ConfigError as error:
        rclpy.utilities.try_shutdown()
        sys.exit(f"{error}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin_until_future_complete(node.done)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the two ways in which a process is asked to end
    finally:
        executor.shutdown()
        node.close()
        node.destroy_node()
        rclpy.utilities.try_shutdown()
    if node.done.done() and node.done.result():
        sys.exit(node.done.result())
