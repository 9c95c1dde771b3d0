"""Makes visual tokens of conversations stale, for a policy that was trained with them tolerates reuse.

With reuse, a visual token does not compute keys and values of its own: it takes over those of the token
that showed its place before (VLN-Cache, arXiv 2603.07080). Where all of a window does, the vision tower can
pass over it, and its last layers look at what they computed for the earlier one. Both are done here in the
forward over whole conversations, exactly as an engine would in a stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vln_ros.datatypes import Float64Array
from vln_ros.engine.stream.stale_states import StaleStates
from vln_ros.training.batch import Batch, Conversation
from vln_ros.training.vision import window_cells

_WHOLE_FRAMES = 1 / 8  # of the frames behind the first: an engine computes one as a whole now and then


@dataclass(frozen=True)
class Staleness:
    """How much of a conversation is stale.

    Attributes:
        share: of the tokens of a frame, where so many were seen in the frame before.
        in_windows: whole windows of the vision tower go first, in random order; otherwise single tokens.
        skips_tower: the tower passes over windows of which everything is stale.
    """

    share: float
    in_windows: bool
    skips_tower: bool


def draw_staleness(least: float, most: float, rng: np.random.Generator) -> Staleness:
    """One kind of staleness with a share between ``least`` and ``most``."""
    in_windows, skips_tower = rng.random(2) < 0.5
    return Staleness(float(rng.uniform(least, most)), bool(in_windows), bool(skips_tower))


def make_stale(
    conversation: Conversation,
    staleness: Staleness,
    grid: tuple[int, int],
    window_tokens: int,
    rng: np.random.Generator,
) -> Conversation:
    """The conversation with some visual tokens stale; which ones is drawn.

    Args:
        conversation: one growing chat, which shows each of its frames once.
        grid: rows and columns of visual tokens of a frame.
        window_tokens: side of a window of the vision tower, in tokens.
    """
    tokens = grid[0] * grid[1]
    window_of = np.empty(tokens, np.intp)
    windows = window_cells(grid, window_tokens)
    for number, cells in enumerate(windows):
        window_of[cells.numpy()] = number
    sources = conversation.frames.sources.numpy()
    origins, tower_origins = np.arange(len(sources)), np.arange(len(sources))
    for first in range(tokens, len(sources), tokens):
        if rng.random() < _WHOLE_FRAMES:
            continue
        frame = slice(first, first + tokens)
        order = _by_turn(window_of, len(windows), staleness.in_windows, rng)
        order = order[sources[frame][order] >= 0][: int(staleness.share * tokens)]
        # What the source took over itself was computed earlier: it is handed on.
        origins[first + order] = origins[sources[first + order]]
        if staleness.skips_tower:
            stale = np.zeros(tokens, bool)
            stale[order] = True
            computed = np.bincount(window_of, ~stale, len(windows)) > 0
            skipped = first + np.flatnonzero(~computed[window_of])
            tower_origins[skipped] = origins[skipped]
    frames = replace(conversation.frames, tower_origins=torch.from_numpy(tower_origins))
    return replace(conversation, origins=torch.from_numpy(origins), frames=frames)


def _by_turn(
    window_of: npt.NDArray[np.intp], windows: int, in_windows: bool, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """The tokens of a frame in the order in which they become stale."""
    turn: Float64Array = rng.random(len(window_of))
    if in_windows:
        turn += rng.permutation(windows)[window_of]
    return turn.argsort()


def stale_states(network: Any, batch: Batch) -> StaleStates:
    """For the forward over ``batch``, some of whose tokens are stale."""
    places = torch.arange(len(batch.origins), device=batch.origins.device)
    stale = (batch.origins != places).nonzero()[:, 0]
    own, origin = batch.visual[stale], batch.visual[batch.origins[stale]]
    return StaleStates(network, own, origin, batch.positions.flatten(1))
