"""Sends life signs with a name in them, and finds second nodes and others who use cmd_vel."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo
from std_msgs.msg import Header

from vln_ros.datatypes import Velocity
from vln_ros.motion.presence import Presence
from vln_ros.ros import convert, qos

RIVAL_S = 2.0
"""How long after its last command somebody else counts as one who moves the base."""


def identity_of(node: Node) -> str:
    """What a node calls itself in its heartbeats: unique, and enough for a person to find its process."""
    now = time.time()
    started = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1.0 * 1e3):03d}"
    where = f"process {os.getpid()} on {socket.gethostname()}"
    return f"{node.get_fully_qualified_name()} ({where}, started {started})"


def commands_heartbeat(node: Node) -> str:
    """Where executors say that they are alive: beside the topic that they share, whatever it is remapped
    to."""
    return f"{node.resolve_topic_name('cmd_vel')}/heartbeat"


class Heartbeat:
    """Sends a node's life signs, and hears those of all nodes of its kind, its own included.

    Args:
        node: gets publisher and subscription.
        topic: of the heartbeats.
        what: kind of node, in the plural, for the log.
        timeout_s: a node that is silent for so long is gone.
        changed: called when :attr:`doubles` has changed.
    """

    def __init__(
        self, node: Node, topic: str, what: str, timeout_s: float, changed: Callable[[], None]
    ) -> None:
        self._node, self._what, self._timeout_s, self._changed = node, what, timeout_s, changed
        self._presence = Presence()
        self.identity = identity_of(node)
        self.doubles: tuple[str, ...] = ()
        """The nodes of this kind that are alive, if they are more than one."""
        self._stamps_ns: dict[str, int] = {}
        self._publisher = node.create_publisher(Header, topic, qos.commands())
        node.create_subscription(Header, topic, self._hear, qos.sensor("best_effort", 10))

    @property
    def error(self) -> str:
        """For people; empty: all is well."""
        return f"two {self._what}: {' and '.join(self.doubles)}: end one of them" if self.doubles else ""

    def earlier(self) -> str:
        """Of the nodes of this kind that are alive, one that says an earlier stamp than this; empty: none."""
        mine = self._stamps_ns.get(self.identity, 0), self.identity
        return next((who for who in self.doubles if (self._stamps_ns[who], who) < mine), "")

    def beat(self, stamp_ns: int) -> None:
        """Say that this node is alive, and see who else is."""
        self._publisher.publish(Header(stamp=convert.time_from_stamp_ns(stamp_ns), frame_id=self.identity))
        self._judge()

    def _hear(self, msg: Header) -> None:
        self._presence.heard(msg.frame_id, time.monotonic(), self._timeout_s)
        self._stamps_ns[msg.frame_id] = convert.stamp_ns_from_time(msg.stamp)
        self._judge()

    def _judge(self) -> None:
        doubles = self._presence.doubles(time.monotonic(), self._timeout_s)
        if doubles == self.doubles:
            return
        before, self.doubles = self.doubles, doubles
        self._stamps_ns = {who: self._stamps_ns[who] for who in doubles}
        if doubles:
            self._node.get_logger().error(self.error)
        else:
            self._node.get_logger().info(f"one of the {self._what} again, of {' and '.join(before)}")
        self._changed()


class Rivals:
    """Hears what the base hears on ``cmd_vel``, and knows what of it is not this node's; and who hears it.

    It is no fault: a person may take over, and who wants to have it sorted out puts a multiplexer there.
    """

    def __init__(self, node: Node, type_: type[Twist] | type[TwistStamped], rate_hz: float) -> None:
        self._node, self._type = node, type_.__name__
        self._sent: deque[Velocity] = deque(maxlen=round(2.0 * rate_hz))
        self._heard_s = -RIVAL_S
        self._topic = node.resolve_topic_name("cmd_vel")
        node.create_subscription(type_, "cmd_vel", self._hear, qos.sensor("best_effort", 10))

    def sent(self, velocity: Velocity) -> None:
        """This node is about to publish it."""
        self._sent.append(velocity)

    def _hear(self, msg: Twist | TwistStamped) -> None:
        try:
            velocity = convert.velocity_from_twist(msg.twist if isinstance(msg, TwistStamped) else msg)
        except convert.MessageError:  # it moves the base somehow; not by this node
            self._heard_s = time.monotonic()
            return
        if velocity != Velocity() and velocity not in self._sent:
            self._heard_s = time.monotonic()

    def warning(self, *, drives: bool) -> str:
        """Who else moves the base, or that the base does not hear this node; empty: neither.

        Args:
            drives: this node does: only then a base must be there.
        """
        if time.monotonic() - self._heard_s < RIVAL_S:
            others = self._named(self._node.get_publishers_info_by_topic(self._topic))
            return (
                f"somebody else moves the base on {self._topic}: "
                f"{', '.join(sorted(others)) or 'a second executor'}"
            )
        listeners = self._named(self._node.get_subscriptions_info_by_topic(self._topic))
        deaf = sorted(who for who, type_ in listeners.items() if type_ != self._type)
        if deaf:  # DDS connects them with nobody, and says nothing
            other, remedy = listeners[deaf[0]], "true" if self._type == Twist.__name__ else "false"
            return (
                f"{', '.join(deaf)} takes {other} on {self._topic}, and {self._type} is sent: set "
                f"stamped_cmd_vel to {remedy}"
            )
        if drives and not listeners:
            return f"nobody listens on {self._topic}: is the base there, and is that its topic?"
        return ""

    def _named(self, endpoints: list[TopicEndpointInfo]) -> dict[str, str]:
        """The other nodes, each with the type of its messages."""
        me = self._node.get_name(), self._node.get_namespace()
        return {
            f"{i.node_namespace.rstrip('/')}/{i.node_name}": i.topic_type.rpartition("/")[2]
            for i in endpoints
            if (i.node_name, i.node_namespace) != me
        }
