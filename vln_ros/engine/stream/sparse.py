"""Prefills only the tokens that are not taken over from earlier frames (VLN-Cache, arXiv 2603.07080)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.stream.forward import Chunk, attention_mask, run_decoder
from vln_ros.engine.stream.segments import Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Segment, SegmentKind
from vln_ros.engine.stream.tree import NO_TREE, TokenTree
from vln_ros.geometry.correspondence import IntArray
from vln_ros.geometry.fallback_reason import Refusal
from vln_ros.profiling.spans import span
from vln_ros.reuse.accounting import NetMeter, ReuseStats
from vln_ros.reuse.frame_plan import FramePlan, ReusePlanner
from vln_ros.reuse.gate import entropy

logger = logging.getLogger(__name__)

_TRIED = (None, Refusal.DEPTHS_DISAGREE, Refusal.PICTURES_DISAGREE)


@torch.no_grad()
def push_sparse(
    session: Session, pieces: Sequence[Piece], sources: Tensor, layers: Tensor | None = None
) -> Tensor:
    """:meth:`Session.push`, computing only some of the tokens.

    A token that is not computed gets the keys and values of an earlier token, the keys rotated to
    its own position: an approximation unless that token stood in the same context.

    Args:
        sources: ``[n]`` int64, for each new token the slot to take over, or -1 to compute it. Slots
            behind the stream may be named as long as they still hold a token.
        layers: ``[n]`` int64, in how many of the first layers a token with a source is computed all the
            same; None for none.

    Returns:
        ``[n, hidden]`` last hidden states; NaN where the last layer was not computed.

    Raises:
        ValueError: as :meth:`Session.push`; not one source per token, a slot that holds no token, or the
            last token not computed (nothing could be read off it).
    """
    chunk = session.prepare(pieces, NO_TREE)
    try:
        states = compute_sparse(session, chunk, sources, layers)
    except BaseException:
        session.abandon(chunk)
        raise
    session.complete(chunk, *_share(sources, layers, session))
    return states


def compute_sparse(session: Session, chunk: Chunk, sources: Tensor, layers: Tensor | None) -> Tensor:
    """The forward of a prepared chunk, as in :func:`push_sparse`; a tree at its end is always computed."""
    base, n, cache = chunk.before.tokens, len(chunk.embeddings), session.cache
    if sources.shape != (n,) or int(sources[-1]) >= 0 or not bool(cache.holds(sources[sources >= 0]).all()):
        raise ValueError(
            f"{n} tokens need {n} sources, slots that hold a token or -1, -1 for the last; got {sources}"
        )
    depth = torch.full((n,), len(cache.layers))
    reused = (sources >= 0).nonzero()[:, 0]
    if reused.numel():
        depth[reused] = 0 if layers is None else layers[reused]
        cache.copy_rotated(sources[reused], base + reused, chunk.positions[:, reused])
    device = chunk.embeddings.device
    rows = (depth > 0).nonzero()[:, 0]
    slots = base + rows.to(device)
    if chunk.visible is None:
        visible = torch.arange(base + n, device=device) <= slots[:, None]
    else:
        visible = chunk.visible[rows.to(device)]
    embeddings, positions = chunk.embeddings[rows.to(device)], chunk.positions[:, rows]
    states = chunk.embeddings.new_full((n, chunk.embeddings.shape[1]), torch.nan)
    if bool((depth[rows] == len(cache.layers)).all()):
        with cache.scatter(slots, visible=base + n):
            computed = run_decoder(
                session.network, cache, embeddings[None], positions[:, None], visible[None]
            )
        states[rows.to(device)] = computed[0]
        return states
    last = depth[rows] == len(cache.layers)
    computed = _run_layers(session, _Rows(embeddings, positions, slots, visible, depth[rows]), base + n)
    states[rows[last].to(device)] = computed
    cache.own(base + reused[depth[reused] > 0], depth[reused[depth[reused] > 0]])
    return states


@dataclass(frozen=True, eq=False)
class _Rows:
    """Tokens on their way through the layers; all of ``[rows, ...]`` but positions ``[3, rows]``."""

    embeddings: Tensor
    positions: Tensor
    slots: Tensor
    visible: Tensor
    depth: Tensor


def _run_layers(session: Session, rows: _Rows, visible: int) -> Tensor:
    """The released layers one by one, with fewer and fewer rows. States of the rows that reach the end."""
    network, cache = session.network, session.cache
    decoder: Any = network.model.language_model
    states = rows.embeddings[None]
    turn = decoder.rotary_emb(states, rows.positions[:, None].to(states.device))
    slots, mask, depth = rows.slots, rows.visible, rows.depth
    for index, layer in enumerate(decoder.layers):
        stay = depth > index
        if not bool(stay.all()):
            kept = stay.nonzero()[:, 0].to(states.device)
            states, slots, mask, depth = states[:, kept], slots[kept], mask[kept], depth[stay]
            turn = tuple(t[..., kept, :] for t in turn)
        with cache.scatter(slots, visible=visible):
            states = layer(
                states,
                attention_mask=attention_mask(network, mask[None]),
                position_embeddings=turn,
                past_key_values=cache,
            )
    stay = (depth == len(decoder.layers)).nonzero()[:, 0].to(states.device)
    result: Tensor = decoder.norm(states[0, stay])
    return result


def _share(sources: Tensor, layers: Tensor | None, session: Session) -> tuple[Tensor, float]:
    """Which tokens were computed at all, and how many that is, a token in half of the layers being half."""
    depth = torch.full(sources.shape, len(session.cache.layers))
    depth[sources >= 0] = 0 if layers is None else layers[sources >= 0]
    return (depth > 0).nonzero()[:, 0], float(depth.sum()) / len(session.cache.layers)


@dataclass(frozen=True, eq=False)
class _Shown:
    """A picture in the stream and its first slot."""

    segment: Segment
    start: int

    @property
    def sight(self) -> int:
        assert self.segment.sight is not None
        return self.segment.sight

    @property
    def is_whole(self) -> bool:
        """No token of the grid was left out."""
        assert self.segment.grid is not None
        return self.segment.count == math.prod(self.segment.grid)


class ReusingSession(Session):
    """A session whose pictures are computed only where a plan asks for it.

    Whatever context strategy pushes them: a picture is known by its sight, its cached tokens by their
    numbers. Forwards that several sessions share compute everything.

    Args:
        planner: knows what was seen.
        window: see :class:`NetMeter`.
    """

    def __init__(
        self,
        network: Qwen2_5_VLForConditionalGeneration,
        planner: ReusePlanner,
        *,
        window: int,
        block_tokens: int = 1024,
        keep_original_keys: bool = False,
    ) -> None:
        super().__init__(network, block_tokens=block_tokens, keep_original_keys=keep_original_keys)
        self.planner = planner
        self.meter = NetMeter(window)
        self.last_plans: dict[int, FramePlan] = {}
        """Of the newest prefill, by sight: for pictures and tests."""
        self._plans: dict[int, FramePlan] = {}

    def begin(self) -> None:
        """A new run."""
        self.planner.begin()
        self.meter.begin()

    def stats(self, repeated: int) -> ReuseStats:
        """Of the present run."""
        return self.meter.stats(repeated)

    def _extend(self, pieces: Sequence[Piece], tree: TokenTree) -> Tensor:
        chunk = self.prepare(pieces, tree)
        shown = self._shown(chunk)
        try:
            begun = self._now_s()
            with span("reuse gate"):
                plans = self._make_plans(shown)
                sources, layers = self._sources(chunk, shown, plans)
            planned = self._now_s()
            with self._watched(chunk, shown, tree) as queries:
                if sources is None:
                    states = self._compute(chunk)
                else:
                    states = compute_sparse(self, chunk, sources, layers)
            done = self._now_s()
        except BaseException:
            self.abandon(chunk)
            raise
        self._plans = plans
        if sources is None:
            self.complete(chunk)
        else:
            self.complete(chunk, *_share(sources, layers, self))
        self._plans = {}
        if self.watch is not None:
            self.watch(chunk, done - planned)
        if shown:
            self.last_plans = plans
            self._account(chunk, plans, sources, layers, done - planned, planned - begun)
        with span("reuse relevance"):
            self._measure_relevance(chunk, tree, queries)
        return states

    def complete(self, chunk: Chunk, computed: Tensor | None = None, queries: float | None = None) -> None:
        super().complete(chunk, computed, queries)
        for picture in filter(lambda p: p.is_whole, self._shown(chunk)):
            serials = self.cache.serials[picture.start : picture.start + picture.segment.count]
            self.planner.placed(picture.sight, serials.numpy().copy(), self._plans.get(picture.sight))

    def _shown(self, chunk: Chunk) -> list[_Shown]:
        """The pictures with a sight of a chunk."""
        found, start = [], chunk.before.tokens
        for segment in self.timeline.segments[len(chunk.before.segments) :]:
            if segment.kind is SegmentKind.IMAGE and segment.sight is not None:
                found.append(_Shown(segment, start))
            start += segment.count
        return found

    def _make_plans(self, shown: Sequence[_Shown]) -> dict[int, FramePlan]:
        plans: dict[int, FramePlan] = {}
        for picture in shown:
            tokens = picture.segment.count
            if self.meter.off:
                plans[picture.sight] = FramePlan.whole(tokens, Refusal.SWITCHED_OFF)
            elif not picture.is_whole:
                plans[picture.sight] = FramePlan.whole(tokens, Refusal.PRUNED)
            else:
                plans[picture.sight] = self.planner.plan(picture.sight, tokens, self._find)
        return plans

    def _find(self, serials: IntArray) -> IntArray:
        return self.cache.find(torch.from_numpy(serials)).numpy()

    def _sources(
        self, chunk: Chunk, shown: Sequence[_Shown], plans: dict[int, FramePlan]
    ) -> tuple[Tensor | None, Tensor | None]:
        if all((plans[p.sight].slot < 0).all() for p in shown):
            return None, None
        n = len(chunk.embeddings)
        sources, layers = torch.full((n,), -1), torch.zeros(n, dtype=torch.long)
        for picture in shown:
            first = picture.start - chunk.before.tokens
            plan = plans[picture.sight]
            sources[first : first + picture.segment.count] = torch.from_numpy(plan.slot)
            layers[first : first + picture.segment.count] = torch.from_numpy(plan.layers)
        return sources, layers

    def _account(
        self,
        chunk: Chunk,
        plans: dict[int, FramePlan],
        sources: Tensor | None,
        layers: Tensor | None,
        forward_s: float,
        overhead_s: float,
    ) -> None:
        n = len(chunk.embeddings)
        picture = sum(len(p.slot) for p in plans.values())
        for plan in plans.values():
            if plan.reason is not None:
                self.meter.refused(plan.reason)
        was_off = self.meter.off
        if sources is None:
            tried = any(p.reason in _TRIED for p in plans.values())
            self.meter.whole(n, picture, forward_s, overhead_s, tried=tried)
        else:
            _, queries = _share(sources, layers, self)
            self.meter.partial(n, picture, n - queries, forward_s, overhead_s)
        if self.meter.off and not was_off:
            logger.warning("reuse loses time here: switched off until the next instruction")

    # -- what the action looks at --------------------------------------------------------------------

    @contextmanager
    def _watched(self, chunk: Chunk, shown: Sequence[_Shown], tree: TokenTree) -> Iterator[list[Tensor]]:
        """Within, the queries of the last token before ``tree`` are noted layer by layer."""
        queries: list[Tensor] = []
        target = self._newest()
        asked = len(tree) > 0 or not shown
        known = (
            target is not None
            and target.is_whole
            and (target.sight in {p.sight for p in shown} or self.planner.wants_relevance(target.sight))
        )
        if not (asked and known):
            yield queries
            return
        row = -(len(tree) + 1)

        def note(_module: Any, _inputs: Any, output: Tensor) -> None:
            queries.append(output[0, row])

        hooks = [layer.self_attn.q_proj.register_forward_hook(note) for layer in self._decoder.layers]
        try:
            yield queries
        finally:
            for hook in hooks:
                hook.remove()

    def _newest(self) -> _Shown | None:
        start = self.timeline.tokens
        for segment in reversed(self.timeline.segments):
            start -= segment.count
            if segment.kind is SegmentKind.IMAGE and segment.sight is not None:
                return _Shown(segment, start)
        return None

    def _measure_relevance(self, chunk: Chunk, tree: TokenTree, queries: Sequence[Tensor]) -> None:
        """Attention of the noted queries to the newest picture: one row per layer, beside the forward."""
        target = self._newest()
        if not queries or target is None:
            return
        position = chunk.positions[:, -(len(tree) + 1)][:, None]
        tokens = slice(target.start, target.start + target.segment.count)
        rows = []
        for query, layer in zip(queries, self.cache.layers, strict=True):
            keys = layer.keys[0, :, tokens].float()
            turned = self.cache.rotated(query.view(-1, 1, keys.shape[-1]), position)[:, 0].float()
            heads = turned.view(keys.shape[0], -1, keys.shape[-1])
            scores = heads @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
            rows.append(scores.softmax(-1).flatten(0, 1))
        attention = torch.stack(rows).double().cpu().numpy()  # layers, heads, tokens
        relevance = attention.mean((0, 1)) * attention.shape[-1]
        self.planner.relevant(target.sight, relevance, np.asarray(entropy(attention)).mean(1))
