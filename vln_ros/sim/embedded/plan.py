"""Draws a flat from above, and says where world coordinates are in the drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array
from vln_ros.sim.embedded.flat import DOOR_WIDTH_M, WALL_M, Flat, Rect, Room
from vln_ros.sim.embedded.furniture import COLORS, ROOM_FLOORS
from vln_ros.sim.embedded.geodesic import Walkable
from vln_ros.sim.embedded.textures import Color

_MARGIN_M = 0.3
_INK: Color = (46, 46, 52)
_PAPER: Color = (252, 252, 250)
_DOOR: Color = (166, 118, 78)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, eq=False)
class PlanImage:
    """A drawing whose x axis is the world's and whose rows count against the world's y axis.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB.
        metres_per_pixel: scale, the same along both axes.
        origin: ``[2]`` world x, y of the upper left corner of the image, metres.
    """

    image: npt.NDArray[np.uint8]
    metres_per_pixel: float
    origin: Float64Array

    def to_pixel(self, xy: Float64Array) -> Float64Array:
        """World places ``[..., >= 2]`` (metres; more coordinates are ignored) to ``[..., 2]`` column, row.

        Not rounded; integers are pixel centres.
        """
        offset = (np.asarray(xy, np.float64)[..., :2] - self.origin) / self.metres_per_pixel
        return np.asarray(offset * np.array([1.0, -1.0]) - 0.5)


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """Where a robot can stand; the picture's axes are those of :class:`PlanImage`.

    Attributes:
        free: ``[H, W]`` bool.
        metres_per_pixel: scale, the same along both axes.
        origin: ``[2]`` world x, y of the upper left corner, metres.
    """

    free: npt.NDArray[np.bool_]
    metres_per_pixel: float
    origin: Float64Array


def free_space_of_flat(flat: Flat, walkable: Walkable, metres_per_pixel: float) -> FreeSpace:
    """Where the middle of a robot can be, over the area of :func:`draw_plan`, rounded up to whole pixels."""
    columns, rows = (math.ceil((side_m + 2 * _MARGIN_M) / metres_per_pixel - 1e-6) for side_m in flat.size_m)
    corner = np.array([-_MARGIN_M, flat.size_m[1] + _MARGIN_M])
    xs = corner[0] + (np.arange(columns) + 0.5) * metres_per_pixel
    ys = corner[1] - (np.arange(rows) + 0.5) * metres_per_pixel
    places = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    return FreeSpace(walkable.contains(places).reshape(rows, columns), metres_per_pixel, corner)


def draw_free_space(space: FreeSpace) -> PlanImage:
    """A plan of a scene of which nothing else is known."""
    image = np.where(space.free[..., None], _PAPER, _mix(_INK, 0.45)).astype(np.uint8)
    return PlanImage(image, space.metres_per_pixel, space.origin)


def draw_plan(flat: Flat, metres_per_pixel: float = 0.0125) -> PlanImage:
    """Rooms with their names, doors with the arc of a leaf, furniture in its colours with its front marked.

    Raises:
        ValueError: the scale is not positive.
    """
    if not metres_per_pixel > 0.0:
        raise ValueError(f"metres_per_pixel must be positive, got {metres_per_pixel}")
    width = round((flat.size_m[0] + 2 * _MARGIN_M) / metres_per_pixel)
    height = round((flat.size_m[1] + 2 * _MARGIN_M) / metres_per_pixel)
    image = np.full((height, width, 3), _PAPER, np.uint8)
    plan = PlanImage(image, metres_per_pixel, np.array([-_MARGIN_M, flat.size_m[1] + _MARGIN_M]))
    for room in flat.rooms:
        _fill(plan, room.bounds, _mix(ROOM_FLOORS[room.name][0][1], 0.28))
    for wall in flat.walls:
        _fill(plan, wall, _INK)
    for door in flat.doors:
        _fill(plan, door.gap, (238, 226, 208))
        _door_leaf(plan, door.center, door.wall_along_x)
    for item in flat.furniture:
        color = COLORS[item.color]
        _fill(plan, item.footprint, color)
        _outline(plan, item.footprint, _mix(color, 1.0, 0.55))
        _front(plan, item.footprint, item.yaw_rad)
    for item in flat.furniture:
        color = COLORS[item.color]
        dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 130
        _label(plan, [item.color, item.category], item.footprint, 0.34, 1, _PAPER if dark else _INK)
    for room in flat.rooms:
        _label(plan, [room.name.upper()], _free_spot(flat, room), 0.55, 2, _INK)
    return plan


def _free_spot(flat: Flat, room: Room) -> Rect:
    """Where in a room a label hides least, as near to the middle as can be."""
    x0, y0, x1, y1 = room.inner
    half = np.array([0.11 * len(room.name) * 0.55 + 0.1, 0.14])
    xs, ys = np.linspace(x0 + half[0], x1 - half[0], 15), np.linspace(y0 + half[1], y1 - half[1], 31)
    spots = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    blocks = np.array([f.footprint for f in flat.furniture if f.room == flat.rooms.index(room)]).reshape(
        -1, 4
    )
    low, high = spots[:, None] - half, spots[:, None] + half
    size = np.minimum(high, blocks[:, 2:]) - np.maximum(low, blocks[:, :2])
    hidden = size.clip(0.0).prod(-1).sum(-1)
    away = np.linalg.norm(spots - [(x0 + x1) / 2, (y0 + y1) / 2], axis=1)
    x, y = spots[int((100.0 * hidden + away).argmin())]
    return (float(x), float(y), float(x), float(y))


def _mix(color: Color, weight: float, dim: float = 1.0) -> Color:
    """``color`` on white, and darkened."""
    r, g, b = (round((255 * (1 - weight) + c * weight) * dim) for c in color)
    return r, g, b


def _corner(plan: PlanImage, x: float, y: float) -> tuple[int, int]:
    column, row = plan.to_pixel(np.array([x, y])).round().astype(int)
    return int(column), int(row)


def _fill(plan: PlanImage, rect: Rect, color: Color) -> None:
    cv2.rectangle(plan.image, _corner(plan, rect[0], rect[1]), _corner(plan, rect[2], rect[3]), color, -1)


def _outline(plan: PlanImage, rect: Rect, color: Color) -> None:
    a, b = _corner(plan, rect[0], rect[1]), _corner(plan, rect[2], rect[3])
    cv2.rectangle(plan.image, a, b, color, 1, cv2.LINE_AA)


def _door_leaf(plan: PlanImage, center: tuple[float, float], wall_along_x: bool) -> None:
    half, out = DOOR_WIDTH_M / 2, WALL_M / 2
    along = np.array([1.0, 0.0]) if wall_along_x else np.array([0.0, 1.0])
    across = along[::-1]
    hinge = np.array(center) - half * along + out * across
    angles = np.linspace(0.0, math.pi / 2, 16)[:, None]
    arc = hinge + DOOR_WIDTH_M * (np.cos(angles) * along + np.sin(angles) * across)
    points = np.concatenate([plan.to_pixel(arc), plan.to_pixel(hinge)[None]]).round().astype(np.int32)
    cv2.polylines(plan.image, [points], False, _DOOR, 1, cv2.LINE_AA)


def _front(plan: PlanImage, rect: Rect, yaw_rad: float) -> None:
    """A pale bar along the front edge."""
    x0, y0, x1, y1 = rect
    t = 0.05
    side = round(yaw_rad / (math.pi / 2)) % 4
    bar = ((x1 - t, y0, x1, y1), (x0, y1 - t, x1, y1), (x0, y0, x0 + t, y1), (x0, y0, x1, y0 + t))[side]
    inset = 0.015
    _fill(plan, (bar[0] + inset, bar[1] + inset, bar[2] - inset, bar[3] - inset), (250, 250, 250))


def _label(plan: PlanImage, lines: list[str], rect: Rect, scale: float, weight: int, color: Color) -> None:
    """Lines of text centred in a rectangle; on one line where that fits."""
    column, row = plan.to_pixel(np.array([(rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2])).tolist()
    joined = " ".join(lines)
    if cv2.getTextSize(joined, _FONT, scale, weight)[0][0] < (rect[2] - rect[0]) / plan.metres_per_pixel - 8:
        lines = [joined]
    height = cv2.getTextSize("x", _FONT, scale, weight)[0][1]
    for number, line in enumerate(lines):
        width = cv2.getTextSize(line, _FONT, scale, weight)[0][0]
        down = (number - (len(lines) - 1) / 2) * (height + 3) + height / 2
        place = (round(column - width / 2), round(row + down))
        cv2.putText(plan.image, line, place, _FONT, scale, color, weight, cv2.LINE_AA)
