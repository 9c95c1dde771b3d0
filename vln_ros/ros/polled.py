"""A subscription that wakes nobody: its newest message is taken when its owner wants one."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

M = TypeVar("M")


class _NoCallbacks(CallbackGroup):
    """Keeps its members out of what an executor waits for."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        raise AssertionError("nothing of this group is executed")


class PolledSubscription(Generic[M]):
    """For topics that come more often than their reader has use for.

    In rclpy a message costs its reader about half a millisecond of processor time for being woken alone,
    whatever the callback then leaves out.

    Args:
        node: gets the subscription; it must belong to the thread that takes.
        kind: of message.
        topic: its name.
        profile: its depth is how many messages wait at most.
    """

    def __init__(self, node: Node, kind: type[M], topic: str, profile: QoSProfile) -> None:
        group = _NoCallbacks()
        self._subscription = node.create_subscription(
            kind, topic, lambda _: None, profile, callback_group=group
        )

    def take(self) -> M | None:
        """The oldest message that waits; None: none does."""
        with self._subscription.handle:
            taken = self._subscription.handle.take_message(
                self._subscription.msg_type, self._subscription.raw
            )
        return None if taken is None else taken[0]
