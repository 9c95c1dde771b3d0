"""Chooses the past frames that stay because of the landmarks that they show.

A score is how sure the model is that a landmark can be seen, in [0, 1]; a frame that was never
asked about has zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vln_ros.datatypes import Float64Array


@dataclass(frozen=True)
class LandmarkRule:
    """A frame shows a landmark from a score of ``threshold`` on; at most ``limit`` older ones stay for it."""

    threshold: float
    limit: int


class LandmarkScores:
    """How surely the images of a run show the landmarks of its instruction, by the numbers of the images.

    One that nobody asked about shows none.

    Args:
        rule: what is kept and chosen by these scores.
    """

    def __init__(self, rule: LandmarkRule) -> None:
        self.rule = rule
        self.begin()

    def begin(self) -> None:
        """Another instruction has other landmarks."""
        self._scores: dict[int, tuple[float, ...]] = {}

    def note(self, image: int, scores: tuple[float, ...]) -> None:
        self._scores[image] = scores

    def best(self, image: int) -> float:
        """How surely an image shows any of them."""
        return max(self._scores.get(image, ()), default=0.0)

    def table(self, images: Sequence[int | None]) -> Float64Array:
        """``[images, landmarks]``; None is an image without a number."""
        rows = [() if image is None else self._scores.get(image, ()) for image in images]
        most = max(map(len, rows), default=0)
        return np.array([row or (0.0,) * most for row in rows], np.float64).reshape(len(rows), most)


def rank_frames(scores: Float64Array) -> tuple[int, ...]:
    """Frames, best first: the best view of each landmark before all others, then by the best score.

    Args:
        scores: ``[frames, landmarks]``, oldest frame first. Of equals the newer one is better.
    """
    n = len(scores)
    if not n or not scores.shape[1]:
        return tuple(reversed(range(n)))
    best = {n - 1 - int(column[::-1].argmax()) for column in scores.T}
    peak = scores.max(1)
    return tuple(sorted(range(n), key=lambda i: (i in best, peak[i], i), reverse=True))


def showing(scores: Float64Array, threshold: float) -> tuple[int, ...]:
    """The frames that show a landmark with at least ``threshold``, best first as in :func:`rank_frames`."""
    if not scores.size:
        return ()
    peak = scores.max(1)
    return tuple(i for i in rank_frames(scores) if peak[i] >= threshold)


def choose_landmark_evictions(
    tokens: Sequence[int],
    scores: Float64Array,
    *,
    recent: int,
    rule: LandmarkRule,
    budget: int,
) -> tuple[int, ...]:
    """Which of ``n`` frames, oldest first, to evict.

    The last ``recent`` stay as they are. Of the older ones the best ``rule.limit`` stay that show a
    landmark. If what stays is more than ``budget`` tokens, the worst of these go first, then the
    oldest of the recent ones; the newest always stays.

    Args:
        tokens: of each frame.
        scores: ``[n, landmarks]``.

    Returns:
        Indices, increasing.
    """
    n = len(tokens)
    window = list(range(max(0, n - max(recent, 1)), n))
    kept = list(showing(scores[: n - len(window)], rule.threshold)[: rule.limit])
    used = sum(tokens[i] for i in kept + window)
    while used > budget and kept:
        used -= tokens[kept.pop()]
    while used > budget and len(window) > 1:
        used -= tokens[window.pop(0)]
    return tuple(sorted(set(range(n)) - set(kept) - set(window)))


def choose_shown(scores: Float64Array, *, most: int, threshold: float) -> tuple[int, ...]:
    """Which of ``n`` past frames a question shows: increasing, without repeats.

    The newest one, the best that show a landmark, and for the places that are left an even choice
    of the others.

    Args:
        scores: ``[n, landmarks]``.
    """
    n = len(scores)
    if not n or most < 1:
        return ()
    chosen = {n - 1}
    chosen.update([i for i in showing(scores, threshold) if i != n - 1][: most - 1])
    rest = [i for i in range(n) if i not in chosen]
    places = min(most - len(chosen), len(rest))
    if places > 0:
        chosen.update(rest[round(k * (len(rest) - 1) / max(places - 1, 1))] for k in range(places))
    return tuple(sorted(chosen))
