"""Plugs VLN-Cache (arXiv 2603.07080) into a stream: of a frame only what a plan asks for is computed.

The plan is made before the vision tower is run, from depth, pose and pixels. The tower passes over windows
that are taken over, and the decoder over their tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vln_ros.config import ReuseConfig
from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.partial_tower import TowerPart, TowerStates, window_of_token, window_tokens
from vln_ros.engine.stream.plug import Cost, NewFrame, Plan, Plug, VisionPlan
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.stream.sparse import Sources
from vln_ros.engine.stream.timeline import Segment
from vln_ros.geometry.correspondence import IntArray, TokenGrid
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.memory.landmarks import LandmarkScores
from vln_ros.profiling.spans import span
from vln_ros.reuse.accounting import ReuseMeter, ReuseStats
from vln_ros.reuse.budget import BUCKETS
from vln_ros.reuse.frame_plan import Find, FramePlan, FramePlanner
from vln_ros.reuse.gate import entropy

_TRIED = (
    None,
    FallbackReason.DEPTHS_DISAGREE,
    FallbackReason.PICTURES_DISAGREE,
    FallbackReason.ALL_COMPUTED,
)


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture in the stream and its first slot."""

    segment: Segment
    image_id: int
    start: int

    @property
    def is_whole(self) -> bool:
        """No token of the grid was left out."""
        assert self.segment.grid is not None
        return self.segment.count == math.prod(self.segment.grid)

    @property
    def slots(self) -> slice:
        return slice(self.start, self.start + self.segment.count)


def _pictures(segments: Sequence[Segment], start: int) -> list[_Picture]:
    found: list[_Picture] = []
    for segment in segments:
        if segment.image_id is not None:
            found.append(_Picture(segment, segment.image_id, start))
        start += segment.count
    return found


def _finder(cache: SlotCache) -> Find:
    return lambda serials: cache.find(torch.from_numpy(serials)).numpy()


def _windows(side: int) -> Callable[[TokenGrid], IntArray]:
    return lambda grid: window_of_token((grid.rows, grid.columns), side)


def _newest(prefill: Prefill) -> _Picture | None:
    """The last picture of the stream with the chunk."""
    end = prefill.before.tokens + prefill.last + 1
    for segment in chain(reversed(prefill.segments), reversed(prefill.before.segments)):
        end -= segment.count
        if segment.image_id is not None:
            return _Picture(segment, segment.image_id, end)
    return None


class Reuse(Plug):
    """Plans which tokens of a picture are taken over from earlier ones.

    Whatever context strategy pushes them: a picture is known by its image id, its cached tokens by their
    numbers. Forwards that several sessions share compute everything.

    Args:
        layers: of the decoder.
        landmark: see :class:`FramePlanner`.
        window_tokens: side of a window of the vision tower, in tokens, where it passes over what is taken
            over; None: it is run on all of each frame.
    """

    timed = True

    def __init__(
        self,
        config: ReuseConfig,
        layers: int,
        landmark: Callable[[int], float],
        window_tokens: int | None = None,
    ) -> None:
        side = self._window_tokens = None if config.budget > BUCKETS[-2] else window_tokens
        windows = None if side is None else _windows(side)
        self._frame_planner = FramePlanner(config, layers, landmark, windows)
        self._meter = ReuseMeter(config.window)
        self.last_plans: Mapping[int, FramePlan] = {}
        """Of the newest prefill, by image id: for pictures and tests."""
        self._plans: dict[int, FramePlan] = {}
        self._sources: Sources | None = None
        self._features: Tensor | None = None
        self._states: dict[int, TowerStates] = {}
        self._planned: tuple[int, FramePlan, float] | None = None
        """Of the frame that is being seen: image id, plan, and how long that took."""
        self._is_shared = False
        self._repeated = 0

    def begin(self) -> None:
        self._frame_planner.begin()
        self._meter.begin()
        self._states.clear()
        self._planned = None
        self._repeated = 0

    def stats(self) -> ReuseStats:
        """Of the present run."""
        return self._meter.stats(self._repeated)

    def labels(self) -> npt.NDArray[np.int64] | None:
        """``[rows, columns]``, what became of the newest picture's tokens; None without a whole one."""
        if not self.last_plans:
            return None
        image_id, plan = max(self.last_plans.items())
        grid = self._frame_planner.grid_of(image_id)
        if grid is None or plan.label.size != grid.count:
            return None
        return plan.label.reshape(grid.rows, grid.columns)

    # -- the life of a frame -------------------------------------------------------------------------

    def before_vision(self, new: NewFrame, cache: SlotCache) -> VisionPlan | None:
        self._planned = None
        if self._meter.off:
            return None
        began_s = time.perf_counter()
        with span("reuse sight"):
            grid = TokenGrid(new.rows, new.columns)
            plan = self._frame_planner.before_vision(
                new.image_id, new.frame, grid, new.picture, _finder(cache), shared=self._is_shared
            )
        self._planned = new.image_id, plan, time.perf_counter() - began_s
        if self._window_tokens is None:
            return None
        known = set(plan.source[~plan.computed].tolist())
        if not known:
            return VisionPlan()
        (source,) = known
        return VisionPlan(TowerPart(plan.computed, plan.token, self._states[source], plan.bucket))

    def after_vision(self, image_id: int, states: TowerStates | None, vision_s: float | None) -> None:
        if self._planned is None:
            return
        _, plan, plan_s = self._planned
        if states is not None:
            self._states[image_id] = states
        skips = self._window_tokens is not None and vision_s is not None
        passed_over = int((~plan.computed).sum()) if skips else 0
        self._meter.vision(len(plan.computed), passed_over, vision_s, plan_s)

    def on_frame(self, frame: Frame, image: Image) -> None:
        if image.features is self._features:  # the vision tower was spared
            self._repeated += 1
        self._features = image.features
        if self._planned is not None:
            self._frame_planner.on_frame(self._planned[0])
            self._planned = None
            for gone in self._states.keys() - self._frame_planner.known():
                del self._states[gone]

    def on_answer(self, probability: float, held: bool) -> None:
        self._frame_planner.on_answer(probability, held)

    def want_whole(self) -> None:
        self._frame_planner.want_whole()

    def plan(self, prefill: Prefill, cache: SlotCache) -> Plan:
        shown = _pictures(prefill.segments, prefill.before.tokens)
        with span("reuse gate"):
            self._plans = {p.image_id: self._plan_picture(p, cache) for p in shown}
            self._sources = self._take_over(prefill, shown)
        target = _newest(prefill)
        asked = len(prefill.tree) > 0 or not shown
        known = (
            target is not None
            and target.is_whole
            and (target.image_id in self._plans or self._frame_planner.wants_relevance(target.image_id))
        )
        return Plan(self._sources, attention=asked and known)

    def on_cached(self, prefill: Prefill, cache: SlotCache, cost: Cost | None) -> None:
        shown = _pictures(prefill.segments, prefill.before.tokens)
        self._is_shared = cost is None if shown else self._is_shared
        plans = {} if cost is None else self._plans
        for picture in shown:
            if picture.is_whole:
                serials = cache.serials[picture.slots].numpy().copy()
                self._frame_planner.on_cached(picture.image_id, serials, plans.get(picture.image_id))
        if cost is not None and shown:
            self.last_plans = plans
            self._account(prefill, len(cache.layers), cost)

    def on_attention(self, prefill: Prefill, cache: SlotCache, queries: Sequence[Tensor]) -> None:
        """How much of their attention goes to the newest picture: one row per layer, beside the forward."""
        target = _newest(prefill)
        if target is None:
            return
        with span("reuse relevance"):
            position = prefill.positions[:, prefill.last][:, None]
            slots = torch.arange(target.slots.start, target.slots.stop)
            rows = []
            for query, layer in zip(queries, cache.layers, strict=True):
                keys = layer.storage()[0][0, :, layer.rows(slots)].float()
                turned = cache.rotated(query.view(-1, 1, keys.shape[-1]), position)[:, 0].float()
                heads = turned.view(keys.shape[0], -1, keys.shape[-1])
                scores = heads @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
                rows.append(scores.softmax(-1).flatten(0, 1))
            attention = torch.stack(rows).double().cpu().numpy()  # layers, heads, tokens
            relevance = attention.mean((0, 1)) * attention.shape[-1]
            entropies = np.asarray(entropy(attention)).mean(1)
            self._frame_planner.on_attention(target.image_id, relevance, entropies)

    # -- inside --------------------------------------------------------------------------------------

    def _plan_picture(self, picture: _Picture, cache: SlotCache) -> FramePlan:
        tokens = picture.segment.count
        # Of what the tower has passed over there are no features: such a picture keeps to its plan.
        if self._meter.off and self._frame_planner.has_features(picture.image_id):
            return FramePlan.whole(tokens, FallbackReason.SWITCHED_OFF)
        if not picture.is_whole:
            return FramePlan.whole(tokens, FallbackReason.PRUNED)
        return self._frame_planner.plan(picture.image_id, tokens, _finder(cache))

    def _take_over(self, prefill: Prefill, shown: Sequence[_Picture]) -> Sources | None:
        if all((plan.slot < 0).all() for plan in self._plans.values()):
            return None
        n = len(prefill.embeddings)
        slots, layers = torch.full((n,), -1), torch.zeros(n, dtype=torch.long)
        for picture in shown:
            plan, first = self._plans[picture.image_id], picture.start - prefill.before.tokens
            slots[first : first + picture.segment.count] = torch.from_numpy(plan.slot)
            layers[first : first + picture.segment.count] = torch.from_numpy(plan.layers)
        return Sources(slots, layers)

    def _account(self, prefill: Prefill, layers: int, cost: Cost) -> None:
        plans = self._plans.values()
        n, picture = len(prefill.embeddings), sum(len(plan.slot) for plan in plans)
        for plan in plans:
            if plan.reason is not None:
                self._meter.refused(plan.reason)
            self._meter.stale += int((~plan.computed & (plan.slot < 0)).sum())
        if self._sources is None:
            tried = any(plan.reason in _TRIED for plan in plans)
            self._meter.whole(n, picture, cost.forward_s, cost.plan_s, tried=tried)
        else:
            queries = float(self._sources.depth(layers).sum()) / layers
            self._meter.partial(n, picture, n - queries, cost.forward_s, cost.plan_s)


def build_reuse(
    model: LoadedModel, config: ReuseConfig, scores: LandmarkScores | None, *, features_again: bool
) -> Reuse | None:
    """What the options ask for; None where it is off.

    Args:
        scores: how surely frames show landmarks of the instruction; None: that is not known.
        features_again: the features of a frame are needed once more after it was prefilled, so that the
            vision tower computes all of it.

    """
    if not config.enabled:
        return None
    network: Any = model.network.config
    side = window_tokens(network.vision_config) if config.tower and not features_again else None
    landmark = (lambda _: 0.0) if scores is None else scores.best
    return Reuse(config, network.text_config.num_hidden_layers, landmark, side)
