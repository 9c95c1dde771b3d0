"""What a node does with a message of a topic, called at once: no middleware, no waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node


def callbacks(node: Node) -> dict[str, Callable[[Any], None]]:
    """Of the node's subscriptions, by topic: of each the one that was made last."""
    return {subscription.topic_name.lstrip("/"): subscription.callback for subscription in node.subscriptions}
