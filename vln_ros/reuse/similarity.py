"""Compares the pixels of tokens that should show the same place, before anything is computed of them.

Vision features tell better how wrong reused keys and values are, but making them is half of what there is
to save; and which tokens are taken over matters little beside how many (docs/design/vln_cache.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vln_ros.datatypes import Float64Array
from vln_ros.geometry.correspondence import Correspondence, TokenGrid

_PER_TOKEN = 4
_TIE = 1.0
"""Grey levels by which a neighbour must be more alike: noise does not move a plain wall."""
_STEPS = [(0, 0)] + [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]

Pooled = npt.NDArray[np.float32]


def pooled(picture: npt.NDArray[np.uint8], grid: TokenGrid) -> Pooled:
    """``[tokens, 48]`` grey levels: the means of 4 x 4 fields of each token, three channels.

    Args:
        picture: ``[H, W, 3]``, a whole number of pixels for each token.
    """
    size = (grid.columns * _PER_TOKEN, grid.rows * _PER_TOKEN)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX), np.float32)
    fields = small.reshape(grid.rows, _PER_TOKEN, grid.columns, _PER_TOKEN, 3).swapaxes(1, 2)
    return fields.reshape(grid.count, -1)


@dataclass(frozen=True, eq=False)
class Likeness:
    """How the pixels of a frame fit those of a source.

    Attributes:
        difference: ``[tokens]`` float64, mean difference to the token it is taken over from, grey levels;
            NaN where there is none.
        drift: ``[2]``, the mean way in tokens, right and down, from where a token should be to where it
            looks most alike. Far from 0 the poses are wrong; NaN without any token.
    """

    difference: Float64Array
    drift: Float64Array


def compare(new: Pooled, source: Pooled, found: Correspondence) -> Likeness:
    """Args: ``found``: the tokens of ``new`` in ``source``, its one source."""
    grid = found.grid
    rows = np.flatnonzero(found.found)
    difference = np.full(grid.count, np.nan)
    if not len(rows):
        return Likeness(difference, np.full(2, np.nan))
    at = np.stack(np.divmod(found.token[rows], grid.columns))
    apart = np.empty((len(_STEPS), len(rows)), np.float32)
    for k, step in enumerate(_STEPS):
        place = at + np.array(step)[:, None]
        outside = ((place < 0) | (place >= [[grid.rows], [grid.columns]])).any(0)
        tokens = np.where(outside, 0, place[0] * grid.columns + place[1])
        apart[k] = np.abs(source[tokens] - new[rows]).mean(1) + (_TIE if k else 0.0)
        apart[k, outside] = np.inf
    difference[rows] = apart[0]
    way = np.array(_STEPS)[apart.argmin(0)]
    return Likeness(difference, way[:, ::-1].mean(0))
