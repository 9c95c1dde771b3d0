"""Keeps tokens that the instruction speaks of from being taken over, and limits each layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array
from vln_ros.geometry.correspondence import IntArray


def must_refresh(
    relevance: Float64Array, before: Float64Array | None, *, limit: float, change_limit: float
) -> npt.NDArray[np.bool_]:
    """``[tokens]`` that must be computed anew for what they mean.

    Args:
        relevance: ``[tokens]``, attention of the action to each, in multiples of the mean.
        before: the same one decision earlier, or None.
        limit: relevance above it is high.
        change_limit: so is a change by more than this.
    """
    high = relevance > limit
    return high if before is None else high | (np.abs(relevance - before) > change_limit)


def entropy(attention: Float64Array) -> Float64Array:
    """``[...]`` in [0, 1] of distributions ``[..., n]``: 1 looks everywhere alike, 0 at one token."""
    n = attention.shape[-1]
    if n < 2:
        return np.zeros(attention.shape[:-1])
    share = attention / attention.sum(-1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(-(share * logs).sum(-1) / np.log(n))


def layer_budgets(
    entropies: Sequence[float] | Float64Array, *, highest: float, slope: float, lowest: float
) -> Float64Array:
    """``[layers]`` the largest share of a frame's tokens that each layer may take over.

    ``clip(highest - slope * entropy, lowest, highest)`` (VLN-Cache, arXiv 2603.07080): a layer that looks
    everywhere needs more tokens to be right. A token that one layer does not compute has no input
    for the next, so no layer may take over more than any one behind it.
    """
    own = np.clip(highest - slope * np.asarray(entropies, np.float64), lowest, highest)
    return np.minimum.accumulate(own[::-1])[::-1]


def computed_layers(order: IntArray, tokens: int, budgets: Float64Array) -> IntArray:
    """``[len(order)]`` in how many layers each candidate is computed before it is taken over.

    Args:
        order: candidates, safest first.
        tokens: of the frame.
        budgets: of :func:`layer_budgets`, not falling.
    """
    allowed = np.floor(budgets * tokens + 1e-9).astype(np.int64)
    # The k-th candidate is taken over from the first layer on that allows more than k.
    return np.searchsorted(allowed, np.arange(len(order)), side="right").astype(np.int64)
