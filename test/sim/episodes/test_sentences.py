"""A person's own words in an embedded flat: what they name, what nobody has learned, and where it is."""

from __future__ import annotations

import numpy as np
import pytest

from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import words
from vln_ros.sim.episodes.instructions import vocabulary
from vln_ros.sim.episodes.sentences import (
    Named,
    NamedRoom,
    Sentence,
    candidates,
    nearest,
    nearest_room,
    read_sentence,
    rooms_named,
)
from vln_ros.sim.splits import make_scene_episodes

ROOMS = ("living room", "bedroom", "kitchen")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(scene_id(900_003, "flat"), AGENT_RADIUS_M)


def test_the_vocabulary_is_that_of_the_instructions() -> None:
    known = vocabulary()
    for seed in range(900_000, 900_006):
        for episode in make_scene_episodes("val_unseen", seed, "small"):
            assert {w for w in words(episode.instruction) if w.isalpha()} <= known
    assert {"door", "couch", "please", "big"}.isdisjoint(known)


@pytest.mark.parametrize(
    ("text", "goal", "unknown"),
    [
        ("go to the red chair", Named("chair", "red"), ()),
        ("Go To The RED Chair!", Named("chair", "red"), ()),
        ("the chair", Named("chair"), ()),
        ("the red big chair", Named("chair", "red"), ("big",)),
        ("stop by the lamp in the bedroom", Named("lamp", None, "bedroom"), ()),
        ("stop by the lamp in the living room and wait", Named("lamp", None, "living room"), ()),
        ("stop by the blue lamp of the kitchen", Named("lamp", "blue", "kitchen"), ()),
        ("stop at the lamp in the cellar", Named("lamp"), ("cellar",)),
        ("walk past the sofa and stop at the chair", Named("chair"), ()),
        ("walk past the sofa, then the red chair", Named("chair", "red"), ()),
        ("stop at the chair next to the sofa", Named("chair"), ()),
        ("leave the red bed and go past a chair", Named("chair"), ()),
        ("the red sofa and the chair", Named("chair"), ()),
        ("go to the red door", None, ("door",)),
        ("enter the kitchen", NamedRoom("kitchen"), ()),
        ("Go to the Kitchen and stop.", NamedRoom("kitchen"), ()),
        ("stop in the living room", NamedRoom("living room"), ()),
        ("leave the bedroom, cross the hallway and stop in the office", NamedRoom("office"), ()),
        ("go past the sofa into the bedroom", NamedRoom("bedroom"), ()),
        ("walk past the kitchen to the dining room", NamedRoom("dining room"), ()),
        ("enter the storage room and wait", NamedRoom("storage room"), ()),
        ("walk into my bedroom", NamedRoom("bedroom"), ("my",)),
        ("go to the kitchen, then stop at the sofa", Named("sofa"), ()),
        ("walk from the kitchen to the lamp", Named("lamp"), ("from",)),
        ("stop in the kitchen by the table", Named("table"), ()),
        ("go to the living room lamp", Named("lamp"), ()),
        ("the kitchen red table", Named("table", "red"), ()),
        ("leave the kitchen", None, ()),
        ("exit the bathroom and wait", None, ()),
        ("walk out of the kitchen", None, ()),
        ("go through the hallway", None, ()),
        ("go to the room", None, ()),
        ("go to the garage", None, ("garage",)),
        ("stop", None, ()),
        ("", None, ()),
        ("42 !?", None, ()),
        ("geh zum Stuhl, bitte, bitte", None, ("geh", "zum", "stuhl", "bitte")),
        ("कुर्सी पर रुको", None, None),
    ],
)
def test_what_a_sentence_names(
    text: str, goal: Named | NamedRoom | None, unknown: tuple[str, ...] | None
) -> None:
    read = read_sentence(text, ROOMS)
    assert read.goal == goal
    if unknown is None:
        assert read.unknown
    else:
        assert read == Sentence(goal, unknown)


def test_every_thing_can_be_named_and_is_found(scene: Scene) -> None:
    start = scene.walkable.nearest(np.array(scene.flat.size_m) / 2)
    rooms = [room.name for room in scene.flat.rooms]
    found = 0
    for item in scene.flat.furniture:
        text = f"walk on and stop next to the {item.name} in the {rooms[item.room]}"
        read = read_sentence(text, rooms)
        assert isinstance(read.goal, Named)
        assert read.goal == Named(item.category, item.color, rooms[item.room])
        assert item in candidates(scene.flat, read.goal)
        goal = nearest(scene, read.goal, start)
        if goal is not None:
            found += 1
            assert goal.item.name == item.name and goal.item.room == item.room
            assert scene.flat.room_at(goal.place) == item.room
            assert goal.distance_m == pytest.approx(scene.walkable.distance(start, goal.place[:2]))
            assert np.allclose(goal.path[0, :2], start) and np.allclose(goal.path[-1], goal.place)
    assert found > len(scene.flat.furniture) / 2


def test_of_several_things_of_one_name_the_nearest_on_foot_counts(scene: Scene) -> None:
    category = max(
        {f.category for f in scene.flat.furniture},
        key=lambda c: sum(f.category == c for f in scene.flat.furniture),
    )
    many = candidates(scene.flat, Named(category))
    assert len(many) > 1
    for corner in ((0.2, 0.2), (0.8, 0.8), (0.2, 0.8)):
        start = scene.walkable.nearest(np.array(scene.flat.size_m) * np.array(corner))
        goal = nearest(scene, Named(category), start)
        each = [nearest(scene, Named(category, f.color, scene.flat.rooms[f.room].name), start) for f in many]
        assert goal is not None
        assert goal.distance_m == min(g.distance_m for g in each if g is not None)


def test_what_is_not_there_is_nowhere(scene: Scene) -> None:
    start = scene.walkable.nearest(np.array([1.0, 1.0]))
    there = {f.color for f in scene.flat.furniture if f.category == "sofa"}
    missing = next(c for c in ("blue", "red", "green", "purple", "orange") if c not in there)
    assert nearest(scene, Named("sofa", missing), start) is None
    assert nearest(scene, Named("sofa", None, "garage"), start) is None


@pytest.mark.parametrize("seed", [900_000, 900_003, 900_011])
@pytest.mark.parametrize("kind", ["room", "small", "flat"])
def test_every_room_can_be_named_and_is_entered_the_shortest_way(seed: int, kind: str) -> None:
    scene = Scene(scene_id(seed, kind), AGENT_RADIUS_M)
    size_m = np.array(scene.flat.size_m)
    names = [room.name for room in scene.flat.rooms]
    for share in ((0.2, 0.2), (0.8, 0.8), (0.5, 0.5)):
        start = scene.walkable.nearest(size_m * np.array(share))
        for name in names:
            read = read_sentence(f"walk on and stop in the {name}", names)
            assert read.goal == NamedRoom(name)
            goal = nearest_room(scene, read.goal, start)
            assert goal is not None and goal.room.name == name
            x0, y0, x1, y1 = goal.room.inner
            assert x0 <= goal.place[0] <= x1 and y0 <= goal.place[1] <= y1
            assert scene.walkable.contains(goal.place[None, :2])[0]
            assert goal.distance_m == pytest.approx(scene.walkable.distance(start, goal.place[:2]))
            assert np.allclose(goal.path[0, :2], start) and np.allclose(goal.path[-1], goal.place)
            inside = any(
                r.inner[0] <= start[0] <= r.inner[2] and r.inner[1] <= start[1] <= r.inner[3]
                for r in rooms_named(scene.flat, read.goal)
            )
            assert (goal.distance_m == 0.0) == inside, "whoever is in it is there"


def test_a_room_that_is_not_there_is_nowhere(scene: Scene) -> None:
    start = scene.walkable.nearest(np.array([1.0, 1.0]))
    there = {room.name for room in scene.flat.rooms}
    for name in ("garage", *({"office", "storage room", "hallway", "bathroom"} - there)):
        assert nearest_room(scene, NamedRoom(name), start) is None
