"""A base on an empty plain with a camera, the real executor, navigator and web node around it, and pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rclpy.context import Context

from benchmarks.measure.plain_base import PlainBase
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar

DEADLINE_S = 60.0
EXECUTOR: dict[str, Scalar] = {"safety.obstacles": "none", "extrinsics": "parameters"}


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls what no event tells of: other processes."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not happen within {deadline_s} s"
        time.sleep(0.01)


class Robot:
    """The plain, and the graph on it.

    Attributes:
        address: of the page.
        killed: nodes that a test has ended.
    """

    def __init__(self, plain: PlainBase, graph: Graph, address: str) -> None:
        self.plain, self.graph, self.address = plain, graph, address
        self.killed: set[str] = set()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until it holds; a node that ends meanwhile ends the test."""

        def holds() -> bool:
            self.graph.check(but=self.killed)
            return condition()

        wait_for(holds, what)


def printed_address(log: Path) -> str:
    """What the node has told a person to open; empty: nothing yet."""
    for line in log.read_text("utf-8", "replace").splitlines() if log.exists() else []:
        if "the page: " in line:
            return line.split("the page: ", 1)[1].split()[0]
    return ""


@contextmanager
def robot_on_a_plain(
    folder: Path, web: dict[str, Scalar], executor: dict[str, Scalar] | None = None
) -> Iterator[Robot]:
    """Everything runs and the page is served when the block begins."""
    context = Context()
    context.init(args=[])
    plain = PlainBase(context, 160, 120)
    try:
        with Graph(folder, graph_environment()) as graph:
            graph.start(NodeSpec("web", {"port": 0, **web}))
            graph.start(NodeSpec("executor", {**EXECUTOR, **(executor or {})}))
            graph.start(NodeSpec("navigator", {"engine": "paced", "extrinsics": "parameters"}))
            robot = Robot(plain, graph, "")
            log = graph.log_path("web")
            robot.wait(lambda: bool(printed_address(log)), "a page that is served")
            robot.address = printed_address(log)
            robot.wait(lambda: plain.is_watched, "a navigator that looks")
            robot.wait(lambda: bool(plain.commands), "an executor that commands")
            yield robot
            graph.check(but=robot.killed)
    finally:
        plain.end()
        plain.destroy_node()
        context.try_shutdown()
