"""Leaves visual tokens out of the stream whose place other tokens show too.

The alternatives behind one interface: past tokens are dropped when later ones show the same place
(:class:`VoxelPruning`), or tokens that show a place seen before are never taken in
(:class:`SkipSeen`). Both need depth and poses; a frame for which these cannot be used stays as it
is, with the reason counted. What is kept keeps its positions, so the result is exactly the model with the
other tokens masked.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from vln_ros.config import PruneConfig
from vln_ros.datatypes import Frame
from vln_ros.engine.stream.forward import Chunk
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Segment, SegmentKind
from vln_ros.geometry.correspondence import Fate, TokenGrid, correspond, jumped, refusal
from vln_ros.geometry.fallback_reason import Refusal
from vln_ros.memory.voxels import Shown, Surface, latest_tokens, lay_out, new_tokens
from vln_ros.profiling.spans import span
from vln_ros.reuse.accounting import AutoOff, ForwardTimes

logger = logging.getLogger(__name__)

_LEAST_KNOWN = 0.1
"""Share of tokens with depth in range, below which the depth's unit is taken to be wrong."""
_LEAST_AGREEING = 0.5
"""Share of tokens in view of the frame before that must be where depth and pose put them."""
_LEAST_COMPARED = 8


@dataclass(frozen=True)
class PruneReport:
    """What pruning did since the start of the run.

    Attributes:
        frames: seen, of them ``refused`` by reason and those ``refreshed`` (taken in whole all the same).
        tokens: visual tokens of these frames.
        left_out: tokens that were never taken in.
        dropped: tokens that were dropped later. (Where every question shows the past anew: each time.)
        frames_dropped: frames of which nothing is left.
        overhead_ms: time that all this took.
        saved_ms: estimated decoder time that was not needed; the overhead is not subtracted. Counts what is
            left out of frames that are still shown, up to the frame before; 0 where several robots
            share their forwards.
        auto_offs: times that it switched itself off.
    """

    frames: int
    refused: Mapping[Refusal, int]
    refreshed: int
    tokens: int
    left_out: int
    dropped: int
    frames_dropped: int
    overhead_ms: float
    saved_ms: float
    auto_offs: int

    def figures(self) -> dict[str, float]:
        """For results and diagnostics: names with units."""
        return {
            "pruning: tokens": self.tokens,
            "pruning: tokens left out": self.left_out,
            "pruning: tokens dropped": self.dropped,
            "pruning: frames dropped": self.frames_dropped,
            "pruning: frames refreshed": self.refreshed,
            "pruning: overhead [ms]": self.overhead_ms,
            "pruning: saved [ms]": self.saved_ms,
            "pruning: auto-offs": self.auto_offs,
            **{f"pruning refused: {reason.value}": n for reason, n in self.refused.items()},
        }


class KeepAll:
    """The interface of pruning, and what it is when it is off: every token stays."""

    def begin(self) -> None:
        """A new run."""

    def locate(self, frame: Frame, image: Image) -> Image:
        """``image`` of the newest frame, with the place of its tokens where that can be known."""
        return image

    def admit(self, image: Image, earlier: Sequence[Shown]) -> Image:
        """What to take in of a located image behind a stream that shows ``earlier``."""
        return image

    def thin(self, images: Sequence[Image], *, whole: int) -> list[Image]:
        """What to show of ``images``, oldest first, in a new stream. The newest ``whole`` are asked about."""
        return list(images)

    def settle(self, session: Session) -> None:
        """Between turns: drop tokens from the stream."""

    def timed(self, session: Session, chunk: Chunk, seconds: float) -> None:
        """A forward of the stream has been run."""

    def report(self) -> PruneReport | None:
        return None


class _ByPlace(KeepAll):
    """What both strategies share: where tokens lie, and when that cannot be told."""

    def __init__(self, config: PruneConfig) -> None:
        self._config = config
        self._max_turn_rad = math.radians(config.max_turn_deg)
        self._times = ForwardTimes()
        self._switch = AutoOff(config.window)
        self.begin()

    def begin(self) -> None:
        self._epoch = 0
        self._before: Frame | None = None
        self._refused: Counter[Refusal] = Counter()
        self._frames = self._tokens = self._refreshed = 0
        self._left_out = self._dropped = self._frames_dropped = 0
        self._overhead_s = self._saved_s = 0.0
        self._switch.begin()
        self._spent_s = 0.0
        self._forwards: list[tuple[int, int, int, int]] = []

    def report(self) -> PruneReport:
        return PruneReport(
            self._frames,
            dict(self._refused),
            self._refreshed,
            self._tokens,
            self._left_out,
            self._dropped,
            self._frames_dropped,
            self._overhead_s * 1e3,
            self._saved_s * 1e3,
            self._switch.times,
        )

    def timed(self, session: Session, chunk: Chunk, seconds: float) -> None:
        known = len(chunk.before.segments)
        before, new = (
            _missing(s) for s in (session.timeline.segments[:known], session.timeline.segments[known:])
        )
        tokens = len(chunk.embeddings)
        self._times.note(tokens, chunk.before.tokens, seconds)
        self._forwards.append((tokens, chunk.before.tokens, new, before))

    def _judge(self) -> None:
        """What the frame before came to."""
        with self._timed():
            saved_s = self._times.saved_s(self._forwards) if self._forwards else None
            self._forwards.clear()
        spent_s, self._spent_s = self._overhead_s - self._spent_s, self._overhead_s
        if saved_s is None:  # several robots share their forwards, or too few have been timed
            return
        self._saved_s += saved_s
        if not self._switch.off:
            self._switch.add(saved_s - spent_s)
            if self._switch.off:
                logger.warning("pruning loses time here: switched off until the next instruction")

    def locate(self, frame: Frame, image: Image) -> Image:
        self._judge()
        grid = TokenGrid(image.height, image.width)
        self._frames += 1
        self._tokens += grid.count
        if self._switch.off:
            self._refused[Refusal.SWITCHED_OFF] += 1
            return image
        with self._timed():
            reason = self._doubt(frame, grid)
            self._before = frame
            if reason is not None:
                # Nothing from before may be compared with anything from now on.
                self._epoch += 1
                self._refused[reason] += 1
            if frame.depth_m is None or reason is Refusal.NO_DEPTH:
                return image
            surface = self._lay_out(frame, grid)
            if (surface.depth_m > 0).sum() < _LEAST_KNOWN * grid.count:
                self._refused[Refusal.BAD_DEPTH] += 1
                return image
            return replace(image, surface=surface)

    def _lay_out(self, frame: Frame, grid: TokenGrid) -> Surface:
        config = self._config
        return lay_out(
            frame,
            grid,
            epoch=self._epoch,
            voxel_m=config.voxel_m,
            max_depth_m=config.max_depth_m,
            depth_tolerance=config.depth_tolerance,
        )

    def _doubt(self, frame: Frame, grid: TokenGrid) -> Refusal | None:
        """Why this frame's places cannot be compared with those before it."""
        before, config = self._before, self._config
        if frame.depth_m is None:
            return Refusal.NO_DEPTH
        if before is None:
            return None
        if frame.stamp_ns < before.stamp_ns:
            return Refusal.CLOCK
        if jumped(before.odom_from_optical, frame.odom_from_optical, config.max_step_m, self._max_turn_rad):
            return Refusal.POSE_JUMP
        if refusal(frame, before) is None:
            found = correspond(frame, [before], grid, depth_tolerance=config.depth_tolerance).counts()
            compared = found[Fate.FOUND] + found[Fate.ABSENT] + found[Fate.OCCLUDED]
            if compared >= _LEAST_COMPARED and found[Fate.FOUND] < _LEAST_AGREEING * compared:
                return Refusal.DEPTHS_DISAGREE
        return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            with span("pruning"):
                yield
        finally:
            self._overhead_s += time.perf_counter() - begun


class VoxelPruning(_ByPlace):
    """Of past frames only the latest token of each voxel and period stays (arXiv 2507.05240)."""

    def settle(self, session: Session) -> None:
        if self._switch.off:
            return
        with self._timed():
            slots: list[npt.NDArray[np.int64]] = []
            shown: list[Shown] = []
            first = 0
            for segment in session.timeline.segments:
                one = shown_in(segment)
                if one is not None:
                    slots.append(np.arange(first, first + segment.count))
                    shown.append(one)
                first += segment.count
            keep = self._latest(shown, self._config.whole_frames)
            if keep and not all(mask.all() for mask in keep):
                gone = np.concatenate([s[~mask] for s, mask in zip(slots, keep, strict=True)])
                session.evict(torch.from_numpy(gone))

    def thin(self, images: Sequence[Image], *, whole: int) -> list[Image]:
        if self._switch.off:
            return list(images)
        with self._timed():
            located = [
                (i, Shown(image.surface, cells_of(image)))
                for i, image in enumerate(images)
                if image.surface is not None
            ]
            kept_whole = sum(i >= len(images) - whole for i, _ in located)
            keep = self._latest([one for _, one in located], kept_whole)
            left: list[Image | None] = list(images)
            for (i, _), mask in zip(located, keep, strict=True):
                if not mask.all():
                    left[i] = only(images[i], mask) if mask.any() else None
            return [image for image in left if image is not None]

    def _latest(self, shown: Sequence[Shown], whole: int) -> list[npt.NDArray[np.bool_]]:
        config = self._config
        keep = latest_tokens(
            shown, period_frames=config.period_frames, whole=whole, least_share=config.least_share
        )
        self._dropped += sum(int((~mask).sum()) for mask in keep)
        self._frames_dropped += sum(not mask.any() for mask in keep)
        return keep


class SkipSeen(_ByPlace):
    """A token whose place the stream already shows is not taken in."""

    def begin(self) -> None:
        super().begin()
        self._since_whole = 0

    def admit(self, image: Image, earlier: Sequence[Shown]) -> Image:
        config = self._config
        if image.surface is None:
            self._since_whole = 0
            return image
        if self._since_whole >= config.refresh_frames:
            self._since_whole = 0
            self._refreshed += 1
            return image
        with self._timed():
            new = self._new(image.surface, earlier)
            if new.all():
                self._since_whole = 0
                return image
            self._since_whole += 1
            return only(image, new)

    def thin(self, images: Sequence[Image], *, whole: int) -> list[Image]:
        if self._switch.off:
            return list(images)
        with self._timed():
            left: list[Image] = []
            earlier: list[Shown] = []
            for image in images:
                kept, surface = image, image.surface
                if surface is not None:
                    new = self._new(surface, earlier)
                    kept = image if new.all() else only(image, new)
                    earlier.append(Shown(surface, cells_of(kept)))
                left.append(kept)
            return left

    def _new(self, surface: Surface, earlier: Sequence[Shown]) -> npt.NDArray[np.bool_]:
        config = self._config
        new = new_tokens(
            surface,
            earlier,
            max_age_frames=config.max_age_frames,
            nearer=config.nearer,
            least_share=config.least_share,
        )
        self._left_out += int((~new).sum())
        return new


def _missing(segments: Sequence[Segment]) -> int:
    """Tokens that pictures lack."""
    return sum(
        math.prod(s.grid) - s.count for s in segments if s.kind is SegmentKind.IMAGE and s.grid is not None
    )


def build_pruning(config: PruneConfig) -> KeepAll:
    """The strategy that the options name."""
    match config.strategy:
        case "voxels":
            return VoxelPruning(config)
        case "seen":
            return SkipSeen(config)
    return KeepAll()


def only(image: Image, mask: npt.NDArray[np.bool_]) -> Image:
    """Those tokens of an image for which ``mask`` ``[tokens that are there]`` holds."""
    cells = cells_of(image)[mask]
    there = torch.from_numpy(np.flatnonzero(mask)).to(image.features.device)
    return replace(image, features=image.features[there], cells=torch.from_numpy(cells))


def cells_of(image: Image) -> npt.NDArray[np.int64]:
    """Which cells of its grid the tokens of an image fill."""
    if image.cells is None:
        return np.arange(image.height * image.width)
    cells: npt.NDArray[np.int64] = image.cells.numpy()
    return cells


def shown_in(segment: Segment) -> Shown | None:
    """The tokens of a segment with their places; None without."""
    if segment.surface is None or segment.grid is None or segment.kind is not SegmentKind.IMAGE:
        return None
    row, column = (segment.positions[1:] - segment.start).numpy()
    return Shown(segment.surface, row * segment.grid[2] + column)


def shown_by(session: Session, waiting: Sequence[Piece]) -> list[Shown]:
    """The tokens with a place in a stream and in pieces that are to follow it."""
    shown = [one for segment in session.timeline.segments if (one := shown_in(segment)) is not None]
    shown += [
        Shown(piece.surface, cells_of(piece))
        for piece in waiting
        if isinstance(piece, Image) and piece.surface is not None
    ]
    return shown
