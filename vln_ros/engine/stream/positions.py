"""Computes the 3-D rotary positions (mRoPE) of Qwen2.5-VL as the stream grows.

Every token has a position ``(t, h, w)``. A segment's positions follow from the next free position
before it and its own size alone, so a stream never has to look back. Images agree with
``get_rope_index`` of the released code. Videos follow the way the checkpoints were trained
(Qwen2.5-VL's published training code): temporal positions are spaced by
``seconds_per_grid * tokens_per_second`` and quantised last, and what follows resumes behind the
largest position of all three axes; the released inference code differs in both.

Source: Qwen2.5-VL technical report, arXiv 2502.13923, section 2.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Placed(NamedTuple):
    """Positions ``[3, n]`` int64 of a segment, and the next free position behind it."""

    positions: Tensor
    next_position: int


def text_positions(start: int, count: int) -> Placed:
    """``count`` text tokens: all three axes count up together."""
    return Placed((torch.arange(count) + start).expand(3, count), start + count)


def image_positions(start: int, height: int, width: int) -> Placed:
    """An image of ``height x width`` tokens (the merged grid), row by row."""
    rows, columns = torch.arange(height) + start, torch.arange(width) + start
    positions = torch.stack(
        [
            torch.full((height, width), start),
            rows[:, None].expand(height, width),
            columns.expand(height, width),
        ]
    )
    return Placed(positions.reshape(3, -1), start + max(height, width))


def video_positions(
    start: int,
    grids: int,
    height: int,
    width: int,
    *,
    seconds_per_grid: float,
    tokens_per_second: float,
    first_grid: int = 0,
) -> Placed:
    """``grids`` temporal grids of a video, each of ``height x width`` tokens.

    Args:
        start: next free position before the *first* grid of the whole video.
        first_grid: index of the first of these grids within its video: a video that arrives in
            chunks gets the positions that it would have had in one piece.
    """
    # float32 and quantised after both products, as in training: another order shifts grids by one.
    index = torch.arange(first_grid, first_grid + grids)
    seconds = index * torch.tensor(seconds_per_grid, dtype=torch.float32)
    times = (seconds * tokens_per_second).long() + start
    shape = (grids, height, width)
    rows, columns = torch.arange(height) + start, torch.arange(width) + start
    positions = torch.stack(
        [times[:, None, None].expand(shape), rows[:, None].expand(shape), columns.expand(shape)]
    ).reshape(3, -1)
    return Placed(positions, int(positions.max()) + 1)
