"""Declares what goes into a stream (text, images, videos), and adds it to the timeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vln_ros.engine.stream.positions import image_positions, text_positions, video_positions
from vln_ros.engine.stream.timeline import Segment, SegmentKind, Timeline


@dataclass(frozen=True)
class Text:
    """Token ids of text, special tokens included.

    Attributes:
        block: number of the frame that it belongs to, to be evicted with it; None for no frame.
    """

    ids: tuple[int, ...]
    block: int | None = None


@dataclass(frozen=True, eq=False)
class Image:
    """Vision features of an image of ``height x width`` tokens.

    Attributes:
        features: ``[n, hidden]`` of the tokens that are there.
        cells: ``[n]`` int64, increasing: which those are, counted row by row; None: all.
        image_id: names the frame that it came from, wherever it is shown, for those who know more of it.
    """

    features: Tensor
    height: int
    width: int
    block: int | None = None
    cells: Tensor | None = None
    image_id: int | None = None


@dataclass(frozen=True, eq=False)
class Video:
    """Vision features ``[grids * height * width, hidden]`` of (part of) a video.

    Attributes:
        seconds_per_grid: time between temporal grids.
        first_grid: index of the first grid within its video; a chunk with ``first_grid > 0``
            continues the video right before it.
    """

    features: Tensor
    grids: int
    height: int
    width: int
    seconds_per_grid: float
    first_grid: int = 0
    block: int | None = None


Piece = Text | Image | Video


def join_text(pieces: Iterable[Piece]) -> list[Piece]:
    """The same tokens in as few pieces as possible: neighbouring text of one block becomes one."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, Text) and isinstance(last, Text) and piece.ids and piece.block == last.block:
            joined[-1] = Text(last.ids + piece.ids, last.block)
        else:
            joined.append(piece)
    return joined


def append_piece(timeline: Timeline, piece: Piece, config: Any) -> Segment:
    """Put ``piece`` at the end of ``timeline``.

    Args:
        config: the network's configuration: special tokens, time scale.

    Raises:
        ValueError: no tokens, features that do not fit the size, a picture that does not follow a
            vision start token, a video chunk that continues nothing.
    """
    start = timeline.next_position
    if isinstance(piece, Text):
        if not piece.ids:
            raise ValueError("a text piece needs at least one token")
        placed = text_positions(start, len(piece.ids))
        segment = Segment(SegmentKind.TEXT, piece.ids, placed.positions, start, piece.block)
        timeline.append(segment, placed.next_position)
        return segment
    last = timeline.segments[-1] if timeline.segments else None
    first_grid, image_id = 0, None
    if isinstance(piece, Image):
        kind, pad, grid = SegmentKind.IMAGE, config.image_token_id, (1, piece.height, piece.width)
        placed = image_positions(start, piece.height, piece.width)
        image_id = piece.image_id
    else:
        kind, pad, grid = SegmentKind.VIDEO, config.video_token_id, (piece.grids, piece.height, piece.width)
        first_grid = piece.first_grid
        if first_grid:
            if last is None or not _continues(last, first_grid, grid):
                raise ValueError(f"video grid {first_grid} does not continue the end of the stream")
            start = last.start
        placed = video_positions(
            start,
            *grid,
            seconds_per_grid=piece.seconds_per_grid,
            tokens_per_second=config.vision_config.tokens_per_second,
            first_grid=first_grid,
        )
    positions = placed.positions
    if isinstance(piece, Image) and piece.cells is not None:
        positions = positions[:, piece.cells]
    n = positions.shape[1]
    if not n:
        raise ValueError(f"a {kind.value} needs at least one token")
    if piece.features.shape[0] != n:
        raise ValueError(f"{kind.value} of {grid} tokens needs {n} features, got {piece.features.shape[0]}")
    if not first_grid and (last is None or last.ids[-1] != config.vision_start_token_id):
        raise ValueError(f"a {kind.value} must follow a vision start token: keep the chat wrapping around it")
    segment = Segment(kind, (pad,) * n, positions, start, piece.block, grid, first_grid, image_id)
    timeline.append(segment, placed.next_position)
    return segment


def _continues(last: Segment, first_grid: int, grid: tuple[int, int, int]) -> bool:
    return (
        last.kind is SegmentKind.VIDEO
        and last.grid is not None
        and last.first_grid + last.grid[0] == first_grid
        and last.grid[1:] == grid[1:]
    )
