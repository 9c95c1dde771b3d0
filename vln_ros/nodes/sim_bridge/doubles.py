"""Refuses to simulate where somebody else sets the clock, the odometry or simulates too."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.subscription import Subscription
from rosgraph_msgs.msg import Clock as ClockMsg
from std_msgs.msg import Header

from vln_ros.config import ConfigError
from vln_ros.nodes.heartbeat import Heartbeat
from vln_ros.nodes.process import ProcessNode
from vln_ros.ros import qos
from vln_ros.ros.convert import stamp_ns_from_time
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health

LISTENING_S = 1.0
"""How long a bridge listens before it begins: a clock and an odometry are heard in a small part of it."""
BEAT_S = 0.1
GONE_S = 2.0
"""Who is silent for so long is gone."""
_TOPICS = {"odom": Odometry, "/clock": ClockMsg}
_UNKNOWN = "NODE_NAME_UNKNOWN"
"""In the name of a node of which only the publisher was discovered yet."""
_UNNAMED = "a node that does not tell its name"
_REMEDY = (
    "A simulated robot beside another simulator, a real base or a player would be told of two worlds. End "
    "the other one, or give this one a domain (ROS_DOMAIN_ID) or a namespace of its own"
)


def _beside(bridge: str) -> str:
    return f"another bridge is there: {bridge}"


class OtherSources:
    """Looks out for them, before the bridge begins and while it runs.

    Who is registered as a publisher may have been killed long since, so it counts only who is heard. After
    its beginning the bridge listens to its own topics only if somebody else is registered there, and tells
    its own messages from others by their stamps; a second bridge, whose stamps may be the same, is told by
    its heartbeat.

    A bridge that has published nothing yet, or that was started after another one, ends. One that is at work
    makes the robot stand until the other one is gone.

    Args:
        clock_matters: two bridges in two namespaces share /clock. In lockstep nobody waits for it.
    """

    def __init__(self, node: ProcessNode, clock_matters: bool) -> None:
        self._node = node
        self._clock_matters = clock_matters
        self._heard_s: dict[str, float] = {}
        self._bridges: set[str] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._stamps: deque[int] = deque(maxlen=4096)
        self._heartbeat: Heartbeat | None = None
        self.error = ""
        """Why the robot must stand; empty: it need not."""
        self._beats = f"{node.resolve_topic_name('odom')}/heartbeat"
        for topic in _TOPICS:
            self._listen(topic)
        self._first_beats = node.create_subscription(
            Header, self._beats, self._hear_bridge, qos.sensor("best_effort", 10)
        )
        self._until_s = time.monotonic() + LISTENING_S
        self._started_ns = time.time_ns()

    def refuse(self, otherwise: Callable[[], None]) -> None:
        """To be called before the bridge publishes anything. Listens to the end of :data:`LISTENING_S`.

        Args:
            otherwise: called before it raises.

        Raises:
            ConfigError: somebody else is there.
        """
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        while not self._bridges:
            others = self._others()
            # Who is heard may be known by name a little later.
            left_s = self._until_s - time.monotonic() + (LISTENING_S if others else 0.0)
            if (others and _UNNAMED not in others) or left_s <= 0.0:
                break
            executor.spin_once(min(left_s, BEAT_S))
        executor.remove_node(self._node)
        executor.shutdown()
        others = self._others()
        if self._bridges:
            others = _beside(", ".join(sorted(self._bridges)))
        if others:
            otherwise()
            raise ConfigError(f"{others}. {_REMEDY}")
        for topic in list(self._subscriptions):
            self._node.destroy_subscription(self._subscriptions.pop(topic))
        self._node.destroy_subscription(self._first_beats)
        self._heard_s.clear()

    def begin(self) -> None:
        """From now on the bridge publishes: say so, and go on looking."""
        node, steady = self._node, Clock(clock_type=ClockType.STEADY_TIME)
        self._heartbeat = Heartbeat(node, self._beats, "bridges", GONE_S, self._judge)
        self._diagnostics_pub = node.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        node.create_timer(BEAT_S, self._beat, clock=steady)
        node.create_timer(1.0, self._look, clock=steady)

    def published(self, stamp_ns: int) -> None:
        """The bridge itself is about to publish clock or odometry of this stamp."""
        self._stamps.append(stamp_ns)

    def _listen(self, topic: str) -> None:
        self._subscriptions[topic] = self._node.create_subscription(
            _TOPICS[topic], topic, partial(self._hear, topic), qos.sensor("best_effort", 10)
        )

    def _hear_bridge(self, msg: Header) -> None:
        self._bridges.add(msg.frame_id)

    def _hear(self, topic: str, msg: Odometry | ClockMsg) -> None:
        stamp = msg.clock if isinstance(msg, ClockMsg) else msg.header.stamp
        if stamp_ns_from_time(stamp) not in self._stamps:
            self._heard_s[topic] = time.monotonic()

    def _sources(self, topic: str) -> list[str]:
        """The nodes that are registered there, but this one; this one's name if it is there twice."""
        info = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic))
        names = [f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in info if _UNKNOWN not in i.node_name]
        if self._heartbeat is not None and self._node.get_fully_qualified_name() in names:
            names.remove(self._node.get_fully_qualified_name())
        if topic == "/clock" and not self._clock_matters:
            # The same program in another namespace.
            names = [n for n in names if n.rsplit("/", 1)[1] != self._node.get_name()]
        return sorted(set(names))

    def _others(self) -> str:
        """Who is heard, and of what; empty: nobody."""
        said = []
        for topic, at_s in self._heard_s.items():
            if time.monotonic() - at_s > GONE_S:
                continue
            sources = self._sources(topic)
            if sources or topic != "/clock" or self._clock_matters:
                who = ", ".join(sources) or _UNNAMED
                said.append(f"{self._node.resolve_topic_name(topic)} comes from {who} already")
        return ", ".join(said)

    def _beat(self) -> None:
        assert self._heartbeat is not None, "the timer is made after it"
        self._heartbeat.beat(self._started_ns)

    def _look(self) -> None:
        for topic in _TOPICS:
            suspicious = bool(self._sources(topic))
            if suspicious and topic not in self._subscriptions:
                self._listen(topic)
            elif not suspicious and topic in self._subscriptions:
                self._node.destroy_subscription(self._subscriptions.pop(topic))
        self._judge()
        self._diagnose()

    def _judge(self) -> None:
        assert self._heartbeat is not None, "called by its timers only"
        error = self._heartbeat.error or self._others()
        if earlier := self._heartbeat.earlier():
            self._end(_beside(earlier))
        elif error and not self._stamps and not self._heartbeat.error:
            self._end(error)
        elif error and not self.error:
            self._node.get_logger().error(f"the robot stands: {error}. {_REMEDY}")
        elif self.error and not error:
            self._node.get_logger().info("the only source of clock and odometry again: going on")
        self.error = error

    def _end(self, why: str) -> None:
        """They were found late: the machine is busy, or the network slow."""
        if not self._node.done.done():
            print(f"{why}. {_REMEDY}", file=sys.stderr)
            self._node.done.set_result(2)

    def _diagnose(self) -> None:
        health = Health(Level.ERROR, self.error) if self.error else Health(Level.OK, "simulating")
        name, stamp_ns = f"vln_ros: {self._node.get_name()}", self._node.get_clock().now().nanoseconds
        self._diagnostics_pub.publish(
            diagnostics_from_health(health, name, self._node.get_namespace(), stamp_ns)
        )
