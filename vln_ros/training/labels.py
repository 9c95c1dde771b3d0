"""Labels what every visual token shows, from depth and the plan of the flat.

Cloning actions alone does not ground words in pixels; naming what each token shows does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import CameraModel, Float64Array, Pose
from vln_ros.sim.embedded.flat import DOOR_HEIGHT_M, WALL_HEIGHT_M, Flat
from vln_ros.sim.embedded.furniture import CATEGORIES, COLORS, ROOM_FURNITURE

IntArray = npt.NDArray[np.intp]

FLOOR, CEILING, WALL, DOOR = range(4)
_BACKGROUNDS = 4
_CATEGORY_NUMBERS = {name: _BACKGROUNDS + k for k, name in enumerate(CATEGORIES)}
_COLOR_NUMBERS = {name: 1 + k for k, name in enumerate(COLORS)}
_ROOM_NUMBERS = {name: k for k, name in enumerate(ROOM_FURNITURE)}
CATEGORY_CLASSES = _BACKGROUNDS + len(CATEGORIES)
COLOR_CLASSES = 1 + len(COLORS)
"""Class 0 is no furniture."""
_DEPTH_BOUNDS_M = (0.6, 0.9, 1.3, 1.8, 2.5, 3.5, 5.0)
DEPTH_CLASSES = len(_DEPTH_BOUNDS_M) + 1
AIM_CLASSES = 16
"""Columns of the picture: where what a token shows has its middle."""
REFERENT_CLASSES = 3
"""Nothing that the instruction names, something that it names on the way, the thing to stop at."""
ROOM_CLASSES = len(ROOM_FURNITURE)
ONWARD_CLASSES = 2
"""Whether a part of the picture is seen through the next door on the way."""

_SAMPLES = 6  # rays per token and axis
_SURFACE_M = 0.01  # how far a surface may seem to lie off its solid
_CASING_M = 0.09  # how far a door's casing reaches beyond its opening
_SEEN = 0.08  # share of a token that makes it show a thing
_BEHIND_M = 0.02  # how far behind a door's near side a surface lies that is seen through it
_ALONG_M = 0.05  # between two points of a way; less than a wall is thick


@dataclass(frozen=True)
class Referents:
    """The items that an instruction names. ``target`` is the one to stop at."""

    target: int
    landmarks: frozenset[int]


def named_items(flat: Flat, instruction: str) -> Referents:
    """The items of ``flat`` that ``instruction`` names; the target's name is what it ends with.

    Raises:
        ValueError: it ends with the name of nothing in this flat.
    """
    ending = [k for k, name in flat.referents.items() if instruction.endswith(name)]
    if not ending:
        raise ValueError(f"the instruction {instruction!r} ends with no item of {flat.scene_id}")
    target = max(ending, key=lambda k: len(flat.referents[k]))
    others = {k for k, name in flat.referents.items() if name in instruction}
    return Referents(target, frozenset(others - {target}))


def doors_ahead(flat: Flat, way: Float64Array) -> tuple[int, ...]:
    """Doors that a polyline ``[N, 2]`` (metres, world axes) leads through, the next one first."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    along = np.arange(0.0, lengths[-1] + _ALONG_M, _ALONG_M)
    x, y = (np.interp(along, lengths, way[:, axis]) for axis in (0, 1))
    gaps = np.array([d.gap for d in flat.doors]).reshape(-1, 4)
    inside = _inside(gaps, x, y, 0.0)
    passed = np.flatnonzero(inside.any(0))
    return tuple(int(k) for k in passed[inside[:, passed].argmax(0).argsort()])


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenLabels:
    """Classes of the tokens of one frame, ``[rows * columns]`` each."""

    category: IntArray
    color: IntArray
    referent: IntArray
    depth: IntArray
    aim: IntArray
    room: IntArray
    onward: IntArray


class TokenLabeller:
    """Labels the frames of one flat under one instruction.

    Args:
        grid: rows and columns of visual tokens.
    """

    def __init__(self, flat: Flat, named: Referents, grid: tuple[int, int]) -> None:
        self._grid = grid
        self._named = named
        self._rooms = np.array([r.bounds for r in flat.rooms])
        self._room_name = np.array([_ROOM_NUMBERS[r.name] for r in flat.rooms], np.intp)
        self._boxes = np.array([f.footprint for f in flat.furniture]).reshape(-1, 4)
        self._doors = np.array([d.gap for d in flat.doors]).reshape(-1, 4)
        self._category = np.array([_CATEGORY_NUMBERS[f.category] for f in flat.furniture], np.intp)
        self._color = np.array([_COLOR_NUMBERS[f.color] for f in flat.furniture], np.intp)

    def label(
        self,
        depth_m: npt.NDArray[np.float32],
        camera: CameraModel,
        world_from_optical: Pose,
        next_door: int | None,
    ) -> TokenLabels:
        """Labels of the frame with this depth ``[H, W]``, planar, in metres.

        Args:
            next_door: index of the door that the way leads through first; None for none.
        """
        rows, columns = self._grid
        v = ((np.arange(rows * _SAMPLES) + 0.5) / (rows * _SAMPLES) * camera.height).astype(np.intp)
        u = ((np.arange(columns * _SAMPLES) + 0.5) / (columns * _SAMPLES) * camera.width).astype(np.intp)
        z = depth_m[np.ix_(v, u)].astype(np.float64)
        x = (u[None] - camera.cx) / camera.fx * z
        y = (v[:, None] - camera.cy) / camera.fy * z
        points = world_from_optical.transform(np.stack([x, y, z], -1).reshape(-1, 3))

        def by_token(rays: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return (
                rays.reshape(rows, _SAMPLES, columns, _SAMPLES)
                .transpose(0, 2, 1, 3)
                .reshape(rows * columns, -1)
            )

        rays = self.surfaces(points).reshape(rows, _SAMPLES, columns, _SAMPLES)
        shown = by_token(rays)
        share = (shown[:, :, None] == np.arange(-_BACKGROUNDS, len(self._category))).mean(1)
        background, things = share[:, :_BACKGROUNDS].argmax(1), share[:, _BACKGROUNDS:]
        # What is talked about matters more than what is large.
        sought = things[:, self._named.target] > _SEEN
        item = np.where(sought, self._named.target, things.argmax(1))
        seen = things.max(1) > _SEEN
        landmark = np.isin(item, list(self._named.landmarks)).astype(np.intp)
        referent = np.where(item == self._named.target, 2, landmark)
        # The tower knows no absolute positions: unless it is asked for them, a turn has nothing to go by.
        middles = np.zeros(len(self._category))
        across = rays.reshape(-1, columns * _SAMPLES)
        for k in np.unique(item[seen]):
            middles[k] = ((across == k).nonzero()[1].mean() + 0.5) / (columns * _SAMPLES)
        own = np.tile((np.arange(columns) + 0.5) / columns, rows)
        aim = (np.where(seen, middles[item], own) * AIM_CLASSES).astype(np.intp)
        eye = world_from_optical.position
        through = np.zeros(len(points), bool) if next_door is None else self.through(next_door, eye, points)
        names = by_token(self.rooms(points))
        share_of_room = (names[:, :, None] == np.arange(ROOM_CLASSES)).mean(1)
        return TokenLabels(
            category=np.where(seen, self._category[item], background),
            color=np.where(seen, self._color[item], 0),
            referent=np.where(seen, referent, 0),
            depth=np.digitize(np.median(by_token(z), 1), _DEPTH_BOUNDS_M),
            aim=aim,
            room=share_of_room.argmax(1),
            onward=(by_token(through).mean(1) > _SEEN).astype(np.intp),
        )

    def rooms(self, points: Float64Array) -> IntArray:
        """``[N]``: class of the name of the room that each of the ``[N, 3]`` surface points belongs to."""
        inside = _inside(self._rooms, points[:, 0], points[:, 1], 0.0)
        return np.asarray(self._room_name[inside.argmax(1)])

    def through(self, door: int, eye: Float64Array, points: Float64Array) -> npt.NDArray[np.bool_]:
        """``[N]``: whether the ``[N, 3]`` surface points are seen from ``eye`` through a door's opening."""
        low, high = self._doors[door, :2], self._doors[door, 2:]
        start, step = eye[:2], points[:, :2] - eye[:2]
        step = np.where(step == 0.0, np.finfo(np.float64).tiny, step)
        one, other = (low - start) / step, (high - start) / step
        enters = np.minimum(one, other).max(1).clip(0.0)
        leaves = np.maximum(one, other).min(1)
        # What the ray does not get beyond is the wall beside the opening, or the one above it.
        left_m = (1.0 - enters) * np.linalg.norm(points - eye, axis=1)
        return np.asarray((enters < leaves) & (left_m > _BEHIND_M))

    def surfaces(self, points: Float64Array) -> IntArray:
        """``[N]``: the item that each of the ``[N, 3]`` points on a surface belongs to, or a background
        minus the number of backgrounds, which is negative."""
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        found = np.full(len(points), WALL - _BACKGROUNDS, np.intp)
        near = _inside(self._doors, x, y, _CASING_M).any(1) & (z < DOOR_HEIGHT_M + _CASING_M)
        found[near] = DOOR - _BACKGROUNDS
        found[z < 2 * _SURFACE_M] = FLOOR - _BACKGROUNDS
        found[z > WALL_HEIGHT_M - 2 * _SURFACE_M] = CEILING - _BACKGROUNDS
        inside = _inside(self._boxes, x, y, _SURFACE_M) & (z > 2 * _SURFACE_M)[:, None]
        item = inside.any(1)
        found[item] = inside[item].argmax(1)
        return found


def _inside(boxes: Float64Array, x: Float64Array, y: Float64Array, margin_m: float) -> npt.NDArray[np.bool_]:
    """``[N, M]``: whether each point lies in each of the ``[M, 4]`` rectangles, grown by a margin."""
    x, y = x[:, None], y[:, None]
    low, high = boxes[:, :2] - margin_m, boxes[:, 2:] + margin_m
    return np.asarray((x >= low[:, 0]) & (x <= high[:, 0]) & (y >= low[:, 1]) & (y <= high[:, 1]))
