"""Draws a frame with its visual tokens coloured by what became of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

COLOURS = {"new": (220, 60, 60), "refreshed": (240, 170, 40), "reused": (60, 200, 90)}
"""In the order of the numbers of :class:`vln_ros.reuse.frame_plan.Label`."""
_SHARE = 0.35
_EDGE_SHARE = 0.8


def paint(rgb: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """A copy of the picture ``[H, W, 3]``, under a glass whose colour says ``labels`` ``[rows, columns]``."""
    height, width = rgb.shape[:2]
    rows, columns = labels.shape
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    colour = np.array(list(COLOURS.values()))[labels[np.ix_(row, column)]]
    edge = np.zeros((height, width), bool)
    edge[np.flatnonzero(np.diff(row, prepend=-1))] = True
    edge[:, np.flatnonzero(np.diff(column, prepend=-1))] = True
    share = np.where(edge, _EDGE_SHARE, _SHARE)[..., None]
    painted: npt.NDArray[np.uint8] = (rgb * (1.0 - share) + colour * share).round().astype(np.uint8)
    return painted
