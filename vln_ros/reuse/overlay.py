"""Draws a frame with its visual tokens coloured by what became of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

COLOURS = {"new": (213, 94, 0), "refreshed": (240, 228, 66), "reused": (0, 114, 178)}
"""In the order of the numbers of :class:`vln_ros.reuse.frame_plan.Label`.

Three of Okabe and Ito's, which are told apart with every kind of colour vision; without any, stripes tell.
"""
_SLOPES = {"new": 1, "refreshed": -1, "reused": 0}
"""Which way the stripes of each go; 0: there are none."""
_SHARE = 0.35
_EDGE_SHARE = 0.8
_STRIPES = 3
"""Of a token, across."""


def paint(rgb: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """A copy of the picture ``[H, W, 3]``, under a glass whose colour and stripes say ``labels``.

    Args:
        labels: ``[rows, columns]``.
    """
    height, width = rgb.shape[:2]
    rows, columns = labels.shape
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    label = labels[np.ix_(row, column)]
    colour = np.array(list(COLOURS.values()))[label]
    edge = np.zeros((height, width), bool)
    edge[np.flatnonzero(np.diff(row, prepend=-1))] = True
    edge[:, np.flatnonzero(np.diff(column, prepend=-1))] = True
    slope = np.array(list(_SLOPES.values()))[label]
    period = max(4, width // columns // _STRIPES)
    stripe = (slope != 0) & ((np.arange(width) + slope * np.arange(height)[:, None]) % period == 0)
    share = np.where(edge | stripe, _EDGE_SHARE, _SHARE)[..., None]
    painted: npt.NDArray[np.uint8] = (rgb * (1.0 - share) + colour * share).round().astype(np.uint8)
    return painted
