"""Hears an instruction from any publisher, latched or not, and takes each one once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from vln_ros.ros import qos

TOPIC = "instruction"
_KEPT = 64

Info: TypeAlias = "dict[str, int]"
"""What rclpy tells of a message besides its content."""


class InstructionFilter:
    """Of what several subscriptions to one topic hear, each message once.

    A latched (transient local) publisher is heard by a latched subscription, also by one that comes late; a
    volatile one, which is what every GUI, bridge and script is by default, only by a volatile subscription;
    and one that sends by best effort only by a best-effort subscription. So who wants to hear all of them
    subscribes in each of these ways, and hears most messages more than once.

    Copies of one message have the time at which its publisher has published it in common (and its number,
    where the middleware counts). The same words, said again by a person, are published at another time.

    A latched message may also come from before: the last one of a publisher that has said nothing since. It
    is dropped where another publisher was heard after that. So this object outlives its subscriptions: a
    node that is activated again does not return to what was already taken back.
    """

    def __init__(self) -> None:
        self._heard: deque[tuple[int, int, object]] = deque(maxlen=_KEPT)
        self._newest_ns = 0

    def forget(self) -> None:
        """The newest message may come, and count, once more: a node that begins from nothing asks for it."""
        self._heard.clear()

    def is_new(self, content: object, info: Info, latched: bool) -> bool:
        """Whether this is no copy of a message that was heard before, and not older than one.

        Args:
            content: what can be compared.
            latched: heard by the subscription that gets what was published before it existed.
        """
        sent_ns = info["source_timestamp"]
        key = sent_ns, info.get("publication_sequence_number") or 0, content
        if key in self._heard or (latched and sent_ns < self._newest_ns):
            return False
        self._heard.append(key)
        self._newest_ns = max(self._newest_ns, sent_ns)
        return True


def hear_instructions(
    node: Node,
    told: Callable[[Any, Info], None],
    heard: InstructionFilter,
    *,
    latched: bool = True,
    raw: bool = False,
) -> None:
    """Subscribe to ``instruction`` in every way that somebody may publish it.

    Args:
        told: gets each message once, and what rclpy tells of it.
        latched: also what was published before.
        raw: messages are bytes.
    """

    def subscribe(profile: QoSProfile, latched: bool) -> None:
        def take(msg: Any, info: Info) -> None:
            if heard.is_new(bytes(msg) if raw else msg.data, info, latched):
                told(msg, info)

        # That one of the three cannot hear a publisher is no news: another one does.
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        node.create_subscription(String, TOPIC, take, profile, raw=raw, event_callbacks=quiet)  # type: ignore[arg-type]

    if latched:
        subscribe(qos.latched(), True)
    subscribe(qos.commands(), False)
    subscribe(qos.sensor("best_effort", 1), False)
