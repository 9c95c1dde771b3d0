"""The base class of lifecycle nodes: configure, activate, deactivate, clean up, and never half of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

from vln_ros.config import ConfigError
from vln_ros.ros import qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.terminal.interpreter import missing_text
from vln_ros.ros.terminal.notify import notify

LOADING_PERIOD_S = 2.0
"""How often a configuration that takes long says that it is still at it."""


def _placed(name: str, namespace: str) -> dict[str, Any]:
    """What makes a node the one that it is among several, whatever the process is told of *its* node."""
    if not namespace:
        return {}
    return {"cli_args": ["--ros-args", "-r", f"__node:={name}", "-r", f"__ns:={namespace}"]}


class ManagedNode(LifecycleNode):
    """A node with ROS's lifecycle around four steps.

    What a step makes in the way of publishers, subscriptions, timers and services, its opposite destroys: a
    node that is not active has no timer and hears nothing. A step that raises leaves no half of itself
    behind, and the transition fails.

    Args:
        name: of the node.
        namespace: of one of several nodes in a process; empty: as the process is told.

    Attributes:
        done, computing: as of :class:`vln_ros.nodes.process.ProcessNode`.
        configuring: a configuration is under way.
        failure: why the last transition failed.
    """

    def __init__(self, name: str, namespace: str = "") -> None:
        super().__init__(name, **_placed(name, namespace))
        self.done = Future()
        self.computing = self.configuring = False
        self.failure: Exception | None = None
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        self._unconfigured: set[object] = set()
        self._inactive: set[object] = set()

    def configure(self) -> None:
        """Make what is costly. Raises ConfigError where the user can do something about it."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Come to rest. Called more than once, and after half an :meth:`activate` too."""

    def cleanup(self) -> None:
        """Free what is costly. Called more than once, and after half a :meth:`configure` too."""

    def start(self) -> bool:
        """Configure and activate."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() is success and self.trigger_activate() is success

    def close(self) -> None:
        """The process ends: come to rest and free everything, in whatever state it is."""
        self._finish()

    def say(self, health: Health) -> None:
        """On /diagnostics."""
        stamp_ns = self.get_clock().now().nanoseconds
        name = f"vln_ros: {self.get_name()}"
        self._diagnostics_pub.publish(diagnostics_from_health(health, name, self.get_namespace(), stamp_ns))

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unconfigured = self._entities()
        self.configuring = True
        with self._still("configuring"):
            return self._transition("configure", self.configure, self._free, "inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._inactive = self._entities()
        return self._transition("activate", self.activate, self._rest, "active")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", self._rest, self._rest, "inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self._free, self._free, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shut down", self._finish, self._finish, "finalized")

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """rclpy ends the process at a transition that its state does not have, and answers nobody.

        A lifecycle manager that takes back what it has half brought up asks for such.
        """
        try:
            found: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
        except rclpy_implementation.RCLError as error:
            self.get_logger().warning(f"no such transition from here: {error}")
            return TransitionCallbackReturn.FAILURE
        return found

    def _transition(
        self, what: str, step: Callable[[], None], undo: Callable[[], None], state: str
    ) -> TransitionCallbackReturn:
        self.failure = None
        try:
            step()
        except Exception as error:  # whatever it is, nothing may stay half way
            if isinstance(error, ModuleNotFoundError) and error.name:
                error = ConfigError(missing_text([error.name]))
            self.failure = error
            text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot {what}: {text}")
            self.say(Health(Level.ERROR, f"cannot {what}: {text}"))
            notify(f"cannot {what}: {text}")
            undo()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(state)
        notify(state, ready=state == "active")
        self.say(Health(Level.OK if state == "active" else Level.STALE, state))
        return TransitionCallbackReturn.SUCCESS

    def _finish(self) -> None:
        self._rest()
        self._free()

    def _rest(self) -> None:
        self.deactivate()
        self._destroy_all_but(self._inactive)

    def _free(self) -> None:
        self.cleanup()
        self._destroy_all_but(self._unconfigured)

    def _entities(self) -> set[object]:
        return {*self.publishers, *self.subscriptions, *self.timers, *self.services}

    def _destroy_all_but(self, kept: set[object]) -> None:
        if not kept:  # never been there
            return
        for timer in set(self.timers) - kept:
            self.destroy_timer(timer)
        for subscription in set(self.subscriptions) - kept:
            self.destroy_subscription(subscription)
        for service in set(self.services) - kept:
            self.destroy_service(service)
        for publisher in set(self.publishers) - kept:
            self.destroy_publisher(publisher)

    @contextlib.contextmanager
    def _still(self, what: str) -> Iterator[None]:
        """Says from time to time, on the log and on /diagnostics, that it is still busy."""
        over = threading.Event()
        begun_s = time.monotonic()

        def tell() -> None:
            while not over.wait(LOADING_PERIOD_S):
                text = f"{what}, {time.monotonic() - begun_s:.0f} s so far"
                self.get_logger().info(text)
                self.say(Health(Level.STALE, text))

        thread = threading.Thread(target=tell, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.configuring = False
            over.set()
            thread.join()
