"""Turns /diagnostics of this robot's nodes into gauges and tables."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray

from vln_ros.web.feed import Feed
from vln_ros.web.messages import Gauge, Gauges, NodeReport, Reports

_STATUS = "vln_ros: "
_LEVELS = ("ok", "warn", "error", "stale")
REPORT_TIMEOUT_S = 15.0
"""A node reports every 10 s at least, however it is configured."""
SHOWN = ("navigator", "executor", "sim_bridge", "web")
"""Nodes whose tables are shown, in this order."""
GAUGES = (
    ("decide p50 [ms]", "decision", "ms"),
    ("frame age [ms]", "frame age", "ms"),
    ("frame rate [Hz]", "frames", "Hz"),
    ("cache fill [%]", "cache", "%"),
    ("reuse [%]", "reuse", "%"),
    ("allowed by the grammar, least [%]", "meant an action", "%"),
)
"""Values of the navigator that are shown large: their name there, their name here, and the unit."""


class DiagnosticReports:
    """Takes what nodes of this namespace say of themselves.

    Args:
        namespace: whose nodes are meant; a status without a name of its robot (hardware id) is taken, too.
        feed: gets gauges and tables.
    """

    def __init__(self, namespace: str, feed: Feed) -> None:
        self._namespace, self._feed = namespace, feed
        self._reports: dict[str, NodeReport] = {}
        self._heard_s: dict[str, float] = {}

    def tick(self, now_s: float) -> None:
        """What a node has said is forgotten where it says nothing more."""
        gone = [node for node, heard_s in self._heard_s.items() if now_s - heard_s > REPORT_TIMEOUT_S]
        for node in gone:
            del self._heard_s[node]
            text = f"it has said nothing for {REPORT_TIMEOUT_S:g} s"
            self._reports[node] = NodeReport(node, _LEVELS[-1], text, ())
            if node == SHOWN[0]:
                self._feed.put(Gauges(()))
        if gone:
            self._show()

    def hear(self, msg: DiagnosticArray) -> None:
        """A message on /diagnostics, of whoever."""
        for status in msg.status:
            node = status.name.removeprefix(_STATUS)
            mine = status.hardware_id in ("", self._namespace) and status.name.startswith(_STATUS)
            if not mine or node not in SHOWN:
                continue
            level = min(status.level[0], len(_LEVELS) - 1)
            rows = tuple((item.key, item.value) for item in status.values)
            self._reports[node] = NodeReport(node, _LEVELS[level], status.message, rows)
            self._heard_s[node] = time.monotonic()
            if node == SHOWN[0]:
                self._feed.put(Gauges(_gauges(dict(rows))))
        self._show()

    def _show(self) -> None:
        self._feed.put(Reports(tuple(self._reports[n] for n in SHOWN if n in self._reports)))


def _gauges(values: dict[str, str]) -> tuple[Gauge, ...]:
    return tuple(Gauge(name, _short(values[key]), unit) for key, name, unit in GAUGES if key in values)


def _short(text: str) -> str:
    """Three digits are enough to look at."""
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
