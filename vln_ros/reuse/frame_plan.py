"""Plans which tokens of a new frame are taken over from earlier frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vln_ros.config import ReuseConfig
from vln_ros.datatypes import Float64Array, Frame
from vln_ros.geometry.correspondence import IntArray, TokenGrid, correspond, fallback_reason
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.geometry.frame_checks import MotionLimits, depth_fault, motion_fault
from vln_ros.reuse.gate import computed_layers, layer_budgets, must_refresh
from vln_ros.reuse.similarity import refine, unit

_REMEMBERED = 64

Find = Callable[[IntArray], IntArray]
"""Serial numbers of cached tokens to the slots that they are in, -1 for those that are gone."""


class Label(IntEnum):
    """What became of a token."""

    NEW = 0
    """Nothing known of the place."""
    REFRESHED = 1
    """The place was seen, but the token is computed all the same: unlike, relevant, too old, too many."""
    REUSED = 2


@dataclass(frozen=True, eq=False)
class FramePlan:
    """What to do with the tokens of one picture; arrays of ``[tokens]``.

    Attributes:
        slot: int64, whose keys and values are taken over, or -1.
        layers: int64, in how many layers the token is computed before it is taken over.
        label: :class:`Label` as int64.
        similarity: float64, to its source; NaN without one.
        source: int64, image id of the source, or -1.
        token: int64, the source's token, or -1.
        reason: why nothing at all is taken over, or None.
    """

    slot: IntArray
    layers: IntArray
    label: IntArray
    similarity: Float64Array
    source: IntArray
    token: IntArray
    reason: FallbackReason | None = None

    @staticmethod
    def whole(tokens: int, reason: FallbackReason) -> FramePlan:
        """Everything is computed."""
        nothing = np.full(tokens, -1)
        return FramePlan(
            nothing,
            np.zeros(tokens, np.int64),
            np.full(tokens, int(Label.NEW)),
            np.full(tokens, np.nan),
            nothing,
            nothing,
            reason,
        )


@dataclass(frozen=True, eq=False)
class _View:
    """A frame that later ones can be compared with."""

    frame: Frame
    grid: TokenGrid
    features: Tensor
    reason: FallbackReason | None


@dataclass(eq=False)
class _Cached:
    """What a picture became in the cache: per token its number, how often it was handed on, what it means."""

    serials: IntArray
    age: IntArray
    relevance: Float64Array
    before: Float64Array | None = None
    slots: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


class FramePlanner:
    """The past of one robot's pictures. Used from one thread.

    Args:
        layers: of the decoder.
        landmark: how surely the picture of an image id shows a landmark of the instruction, in [0, 1].
    """

    def __init__(self, config: ReuseConfig, layers: int, landmark: Callable[[int], float]) -> None:
        self.config = config
        self._layers, self._landmark = layers, landmark
        self._began = False
        self._entropies: Float64Array | None = None
        self._views: dict[int, _View] = {}
        self._cached: dict[int, _Cached] = {}
        self._last: _View | None = None
        self._since_refresh = 0
        self._reason_for_first = FallbackReason.FIRST_FRAME

    def begin(self) -> None:
        """Another instruction: keys and values that were computed under the old one are not taken over."""
        self._reason_for_first = (
            FallbackReason.INSTRUCTION_CHANGED if self._began else FallbackReason.FIRST_FRAME
        )
        self._began = True
        self._views.clear()
        self._cached.clear()
        self._last = None
        self._since_refresh = 0

    # -- what happens --------------------------------------------------------------------------------

    def grid_of(self, image_id: int) -> TokenGrid | None:
        """None for a frame that is no longer known."""
        view = self._views.get(image_id)
        return None if view is None else view.grid

    def on_frame(self, image_id: int, frame: Frame, grid: TokenGrid, features: Tensor) -> None:
        """A frame arrived. ``features`` are ``[tokens, d]``, from the vision tower."""
        reason = self._fault(frame, grid)
        if reason in (FallbackReason.POSE_JUMP, FallbackReason.CLOCK, FallbackReason.CAMERA_CHANGED):
            self._views.clear()  # nothing from before is where it seems to be
            self._reason_for_first = reason
            reason = None
        self._last = self._views[image_id] = _View(frame, grid, unit(features), reason)

    def on_cached(self, image_id: int, serials: IntArray, plan: FramePlan | None) -> None:
        """The picture is in the cache, its tokens under these numbers."""
        age = np.zeros(len(serials), np.int64)
        relevance = np.full(len(serials), np.nan)
        before = None
        if plan is not None and plan.reason is None:
            reused = np.flatnonzero(plan.slot >= 0)
            before = np.full(len(serials), np.nan)
            for i in reused:
                source = self._cached.get(int(plan.source[i]))
                if source is not None:
                    age[i] = source.age[plan.token[i]] + 1
                    before[i] = source.relevance[plan.token[i]]
            relevance = before.copy()
        self._cached.pop(image_id, None)  # it is the newest now
        self._cached[image_id] = _Cached(serials, age, relevance, before)
        while len(self._cached) > _REMEMBERED:
            del self._cached[next(iter(self._cached))]
        for old in [s for s in self._views if s not in self._cached and s < image_id]:
            del self._views[old]  # seen, but not kept in the stream
        while len(self._views) > self.config.keyframes + 1:
            del self._views[next(iter(self._views))]

    def on_attention(self, image_id: int, relevance: Float64Array, entropies: Float64Array) -> None:
        """What the action looked at in a picture (multiples of the mean), and each layer's entropy."""
        if image_id in self._cached:
            self._cached[image_id].relevance = relevance
        self._entropies = entropies

    def wants_relevance(self, image_id: int) -> bool:
        """Is it still to be measured?"""
        cached = self._cached.get(image_id)
        return cached is not None and bool(np.isnan(cached.relevance).any())

    # -- the plan ------------------------------------------------------------------------------------

    def plan(self, image_id: int, tokens: int, find: Find) -> FramePlan:
        """What to do with a picture that is about to be prefilled."""
        self._since_refresh += 1
        if self.config.refresh_every and self._since_refresh >= self.config.refresh_every:
            self._since_refresh = 0
            return FramePlan.whole(tokens, FallbackReason.REFRESH)
        self._locate(find)
        again = self._cached.get(image_id)
        if again is not None and len(again.slots) == tokens:
            return self._choose(
                np.full(tokens, image_id), np.arange(tokens), np.ones(tokens), again.slots >= 0
            )
        view = self._views.get(image_id)
        if view is None:
            return FramePlan.whole(tokens, FallbackReason.NOT_CACHED)
        if view.reason is not None:
            return FramePlan.whole(tokens, view.reason)
        earlier = [s for s in self._views if s != image_id]
        if not earlier:
            return FramePlan.whole(tokens, self._reason_for_first)
        candidates = [s for s in reversed(earlier) if s in self._cached]
        if not candidates:
            return FramePlan.whole(tokens, FallbackReason.NOT_CACHED)
        reasons = {
            s: self._views[s].reason or fallback_reason(view.frame, self._views[s].frame) for s in candidates
        }
        usable = [s for s in candidates if reasons[s] is None]
        if not usable:
            return FramePlan.whole(tokens, reasons[candidates[0]] or FallbackReason.NOT_CACHED)
        return self._compare(view, usable[: self.config.keyframes])

    def _compare(self, view: _View, sources: list[int]) -> FramePlan:
        config, tokens = self.config, view.grid.count
        reason = FallbackReason.NOT_CACHED
        while sources:
            views = [self._views[s] for s in sources]
            found = correspond(
                view.frame, [v.frame for v in views], view.grid, depth_tolerance=config.depth_tolerance
            )
            bad = {
                i
                for i, (ratio, agreement) in enumerate(zip(found.depth_ratio, found.agreement, strict=True))
                if abs(ratio - 1.0) > config.max_depth_bias or agreement < config.min_agreement
            }
            reason = FallbackReason.DEPTHS_DISAGREE
            if not bad:
                match = refine(view.features, [v.features for v in views], found, config.reach)
                bad = {i for i, d in enumerate(match.drift) if math.hypot(*d) > config.max_drift}
                reason = FallbackReason.PICTURES_DISAGREE
            if not bad:
                source = np.where(found.found, np.array(sources)[found.source], -1)
                return self._choose(source, match.token, match.similarity, found.found)
            sources = [s for i, s in enumerate(sources) if i not in bad]
        return FramePlan.whole(tokens, reason)

    def _choose(
        self, source: IntArray, token: IntArray, similarity: Float64Array, known: npt.NDArray[np.bool_]
    ) -> FramePlan:
        """Of the tokens with a known source those that are safe to take over."""
        config, n = self.config, len(source)
        slot = np.full(n, -1)
        safe = np.zeros(n, bool)
        for image_id in np.unique(source[known]):
            rows = np.flatnonzero(known & (source == image_id))
            cached = self._cached[int(image_id)]
            at = token[rows]
            slot[rows] = cached.slots[at]
            fresh = cached.age[at] < config.max_age
            before = None if cached.before is None else cached.before[at]
            gain = 1.0 + config.landmark_gain * self._landmark(int(image_id))
            means = must_refresh(
                cached.relevance[at],
                before,
                limit=config.max_relevance / gain,
                change_limit=config.max_relevance_change / gain,
            )
            safe[rows] = (slot[rows] >= 0) & fresh & ~means & (similarity[rows] >= config.min_similarity)
        order = np.flatnonzero(safe)
        order = order[np.argsort(-similarity[order], kind="stable")]
        layers = np.zeros(n, np.int64)
        if config.layer_budget and self._entropies is not None:
            budgets = layer_budgets(
                self._entropies,
                highest=config.max_share,
                slope=config.entropy_weight,
                lowest=config.min_share,
            )
            layers[order] = computed_layers(order, n, budgets)
            order = order[layers[order] < self._layers]
        else:
            order = order[: int(config.max_share * n)]
        taken = np.zeros(n, bool)
        taken[order] = True
        label = np.where(known, int(Label.REFRESHED), int(Label.NEW))
        label[taken] = Label.REUSED
        return FramePlan(
            np.where(taken, slot, -1), np.where(taken, layers, 0), label, similarity, source, token
        )

    def _locate(self, find: Find) -> None:
        """Where everything that is cached lies now; what is nowhere any more is forgotten."""
        image_ids = list(self._cached)
        if not image_ids:
            return
        sizes = [len(self._cached[s].serials) for s in image_ids]
        slots = find(np.concatenate([self._cached[s].serials for s in image_ids]))
        for image_id, own in zip(image_ids, np.split(slots, np.cumsum(sizes)[:-1]), strict=True):
            if (own >= 0).any():
                self._cached[image_id].slots = own
            else:
                del self._cached[image_id]
                self._views.pop(image_id, None)

    def _fault(self, frame: Frame, grid: TokenGrid) -> FallbackReason | None:
        config, last = self.config, self._last
        if last is not None:
            reason = motion_fault(frame, last.frame, MotionLimits.of_camera(config))
            if reason is not None:
                return reason
            if (frame.camera, grid) != (last.frame.camera, last.grid):
                return FallbackReason.CAMERA_CHANGED
        return depth_fault(frame.depth_m, config, config.max_depth_m)
