"""What is said must be so: rooms, sides and landmarks against the geometry of the route."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from vln_ros.sim.embedded.flat import Door, Flat, FurnitureItem, Rect, Room, generate_flat
from vln_ros.sim.episodes.instructions import Clause, ClauseKind, Side, describe_route, tell
from vln_ros.sim.splits import make_episodes

# Two rooms side by side (x), a third above the right one (y).
FLAT = Flat(
    scene_id="test",
    seed=0,
    size_m=(8.0, 8.0),
    rooms=(
        Room("bedroom", (0.0, 0.0, 4.0, 8.0)),
        Room("hallway", (4.0, 0.0, 8.0, 4.0)),
        Room("kitchen", (4.0, 4.0, 8.0, 8.0)),
    ),
    doors=(Door((0, 1), (4.0, 2.0), False), Door((1, 2), (6.0, 4.0), True)),
    furniture=(
        FurnitureItem(
            number=0,
            category="sofa",
            color="green",
            room=0,
            center=(2.0, 0.6),
            yaw_rad=math.pi / 2,
            footprint=(1.0, 0.1, 3.0, 1.1),
        ),
        FurnitureItem(
            number=1,
            category="lamp",
            color="red",
            room=2,
            center=(6.0, 7.5),
            yaw_rad=-math.pi / 2,
            footprint=(5.8, 7.3, 6.2, 7.7),
        ),
        FurnitureItem(
            number=2,
            category="box",
            color="blue",
            room=2,
            center=(7.0, 5.5),
            yaw_rad=0.0,
            footprint=(6.75, 5.25, 7.25, 5.75),
        ),
    ),
)
PATH = np.array([(0.5, 2.0), (5.5, 2.0), (6.0, 3.0), (6.0, 6.9)])


def brief(clauses: tuple[Clause, ...]) -> list[tuple[ClauseKind, Side | None]]:
    return [(c.kind, c.side) for c in clauses]


def test_a_route_worked_out_by_hand() -> None:
    clauses = describe_route(FLAT, PATH, 0.0, FLAT.furniture[1])
    assert brief(clauses) == [
        (ClauseKind.PASS, Side.RIGHT),  # the sofa lies to the south of somebody walking east
        (ClauseKind.LEAVE, None),
        (ClauseKind.ENTER, None),
        (ClauseKind.TURN, Side.LEFT),
        (ClauseKind.ENTER, None),
        (ClauseKind.PASS, Side.RIGHT),
        (ClauseKind.STOP, None),
    ]
    assert [c.item for c in clauses if c.kind is ClauseKind.PASS] == [0, 2]
    assert clauses[-1].item == 1


def test_mirrored_route_swaps_sides() -> None:
    def flip(rect: Rect) -> Rect:
        return (rect[0], 8.0 - rect[3], rect[2], 8.0 - rect[1])

    mirrored = Flat(
        scene_id="test",
        seed=0,
        size_m=FLAT.size_m,
        rooms=tuple(Room(r.name, flip(r.bounds)) for r in FLAT.rooms),
        doors=tuple(Door(d.rooms, (d.center[0], 8.0 - d.center[1]), d.wall_along_x) for d in FLAT.doors),
        furniture=tuple(
            FurnitureItem(
                number=f.number,
                category=f.category,
                color=f.color,
                room=f.room,
                center=(f.center[0], 8.0 - f.center[1]),
                yaw_rad=-f.yaw_rad,
                footprint=flip(f.footprint),
            )
            for f in FLAT.furniture
        ),
    )
    path = PATH * [1, -1] + [0, 8.0]
    swap = {Side.LEFT: Side.RIGHT, Side.RIGHT: Side.LEFT, None: None}
    expected = [(k, swap[s]) for k, s in brief(describe_route(FLAT, PATH, 0.0, FLAT.furniture[1]))]
    assert brief(describe_route(mirrored, path, 0.0, mirrored.furniture[1])) == expected


@pytest.mark.parametrize(
    ("yaw_deg", "side"), [(0, None), (30, None), (90, Side.RIGHT), (-90, Side.LEFT), (180, Side.AROUND)]
)
def test_first_turn_is_relative_to_where_the_robot_looks(yaw_deg: int, side: Side | None) -> None:
    first = describe_route(FLAT, PATH, math.radians(yaw_deg), FLAT.furniture[1])[0]
    if side is None:
        assert first.kind is ClauseKind.PASS
    else:
        assert (first.kind, first.side) == (ClauseKind.TURN, side)


def test_going_straight_through_a_room_is_no_turn() -> None:
    path = np.array([(6.0, 7.0), (6.0, 1.0)])
    clauses = describe_route(FLAT, path, -math.pi / 2, FLAT.furniture[0])
    assert not [c for c in clauses if c.kind is ClauseKind.TURN]


def test_back_again_turns_right() -> None:
    clauses = describe_route(FLAT, PATH[::-1], -math.pi / 2, FLAT.furniture[0])
    assert [c.side for c in clauses if c.kind is ClauseKind.TURN] == [Side.RIGHT]


EPISODES = make_episodes("val_unseen", 25)


def test_generated_routes_agree_with_the_rooms_and_doors_they_cross() -> None:
    """Turns between two doors, worked out from the doors' sides of the room alone."""
    turns = 0
    for e in EPISODES:
        flat = generate_flat(e.scene_id)
        stop = next(n for n, name in flat.referents.items() if e.instruction.endswith(f"the {name}"))
        clauses = describe_route(flat, e.reference_path, e.start.yaw_rad, flat.furniture[stop])
        dense = np.concatenate(
            [np.linspace(a, b, 400) for a, b in zip(e.reference_path[:-1], e.reference_path[1:], strict=True)]
        )
        rooms = [flat.room_at(p) for p in dense]
        order = [r for k, r in enumerate(rooms) if k == 0 or rooms[k - 1] != r]
        assert [c.room for c in clauses if c.kind is ClauseKind.ENTER] == order[1:]
        assert flat.furniture[stop].room == order[-1]
        for clause in clauses:
            if clause.kind is ClauseKind.PASS:
                assert clause.item is not None
                x, y = flat.furniture[clause.item].center
                k = int(np.linalg.norm(dense[:, :2] - [x, y], axis=1).argmin())
                ahead = dense[min(k + 30, len(dense) - 1), :2] - dense[max(k - 30, 0), :2]
                to_item = np.array([x, y]) - dense[k, :2]
                left = ahead[0] * to_item[1] - ahead[1] * to_item[0]
                if abs(left) > 0.3 * np.linalg.norm(ahead) * np.linalg.norm(to_item):
                    assert clause.side is (Side.LEFT if left > 0 else Side.RIGHT)
        for n in range(1, len(order) - 1):
            through = ((order[n - 1], order[n]), (order[n], order[n + 1]))
            doors = [
                np.sign((dense[k] - dense[k - 1])[:2].round(6))
                for k in range(1, len(rooms))
                if (rooms[k - 1], rooms[k]) in through
            ]
            said = [c.side for c in clauses if c.kind is ClauseKind.TURN and c.room == order[n]]
            if order.count(order[n]) > 1 or len(doors) != 2:
                continue
            door_in, door_out = (
                next(d for d in flat.doors if set(d.rooms) == {order[n + i], order[n + i + 1]})
                for i in (-1, 0)
            )
            if (
                sum(set(d.rooms) in ({order[n - 1], order[n]}, {order[n], order[n + 1]}) for d in flat.doors)
                > 2
            ):
                continue
            a = doors[0] * ([0, 1] if door_in.wall_along_x else [1, 0])
            b = doors[1] * ([0, 1] if door_out.wall_along_x else [1, 0])
            cross, dot = a[0] * b[1] - a[1] * b[0], a @ b
            expected = (
                [Side.LEFT] if cross > 0 else [Side.RIGHT] if cross < 0 else [] if dot > 0 else [Side.AROUND]
            )
            assert said == expected, e.instruction
            turns += len(expected)
    assert turns >= 5


def test_every_thing_named_is_one_thing_only() -> None:
    for e in EPISODES:
        flat = generate_flat(e.scene_id)
        names = set(flat.referents.values())
        categories = "|".join({f.category for f in flat.furniture})
        found = re.findall(rf"\b(\w+ (?:{categories})\b(?: in the (?:\w+ )?\w+)?)", e.instruction)
        assert found
        for name in found:
            assert name in names or name.split(" in the ")[0] in names


def test_phrasings_differ_and_are_chosen_by_the_generator_alone() -> None:
    clauses = describe_route(FLAT, PATH, 0.0, FLAT.furniture[1])
    texts = [tell(FLAT, clauses, np.random.default_rng(k)) for k in range(30)]
    assert texts == [tell(FLAT, clauses, np.random.default_rng(k)) for k in range(30)]
    assert len(set(texts)) > 20
    for text in texts:
        assert "{" not in text
        assert "None" not in text
        assert text.endswith("the red lamp")
        assert "turn left" in text or "left turn" in text


def test_route_outside_the_flat_is_an_error() -> None:
    with pytest.raises(ValueError, match="leaves the flat"):
        describe_route(FLAT, np.array([(1.0, 1.0), (20.0, 1.0)]), 0.0, FLAT.furniture[0])
