"""Vocabularies of actions that tests decode with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine_models import IM_END

from vln_ros.datatypes import STOP, Action
from vln_ros.engine.decode.decode import DecodeMode, DecodeOptions
from vln_ros.engine.decode.grammar import Grammar, Phrase, QueueRules
from vln_ros.engine.decode.scores import Sampling

FORWARD, LEFT, RIGHT = Action(forward_m=0.25), Action(turn_rad=math.pi / 12), Action(turn_rad=-math.pi / 12)


@dataclass(frozen=True)
class Words:
    text: str
    actions: tuple[Action, ...]


ARROWS = (Words("S", (STOP,)), Words("F", (FORWARD,)), Words("L", (LEFT,)), Words("R", (RIGHT,)))


def spell(text: str) -> list[int]:
    """One token per character, but FF and LL are merged, across what used to be a boundary."""
    ids, i = [], 0
    while i < len(text):
        pair = text[i : i + 2]
        ids.append({"FF": 300, "LL": 301}.get(pair, 10 + ord(text[i])))
        i += 2 if pair in ("FF", "LL") else 1
    return ids


def grammar(
    phrases: Sequence[Phrase] = ARROWS, separator: str = "", max_phrases: int = 4, **rules: Any
) -> Grammar:
    return Grammar(spell, phrases, QueueRules(separator, max_phrases, **rules), (IM_END,))


def options(
    mode: DecodeMode, temperature: float = 0.0, nodes: int = 4096, unconstrained: int = 0
) -> DecodeOptions:
    return DecodeOptions(
        mode=mode, sampling=Sampling(temperature), tree_nodes=nodes, wanted_tokens=unconstrained
    )
