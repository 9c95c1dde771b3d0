"""Reads a person's own sentence as an episode of an embedded flat: what it names, and where that is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Float64Array
from vln_ros.sim.embedded.flat import Flat, FurnitureItem
from vln_ros.sim.embedded.furniture import CATEGORIES, COLORS
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.instructions import vocabulary
from vln_ros.sim.splits import place_beside

_END = ("stop", "wait")
"""Behind the last of these words stands what the sentence ends at."""
_ARTICLES = ("in", "of", "from", "the", "a", "an", "my", "your")
"""May stand between a thing and its room, and between a colour and its thing."""


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
class Sentence:
    """What is understood of a sentence without a model.

    Attributes:
        goal: the thing that it ends at; None where it names none.
        unknown: words that no instruction of an embedded flat holds, each once, in their order.
    """

    goal: Named | None
    unknown: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Goal:
    """The place beside a thing, ``[3]`` metres, and the way there, ``[N, 3]``."""

    item: FurnitureItem
    place: Float64Array
    path: Float64Array
    distance_m: float


def read_sentence(text: str, rooms: Sequence[str]) -> Sentence:
    """Any text, with the names of the rooms that there are."""
    words = re.findall(r"[^\W\d_]+(?:'\w+)?", text.lower())
    known = vocabulary()
    unknown = tuple(dict.fromkeys(w for w in words if w not in known))
    ends = [i for i, word in enumerate(words) if word in _END]
    things = [i for i, word in enumerate(words) if word in CATEGORIES]
    behind = [i for i in things if ends and i > ends[-1]]
    if not things:
        return Sentence(None, unknown)
    at = behind[0] if behind else things[-1]
    return Sentence(Named(words[at], _color(words[:at]), _room(words[at + 1 :], rooms)), unknown)


def nearest(scene: Scene, named: Named, here: Float64Array) -> Goal | None:
    """The thing of that name that is nearest on foot from ``here`` ``[>= 2]``; None: none is there."""
    found: list[Goal] = []
    for item in candidates(scene.flat, named):
        place = place_beside(scene, item, here[:2])
        if place is None:
            continue
        path = scene.walkable.path(here[:2], place)
        flat = np.concatenate([path, np.zeros((len(path), 1))], 1)
        distance_m = scene.walkable.distance(here[:2], place)
        if math.isfinite(distance_m):
            found.append(Goal(item, np.array([*place, 0.0]), flat, distance_m))
    return min(found, key=lambda goal: goal.distance_m, default=None)


def candidates(flat: Flat, named: Named) -> list[FurnitureItem]:
    """Everything in a flat that the name fits."""
    return [
        item
        for item in flat.furniture
        if item.category == named.category
        and named.color in (None, item.color)
        and named.room in (None, flat.rooms[item.room].name)
    ]


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
