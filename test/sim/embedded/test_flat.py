"""Procedural flats: fixed for ever, connected, and free of furniture where one must pass."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import pytest
import shapely
from shapely import Polygon
from shapely.geometry import Point, box
from shapely.ops import unary_union

from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, KINDS, Flat, generate_flat, scene_id
from vln_ros.sim.embedded.furniture import CATEGORIES, COLORS, LIGHT, OWN

SCENES = [scene_id(s) for s in (*range(12), *range(900_000, 900_006))] + [
    scene_id(s, kind) for kind in ("small", "room") for s in range(6)
]


def free_space(flat: Flat) -> Polygon:
    """By shapely, from rooms and gaps: independent of the wall rectangles that the simulator uses."""
    rooms = [box(*r.inner) for r in flat.rooms] + [box(*d.gap).buffer(1e-9) for d in flat.doors]
    return unary_union(rooms).difference(unary_union([box(*f.footprint) for f in flat.furniture]))


def test_scenes_are_the_ones_that_episodes_were_made_for() -> None:
    """If this fails, every episode file and every published number has lost its scenes."""
    layouts = "\n".join(repr(generate_flat(scene_id(s))) for s in (0, 123, 900_000))
    assert hashlib.sha256(layouts.encode()).hexdigest()[:16] == "96739b622c3f8976"


@pytest.mark.parametrize("scene", SCENES)
def test_free_space_hangs_together(scene: str) -> None:
    flat = generate_flat(scene)
    for radius in (AGENT_RADIUS_M, 0.25):
        eroded = free_space(flat).buffer(-radius, join_style="mitre", mitre_limit=10)
        assert eroded.geom_type == "Polygon", f"{len(eroded.geoms)} pieces at {radius} m"


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_overlaps_and_doors_are_clear(scene: str) -> None:
    flat = generate_flat(scene)
    low, high = KINDS[scene.split("/")[1].split("_")[0]].min_rooms, 7
    assert low <= len(flat.rooms) <= high
    footprints = [box(*f.footprint) for f in flat.furniture]
    for k, a in enumerate(footprints):
        assert box(*flat.rooms[flat.furniture[k].room].inner).covers(a)
        assert all(a.distance(b) > 0.1 for b in footprints[:k])
        for door in flat.doors:
            assert a.distance(Point(door.center)) > 0.7


@pytest.mark.parametrize("scene", SCENES[:6])
def test_walls_are_all_that_is_neither_room_nor_door(scene: str) -> None:
    flat = generate_flat(scene)
    walls = unary_union([box(*w) for w in flat.walls])
    rooms = unary_union([box(*r.inner) for r in flat.rooms] + [box(*d.gap) for d in flat.doors])
    outer = box(0, 0, *flat.size_m).buffer(0.06, join_style="mitre")
    assert walls.symmetric_difference(outer.difference(rooms)).area < 1e-6


def test_back_of_wall_furniture_is_to_a_wall() -> None:
    flat = generate_flat(scene_id(4))
    for f in flat.furniture:
        if CATEGORIES[f.category].free_standing:
            continue
        x0, y0, x1, y1 = flat.rooms[f.room].inner
        fx0, fy0, fx1, fy1 = f.footprint
        gap = [fx0 - x0, fy0 - y0, x1 - fx1, y1 - fy1][round(f.yaw_rad / (math.pi / 2))]
        assert gap == pytest.approx(0.03)


def test_referents_name_one_thing_only() -> None:
    for scene in SCENES:
        flat = generate_flat(scene)
        names = Counter(flat.referents.values())
        assert names and max(names.values()) == 1
        for number, name in flat.referents.items():
            item = flat.furniture[number]
            same = [f for f in flat.furniture if f.name == item.name]
            if " in the " in name:
                same = [f for f in same if f.room == item.room]
            assert same == [item]


def test_flats_differ() -> None:
    assert len({repr(generate_flat(scene_id(s)).furniture) for s in range(20)}) == 20
    assert {len(generate_flat(scene_id(s)).rooms) for s in range(30)} == {4, 5, 6, 7}


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "flat_000001",
        "embedded/flat_000001/flat_000002.glb",
        "embedded/barn_000001/barn_000001.glb",
        "mp3d/x/x.glb",
    ],
)
def test_unknown_scene_says_what_exists(bad: str) -> None:
    with pytest.raises(ValueError, match=r"embedded/flat_000000/flat_000000\.glb"):
        generate_flat(bad)


@pytest.mark.parametrize("seed", [-1, 1_000_000])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="0 to 999999"):
        scene_id(seed)


def test_furniture_paints_exist() -> None:
    for category in CATEGORIES.values():
        assert set(category.colors) <= set(COLORS)
        assert {s.paint for s in category.solids} <= {*COLORS, OWN, LIGHT}
        assert shapely.box(*category.bounds).contains(Point(0, 0))
