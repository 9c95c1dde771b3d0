"""What a test of its own context leaves behind: nothing, also where it fails.

A node that outlives its test goes on talking, and the tests after it fail for its words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


@contextmanager
def gone_afterwards(context: Context, node: Node) -> Iterator[None]:
    """The node and its context, at the end of the block."""
    try:
        yield
    finally:
        node.destroy_node()
        context.try_shutdown()


@contextmanager
def lone_node(name: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node of a context of its own, and what runs its callbacks."""
    context = Context()
    context.init(args=[])
    node = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    with gone_afterwards(context, node):
        yield node, executor
        executor.shutdown()
