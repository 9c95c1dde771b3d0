"""Generates flats from a seed: rooms, doors, furniture.

Metres, ROS axes (z up), the floor at z = 0. Everything is made of axis-aligned rectangles
``(x_min, y_min, x_max, y_max)``, so that what can be walked on is known exactly.
A flat is a pure function of its scene id, for ever: episodes refer to it by name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vln_ros.config import ConfigError
from vln_ros.datatypes import Float64Array
from vln_ros.sim.embedded.furniture import CATEGORIES, ROOM_FURNITURE

WALL_HEIGHT_M = 2.6
WALL_M = 0.12
DOOR_WIDTH_M = 0.95
DOOR_HEIGHT_M = 2.05
AGENT_RADIUS_M = 0.18
"""Half the side of the simulated robot, which is a square."""
ROBOT_RADIUS_M = 0.255
"""Of the circle that holds this square."""

Rect = tuple[float, float, float, float]
Point = tuple[float, float]

_DOOR_KEEP_OUT_M = 0.75  # no furniture this close to the middle of a door
_ITEM_GAP_M = 0.12
_WALL_GAP_M = 0.03
# Rooms stay connected for every radius between these two, and without pockets at the first.
_CONNECTED_RADII_M = (AGENT_RADIUS_M, 0.25)
_MAX_TRIES = 40


@dataclass(frozen=True)
class FlatKind:
    """A size class of flats; its name is part of the scene id."""

    name: str
    min_rooms: int
    max_rooms: int


KINDS: dict[str, FlatKind] = {
    k.name: k for k in (FlatKind("flat", 4, 7), FlatKind("small", 2, 3), FlatKind("room", 1, 1))
}


@dataclass(frozen=True)
class Room:
    """``bounds`` run along the middle of the walls, ``inner`` along their surfaces."""

    name: str
    bounds: Rect

    @property
    def inner(self) -> Rect:
        x0, y0, x1, y1 = self.bounds
        h = WALL_M / 2
        return (x0 + h, y0 + h, x1 - h, y1 - h)


@dataclass(frozen=True)
class Door:
    """An opening between ``rooms`` (indices), centred at ``center``; the wall runs along x or along y."""

    rooms: tuple[int, int]
    center: Point
    wall_along_x: bool

    @property
    def gap(self) -> Rect:
        """The part of the floor that the opening cuts out of the wall."""
        along, across = DOOR_WIDTH_M / 2, WALL_M / 2
        dx, dy = (along, across) if self.wall_along_x else (across, along)
        return (self.center[0] - dx, self.center[1] - dy, self.center[0] + dx, self.center[1] + dy)


@dataclass(frozen=True, kw_only=True)
class FurnitureItem:
    """One piece of furniture. ``yaw_rad`` is a multiple of 90 degrees: where its front looks."""

    number: int
    category: str
    color: str
    room: int
    center: Point
    yaw_rad: float
    footprint: Rect

    @property
    def name(self) -> str:
        return f"{self.color} {self.category}"


@dataclass(frozen=True, kw_only=True)
class Flat:
    """Rooms, doors and furniture on a floor of ``size_m`` with its corner at the origin."""

    scene_id: str
    seed: int
    size_m: tuple[float, float]
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    furniture: tuple[FurnitureItem, ...]

    @cached_property
    def walls(self) -> tuple[Rect, ...]:
        """The solid part of the floor plan between floor and door height."""
        return WallGrid.of(self).solid_rects()

    @cached_property
    def obstacles(self) -> Float64Array:
        """``[M, 4]`` rectangles that a robot cannot enter: walls, then furniture."""
        return np.array([*self.walls, *(f.footprint for f in self.furniture)])

    @cached_property
    def referents(self) -> dict[int, str]:
        """What an instruction may call an item, by item number: only names that mean one thing.

        "red lamp" where the flat has one; "red lamp in the bedroom" where that room has one.
        """
        in_flat = Counter(f.name for f in self.furniture)
        in_room = Counter((f.name, f.room) for f in self.furniture)
        names: dict[int, str] = {}
        for f in self.furniture:
            if in_flat[f.name] == 1:
                names[f.number] = f.name
            elif in_room[f.name, f.room] == 1:
                names[f.number] = f"{f.name} in the {self.rooms[f.room].name}"
        return names

    def room_at(self, point: Float64Array | Point) -> int | None:
        """Index of the room whose bounds hold ``point`` (x, y first); None outside."""
        x, y = float(point[0]), float(point[1])
        for index, room in enumerate(self.rooms):
            x0, y0, x1, y1 = room.bounds
            if x0 <= x < x1 and y0 <= y < y1:
                return index
        return None


@dataclass(frozen=True)
class WallGrid:
    """The floor plan cut at every coordinate where something begins or ends.

    Attributes:
        xs, ys: ``[X + 1]``, ``[Y + 1]`` cell borders, metres; the outermost ring is outside.
        room: ``[X, Y]`` index of the room of a cell; ``WALL``, ``GAP`` (a door) or ``OUTSIDE``.
    """

    xs: Float64Array
    ys: Float64Array
    room: npt.NDArray[np.intp]

    WALL = -1
    GAP = -2
    OUTSIDE = -3

    @staticmethod
    def of(flat: Flat) -> WallGrid:
        h = WALL_M / 2
        outer = (-h, -h, flat.size_m[0] + h, flat.size_m[1] + h)
        ring = (outer[0] - 1, outer[1] - 1, outer[2] + 1, outer[3] + 1)
        gaps = [d.gap for d in flat.doors]
        inner = [r.inner for r in flat.rooms]
        rects = np.array([ring, outer, *inner, *gaps])
        xs = _distinct(rects[:, [0, 2]].ravel())
        ys = _distinct(rects[:, [1, 3]].ravel())
        room = np.full((len(xs) - 1, len(ys) - 1), WallGrid.OUTSIDE, np.intp)
        cx, cy = (xs[:-1] + xs[1:]) / 2, (ys[:-1] + ys[1:]) / 2
        for rect, value in [(outer, WallGrid.WALL), *zip(inner, range(len(inner)), strict=True)] + [
            (g, WallGrid.GAP) for g in gaps
        ]:
            x = (cx > rect[0]) & (cx < rect[2])
            y = (cy > rect[1]) & (cy < rect[3])
            room[np.ix_(x, y)] = value
        return WallGrid(xs, ys, room)

    def solid_rects(self) -> tuple[Rect, ...]:
        """Wall cells, merged to few rectangles."""
        solid = self.room == self.WALL
        runs: dict[tuple[int, int], list[int]] = {}  # (first, last) row of a run -> columns
        for i in range(solid.shape[0]):
            j = 0
            while j < solid.shape[1]:
                start = j
                while j < solid.shape[1] and solid[i, j]:
                    j += 1
                if j > start:
                    runs.setdefault((start, j), []).append(i)
                j += 1
        rects = []
        for (y0, y1), columns in runs.items():
            first = 0
            for k in range(1, len(columns) + 1):
                if k == len(columns) or columns[k] != columns[k - 1] + 1:
                    x0, x1 = columns[first], columns[k - 1] + 1
                    rects.append(
                        (float(self.xs[x0]), float(self.ys[y0]), float(self.xs[x1]), float(self.ys[y1]))
                    )
                    first = k
        return tuple(sorted(rects))


def _distinct(values: Float64Array) -> Float64Array:
    """Sorted, with values closer than a micrometre taken as one."""
    ordered = np.sort(values)
    return np.asarray(ordered[np.concatenate([[True], np.diff(ordered) > 1e-6])])


_SCENE_ID = re.compile(r"embedded/(?P<name>(?P<kind>[a-z]+)_(?P<seed>\d{6}))/(?P=name)\.glb")


def scene_id(seed: int, kind: str = "flat") -> str:
    """The scene id of a seed: ``embedded/flat_000123/flat_000123.glb``.

    Raises:
        ConfigError: unknown kind, or a seed outside ``[0, 999999]``.
    """
    if kind not in KINDS or not 0 <= seed <= 999_999:
        raise ConfigError(f"no {kind!r} with seed {seed}: kinds are {', '.join(KINDS)}; seeds 0 to 999999")
    name = f"{kind}_{seed:06d}"
    return f"embedded/{name}/{name}.glb"


def generate_flat(scene: str) -> Flat:
    """The flat with this scene id.

    Raises:
        ConfigError: not an id of this simulator; the message says how they look.
    """
    match = _SCENE_ID.fullmatch(scene)
    if match is None or match["kind"] not in KINDS:
        raise ConfigError(
            f"no scene {scene!r}: the embedded simulator has {', '.join(scene_id(0, k) for k in KINDS)} "
            "and so on, with any six-digit seed (the same number twice)"
        )
    kind, seed = KINDS[match["kind"]], int(match["seed"])
    attempt = 0
    while True:
        # Few floor plans cannot be connected by doors wide enough; the next attempt is another plan.
        rng = np.random.default_rng([seed, list(KINDS).index(kind.name), attempt])
        flat = _try_flat(rng, scene, seed, kind)
        if flat is not None:
            return flat
        attempt += 1


def _try_flat(rng: np.random.Generator, scene: str, seed: int, kind: FlatKind) -> Flat | None:
    count = int(rng.integers(kind.min_rooms, kind.max_rooms + 1))
    area = count * rng.uniform(15.0, 20.0) + (6.0 if count == 1 else 0.0)
    aspect = rng.uniform(1.1, 1.6)
    size = (round(math.sqrt(area * aspect) * 4) / 4, round(math.sqrt(area / aspect) * 4) / 4)
    rooms = _name_rooms(rng, _split(rng, (0.0, 0.0, *size), count))
    doors = _place_doors(rng, rooms)
    if doors is None:
        return None
    furniture = _place_furniture(rng, rooms, doors)
    return Flat(scene_id=scene, seed=seed, size_m=size, rooms=rooms, doors=doors, furniture=furniture)


def _area(rect: Rect) -> float:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def _split(rng: np.random.Generator, whole: Rect, count: int) -> list[Rect]:
    """Cut the largest room across its longer side until there are enough."""
    rects = [whole]
    while len(rects) < count:
        rects.sort(key=lambda r: -_area(r))
        x0, y0, x1, y1 = rects.pop(0)
        fraction = rng.uniform(0.4, 0.6)
        if x1 - x0 > y1 - y0:
            middle = round((x0 + fraction * (x1 - x0)) * 4) / 4
            rects += [(x0, y0, middle, y1), (middle, y0, x1, y1)]
        else:
            middle = round((y0 + fraction * (y1 - y0)) * 4) / 4
            rects += [(x0, y0, x1, middle), (x0, middle, x1, y1)]
    return rects


def _name_rooms(rng: np.random.Generator, rects: list[Rect]) -> tuple[Room, ...]:
    """Large rooms get the names that need space. No name is used twice, so that texts can name rooms."""
    names = ["living room", "bedroom", "kitchen", "dining room", "office", "bathroom", "hallway"]
    count = len(rects)
    if count < 4:
        chosen = set(rng.choice(names[:5], count, replace=False).tolist())
    else:
        chosen = {"living room", "bedroom", "kitchen", "bathroom"}
        spare = ["dining room", "office", "hallway", "storage room"]
        chosen |= set(rng.choice(spare, count - len(chosen), replace=False).tolist())
    ordered = [n for n in (*names, "storage room") if n in chosen]
    by_size = sorted(rects, key=lambda r: -_area(r))
    return tuple(Room(name, rect) for name, rect in zip(ordered, by_size, strict=True))


def _place_doors(rng: np.random.Generator, rooms: tuple[Room, ...]) -> tuple[Door, ...] | None:
    """A random spanning tree of the rooms plus one loop; None when a room cannot be reached."""
    shared: list[tuple[int, int, bool, float, float, float]] = []
    for i in range(len(rooms)):
        for j in range(i):
            a, b = rooms[i].bounds, rooms[j].bounds
            for axis in (0, 1):  # walls along x, then along y
                low, high = max(a[axis], b[axis]), min(a[axis + 2], b[axis + 2])
                at = {a[1 - axis], a[3 - axis]} & {b[1 - axis], b[3 - axis]}
                if at and high - low > DOOR_WIDTH_M + 0.6:
                    shared.append((i, j, axis == 0, at.pop(), low, high))
    parent = list(range(len(rooms)))

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    doors, loops = [], 1
    for k in rng.permutation(len(shared)):
        i, j, along_x, at, low, high = shared[k]
        if root(i) != root(j):
            parent[root(i)] = root(j)
        elif loops > 0:
            loops -= 1
        else:
            continue
        margin = DOOR_WIDTH_M / 2 + 0.25
        along = float(rng.uniform(low + margin, high - margin))
        doors.append(Door((i, j), (along, at) if along_x else (at, along), along_x))
    if len({root(k) for k in range(len(rooms))}) > 1:
        return None
    return tuple(doors)


def _place_furniture(
    rng: np.random.Generator, rooms: tuple[Room, ...], doors: tuple[Door, ...]
) -> tuple[FurnitureItem, ...]:
    items: list[FurnitureItem] = []
    used: Counter[str] = Counter()
    for index, room in enumerate(rooms):
        gaps = [d for d in doors if index in d.rooms]
        for category in ROOM_FURNITURE[room.name]:
            here = [f.footprint for f in items if f.room == index]
            placed = _find_place(rng, room, gaps, here, category)
            if placed is None:
                continue
            center, yaw_rad, footprint = placed
            colors = CATEGORIES[category].colors
            order = [colors[k] for k in rng.permutation(len(colors))]
            color = min(order, key=lambda c: used[f"{c} {category}"])  # unique names where colours last
            item = FurnitureItem(
                number=len(items),
                category=category,
                color=color,
                room=index,
                center=center,
                yaw_rad=yaw_rad,
                footprint=footprint,
            )
            used[item.name] += 1
            items.append(item)
    return tuple(items)


def _find_place(
    rng: np.random.Generator, room: Room, doors: list[Door], taken: list[Rect], category: str
) -> tuple[Point, float, Rect] | None:
    kind = CATEGORIES[category]
    bx0, by0, bx1, by1 = kind.bounds
    x0, y0, x1, y1 = room.inner
    for _ in range(_MAX_TRIES):
        side = int(rng.integers(4))  # quarter turns of the front from +x
        a, b = ((bx0, by0), (bx1, by1))
        for _ in range(side):
            a, b = (-b[1], a[0]), (-a[1], b[0])
        low_x, high_x = x0 + _WALL_GAP_M - a[0], x1 - _WALL_GAP_M - b[0]
        low_y, high_y = y0 + _WALL_GAP_M - a[1], y1 - _WALL_GAP_M - b[1]
        u, v, standing = rng.random(3)
        if high_x <= low_x or high_y <= low_y:
            continue
        x, y = low_x + u * (high_x - low_x), low_y + v * (high_y - low_y)
        if not (kind.free_standing and standing < 0.5):
            x, y = ((low_x, y), (x, low_y), (high_x, y), (x, high_y))[side]
        footprint = (float(x + a[0]), float(y + a[1]), float(x + b[0]), float(y + b[1]))
        if any(_distance(footprint, d.center) < _DOOR_KEEP_OUT_M for d in doors):
            continue
        if any(_overlap(_grow(footprint, _ITEM_GAP_M), t) for t in taken):
            continue
        if not all(
            _connected(room.inner, [d.gap for d in doors], [*taken, footprint], r) for r in _CONNECTED_RADII_M
        ):
            continue
        return (float(x), float(y)), side * math.pi / 2, footprint
    return None


def _grow(rect: Rect, margin: float) -> Rect:
    return (rect[0] - margin, rect[1] - margin, rect[2] + margin, rect[3] + margin)


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _distance(rect: Rect, point: Point) -> float:
    dx = max(rect[0] - point[0], 0.0, point[0] - rect[2])
    dy = max(rect[1] - point[1], 0.0, point[1] - rect[3])
    return math.hypot(dx, dy)


def _connected(inner: Rect, gaps: Iterable[Rect], obstacles: list[Rect], radius_m: float) -> bool:
    """Whether all places of one room where a robot of this radius fits, its doors included, hang together.

    Rooms that are connected each, up to the middle of their doors, make a connected flat.
    """
    room = _grow(inner, -radius_m)
    ways = []
    for g in gaps:  # a doorway, narrowed across and lengthened into the room
        x0, y0, x1, y1 = g
        across_x = (x1 - x0) > (y1 - y0)
        ways.append(
            (x0 + radius_m, y0 - radius_m, x1 - radius_m, y1 + radius_m)
            if across_x
            else (x0 - radius_m, y0 + radius_m, x1 + radius_m, y1 - radius_m)
        )
    grown = [_grow(o, radius_m) for o in obstacles]
    rects = np.array([room, *ways, *grown])
    xs, ys = _distinct(rects[:, [0, 2]].ravel()), _distinct(rects[:, [1, 3]].ravel())
    cx, cy = (xs[:-1] + xs[1:]) / 2, (ys[:-1] + ys[1:]) / 2
    x_in = (cx > rects[:, :1]) & (cx < rects[:, 2:3])
    y_in = (cy > rects[:, 1:2]) & (cy < rects[:, 3:4])
    inside = x_in[:, :, None] & y_in[:, None, :]
    n = 1 + len(ways)
    free = inside[:n].any(0) & ~inside[n:].any(0)
    seen = np.zeros_like(free)
    seen[np.unravel_index(int(free.argmax()), free.shape)] = True
    seen &= free
    while True:
        spread = seen.copy()
        spread[1:] |= seen[:-1]
        spread[:-1] |= seen[1:]
        spread[:, 1:] |= seen[:, :-1]
        spread[:, :-1] |= seen[:, 1:]
        spread &= free
        if np.array_equal(spread, seen):
            return bool(free.any()) and bool(np.array_equal(seen, free))
        seen = spread
