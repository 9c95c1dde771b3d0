"""Writes an English instruction for a path through a flat: rooms, turns, landmarks, where to stop.

First the route is described by :class:`Clause` values, which hold nothing but geometry and can be
checked against it; then :func:`tell` puts them into words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from vln_ros.datatypes import Float64Array, wrap_angle
from vln_ros.sim.embedded.flat import Flat, FurnitureItem

_TURN_RAD = math.radians(40.0)
_AROUND_RAD = math.radians(135.0)
_LANDMARK_M = 1.1
_LANDMARK_FROM_ENDS_M = 0.6
_SAMPLE_M = 0.05


class ClauseKind(Enum):
    LEAVE = "leave"
    ENTER = "enter"
    CROSS = "cross"
    TURN = "turn"
    PASS = "pass"
    STOP = "stop"


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"
    AROUND = "around"


@dataclass(frozen=True)
class Clause:
    """One thing to do. ``along_m`` is where on the route it happens.

    LEAVE, ENTER and CROSS have ``room``; TURN has ``side``; PASS has ``item`` and ``side``; STOP has
    ``item``. ENTER carries the ``side`` of the turn that leads there, if there is one.
    """

    kind: ClauseKind
    along_m: float
    room: int | None = None
    side: Side | None = None
    item: int | None = None


@dataclass(frozen=True, eq=False)
class _Stay:
    """The part of the route in one room: indices ``first..last`` of the samples, and the headings."""

    room: int
    first: int
    last: int


def _sample(path: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Points ``[K, 2]`` every few centimetres along a polyline ``[N, >= 2]``, and their arc lengths."""
    xy = path[:, :2]
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    along = np.linspace(0.0, lengths[-1], max(2, math.ceil(lengths[-1] / _SAMPLE_M) + 1))
    return np.stack([np.interp(along, lengths, xy[:, k]) for k in (0, 1)], 1), along


def _stays(flat: Flat, points: Float64Array) -> list[_Stay]:
    stays: list[_Stay] = []
    for k, p in enumerate(points):
        room = flat.room_at(p)
        if room is None:
            raise ValueError(f"the route leaves the flat at {p.tolist()}")
        if stays and stays[-1].room == room:
            stays[-1] = _Stay(room, stays[-1].first, k)
        else:
            stays.append(_Stay(room, k, k))
    return stays


def _door_heading(flat: Flat, a: _Stay, b: _Stay, points: Float64Array) -> float:
    """Heading straight through the door between two rooms, radians."""
    crossing = points[b.first]
    doors = [d for d in flat.doors if set(d.rooms) == {a.room, b.room}]
    door = min(doors, key=lambda d: math.dist(d.center, (crossing[0], crossing[1])))
    step = points[b.first] - points[a.last]
    if door.wall_along_x:
        return math.copysign(math.pi / 2, step[1])
    return 0.0 if step[0] > 0 else math.pi


def _turned(start_rad: float, points: Float64Array, end_rad: float) -> float:
    """Total signed rotation of somebody who walks ``points`` coming in and going out at given headings."""
    steps = np.diff(points, axis=0)
    steps = steps[np.linalg.norm(steps, axis=1) > 1e-9]
    headings = [start_rad, *np.arctan2(steps[:, 1], steps[:, 0]).tolist(), end_rad]
    return sum(wrap_angle(b - a) for a, b in pairwise(headings))


def _side(angle_rad: float) -> Side | None:
    if abs(angle_rad) < _TURN_RAD:
        return None
    if abs(wrap_angle(angle_rad)) >= _AROUND_RAD:
        return Side.AROUND
    return Side.LEFT if angle_rad > 0 else Side.RIGHT


def describe_route(
    flat: Flat, path: Float64Array, start_yaw_rad: float, target: FurnitureItem
) -> tuple[Clause, ...]:
    """What happens on the way along ``path`` ``[N, >= 2]`` (metres, world axes) to ``target``.

    A turn in a room is the rotation between going in and going out, straight through the doors; in
    the last room it is between coming in and the bearing of the end of the way.
    """
    points, along = _sample(path)
    stays = _stays(flat, points)
    clauses: list[Clause] = []
    landmarks = _landmarks(flat, points, along, stays, target)
    for number, stay in enumerate(stays):
        at = float(along[stay.first])
        inside = points[stay.first : stay.last + 1]
        last = number == len(stays) - 1
        if number == 0:
            here = points[0]
            ahead = points[stays[1].first] if not last else points[-1]
            side = _side(wrap_angle(math.atan2(*(ahead - here)[::-1]) - start_yaw_rad))
            if side is not None:
                clauses.append(Clause(ClauseKind.TURN, at, stay.room, side))
        else:
            heading_in = _door_heading(flat, stays[number - 1], stay, points)
            if last:
                side = _side(wrap_angle(math.atan2(*(points[-1] - inside[0])[::-1]) - heading_in))
                # A few steps behind a door everything is left or right: only say so of a real way.
                if along[-1] - at < 0.8:
                    side = None
            else:
                heading_out = _door_heading(flat, stay, stays[number + 1], points)
                side = _side(_turned(heading_in, inside, heading_out))
            clauses.append(Clause(ClauseKind.ENTER, at, stay.room))
            if side is not None:
                clauses.append(Clause(ClauseKind.TURN, at + 1e-6, stay.room, side))
            elif not last:
                clauses.append(Clause(ClauseKind.CROSS, at + 1e-6, stay.room))
        clauses += [c for c in landmarks if c.room == stay.room and at <= c.along_m <= along[stay.last]]
        if number == 0 and not last:
            clauses.append(Clause(ClauseKind.LEAVE, float(along[stay.last]), stay.room))
    clauses.append(Clause(ClauseKind.STOP, float(along[-1]), stays[-1].room, None, target.number))
    return tuple(clauses)


def _landmarks(
    flat: Flat, points: Float64Array, along: Float64Array, stays: list[_Stay], target: FurnitureItem
) -> list[Clause]:
    """At most one thing passed closely per room, three in all, each of which can be named for sure."""
    found: list[tuple[float, Clause]] = []
    for stay in stays:
        best: tuple[float, Clause] | None = None
        inside = points[stay.first : stay.last + 1]
        for item in flat.furniture:
            if item.room != stay.room or item.number == target.number or item.number not in flat.referents:
                continue
            x0, y0, x1, y1 = item.footprint
            dx = np.maximum(np.maximum(x0 - inside[:, 0], inside[:, 0] - x1), 0.0)
            dy = np.maximum(np.maximum(y0 - inside[:, 1], inside[:, 1] - y1), 0.0)
            away = np.hypot(dx, dy)
            # Walking along a long thing is passing it at its middle.
            k = int(np.median(np.flatnonzero(away < away.min() + 0.02)))
            at = float(along[stay.first + k])
            near_end = min(at, float(along[-1]) - at) < _LANDMARK_FROM_ENDS_M
            if away[k] > _LANDMARK_M or near_end or k in (0, len(inside) - 1):
                continue
            before, after = inside[max(0, k - 4)], inside[min(len(inside) - 1, k + 4)]
            direction, to_item = after - before, np.array(item.center) - inside[k]
            cross = direction[0] * to_item[1] - direction[1] * to_item[0]
            side = Side.LEFT if cross > 0 else Side.RIGHT
            if best is None or away[k] < best[0]:
                best = float(away[k]), Clause(ClauseKind.PASS, at, stay.room, side, item.number)
        if best is not None:
            found.append(best)
    found.sort(key=lambda f: f[0])
    return sorted((c for _, c in found[:3]), key=lambda c: c.along_m)


_PHRASES: dict[ClauseKind, tuple[str, ...]] = {
    ClauseKind.LEAVE: (
        "leave the {room}",
        "go out of the {room}",
        "walk out of the {room}",
        "exit the {room}",
    ),
    ClauseKind.ENTER: ("enter the {room}", "go into the {room}", "walk into the {room}"),
    ClauseKind.CROSS: ("go straight through the {room}", "cross the {room}", "walk straight on"),
    ClauseKind.TURN: ("turn {side}", "turn {side}", "make a {side} turn"),
    ClauseKind.PASS: (
        "walk past the {item}",
        "pass the {item} on your {side}",
        "go past the {item} on the {side}",
    ),
    ClauseKind.STOP: (
        "stop next to the {item}",
        "stop by the {item}",
        "stop at the {item}",
        "wait next to the {item}",
    ),
}


def tell(flat: Flat, clauses: tuple[Clause, ...], rng: np.random.Generator) -> str:
    """The clauses in words; ``rng`` chooses among phrasings. Lower case, one sentence or a few."""
    said: list[str] = []
    for number, clause in enumerate(clauses):
        if clause.kind is ClauseKind.ENTER and said and clauses[number - 1].kind is ClauseKind.LEAVE:
            # Leaving one room is entering the next: often said once.
            following = {c.kind for c in clauses[number + 1 : number + 2]}
            if ClauseKind.CROSS not in following and rng.random() < 0.5:
                continue
        if clause.kind is ClauseKind.TURN and clause.side is Side.AROUND:
            said.append("turn around")
            continue
        options = _PHRASES[clause.kind]
        phrase = options[int(rng.integers(len(options)))]
        room = "" if clause.room is None else flat.rooms[clause.room].name
        item = "" if clause.item is None else flat.referents[clause.item]
        side = "" if clause.side is None else clause.side.value
        said.append(phrase.format(room=room, item=item, side=side))
    style = int(rng.integers(3))
    if len(said) == 1:
        return said[0]
    if style == 0:
        return ", ".join(said[:-1]) + " and " + said[-1]
    if style == 1:
        return ", ".join(said[:-1]) + ", then " + said[-1]
    half = len(said) // 2
    return (
        ", ".join(said[:half]) + ", then " + ", ".join(said[half:-1]) + " and " + said[-1]
        if half > 1
        else (" and then ".join([", ".join(said[:-1]), said[-1]]))
    )
