"""The page of a graph that a command starts: its node, and the address that a person opens."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vln_ros.cli.graph import POLL_S, NodeSpec
from vln_ros.config import Scalar

MISSING = "the page needs aiohttp, which is not installed here: pip install 'vln_ros[web]'"


@dataclass(frozen=True)
class GraphPage:
    """On this machine only, at a port that was free.

    Attributes:
        address: what a person opens.
        node: serves it.
    """

    address: str
    node: NodeSpec

    @property
    def is_served(self) -> bool:
        """The node listens."""
        port = int(self.address.rstrip("/").rpartition(":")[2])
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
        except OSError:
            return False
        return True

    def announce(self, check: Callable[[], None], remark: str) -> None:
        """Once it is served, say where.

        Args:
            check: raises where the graph has ended.
            remark: what there is to say besides.
        """
        while not self.is_served:
            check()
            time.sleep(POLL_S)
        print(f"{self.address}: {remark}", flush=True)
        self.open()

    def open(self) -> None:
        """In this person's browser, where there is a person and a screen."""
        if sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
            webbrowser.open(self.address)


def graph_page(parameters: Mapping[str, Scalar], remaps: Mapping[str, str] | None = None) -> GraphPage | None:
    """None where no page can be served here (:data:`MISSING`).

    Args:
        parameters: of the node, besides its port.
        remaps: as the graph's other nodes have them.
    """
    if importlib.util.find_spec("aiohttp") is None:
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = NodeSpec("web", {"port": port, **parameters}, remaps=dict(remaps or {}))
    return GraphPage(f"http://127.0.0.1:{port}/", node)
