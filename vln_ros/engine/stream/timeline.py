"""Lists the segments that a session has seen, in order; the cache's tensors follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor


class SegmentKind(Enum):
    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of tokens of one kind that entered the stream together.

    Segments are compared by identity: each stands for one prefill, so a segment that is still in
    the timeline vouches for the cache slots under it.

    Attributes:
        kind: what the tokens are.
        ids: token ids; of vision segments the placeholder, once per token.
        positions: ``[3, n]`` int64, mRoPE positions.
        start: next free position before the segment (of a continued video: before its first grid).
        block: number of the frame that the segment belongs to; None for text of no frame.
        grid: ``(t, h, w)`` in tokens of a vision segment, as prefilled.
        first_grid: index of the first temporal grid within its video.
        image_id: names the frame that an image came from, for those who know more of it.
    """

    kind: SegmentKind
    ids: tuple[int, ...]
    positions: Tensor
    start: int
    block: int | None = None
    grid: tuple[int, int, int] | None = None
    first_grid: int = 0
    image_id: int | None = None

    def __post_init__(self) -> None:
        if self.positions.shape != (3, len(self.ids)):
            raise ValueError(f"{len(self.ids)} tokens need positions [3, n], got {self.positions.shape}")

    @property
    def count(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Snapshot:
    """A point of a timeline to come back to."""

    segments: tuple[Segment, ...]
    next_position: int
    tokens: int


@dataclass
class Timeline:
    """The segments in the cache, in the order of their slots; slots are contiguous from 0."""

    segments: list[Segment] = field(default_factory=list)
    next_position: int = 0
    tokens: int = 0

    def positions(self) -> Tensor:
        """``[3, tokens]``, slot by slot."""
        empty = torch.empty(3, 0, dtype=torch.long)
        return torch.cat([empty, *(s.positions for s in self.segments)], 1)

    def slots(self, wanted: Callable[[Segment], bool]) -> Tensor:
        """Slots ``[n]`` of all segments for which ``wanted`` holds."""
        runs = [torch.empty(0, dtype=torch.long)]
        start = 0
        for segment in self.segments:
            if wanted(segment):
                runs.append(torch.arange(start, start + segment.count))
            start += segment.count
        return torch.cat(runs)

    def blocks(self) -> dict[int, int]:
        """Number of tokens of each block, in order of appearance."""
        counts: dict[int, int] = {}
        for segment in self.segments:
            if segment.block is not None:
                counts[segment.block] = counts.get(segment.block, 0) + segment.count
        return counts

    def append(self, segment: Segment, next_position: int) -> None:
        self.segments.append(segment)
        self.next_position = next_position
        self.tokens += segment.count

    def snapshot(self) -> Snapshot:
        return Snapshot(tuple(self.segments), self.next_position, self.tokens)

    def restore(self, snapshot: Snapshot) -> None:
        """Drop everything behind ``snapshot``.

        Raises:
            ValueError: the snapshot's segments are no longer the first ones of this timeline
                (rolled back past it, evicted, replaced, or taken elsewhere).
        """
        if not self.holds(snapshot):
            raise ValueError(
                "the snapshot is not a prefix of this stream any more (it was rolled back past it, or part "
                "of it was evicted or replaced); fork the session to keep a state across such changes"
            )
        del self.segments[len(snapshot.segments) :]
        self.next_position, self.tokens = snapshot.next_position, snapshot.tokens

    def drop_last(self, segments: int) -> None:
        """Drop the last so many segments, wherever evictions have left them."""
        if not 0 < segments <= len(self.segments):
            raise ValueError(f"{segments} segments to drop, {len(self.segments)} in the stream")
        gone = self.segments[-segments:]
        del self.segments[-segments:]
        self.next_position, self.tokens = gone[0].start, self.tokens - sum(s.count for s in gone)

    def holds(self, snapshot: Snapshot) -> bool:
        n = len(snapshot.segments)
        return n <= len(self.segments) and all(
            a is b for a, b in zip(self.segments[:n], snapshot.segments, strict=True)
        )

    def kept(self, slots: Tensor) -> Timeline:
        """The same with only the tokens at ``slots`` (``[n]``, increasing). Positions stay as they were."""
        kept = torch.zeros(self.tokens, dtype=torch.bool)
        kept[slots] = True
        segments: list[Segment] = []
        start = 0
        for segment in self.segments:
            mask = kept[start : start + segment.count]
            start += segment.count
            if mask.all():
                segments.append(segment)
            elif mask.any():
                ids = tuple(i for i, k in zip(segment.ids, mask.tolist(), strict=True) if k)
                segments.append(replace(segment, ids=ids, positions=segment.positions[:, mask]))
        return Timeline(segments, self.next_position, len(slots))

    def without_gaps(self) -> Timeline:
        """The same with every segment at the end of the one before it; within a segment nothing changes."""
        moved: list[Segment] = []
        offset = end = 0
        for segment in self.segments:
            before = moved[-1] if moved else None
            continued = (
                segment.first_grid > 0
                and before is not None
                and before.kind is SegmentKind.VIDEO
                and before.start == segment.start + offset
            )
            if not continued:  # the chunks of a video keep their spacing
                offset = end - int(segment.positions.min())
            moved.append(replace(segment, positions=segment.positions + offset, start=segment.start + offset))
            end = max(end, int(moved[-1].positions.max()) + 1)
        return Timeline(moved, end, self.tokens)
