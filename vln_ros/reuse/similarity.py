"""Compares the vision features of tokens that should show the same place.

What is compared are the features that the vision tower makes of them: they are there already, and of
all that was tried they tell best how wrong the reused keys and values are (docs/design/vln_cache.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vln_ros.datatypes import Float64Array
from vln_ros.geometry.correspondence import Correspondence, IntArray

_TIE = 1e-5


@dataclass(frozen=True, eq=False)
class Match:
    """For each token of a new frame the source token that looks most alike; arrays of ``[tokens]``.

    Attributes:
        token: int64, in the source of the correspondence, or -1.
        similarity: float64 in [-1, 1], cosine; NaN where there is none.
        drift: per source ``[2]``, the mean way in tokens, right and down, from where a token should be to
            where it looks most alike. Far from 0 the poses are wrong; NaN without any token.
    """

    token: IntArray
    similarity: Float64Array
    drift: tuple[Float64Array, ...]


def unit(features: Tensor) -> Tensor:
    """``[n, d]`` float32, each row of length 1 (a row of zeros stays)."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


def refine(new: Tensor, sources: Sequence[Tensor], found: Correspondence, reach: int) -> Match:
    """Look for the best of the ``(2 reach + 1) ** 2`` tokens around each correspondence.

    Of equals the one in the middle is taken.

    Args:
        new: ``[tokens, d]`` rows of length 1, see :func:`unit`.
        sources: the same of each source.

    Raises:
        ValueError: not one matrix of that size per source.
    """
    grid = found.grid
    sizes = {tuple(s.shape) for s in (new, *sources)}
    if len(sources) != len(found.depth_ratio) or sizes != {(grid.count, new.shape[-1])}:
        raise ValueError(
            f"{len(found.depth_ratio)} sources need features of {grid.count} tokens, got {sizes}"
        )
    token, similarity = np.full(grid.count, -1), np.full(grid.count, np.nan)
    drift: list[Float64Array] = []
    steps = [(0, 0)]
    steps += [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if (y, x) != (0, 0)]
    for index, source in enumerate(sources):
        rows = np.flatnonzero(found.source == index)
        if not len(rows):
            drift.append(np.full(2, np.nan))
            continue
        at = np.stack(np.divmod(found.token[rows], grid.columns))
        scores = np.empty((len(steps), len(rows)))
        wanted = new[_index(rows, new)]
        for k, step in enumerate(steps):
            place = at + np.array(step)[:, None]
            outside = ((place < 0) | (place >= [[grid.rows], [grid.columns]])).any(0)
            tokens = np.where(outside, 0, place[0] * grid.columns + place[1])
            alike = (source[_index(tokens, source)] * wanted).sum(-1).double().cpu().numpy()
            scores[k] = np.where(outside, -np.inf, alike - (_TIE if k else 0.0))
        best = scores.argmax(0)
        way = np.array(steps)[best]
        token[rows] = found.token[rows] + way @ [grid.columns, 1]
        similarity[rows] = scores[best, np.arange(len(rows))] + np.where(best > 0, _TIE, 0.0)
        drift.append(way[:, ::-1].mean(0))
    return Match(token, similarity, tuple(drift))


def _index(tokens: npt.NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(tokens).to(like.device)
