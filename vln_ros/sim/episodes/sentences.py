"""Reads a person's own sentence as an episode of an embedded flat: what it names, and where that is."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Float64Array
from vln_ros.sim.embedded.flat import Flat, FurnitureItem, Room
from vln_ros.sim.embedded.furniture import CATEGORIES, COLORS, ROOM_FURNITURE
from vln_ros.sim.embedded.geodesic import GoalField
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.instructions import vocabulary
from vln_ros.sim.splits import place_beside

ANOTHER_SENTENCE = "another sentence"
"""Why a run ends that a person interrupts with the next one."""
_END = ("stop", "wait")
"""Behind the last of these words stands what the sentence ends at."""
_ARTICLES = ("in", "of", "from", "the", "a", "an", "my", "your")
"""May stand between a thing and its room, and between a colour and its thing."""
_NOT_TO = ("leave", "exit", "from", "through", "cross", "past", "outside", "of")
"""Before a room: the sentence leads elsewhere. "of" is that of "out of"."""
_INSIDE_M = 0.3
"""A robot that is so far from a room's walls is in it for everybody who looks."""
_PLACES_M = 0.2
"""Between two places in a room that are looked at."""


@dataclass(frozen=True)
class Named:
    """A thing as a sentence names it: its kind, and colour and room where it says so."""

    category: str
    color: str | None = None
    room: str | None = None

    def __str__(self) -> str:
        color = "" if self.color is None else f"{self.color} "
        return f"{color}{self.category}" + ("" if self.room is None else f" in the {self.room}")


@dataclass(frozen=True)
class NamedRoom:
    """A room as a sentence names it."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Sentence:
    """What is understood of a sentence without a model.

    Attributes:
        goal: the thing or the room that it ends at; None where it names none.
        unknown: words that no instruction of an embedded flat holds, each once, in their order.
    """

    goal: Named | NamedRoom | None
    unknown: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Goal:
    """The place beside a thing, ``[3]`` metres, and the way there, ``[N, 3]``."""

    item: FurnitureItem
    place: Float64Array
    path: Float64Array
    distance_m: float


@dataclass(frozen=True, eq=False)
class RoomGoal:
    """Anywhere in a room: the first place in it, ``[3]`` metres, and the way there, ``[N, 3]``."""

    room: Room
    place: Float64Array
    path: Float64Array
    distance_m: float


def read_sentence(text: str, rooms: Sequence[str]) -> Sentence:
    """Any text, with the names of the rooms that there are."""
    words = re.findall(r"[^\W\d_]+(?:'\w+)?", text.lower())
    known = vocabulary()
    unknown = tuple(dict.fromkeys(w for w in words if w not in known))
    ends = [i for i, word in enumerate(words) if word in _END]
    after = ends[-1] if ends else len(words)
    things = [i for i, word in enumerate(words) if word in CATEGORIES]
    named = [(i, name) for i, name in _rooms_in(words, {*rooms, *ROOM_FURNITURE}) if _is_end(words, i, name)]
    if at := [i for i in things if i > after][:1]:
        return Sentence(_thing(words, at[0], rooms), unknown)
    if inside := [name for i, name in named if i > after][:1]:
        return Sentence(NamedRoom(inside[0]), unknown)
    if things and not any(i > things[-1] for i, _ in named):
        return Sentence(_thing(words, things[-1], rooms), unknown)
    return Sentence(NamedRoom(named[-1][1]) if named else None, unknown)


def _thing(words: Sequence[str], at: int, rooms: Sequence[str]) -> Named:
    return Named(words[at], _color(words[:at]), _room(words[at + 1 :], rooms))


def _rooms_in(words: Sequence[str], names: Collection[str]) -> list[tuple[int, str]]:
    """Where a room is named: the index of the first word, and the name."""
    found = []
    for name in names:
        parts = name.split()
        found += [(i, name) for i in range(len(words)) if list(words[i : i + len(parts)]) == parts]
    return sorted(found)


def _is_end(words: Sequence[str], at: int, name: str) -> bool:
    """A sentence may end in this room: it neither leads out of it nor says where a thing is."""
    before = at - 1
    while before >= 0 and words[before] in ("the", "a", "an", "my", "your"):
        before -= 1
    if before >= 0 and words[before] in _NOT_TO:
        return False
    if before > 0 and words[before] == "in" and words[before - 1] in CATEGORIES:
        return False
    behind = words[at + len(name.split()) :][:2]
    noun = behind[1:] if behind and behind[0] in COLORS else behind[:1]
    return not any(word in CATEGORIES for word in noun)


def nearest(scene: Scene, named: Named, here: Float64Array) -> Goal | None:
    """The thing of that name that is nearest on foot from ``here`` ``[>= 2]``; None: none is there."""
    found: list[Goal] = []
    for item in candidates(scene.flat, named):
        place = place_beside(scene, item, here[:2])
        if place is None:
            continue
        path, distance_m = _way(scene, here, place)
        if math.isfinite(distance_m):
            found.append(Goal(item, np.array([*place, 0.0]), path, distance_m))
    return min(found, key=lambda goal: goal.distance_m, default=None)


def nearest_room(scene: Scene, named: NamedRoom, here: Float64Array) -> RoomGoal | None:
    """The same for a room: whoever is in it is there."""
    found: list[RoomGoal] = []
    for room in rooms_named(scene.flat, named):
        place = _place_inside(scene, room, here[:2])
        if place is not None:
            path, distance_m = _way(scene, here, place)
            found.append(RoomGoal(room, np.array([*place, 0.0]), path, distance_m))
    return min(found, key=lambda goal: goal.distance_m, default=None)


def _way(scene: Scene, here: Float64Array, place: Float64Array) -> tuple[Float64Array, float]:
    """``[N, 3]``, and its length in metres."""
    path = scene.walkable.path(here[:2], place)
    return np.concatenate([path, np.zeros((len(path), 1))], 1), scene.walkable.distance(here[:2], place)


def _place_inside(scene: Scene, room: Room, here: Float64Array) -> Float64Array | None:
    """The place in a room that is nearest on foot, or ``here`` where that is in it; None: none is reached."""
    x0, y0, x1, y1 = room.inner
    if x0 <= here[0] <= x1 and y0 <= here[1] <= y1:
        return here
    xs, ys = (
        np.linspace(low + _INSIDE_M, high - _INSIDE_M, max(2, math.ceil((high - low) / _PLACES_M)))
        for low, high in ((x0, x1), (y0, y1))
    )
    places = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    places = places[scene.walkable.contains(places)]
    if not len(places):
        return None
    lengths = GoalField(scene.walkable, here).distances(places)
    first = int(lengths.argmin())
    return np.asarray(places[first]) if math.isfinite(lengths[first]) else None


def candidates(flat: Flat, named: Named) -> list[FurnitureItem]:
    """Everything in a flat that the name fits."""
    return [
        item
        for item in flat.furniture
        if item.category == named.category
        and named.color in (None, item.color)
        and named.room in (None, flat.rooms[item.room].name)
    ]


def rooms_named(flat: Flat, named: NamedRoom) -> list[Room]:
    """The rooms of that name."""
    return [room for room in flat.rooms if room.name == named.name]


def _color(before: Sequence[str]) -> str | None:
    """That of a thing is the word right before it; words that are not known may stand between."""
    known = vocabulary() - set(COLORS)
    for word in reversed(before):
        if word in COLORS:
            return word
        if word in known or word in _ARTICLES:
            return None
    return None


def _room(behind: Sequence[str], rooms: Sequence[str]) -> str | None:
    """``in the kitchen``, right behind the thing."""
    if behind[:1] not in (["in"], ["of"], ["from"]):
        return None
    at = next((i for i, word in enumerate(behind) if word not in _ARTICLES), len(behind))
    rest = " ".join(behind[at:])
    return next((room for room in rooms if rest == room or rest.startswith(f"{room} ")), None)


def inventory(scene: Scene) -> str:
    """Rooms of a flat, and the things in it that have a name of their own."""
    flat = scene.flat
    names = ", ".join(sorted(f"the {name}" for name in flat.referents.values()))
    return f"{flat.scene_id}: {', '.join(room.name for room in flat.rooms)}; {names}"
