"""Leaves visual tokens out of the stream whose place other tokens show too.

The alternatives behind one interface: past tokens are dropped when later ones show the same place
(:class:`VoxelPruning`), or tokens that show a place seen before are never taken in
(:class:`SkipSeen`). Both need depth and poses; a frame for which these cannot be used stays as it
is, with the reason counted. What is kept keeps its positions, so the result is exactly the model with the
other tokens masked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from vln_ros.config import PruneConfig
from vln_ros.datatypes import Frame
from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.plug import Cost, Plug
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Segment, SegmentKind
from vln_ros.geometry.correspondence import Fate, TokenGrid, correspond, fallback_reason
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.geometry.frame_checks import MotionLimits, depth_fault, motion_fault
from vln_ros.memory.voxels import Shown, Surface, latest_tokens, lay_out, new_tokens
from vln_ros.profiling.spans import span
from vln_ros.reuse.accounting import ForwardTimes, NetMeter

_LEAST_KNOWN = 0.1
"""Share of tokens with depth in range, below which the depth's unit is taken to be wrong."""
_LEAST_AGREEING = 0.5
"""Share of tokens in view of the frame before that must be where depth and pose put them."""
_LEAST_COMPARED = 8
_REMEMBERED = 4096
"""Frames of which it is known where their tokens lie. Those of older ones stay as they are."""


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
    refused: Mapping[FallbackReason, int]
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
    """What a context asks of the tokens that it is to show, and the answer where pruning is off: all."""

    def admit(self, image: Image, session: Session, waiting: Sequence[Piece]) -> Image:
        """What to take in of the newest frame, behind a stream and the pieces that are to follow it."""
        return image

    def thin(self, images: Sequence[Image], *, whole: int) -> list[Image]:
        """What to show of ``images``, oldest first, in a new stream. The newest ``whole`` are asked about."""
        return list(images)

    def settle(self, session: Session) -> None:
        """Between turns: drop tokens from the stream."""


class Pruning(Plug, KeepAll):
    """What both strategies share: where tokens lie, and when that cannot be told."""

    def __init__(self, config: PruneConfig) -> None:
        self._config = config
        self.timed = config.window > 0
        self._limits = MotionLimits.of_camera(config)
        self._times = ForwardTimes()
        self._meter = NetMeter(config.window, "pruning")
        self.begin()

    def begin(self) -> None:
        self._epoch = 0
        self._before: Frame | None = None
        self._surfaces: dict[int, Surface] = {}  # by image id
        self._frames = self._tokens = self._refreshed = 0
        self._left_out = self._dropped = self._frames_dropped = 0
        self._meter.begin()
        self._spent_s = 0.0  # since the last frame
        self._forwards: list[tuple[int, int, int, int]] = []

    def report(self) -> PruneReport:
        return PruneReport(
            self._frames,
            dict(self._meter.reasons),
            self._refreshed,
            self._tokens,
            self._left_out,
            self._dropped,
            self._frames_dropped,
            (self._meter.overhead_s + self._spent_s) * 1e3,
            self._meter.saved_s * 1e3,
            self._meter.auto_offs,
        )

    def on_cached(self, prefill: Prefill, cache: SlotCache, cost: Cost | None) -> None:
        if cost is None or not self.timed:
            return
        tokens, before = len(prefill.embeddings), prefill.before
        self._times.note(tokens, before.tokens, cost.forward_s)
        missing = _missing(prefill.segments), _missing(before.segments)
        self._forwards.append((tokens, before.tokens, *missing))

    def shown(self, session: Session, waiting: Sequence[Piece] = ()) -> list[Shown]:
        """The tokens with a known place in a stream and in pieces that are to follow it."""
        segments = [one for s in session.timeline.segments if (one := self._shown_in(s)) is not None]
        images = [piece for piece in waiting if isinstance(piece, Image)]
        return segments + [
            Shown(surface, cells_of(image))
            for image in images
            if (surface := self._surface(image)) is not None
        ]

    def _shown_in(self, segment: Segment) -> Shown | None:
        """The tokens of a segment with their places; None without."""
        surface = self._surface(segment)
        if surface is None or segment.grid is None:
            return None
        row, column = (segment.positions[1:] - segment.start).numpy()
        return Shown(surface, row * segment.grid[2] + column)

    def _surface(self, of: Image | Segment) -> Surface | None:
        """Where the tokens of its whole image lie, if that is known."""
        return None if of.image_id is None else self._surfaces.get(of.image_id)

    def _judge(self) -> None:
        """What the frame before came to."""
        with self._timed():
            saved_s = self._times.saved_s(self._forwards) if self._forwards else None
            self._forwards.clear()
        # None: several robots share their forwards, or too few have been timed.
        self._meter.add(saved_s or 0.0, self._spent_s, tried=saved_s is not None)
        self._spent_s = 0.0

    def on_frame(self, frame: Frame, image: Image) -> None:
        self._judge()
        grid = TokenGrid(image.height, image.width)
        self._frames += 1
        self._tokens += grid.count
        if self._meter.off:
            self._meter.refused(FallbackReason.SWITCHED_OFF)
            return
        with self._timed():
            reason = self._doubt(frame, grid)
            self._before = frame
            if reason is not None:
                # Nothing from before may be compared with anything from now on.
                self._epoch += 1
                self._meter.refused(reason)
            if frame.depth_m is None or reason is FallbackReason.NO_DEPTH or image.image_id is None:
                return
            surface = self._lay_out(frame, grid)
            # What is too far has no place; what is too near to be measured would all be in one.
            too_near = depth_fault(frame.depth_m, self._config) is FallbackReason.BAD_DEPTH
            if too_near or (surface.depth_m > 0).sum() < _LEAST_KNOWN * grid.count:
                self._meter.refused(FallbackReason.BAD_DEPTH)
                return
            self._surfaces[image.image_id] = surface
            if len(self._surfaces) > _REMEMBERED:
                del self._surfaces[next(iter(self._surfaces))]

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

    def _doubt(self, frame: Frame, grid: TokenGrid) -> FallbackReason | None:
        """Why this frame's places cannot be compared with those before it."""
        before, config = self._before, self._config
        if frame.depth_m is None:
            return FallbackReason.NO_DEPTH
        if before is None:
            return None
        reason = motion_fault(frame, before, self._limits)
        if reason is not None:
            return reason
        if fallback_reason(frame, before) is None:
            found = correspond(frame, [before], grid, depth_tolerance=config.depth_tolerance).counts()
            compared = found[Fate.FOUND] + found[Fate.ABSENT] + found[Fate.OCCLUDED]
            if compared >= _LEAST_COMPARED and found[Fate.FOUND] < _LEAST_AGREEING * compared:
                return FallbackReason.DEPTHS_DISAGREE
        return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            with span("pruning"):
                yield
        finally:
            self._spent_s += time.perf_counter() - begun


class VoxelPruning(Pruning):
    """Of past frames only the latest token of each voxel and period stays (arXiv 2507.05240)."""

    def settle(self, session: Session) -> None:
        if self._meter.off:
            return
        with self._timed():
            slots: list[npt.NDArray[np.int64]] = []
            shown: list[Shown] = []
            first = 0
            for segment in session.timeline.segments:
                one = self._shown_in(segment)
                if one is not None:
                    slots.append(np.arange(first, first + segment.count))
                    shown.append(one)
                first += segment.count
            keep = self._latest(shown, self._config.whole_frames)
            if keep and not all(mask.all() for mask in keep):
                gone = np.concatenate([s[~mask] for s, mask in zip(slots, keep, strict=True)])
                session.evict(torch.from_numpy(gone))

    def thin(self, images: Sequence[Image], *, whole: int) -> list[Image]:
        if self._meter.off:
            return list(images)
        with self._timed():
            located = [
                (i, Shown(surface, cells_of(image)))
                for i, image in enumerate(images)
                if (surface := self._surface(image)) is not None
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


class SkipSeen(Pruning):
    """A token whose place the stream already shows is not taken in."""

    def begin(self) -> None:
        super().begin()
        self._since_whole = 0

    def admit(self, image: Image, session: Session, waiting: Sequence[Piece]) -> Image:
        config, surface = self._config, self._surface(image)
        if surface is None:
            self._since_whole = 0
            return image
        if self._since_whole >= config.refresh_frames:
            self._since_whole = 0
            self._refreshed += 1
            return image
        with self._timed():
            new = self._new(surface, self.shown(session, waiting))
            if new.all():
                self._since_whole = 0
                return image
            self._since_whole += 1
            return only(image, new)

    def thin(self, images: Sequence[Image], *, whole: int) -> list[Image]:
        if self._meter.off:
            return list(images)
        with self._timed():
            left: list[Image] = []
            earlier: list[Shown] = []
            for image in images:
                kept, surface = image, self._surface(image)
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


def build_pruning(config: PruneConfig) -> Pruning | None:
    """The strategy that the options name; None for none."""
    match config.strategy:
        case "voxels":
            return VoxelPruning(config)
        case "seen":
            return SkipSeen(config)
    return None


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
