"""Describes every piece of furniture as a list of solids.

The item's frame is x forward (away from the wall behind it), y left, z up, origin on the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.sim.embedded.textures import Color

COLORS: dict[str, Color] = {
    "red": (196, 40, 36),
    "blue": (38, 84, 190),
    "green": (44, 138, 66),
    "yellow": (236, 196, 48),
    "orange": (230, 120, 34),
    "purple": (122, 60, 156),
    "white": (236, 236, 232),
    "black": (40, 40, 44),
    "brown": (118, 76, 44),
    "grey": (134, 136, 142),
    "pink": (228, 134, 166),
    "teal": (24, 144, 144),
}

OWN = "own"
"""Paint a solid in the item's colour; any other value is a name in :data:`COLORS`."""
LIGHT = "light"
"""Paint a solid in a lighter tone of the item's colour."""


@dataclass(frozen=True)
class Solid:
    """One primitive. ``shape`` is box, cylinder (upright) or sphere; metres.

    ``size`` is the full extent along x, y, z; a sphere's three are equal.
    """

    shape: str
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    paint: str


@dataclass(frozen=True)
class Category:
    """A kind of furniture, the colours it comes in and its solids."""

    name: str
    colors: tuple[str, ...]
    solids: tuple[Solid, ...]
    free_standing: bool
    """May stand anywhere in the room; otherwise its back is to a wall."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``x_min, y_min, x_max, y_max`` of all solids in the item's frame."""
        return (
            min(s.center[0] - s.size[0] / 2 for s in self.solids),
            min(s.center[1] - s.size[1] / 2 for s in self.solids),
            max(s.center[0] + s.size[0] / 2 for s in self.solids),
            max(s.center[1] + s.size[1] / 2 for s in self.solids),
        )


def _box(x: float, y: float, z: float, sx: float, sy: float, sz: float, paint: str = OWN) -> Solid:
    return Solid("box", (x, y, z), (sx, sy, sz), paint)


def _cylinder(x: float, y: float, z: float, radius: float, height: float, paint: str = OWN) -> Solid:
    return Solid("cylinder", (x, y, z), (2 * radius, 2 * radius, height), paint)


def _ball(x: float, y: float, z: float, radius: float, paint: str = OWN) -> Solid:
    return Solid("sphere", (x, y, z), (2 * radius,) * 3, paint)


def _legs(x: float, y: float, height: float, thickness: float, paint: str = OWN) -> tuple[Solid, ...]:
    return tuple(
        _box(sx * x, sy * y, height / 2, thickness, thickness, height, paint)
        for sx in (-1, 1)
        for sy in (-1, 1)
    )


_BOOK_COLORS = ("red", "blue", "green", "yellow", "purple", "white", "orange")


def _books() -> tuple[Solid, ...]:
    return tuple(
        _box(
            -0.02,
            -0.45 + 0.13 * k,
            shelf + 0.14 + 0.01 * (k * 7 % 3),
            0.22,
            0.09,
            0.26 + 0.02 * (k * 7 % 3),
            _BOOK_COLORS[(k + 3 * row) % 7],
        )
        for row, shelf in enumerate((0.07, 0.47, 0.87, 1.27))
        for k in range(8)
    )


CATEGORIES: dict[str, Category] = {
    c.name: c
    for c in (
        Category(
            "sofa",
            ("blue", "red", "green", "purple", "orange"),
            (
                _box(0, 0, 0.25, 0.9, 2.0, 0.24),
                _box(-0.36, 0, 0.58, 0.18, 2.0, 0.5),
                _box(0, -0.92, 0.44, 0.9, 0.16, 0.36),
                _box(0, 0.92, 0.44, 0.9, 0.16, 0.36),
                _box(0.06, -0.42, 0.42, 0.66, 0.8, 0.12, LIGHT),
                _box(0.06, 0.42, 0.42, 0.66, 0.8, 0.12, LIGHT),
                *_legs(0.36, 0.9, 0.13, 0.08, "black"),
            ),
            False,
        ),
        Category(
            "armchair",
            ("yellow", "orange", "pink", "teal", "red", "green"),
            (
                _box(0, 0, 0.25, 0.85, 0.85, 0.24),
                _box(-0.34, 0, 0.62, 0.16, 0.85, 0.5),
                _box(0, -0.36, 0.42, 0.85, 0.13, 0.36),
                _box(0, 0.36, 0.42, 0.85, 0.13, 0.36),
                _box(0.06, 0, 0.42, 0.62, 0.58, 0.12, LIGHT),
                *_legs(0.34, 0.34, 0.13, 0.07, "black"),
            ),
            False,
        ),
        Category(
            "bed",
            ("red", "blue", "green", "purple", "teal"),
            (
                _box(0.02, 0, 0.2, 2.06, 1.6, 0.22, "brown"),
                _box(0.02, 0, 0.4, 2.0, 1.54, 0.2, "white"),
                _box(0.3, 0, 0.44, 1.5, 1.62, 0.2),
                _box(-0.4, 0, 0.55, 0.14, 1.6, 0.03, LIGHT),
                _box(-0.75, -0.38, 0.55, 0.4, 0.6, 0.12, "white"),
                _box(-0.75, 0.38, 0.55, 0.4, 0.6, 0.12, "white"),
                _box(-1.02, 0, 0.55, 0.08, 1.62, 1.0, "brown"),
            ),
            False,
        ),
        Category(
            "table",
            ("brown", "white", "black", "teal"),
            (_box(0, 0, 0.73, 0.9, 1.5, 0.05), *_legs(0.38, 0.66, 0.71, 0.07)),
            True,
        ),
        Category(
            "desk",
            ("brown", "white", "black", "teal"),
            (
                _box(0, 0, 0.73, 0.7, 1.3, 0.05),
                _box(0, -0.6, 0.36, 0.65, 0.05, 0.7),
                _box(0, 0.4, 0.35, 0.62, 0.42, 0.7),
                _box(0.315, 0.4, 0.5, 0.02, 0.36, 0.3, LIGHT),
                _box(0.315, 0.4, 0.18, 0.02, 0.36, 0.28, LIGHT),
                _box(-0.1, -0.1, 1.05, 0.04, 0.62, 0.38, "black"),
                _box(-0.078, -0.1, 1.05, 0.01, 0.56, 0.32, "grey"),
                _box(-0.1, -0.1, 0.8, 0.16, 0.08, 0.14, "black"),
            ),
            False,
        ),
        Category(
            "chair",
            ("red", "green", "blue", "white", "orange", "yellow"),
            (
                _box(0, 0, 0.45, 0.45, 0.45, 0.05),
                _box(-0.2, 0, 0.75, 0.05, 0.45, 0.46),
                *_legs(0.19, 0.19, 0.43, 0.05, "brown"),
            ),
            True,
        ),
        Category(
            "bookshelf",
            ("brown", "white", "black", "blue"),
            (
                _box(-0.155, 0, 1.0, 0.03, 1.1, 2.0),
                _box(0, -0.53, 1.0, 0.34, 0.04, 2.0),
                _box(0, 0.53, 1.0, 0.34, 0.04, 2.0),
                *(_box(0, 0, z, 0.34, 1.1, 0.03) for z in (0.05, 0.45, 0.85, 1.25, 1.65, 1.985)),
                *_books(),
            ),
            False,
        ),
        Category(
            "wardrobe",
            ("white", "brown", "teal", "green"),
            (
                _box(0, 0, 1.05, 0.6, 1.4, 2.1),
                _box(0.305, -0.35, 1.05, 0.02, 0.66, 2.0, LIGHT),
                _box(0.305, 0.35, 1.05, 0.02, 0.66, 2.0, LIGHT),
                _box(0.33, -0.06, 1.0, 0.03, 0.02, 0.22, "black"),
                _box(0.33, 0.06, 1.0, 0.03, 0.02, 0.22, "black"),
            ),
            False,
        ),
        Category(
            "fridge",
            ("white", "red", "grey", "blue"),
            (
                _box(0, 0, 0.92, 0.68, 0.7, 1.84),
                _box(0.345, 0, 1.36, 0.02, 0.68, 0.88, LIGHT),
                _box(0.345, 0, 0.46, 0.02, 0.68, 0.84, LIGHT),
                _box(0.37, 0.27, 1.2, 0.03, 0.03, 0.4, "black"),
                _box(0.37, 0.27, 0.7, 0.03, 0.03, 0.3, "black"),
            ),
            False,
        ),
        Category(
            "stove",
            ("white", "grey", "red"),
            (
                _box(0, 0, 0.45, 0.6, 0.6, 0.9),
                _box(0.305, 0, 0.42, 0.02, 0.5, 0.4, "black"),
                _box(0.32, 0, 0.68, 0.03, 0.46, 0.03, "grey"),
                *(_cylinder(x, y, 0.91, 0.1, 0.02, "black") for x in (-0.15, 0.15) for y in (-0.15, 0.15)),
            ),
            False,
        ),
        Category(
            "counter",
            ("teal", "white", "brown", "orange"),
            (
                _box(0, 0, 0.43, 0.58, 1.6, 0.86),
                _box(0, 0, 0.88, 0.62, 1.6, 0.05, "grey"),
                *(_box(0.295, y, 0.45, 0.02, 0.48, 0.74, LIGHT) for y in (-0.52, 0.0, 0.52)),
            ),
            False,
        ),
        Category(
            "television",
            ("black", "white"),
            (
                _box(0, 0, 0.25, 0.4, 1.5, 0.5, "brown"),
                _box(0, 0, 0.9, 0.06, 1.2, 0.7),
                _box(0.032, 0, 0.9, 0.01, 1.12, 0.62, "blue"),
                _box(0, 0, 0.52, 0.2, 0.4, 0.06),
            ),
            False,
        ),
        Category(
            "plant",
            ("orange", "white", "blue", "red", "purple"),
            (
                _cylinder(0, 0, 0.2, 0.2, 0.4),
                _cylinder(0, 0, 0.6, 0.03, 0.5, "brown"),
                _ball(0, 0, 1.05, 0.28, "green"),
                _ball(0.1, 0.08, 0.85, 0.18, "green"),
                _ball(-0.1, -0.08, 0.82, 0.18, "green"),
                _ball(-0.08, 0.1, 1.25, 0.18, "green"),
            ),
            False,
        ),
        Category(
            "lamp",
            ("yellow", "white", "red", "pink", "blue", "green"),
            (
                _cylinder(0, 0, 0.02, 0.17, 0.04, "black"),
                _cylinder(0, 0, 0.75, 0.025, 1.5, "black"),
                _cylinder(0, 0, 1.5, 0.22, 0.36),
            ),
            False,
        ),
        Category(
            "toilet",
            ("white", "pink", "blue"),
            (
                _cylinder(0.1, 0, 0.2, 0.19, 0.4, "white"),
                _cylinder(0.1, 0, 0.42, 0.21, 0.04),
                _box(-0.24, 0, 0.48, 0.18, 0.42, 0.7, "white"),
                _box(-0.24, 0, 0.84, 0.2, 0.44, 0.03),
            ),
            False,
        ),
        Category(
            "bathtub",
            ("white", "teal", "pink"),
            (
                _box(-0.37, 0, 0.3, 0.06, 1.7, 0.6),
                _box(0.37, 0, 0.3, 0.06, 1.7, 0.6),
                _box(0, -0.82, 0.3, 0.8, 0.06, 0.6),
                _box(0, 0.82, 0.3, 0.8, 0.06, 0.6),
                _box(0, 0, 0.2, 0.7, 1.6, 0.4, "blue"),
                _box(-0.32, 0.6, 0.72, 0.1, 0.04, 0.24, "grey"),
            ),
            False,
        ),
        Category(
            "sink",
            ("white", "grey"),
            (
                _cylinder(-0.05, 0, 0.4, 0.1, 0.8, "white"),
                _box(0, 0, 0.83, 0.5, 0.6, 0.14),
                _box(0.02, 0, 0.903, 0.34, 0.42, 0.01, "teal"),
                _box(-0.21, 0, 0.98, 0.04, 0.04, 0.16, "grey"),
            ),
            False,
        ),
        Category(
            "box",
            ("red", "green", "blue", "yellow", "purple", "orange"),
            (_box(0, 0, 0.25, 0.5, 0.5, 0.5), _box(0, 0, 0.505, 0.5, 0.12, 0.01, LIGHT)),
            True,
        ),
        Category("ball", ("red", "blue", "green", "yellow"), (_ball(0, 0, 0.25, 0.25),), True),
    )
}

ROOM_FURNITURE: dict[str, tuple[str, ...]] = {
    "living room": ("sofa", "television", "armchair", "plant", "bookshelf", "lamp"),
    "bedroom": ("bed", "wardrobe", "lamp", "chair", "box"),
    "kitchen": ("fridge", "stove", "counter", "table", "chair"),
    "dining room": ("table", "chair", "chair", "plant", "lamp"),
    "office": ("desk", "chair", "bookshelf", "armchair", "plant"),
    "bathroom": ("bathtub", "toilet", "sink"),
    "hallway": ("plant", "box", "lamp"),
    "storage room": ("box", "wardrobe", "ball", "box"),
}
"""What is tried in each kind of room, in this order; what does not fit is left out."""

ROOM_FLOORS: dict[str, tuple[tuple[str, Color], ...]] = {
    "living room": (("wood", (184, 136, 90)), ("wood", (206, 166, 118))),
    "bedroom": (("carpet", (160, 150, 172)), ("carpet", (186, 172, 150)), ("carpet", (142, 160, 176))),
    "kitchen": (("checker", (228, 224, 216)), ("tiles", (214, 206, 190))),
    "dining room": (("wood", (158, 104, 64)), ("wood", (120, 82, 56))),
    "office": (("wood", (128, 90, 62)), ("carpet", (120, 128, 140))),
    "bathroom": (("tiles", (156, 194, 204)), ("tiles", (200, 214, 208))),
    "hallway": (("tiles", (206, 196, 178)), ("wood", (178, 142, 104))),
    "storage room": (("carpet", (122, 130, 120)), ("tiles", (170, 166, 160))),
}

ROOM_WALLS: dict[str, tuple[tuple[str, Color], ...]] = {
    "living room": (("plaster", (230, 218, 192)), ("plaster", (208, 220, 206))),
    "bedroom": (("stripes", (194, 208, 226)), ("stripes", (226, 204, 212)), ("plaster", (206, 200, 226))),
    "kitchen": (("plaster", (242, 234, 178)), ("tiles", (236, 232, 222))),
    "dining room": (("stripes", (214, 198, 166)), ("plaster", (222, 184, 160))),
    "office": (("brick", (176, 98, 76)), ("plaster", (196, 208, 216))),
    "bathroom": (("tiles", (224, 238, 241)), ("tiles", (238, 226, 220))),
    "hallway": (("plaster", (222, 220, 216)), ("stripes", (220, 214, 196))),
    "storage room": (("plaster", (186, 202, 178)), ("brick", (190, 186, 178))),
}
