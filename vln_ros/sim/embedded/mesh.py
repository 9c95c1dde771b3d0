"""Makes the surfaces of a flat as textured triangles, for the renderer and for export."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array
from vln_ros.sim.embedded.flat import (
    DOOR_HEIGHT_M,
    DOOR_WIDTH_M,
    WALL_HEIGHT_M,
    WALL_M,
    Door,
    Flat,
    FurnitureItem,
    WallGrid,
)
from vln_ros.sim.embedded.furniture import CATEGORIES, COLORS, LIGHT, OWN, ROOM_FLOORS, ROOM_WALLS, Solid
from vln_ros.sim.embedded.textures import PATTERNS, TEXTURE_M, Color, Texture

_TRIM: Color = (240, 238, 232)
_CEILING: Color = (246, 246, 244)
_FRAME: Color = (150, 106, 70)
_SPHERE_RINGS, _SECTIONS = 8, 20


@dataclass(frozen=True)
class Part:
    """One named surface. ``first`` and ``last`` are the half-open range of its triangles."""

    name: str
    item: int | None
    """Number of the furniture item it belongs to."""
    material: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class SceneMesh:
    """Textured triangles, ROS axes, metres.

    Attributes:
        triangles: ``[T, 3, 3]`` corners, counter-clockwise seen from outside.
        uv: ``[T, 3, 2]`` texture coordinates; one unit is one tile; v up.
        material: ``[T]`` index into ``materials``.
        materials: ``[n, n, 3]`` uint8 images; a plain colour is ``[1, 1, 3]``.
        parts: names of triangle ranges.
    """

    triangles: Float64Array
    uv: Float64Array
    material: npt.NDArray[np.intp]
    materials: tuple[Texture, ...]
    parts: tuple[Part, ...]

    def normals(self) -> Float64Array:
        """``[T, 3]`` unit normals."""
        t = self.triangles
        n = np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
        return np.asarray(n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12))

    def shade(self) -> Float64Array:
        """``[T]`` brightness in ``[0, 1]`` of a surface under the flat's even light, by its normal alone."""
        n = self.normals()
        light = 0.80 + 0.06 * n[:, 2] + 0.14 * np.abs(n[:, 0]) + 0.05 * n[:, 1]
        return np.asarray(light.clip(0.0, 1.0))


class _Builder:
    def __init__(self) -> None:
        self.triangles: list[Float64Array] = []
        self.uv: list[Float64Array] = []
        self.material: list[npt.NDArray[np.intp]] = []
        self.materials: list[Texture] = []
        self.parts: list[Part] = []
        self._plain: dict[Color, int] = {}
        self._count = 0

    def texture(self, image: Texture) -> int:
        self.materials.append(image)
        return len(self.materials) - 1

    def plain(self, color: Color) -> int:
        if color not in self._plain:
            self._plain[color] = self.texture(np.array(color, np.uint8).reshape(1, 1, 3))
        return self._plain[color]

    def add(self, name: str, material: int, triangles: Float64Array, item: int | None = None) -> None:
        """Add ``[N, 3, 3]`` triangles, textured along the axes that they face least."""
        if not len(triangles):
            return
        normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        facing = np.abs(normal).argmax(1)
        axes = np.array([(1, 2), (0, 2), (0, 1)])[facing]
        self.uv.append(np.take_along_axis(triangles, axes[:, None, :], 2) / TEXTURE_M)
        self.triangles.append(triangles)
        self.material.append(np.full(len(triangles), material, np.intp))
        self.parts.append(Part(name, item, material, self._count, self._count + len(triangles)))
        self._count += len(triangles)

    def done(self) -> SceneMesh:
        return SceneMesh(
            np.concatenate(self.triangles),
            np.concatenate(self.uv),
            np.concatenate(self.material),
            tuple(self.materials),
            tuple(self.parts),
        )


def _quads(corners: list[list[tuple[float, float, float]]]) -> Float64Array:
    """``[2 N, 3, 3]`` triangles of N quads given counter-clockwise."""
    q = np.array(corners, np.float64).reshape(-1, 4, 3)
    return np.asarray(q[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3))


def _box_triangles(center: tuple[float, ...], size: tuple[float, ...]) -> Float64Array:
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    v = np.asarray(center) + signs * np.asarray(size) / 2
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    q = v[np.array(faces)]
    return np.asarray(q[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3))


def _lathe(center: tuple[float, ...], profile: Float64Array) -> Float64Array:
    """Triangles of a solid of revolution about z; ``profile`` ``[K, 2]`` is radius and height, upwards."""
    angle = np.linspace(0.0, 2.0 * np.pi, _SECTIONS + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    p = np.concatenate(
        [
            profile[:, None, :1] * ring[None],
            np.broadcast_to(profile[:, None, 1:], (len(profile), len(ring), 1)),
        ],
        axis=2,
    ) + np.asarray(center)
    a, b, c, d = p[:-1, :-1], p[:-1, 1:], p[1:, 1:], p[1:, :-1]
    t = np.concatenate([np.stack([a, b, c], 2), np.stack([a, c, d], 2)]).reshape(-1, 3, 3)
    area = np.linalg.norm(np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]), axis=1)
    return np.asarray(t[area > 1e-12])


def _solid_triangles(solid: Solid) -> Float64Array:
    radius, half = solid.size[0] / 2, solid.size[2] / 2
    if solid.shape == "box":
        return _box_triangles(solid.center, solid.size)
    if solid.shape == "cylinder":
        return _lathe(solid.center, np.array([(0, -half), (radius, -half), (radius, half), (0, half)]))
    phi = np.linspace(-np.pi / 2, np.pi / 2, _SPHERE_RINGS + 1)
    return _lathe(solid.center, radius * np.stack([np.cos(phi).clip(0.0), np.sin(phi)], 1))


def _item_parts(item: FurnitureItem) -> dict[Color, Float64Array]:
    """Triangles of an item in the flat, by colour."""
    own = COLORS[item.color]
    r, g, b = (min(255, int(c * 0.8 + 50)) for c in own)
    paints = {**COLORS, OWN: own, LIGHT: (r, g, b)}
    cos, sin = round(np.cos(item.yaw_rad)), round(np.sin(item.yaw_rad))
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)
    groups: dict[Color, list[Float64Array]] = {}
    for solid in CATEGORIES[item.category].solids:
        triangles = _solid_triangles(solid) @ rotation.T + np.array([*item.center, 0.0])
        groups.setdefault(paints[solid.paint], []).append(triangles)
    return {color: np.concatenate(group) for color, group in groups.items()}


def _wall_quads(grid: WallGrid) -> dict[int, list[list[tuple[float, float, float]]]]:
    """Quads of all wall surfaces by what they face: a room index, or a code of :class:`WallGrid`."""
    quads: dict[int, list[list[tuple[float, float, float]]]] = {}
    wall, gap = grid.room == grid.WALL, grid.room == grid.GAP
    for solid, low, high in ((wall, 0.0, DOOR_HEIGHT_M), (wall | gap, DOOR_HEIGHT_M, WALL_HEIGHT_M)):
        for i, j in np.argwhere(solid):
            x0, x1, y0, y1 = grid.xs[i], grid.xs[i + 1], grid.ys[j], grid.ys[j + 1]
            for di, dj, (ax, ay), (bx, by) in (
                (-1, 0, (x0, y1), (x0, y0)),
                (1, 0, (x1, y0), (x1, y1)),
                (0, -1, (x0, y0), (x1, y0)),
                (0, 1, (x1, y1), (x0, y1)),
            ):
                if not solid[i + di, j + dj]:
                    faced = int(grid.room[i + di, j + dj])
                    quads.setdefault(faced, []).append(
                        [(ax, ay, low), (bx, by, low), (bx, by, high), (ax, ay, high)]
                    )
    for i, j in np.argwhere(gap):  # the underside of the lintel
        x0, x1, y0, y1 = grid.xs[i], grid.xs[i + 1], grid.ys[j], grid.ys[j + 1]
        z = DOOR_HEIGHT_M
        quads.setdefault(grid.GAP, []).append([(x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)])
    return quads


def _door_frame(door: Door) -> Float64Array:
    """A flat wooden casing around the opening, on the wall.

    It reaches 4 mm into the opening, so that its surface and the wall's are not the same plane.
    """
    width, proud, reach = 0.07, 0.015, 0.004
    boxes = []
    for side in (-1, 1):
        along = side * ((DOOR_WIDTH_M + width) / 2 - reach)
        boxes.append(((along, 0.0, DOOR_HEIGHT_M / 2), (width, WALL_M + 2 * proud, DOOR_HEIGHT_M)))
    top = (
        (0.0, 0.0, DOOR_HEIGHT_M + width / 2 - reach),
        (DOOR_WIDTH_M + 2 * width, WALL_M + 2 * proud, width),
    )
    triangles = np.concatenate([_box_triangles(c, s) for c, s in (*boxes, top)])
    if not door.wall_along_x:
        triangles = triangles @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float64)
    return np.asarray(triangles + np.array([*door.center, 0.0]))


def build_mesh(flat: Flat) -> SceneMesh:
    """All surfaces of a flat. The same flat gives the same mesh and textures, byte for byte."""
    rng = np.random.default_rng([flat.seed, 7])  # its own stream: looks do not depend on the floor plan
    builder = _Builder()
    quads = _wall_quads(WallGrid.of(flat))
    for index, room in enumerate(flat.rooms):
        kinds = ROOM_WALLS[room.name], ROOM_FLOORS[room.name]
        wall, floor = (options[int(rng.integers(len(options)))] for options in kinds)
        name = room.name.replace(" ", "_")
        material = builder.texture(PATTERNS[wall[0]](rng, wall[1]))
        builder.add(f"wall_{name}", material, _quads(quads.pop(index)))
        x0, y0, x1, y1 = room.bounds
        material = builder.texture(PATTERNS[floor[0]](rng, floor[1]))
        corners: list[tuple[float, float, float]] = [(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)]
        builder.add(f"floor_{name}", material, _quads([corners]))
    builder.add("wall_trim", builder.plain(_TRIM), _quads([q for group in quads.values() for q in group]))
    w, d = flat.size_m
    h = WALL_HEIGHT_M
    ceiling: list[tuple[float, float, float]] = [(0, 0, h), (0, d, h), (w, d, h), (w, 0, h)]
    builder.add("ceiling", builder.plain(_CEILING), _quads([ceiling]))
    for number, door in enumerate(flat.doors):
        builder.add(f"door_{number}", builder.plain(_FRAME), _door_frame(door))
    for item in flat.furniture:
        for k, (color, triangles) in enumerate(_item_parts(item).items()):
            name = f"{item.number:02d}_{item.color}_{item.category}_{k}"
            builder.add(name, builder.plain(color), triangles, item.number)
    return builder.done()
