"""Converts the state of a node to /diagnostics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from vln_ros.ros.convert import time_from_stamp_ns


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Health:
    """How a node is.

    Attributes:
        level: the worst of what is going on.
        summary: one line for people.
        values: name (with unit) and value, in the order to show.
    """

    level: Level
    summary: str
    values: tuple[tuple[str, str | int | float | bool], ...] = ()


def diagnostics_from_health(health: Health, name: str, hardware_id: str, stamp_ns: int) -> DiagnosticArray:
    """One status under ``name``; floats are shown with four significant digits."""
    status = DiagnosticStatus(
        level=bytes([health.level]),
        name=name,
        message=health.summary,
        hardware_id=hardware_id,
        values=[
            KeyValue(key=k, value=f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in health.values
        ],
    )
    return DiagnosticArray(header=Header(stamp=time_from_stamp_ns(stamp_ns)), status=[status])
