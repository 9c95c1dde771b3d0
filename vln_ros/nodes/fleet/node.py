"""The fleet node: makes a navigator for each robot, and says how they share the model."""

from __future__ import annotations

import sys
import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidNamespaceException
from rclpy.validate_namespace import validate_namespace

from vln_ros.config import ConfigError, FleetConfig
from vln_ros.engine.turns import EngineThread
from vln_ros.engines import SharedEngines
from vln_ros.nodes.fleet.robot_thread import RobotThread
from vln_ros.nodes.navigator.node import Navigator
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.ros import qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import declare_config

ENDING_WAIT_S = 0.6
"""How long the end of the process waits for all navigators together."""


class Fleet(ProcessNode):
    """See docs/robot/fleet.md. Each robot has a whole navigator, in its namespace, with its own parameters.

    They share the weights and the thread that runs the engines.

    Raises:
        ConfigError: no robots, or parameters of one of them that its navigator refuses.
    """

    def __init__(self) -> None:
        super().__init__("fleet")
        config = declare_config(self, FleetConfig)
        namespaces = namespaces_of(config.robots)
        engines = SharedEngines()
        self._engine_thread = EngineThread(engines)
        self._ending = False
        self._robots = [
            RobotThread(_navigator(engines, self._engine_thread, namespace), self._on_end)
            for namespace in namespaces
        ]
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / config.diagnostics_hz, self._diagnose, clock=steady)
        for robot in self._robots:
            robot.start()

    def close(self) -> None:
        self._ending = True
        for robot in self._robots:
            robot.end()
        until_s = time.monotonic() + ENDING_WAIT_S
        waited = [robot.wait(max(until_s - time.monotonic(), 0.0)) for robot in self._robots]
        self.computing = not all(waited)

    def _on_end(self, robot: RobotThread) -> None:
        """In the robot's thread."""
        if self._ending:
            return
        if not robot.has_begun:  # said at once, for it is whoever starts the fleet who can mend it
            print(robot.failure, file=sys.stderr)
            self._end(2)
            return
        self.get_logger().error(f"{robot.name} is lost, and stands; the others go on: {robot.failure!r}")
        if all(r.failure is not None for r in self._robots):
            self._end(1)

    def _end(self, status: int) -> None:
        if not self.done.done():
            self.done.set_result(status)

    def _diagnose(self) -> None:
        lost = [robot for robot in self._robots if robot.failure is not None]
        asked, answers = self._engine_thread.asked, self._engine_thread.answers
        health = Health(
            Level.ERROR if lost else Level.OK,
            f"lost: {', '.join(r.name for r in lost)}" if lost else f"{len(self._robots)} robots",
            (
                ("robots", len(self._robots)),
                ("robots lost", len(lost)),
                ("decisions", answers),
                ("decisions at once, mean", answers / asked if asked else 0.0),
                *((f"lost: {r.name}", f"{type(r.failure).__name__}: {r.failure}") for r in lost),
            ),
        )
        stamp_ns = self.get_clock().now().nanoseconds
        self._diagnostics_pub.publish(
            diagnostics_from_health(health, f"vln_ros: {self.get_name()}", self.get_namespace(), stamp_ns)
        )


def _navigator(engines: SharedEngines, thread: EngineThread, namespace: str) -> Navigator:
    navigator = Navigator(engines, thread, namespace)
    level = navigator.config.profiling.level
    if level != "off":  # a process has one profiler, whose figures would be of all robots
        raise ConfigError(
            f"{navigator.get_fully_qualified_name()}: profiling.level = {level!r}: leave it off in a fleet, "
            "and profile a navigator of its own"
        )
    return navigator


def namespaces_of(robots: str) -> list[str]:
    """The namespaces that the option names, absolute.

    Raises:
        ConfigError: none, one that ROS does not take, or one twice.
    """
    names = [name for part in robots.split(",") if (name := part.strip())]
    if not names:
        raise ConfigError("robots is empty: name the robots' namespaces, as in robots:=left,right")
    namespaces = [f"/{name.strip('/')}" for name in names]
    for namespace in namespaces:
        try:
            validate_namespace(namespace)
        except InvalidNamespaceException as error:
            raise ConfigError(f"robots = {robots!r}: {namespace} is no namespace: {error}") from error
        if namespace == "/" or namespaces.count(namespace) > 1:
            what = "one robot is in no namespace" if namespace == "/" else f"{namespace} stands twice"
            raise ConfigError(f"robots = {robots!r}: {what}; give each robot a namespace of its own")
    return namespaces


def main() -> None:
    run_node(Fleet)


if __name__ == "__main__":
    main()
