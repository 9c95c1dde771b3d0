"""Draws the robot's footprint, stop zone, slow-down zone and goal for rviz."""

from __future__ import annotations

import math
from dataclasses import dataclass

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from vln_ros.ros.convert import time_from_stamp_ns

_LIFETIME = Duration(sec=2)
"""What is not drawn again goes: an inspector that ended leaves nothing behind."""
_LINE_M = 0.02


@dataclass(frozen=True)
class Zones:
    """The executor's idea of the robot and of what is too near, metres."""

    radius_m: float
    stop_m: float
    slow_m: float


def _color(red: float, green: float, blue: float, alpha: float) -> ColorRGBA:
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def _line(header: Header, name: str, points: list[tuple[float, float]], color: ColorRGBA) -> Marker:
    """Closed, on the floor."""
    return Marker(
        header=header,
        ns=name,
        type=Marker.LINE_STRIP,
        scale=Vector3(x=_LINE_M),
        color=color,
        lifetime=_LIFETIME,
        points=[Point(x=x, y=y, z=0.01) for x, y in [*points, points[0]]],
    )


def _ahead(radius_m: float, length_m: float) -> list[tuple[float, float]]:
    """The strip that the robot sweeps over ``length_m``, from its edge on."""
    return [
        (0.0, -radius_m),
        (radius_m + length_m, -radius_m),
        (radius_m + length_m, radius_m),
        (0.0, radius_m),
    ]


def zone_markers(zones: Zones, base_frame: str) -> list[Marker]:
    """In the base; stamped 0, so that rviz takes the newest transform."""
    header = Header(frame_id=base_frame)
    angles = [math.radians(a) for a in range(0, 360, 15)]
    circle = [(zones.radius_m * math.cos(a), zones.radius_m * math.sin(a)) for a in angles]
    return [
        _line(header, "footprint", circle, _color(0.2, 0.6, 1.0, 1.0)),
        _line(header, "slow zone", _ahead(zones.radius_m, zones.slow_m), _color(1.0, 0.8, 0.1, 0.9)),
        _line(header, "stop zone", _ahead(zones.radius_m, zones.stop_m), _color(1.0, 0.15, 0.1, 0.9)),
    ]


def goal_markers(goal: Pose, frame_id: str, stamp_ns: int, text: str) -> list[Marker]:
    """Where the queue leads, and what the robot was told."""
    header = Header(stamp=time_from_stamp_ns(stamp_ns), frame_id=frame_id)
    arrow = Marker(
        header=header,
        ns="goal",
        type=Marker.ARROW,
        pose=goal,
        scale=Vector3(x=0.4, y=0.06, z=0.06),
        color=_color(0.1, 0.9, 0.3, 1.0),
        lifetime=_LIFETIME,
    )
    above = Pose(position=Point(x=goal.position.x, y=goal.position.y, z=goal.position.z + 0.4))
    label = Marker(
        header=header,
        ns="instruction",
        type=Marker.TEXT_VIEW_FACING,
        pose=above,
        scale=Vector3(z=0.15),
        color=_color(1.0, 1.0, 1.0, 1.0),
        text=text,
        lifetime=_LIFETIME,
    )
    return [arrow, label]
