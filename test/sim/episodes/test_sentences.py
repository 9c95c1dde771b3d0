"""A person's own words in an embedded flat: what they name, what nobody has learned, and where it is."""

from __future__ import annotations

import numpy as np
import pytest

from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import words
from vln_ros.sim.episodes.instructions import vocabulary
from vln_ros.sim.episodes.sentences import Named, Sentence, candidates, nearest, read_sentence
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
        ("enter the kitchen", None, ()),
        ("stop", None, ()),
        ("", None, ()),
        ("42 !?", None, ()),
        ("geh zum Stuhl, bitte, bitte", None, ("geh", "zum", "stuhl", "bitte")),
        ("कुर्सी पर रुको", None, None),
    ],
)
def test_what_a_sentence_names(text: str, goal: Named | None, unknown: tuple[str, ...] | None) -> None:
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
