"""Runs one robot's navigator of a fleet in a thread of its own, so that what happens to it harms no other."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from rclpy.executors import SingleThreadedExecutor

from vln_ros.config import ConfigError
from vln_ros.nodes.navigator.node import Navigator
from vln_ros.nodes.process import spin


class RobotThread:
    """From :meth:`start` to its end a navigator's callbacks run here, one by one as in a process of its own,
    however busy another robot keeps its own.

    Args:
        navigator: not spun by anybody else; destroyed at the end.
        ended: called in this thread when the navigator is gone.

    Attributes:
        has_begun: it could start.
        failure: why it ended though nobody wanted that.
    """

    def __init__(self, navigator: Navigator, ended: Callable[[RobotThread], None]) -> None:
        self.name = navigator.get_namespace()
        self.has_begun = False
        self.failure: Exception | None = None
        self._navigator, self._ended = navigator, ended
        self._executor = SingleThreadedExecutor(context=navigator.context)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Ask it to end; :meth:`wait` says whether it has."""
        if not self._navigator.done.done():
            self._navigator.done.set_result(None)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, and computes nothing any more."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not (self._thread.is_alive() or self._navigator.computing)

    def _run(self) -> None:
        navigator = self._navigator
        try:
            if navigator.get_parameter("autostart").value and not navigator.start():
                raise ConfigError(f"{navigator.get_fully_qualified_name()} cannot start: {navigator.failure}")
            self.has_begun = True
            spin(navigator, self._executor)
        except Exception as error:  # whatever it is, it is this robot's
            self.failure = error
            if self.has_begun:
                navigator.get_logger().error(traceback.format_exc())
        self.end()  # as long as there is a node that hears of it
        try:
            navigator.close()
        finally:
            self._executor.shutdown()
            navigator.destroy_node()
            self._ended(self)
