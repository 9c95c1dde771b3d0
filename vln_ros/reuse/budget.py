"""Chooses what of a frame is computed: what must be, and as much of the rest as a budget has room for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array
from vln_ros.geometry.correspondence import IntArray

BUCKETS = (0.25, 0.5, 0.75, 1.0)
"""Shares of a frame that are computed: few, so that forwards have few shapes."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What is computed.

    Attributes:
        computed: ``[tokens]`` bool, whole windows.
        bucket: so many tokens have room; one of four numbers for a grid.
    """

    computed: npt.NDArray[np.bool_]
    bucket: int


def buckets(tokens: int) -> list[int]:
    """The four, of a frame of so many tokens, rising."""
    return [math.ceil(share * tokens) for share in BUCKETS]


def choose(must: npt.NDArray[np.bool_], urgency: Float64Array, window: IntArray, budget: float) -> Choice:
    """The windows with a token that must be computed, then the most urgent ones that still fit.

    The bucket is that of the budget, or the first one that holds what must be computed and something at all.

    Args:
        must: ``[tokens]``.
        urgency: ``[tokens]``, not negative, of what need not be computed; that of a window is the mean.
        window: ``[tokens]`` the window that each token is in, counted from 0.
        budget: share of the frame.
    """
    sizes = np.bincount(window)
    forced = np.bincount(window[must], minlength=len(sizes)) > 0
    mean = np.bincount(window, np.where(must, 0.0, urgency), len(sizes)) / sizes
    order = [int(w) for w in np.argsort(-mean, kind="stable") if not forced[w]]
    for bucket in buckets(len(window)):
        left = bucket - int(sizes[forced].sum())
        if left < 0 or bucket < budget * len(window):
            continue
        chosen = forced.copy()
        for number in order:
            if sizes[number] <= left:
                chosen[number] = True
                left -= int(sizes[number])
        if chosen.any():
            return Choice(chosen[window], bucket)
    raise AssertionError("the last bucket holds everything")
