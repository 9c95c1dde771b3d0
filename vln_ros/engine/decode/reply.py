"""Composes the reply that says what the robot did, where that differs from what the model said.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from vln_ros.datatypes import Action
from vln_ros.engine.decode.grammar import Phrase

_LEFT_OUT, _ROUNDED = 2.0, 1.0


def spoken(phrases: Sequence[Phrase], said: Sequence[int], done: Sequence[Action]) -> tuple[int, ...]:
    """Indices of the phrases that say ``done``.

    Those of ``said`` stay as far as they were done; the rest is said in as few phrases as possible, of
    equals the one that is named first in the vocabulary. Where a vocabulary has no words for the beginning
    of a phrase that was cut short, the phrase is said if at least half of it was done, and not if less.
    """
    kept, start = 0, 0
    for index in said:
        actions = phrases[index].actions
        if tuple(done[start : start + len(actions)]) != actions:
            break
        kept, start = kept + 1, start + len(actions)
    return (*said[:kept], *_fewest(phrases, tuple(done[start:])))


def _fewest(phrases: Sequence[Phrase], done: tuple[Action, ...]) -> tuple[int, ...]:
    """Backwards over ``done``: the best way to say what is left from each action on."""
    best: list[tuple[tuple[float, int], tuple[int, ...]]] = [((0.0, 0), ())]
    for start in range(len(done) - 1, -1, -1):
        rest = done[start:]
        (wrong, count), words = best[-1]
        ways = [((wrong + _LEFT_OUT, count), words)]
        for index, phrase in enumerate(phrases):
            n = len(phrase.actions)
            if rest[:n] == phrase.actions:
                (wrong, count), words = best[len(rest) - n]
                ways.append(((wrong, count + 1), (index, *words)))
            elif phrase.actions[: len(rest)] == rest and 2 * len(rest) >= n:
                ways.append(((_ROUNDED, 1), (index,)))
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1][1]
