"""Plans, before anything is computed of a new frame, what is taken over from an earlier one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vln_ros.config import ReuseConfig
from vln_ros.datatypes import Float64Array, Frame
from vln_ros.geometry.correspondence import IntArray, TokenGrid, correspond, fallback_reason
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.geometry.frame_checks import MotionLimits, depth_fault, motion_fault
from vln_ros.reuse.budget import BUCKETS, choose
from vln_ros.reuse.gate import computed_layers, layer_budgets, must_refresh
from vln_ros.reuse.similarity import Pooled, compare, pooled

_REMEMBERED = 64
"""Pictures whose tokens in the cache are known."""
_VIEWS = 8
"""Frames that are held to be compared with, or until they are prefilled."""
_WAITING = 4
"""Of those that wait to be prefilled so many are computed in part: then the source is too old."""
_TRIED = 2
"""The newest ones that are cached, of which one must fit: the second one if the first was a bad frame."""
_SAME = 0.01
"""Grey levels: what no difference counts as, so that the older one of two unchanged places comes first."""

Find = Callable[[IntArray], IntArray]
"""Serial numbers of cached tokens to the slots that they are in, -1 for those that are gone."""


class Label(IntEnum):
    """What became of a token."""

    NEW = 0
    """Nothing known of the place."""
    REFRESHED = 1
    """The place was seen, but it is computed all the same: relevant, too old, or among the least alike."""
    REUSED = 2


@dataclass(frozen=True, eq=False)
class FramePlan:
    """What to do with the tokens of one picture; arrays of ``[tokens]``.

    Attributes:
        computed: bool, what is computed. The vision tower computes these, or all.
        bucket: so many tokens have room in the forwards.
        slot: int64, whose keys and values are taken over, or -1.
        layers: int64, in how many layers the token is computed before it is taken over.
        label: :class:`Label` as int64.
        source: int64, image id of the source, or -1.
        token: int64, the source's token, or -1.
        reason: why nothing at all is taken over, or None.
    """

    computed: npt.NDArray[np.bool_]
    bucket: int
    slot: IntArray
    layers: IntArray
    label: IntArray
    source: IntArray
    token: IntArray
    reason: FallbackReason | None = None

    @staticmethod
    def whole(tokens: int, reason: FallbackReason) -> FramePlan:
        """Everything is computed."""
        nothing = np.full(tokens, -1)
        return FramePlan(
            np.ones(tokens, bool),
            tokens,
            nothing,
            np.zeros(tokens, np.int64),
            np.full(tokens, int(Label.NEW)),
            nothing,
            nothing,
            reason,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _View:
    """A frame that later ones can be compared with."""

    image_id: int
    frame: Frame
    grid: TokenGrid
    pixels: Pooled
    plan: FramePlan
    broken: bool
    """Nothing from before it is where it seems to be."""

    @property
    def depth_fault(self) -> FallbackReason | None:
        """Why nothing can be compared with it."""
        bad = self.plan.reason in (FallbackReason.NO_DEPTH, FallbackReason.BAD_DEPTH)
        return self.plan.reason if bad else None


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
        windows: the window of the vision tower that each token of a grid is in, where it passes over what is
            taken over; None: tokens are chosen one by one.
    """

    def __init__(
        self,
        config: ReuseConfig,
        layers: int,
        landmark: Callable[[int], float],
        windows: Callable[[TokenGrid], IntArray] | None = None,
    ) -> None:
        self.config = config
        self._layers, self._landmark, self._windows = layers, landmark, windows
        self._began = False
        self._entropies: Float64Array | None = None
        self._views: dict[int, _View] = {}
        self._cached: dict[int, _Cached] = {}
        self._last: _View | None = None
        self._coming: _View | None = None
        self._since_whole = 0
        self._wanted_whole: FallbackReason | None = None
        self._reason_for_first = FallbackReason.FIRST_FRAME

    def begin(self) -> None:
        """Another instruction: keys and values that were computed under the old one are not taken over."""
        self._reason_for_first = (
            FallbackReason.INSTRUCTION_CHANGED if self._began else FallbackReason.FIRST_FRAME
        )
        self._began = True
        self._views.clear()
        self._cached.clear()
        self._last = self._coming = None
        self._since_whole = 0
        self._wanted_whole = None

    # -- what happens --------------------------------------------------------------------------------

    def grid_of(self, image_id: int) -> TokenGrid | None:
        """None for a frame that is no longer known."""
        view = self._views.get(image_id)
        return None if view is None else view.grid

    def known(self) -> set[int]:
        """Image ids that a later plan may name as a source, and of those that wait to be prefilled."""
        return set(self._views)

    def has_features(self, image_id: int) -> bool:
        """The tower computed all of it."""
        view = self._views.get(image_id)
        return view is None or self._windows is None or bool(view.plan.computed.all())

    def before_vision(
        self,
        image_id: int,
        frame: Frame,
        grid: TokenGrid,
        picture: npt.NDArray[np.uint8],
        find: Find,
        *,
        shared: bool = False,
    ) -> FramePlan:
        """What to do with a frame of which nothing is computed yet. Nothing counts before :meth:`on_frame`.

        Args:
            picture: ``[H, W, 3]`` at the size of the model.
            shared: its forward will be one with those of other robots, where nothing is taken over.
        """
        pixels = pooled(picture, grid)
        reason = self._fault(frame, grid) or (FallbackReason.SHARED if shared else None)
        broken = reason in (FallbackReason.POSE_JUMP, FallbackReason.CLOCK, FallbackReason.CAMERA_CHANGED)
        whole = FramePlan.whole(grid.count, reason or self._reason_for_first)
        view = _View(image_id=image_id, frame=frame, grid=grid, pixels=pixels, plan=whole, broken=broken)
        self._coming = view if reason else replace(view, plan=self._plan_new(view, find))
        return self._coming.plan

    def on_frame(self, image_id: int) -> None:
        """The frame last planned has been seen."""
        view, self._coming = self._coming, None
        assert view is not None and view.image_id == image_id, "a frame is planned before it is seen"
        if view.broken:
            self._views.clear()
            self._reason_for_first = view.plan.reason or self._reason_for_first
        self._last = self._views[image_id] = view
        self._since_whole = 0 if view.plan.reason is not None else self._since_whole + 1
        self._wanted_whole = None
        # Those that wait to be prefilled keep their plan: of what it passes over there are no features.
        spare = [i for i, v in self._views.items() if i in self._cached or v.plan.reason is not None]
        for old in spare[: max(len(self._views) - _VIEWS, 0)]:
            del self._views[old]

    def on_answer(self, probability: float, held: bool) -> None:
        """How sure the model was of its first action; was it held, because it meant to say something else?"""
        self._wanted_whole = FallbackReason.DOUBT if held or probability < self.config.doubt else None

    def want_whole(self) -> None:
        """The next frame, whatever was seen before."""
        self._wanted_whole = FallbackReason.REFRESH

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
        """What to do with a picture that is about to be prefilled: its plan, with its sources' slots."""
        self._locate(find)
        view, again = self._views.get(image_id), self._cached.get(image_id)
        if again is not None and len(again.slots) != tokens:
            again = None
        if again is not None and self.has_features(image_id):
            same = np.full(tokens, image_id), np.arange(tokens)
            return self._choose(*same, np.zeros(tokens), self._each(tokens))
        if view is None:
            return FramePlan.whole(tokens, FallbackReason.NOT_CACHED)
        plan = view.plan
        if plan.reason is not None:
            return plan
        slot, source, token = self._slots(plan.source, plan.token), plan.source, plan.token
        if again is not None:  # its own are nearer to what it would be
            own = again.slots >= 0
            slot, source = np.where(own, again.slots, slot), np.where(own, image_id, source)
            token = np.where(own, np.arange(tokens), token)
        slot = np.where(plan.computed, -1, slot)
        label = np.where((plan.label == Label.REUSED) & (slot < 0), int(Label.REFRESHED), plan.label)
        return replace(plan, slot=slot, source=source, token=token, label=label)

    def _plan_new(self, view: _View, find: Find) -> FramePlan:
        tokens, config = view.grid.count, self.config
        earlier = list(reversed(self._views.values()))
        if not earlier:
            return FramePlan.whole(tokens, self._reason_for_first)
        window = self._each(tokens) if self._windows is None else self._windows(view.grid)
        if config.budget > BUCKETS[-2] or window.max() == 0:  # a single window is computed or is not
            return FramePlan.whole(tokens, FallbackReason.ALL_COMPUTED)
        if self._wanted_whole is not None:
            return FramePlan.whole(tokens, self._wanted_whole)
        if self._since_whole + 1 >= config.refresh_every:
            return FramePlan.whole(tokens, FallbackReason.REFRESH)
        self._locate(find)
        reason = FallbackReason.NOT_CACHED
        if sum(v.image_id not in self._cached and v.plan.reason is None for v in earlier) >= _WAITING:
            return FramePlan.whole(tokens, reason)
        for source in [v for v in earlier if v.image_id in self._cached][:_TRIED]:
            apart = source.depth_fault or fallback_reason(view.frame, source.frame)
            if apart is not None:
                reason = apart
                continue
            found = correspond(view.frame, [source.frame], view.grid, depth_tolerance=config.depth_tolerance)
            bias = abs(found.depth_ratio[0] - 1.0)
            if bias > config.max_depth_bias or found.agreement[0] < config.min_agreement:
                reason = FallbackReason.DEPTHS_DISAGREE
                continue
            like = compare(view.pixels, source.pixels, found)
            if math.hypot(*like.drift) > config.max_drift:
                reason = FallbackReason.PICTURES_DISAGREE
                continue
            named = np.where(found.found, source.image_id, -1)
            return self._choose(named, found.token, like.difference, window)
        return FramePlan.whole(tokens, reason)

    @staticmethod
    def _each(tokens: int) -> IntArray:
        return np.arange(tokens)

    def _choose(
        self, source: IntArray, token: IntArray, difference: Float64Array, window: IntArray
    ) -> FramePlan:
        """Args: ``difference`` to the source, of tokens that have one."""
        config, n = self.config, len(source)
        known = source >= 0
        slot, age = self._slots(source, token), np.zeros(n, np.int64)
        must = slot < 0
        for image_id in np.unique(source[known]):
            rows = np.flatnonzero(source == image_id)
            cached = self._cached[int(image_id)]
            at = token[rows]
            age[rows] = cached.age[at]
            before = None if cached.before is None else cached.before[at]
            gain = 1.0 + config.landmark_gain * self._landmark(int(image_id))
            must[rows] |= must_refresh(
                cached.relevance[at],
                before,
                limit=config.max_relevance / gain,
                change_limit=config.max_relevance_change / gain,
            )
        must |= age >= config.max_age
        # What was handed on comes before what is as unlike but was computed: errors do not add up.
        urgency = np.where(must, 0.0, (difference + _SAME) * (1 + age))
        choice = choose(must, urgency, window, config.budget)
        label = np.where(known, int(Label.REFRESHED), int(Label.NEW))
        if choice.computed.all():
            return replace(FramePlan.whole(n, FallbackReason.ALL_COMPUTED), label=label)
        computed, layers = choice.computed, np.zeros(n, np.int64)
        if config.layer_budget and self._entropies is not None:
            budgets = layer_budgets(
                self._entropies,
                highest=1.0 - config.budget,
                slope=config.entropy_weight,
                lowest=config.min_share,
            )
            order = np.flatnonzero(~computed)
            order = order[np.argsort(urgency[order], kind="stable")]
            layers[order] = computed_layers(order, n, budgets)
            computed = computed | (layers >= self._layers)
        label[~computed] = Label.REUSED
        return FramePlan(
            computed,
            choice.bucket,
            np.where(computed, -1, slot),
            np.where(computed, 0, layers),
            label,
            source,
            token,
        )

    def _slots(self, source: IntArray, token: IntArray) -> IntArray:
        """``[tokens]`` where the sources are now, -1 where they are gone."""
        slot = np.full(len(source), -1)
        for image_id in np.unique(source[source >= 0]):
            cached = self._cached.get(int(image_id))
            if cached is not None:
                rows = np.flatnonzero(source == image_id)
                slot[rows] = cached.slots[token[rows]]
        return slot

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

    def _fault(self, frame: Frame, grid: TokenGrid) -> FallbackReason | None:
        config, last = self.config, self._last
        if last is not None:
            reason = motion_fault(frame, last.frame, MotionLimits.of_camera(config))
            if reason is not None:
                return reason
            if (frame.camera, grid) != (last.frame.camera, last.grid):
                return FallbackReason.CAMERA_CHANGED
        return depth_fault(frame.depth_m, config, config.max_depth_m)
