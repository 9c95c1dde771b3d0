"""Puts a person at a terminal among the nodes of a robot: finds them, and waits for what they say."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from vln_ros.cli.arguments.parsing import seconds
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import ConfigError
from vln_ros.ros.terminal.environment import DOMAIN, LARGEST_DOMAIN, domain_of, prepare_environment

WAIT_S = 10.0
"""How long a command looks for the nodes that it needs."""
SPIN_S = 0.05
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NobodyError(RuntimeError):
    """Nobody answers; the message says who, where it was looked for, and what would help."""


def add_place(parser: argparse.ArgumentParser, without_namespace: str = "none") -> None:
    """Where the robot is; ``without_namespace``: what is meant where none is named."""
    parser.add_argument(
        "--domain",
        type=int,
        default=None,
        help=f"ROS domain of the robot (default: the terminal's, {DOMAIN}); a demo prints its own",
    )
    parser.add_argument(
        "--namespace",
        default="",
        help=f"namespace of the robot's nodes and topics (default: {without_namespace})",
    )
    parser.add_argument(
        "--wait-s",
        type=seconds,
        default=WAIT_S,
        help="seconds to look for the nodes (default: %(default)g)",
    )


class Person:
    """A node of no process of its own. Use as a context.

    Args:
        namespace: of the robot.
        wait_s: how long to look for its nodes.

    Raises:
        ConfigError: no such namespace, or no ROS process can start in this terminal.
    """

    def __init__(self, namespace: str = "", wait_s: float = WAIT_S) -> None:
        prepare_environment()
        self.domain = domain_of(os.environ)
        self._wait_s = wait_s
        import rclpy
        from rclpy.exceptions import InvalidNamespaceException
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rclpy.signals import SignalHandlerOptions
        from rclpy.validate_namespace import validate_namespace

        absolute = f"/{namespace.strip('/')}"
        if namespace:
            try:
                validate_namespace(absolute)
            except InvalidNamespaceException as error:
                raise ConfigError(f"--namespace = {namespace!r}: letters, digits, _ and /") from error
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(f"person_{os.getpid()}", namespace=absolute)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Person:
        """Where the options of :func:`add_place` say. Raises ConfigError also for a domain that is none."""
        if options.domain is not None:
            if not 0 <= options.domain <= LARGEST_DOMAIN:
                raise ConfigError(f"--domain = {options.domain}: a ROS domain is 0 to {LARGEST_DOMAIN}")
            os.environ[DOMAIN] = str(options.domain)
        return cls(options.namespace, options.wait_s)

    def hear(self, kind: Any, topic: str, told: Callable[[Any], None], profile: Any) -> None:
        """Subscribe."""
        self.node.create_subscription(kind, topic, told, profile)

    def until(self, condition: Callable[[], bool], limit_s: float | None) -> bool:
        """Whether it came true within ``limit_s`` (None: for ever)."""
        end_s = None if limit_s is None else time.monotonic() + limit_s
        while not condition():
            if end_s is not None and time.monotonic() > end_s:
                return False
            with _interrupted_afterwards():
                self._executor.spin_once(SPIN_S)
        return True

    def find(self, who: str, condition: Callable[[], bool], remedy: str) -> None:
        """Raises NobodyError if it does not come true while one may look."""
        found = self.until(condition, SPIN_S)
        if not found:  # at once, mostly
            with waiting(f"looking for {who} in {self.place}"):
                found = self.until(condition, self._wait_s)
        if not found:
            elsewhere = sorted(self.robots() - {self.node.get_namespace()})
            there = f" (robots are in {', '.join(elsewhere)})" if elsewhere else ""
            raise NobodyError(
                f"no {who} within {self._wait_s:g} s in {self.place}: {remedy}, or name its ROS domain "
                f"(--domain, {DOMAIN}) and namespace{there}"
            )

    def robots(self) -> set[str]:
        """The namespaces of this domain in which a robot is, as far as they were found yet."""
        names = {"navigator", "executor"}
        return {n for name, n in self.node.get_node_names_and_namespaces() if name in names}

    @property
    def place(self) -> str:
        """Where this one looks, for people."""
        return self.place_of(self.node.get_namespace())

    def place_of(self, namespace: str) -> str:
        return f"ROS domain {self.domain}" + ("" if namespace == "/" else f", namespace {namespace}")

    def __enter__(self) -> Person:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import rclpy

        with _uninterrupted():
            self._executor.shutdown()
            self.node.destroy_node()
            rclpy.shutdown()


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """rclpy makes an error of its own of an interruption amid one of its calls: it comes behind the call."""
    if threading.current_thread() is not threading.main_thread():  # it is never interrupted
        yield
        return
    came: list[int] = []
    # What is ignored, or ends the process by itself, stays as it is.
    handlers = {number: signal.getsignal(number) for number in _INTERRUPTING}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C while the node goes would leave a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
