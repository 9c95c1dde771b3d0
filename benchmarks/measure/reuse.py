"""Measures what VLN-Cache saves and what it costs in agreement: the figures of ``vln_ros bench reuse``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.measure.reuse_features import refine, unit
from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.stream.segments import Image, Piece, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.sparse import Sources
from vln_ros.geometry.correspondence import TokenGrid, correspond
from vln_ros.reuse.similarity import compare, pooled

_BEFORE = 32
_ALIKE = 0.99
"""Cosine of vision features from which on a token counts as alike."""
_FRAME_POSITIONS = 35
"""By how much positions advance with a frame of 640x480 and its text."""


@dataclass(frozen=True)
class PrefillFigures:
    """One frame prefilled whole and with a share taken over, by turns; processor seconds.

    Attributes:
        whole_s, sparse_s: of the forwards, copying and turning the keys included, medians.
        plan_s: finding out what to take over: geometry and pixels against one source, median.
        net: ``whole_s / (sparse_s + plan_s)``; ``low`` and ``high`` of the single turns.
    """

    tokens: int
    share: float
    whole_s: float
    sparse_s: float
    plan_s: float
    net: float
    low: float
    high: float


def measure_prefill(
    network: Qwen2_5_VLForConditionalGeneration,
    grid: TokenGrid,
    shares: Sequence[float],
    pair: tuple[Frame, Frame],
    repeats: int,
) -> list[PrefillFigures]:
    """A frame behind another one; the times do not depend on which of its tokens are taken over.

    Args:
        pair: an earlier and a later frame, for the time of the plan.
    """
    session = Session(network, block_tokens=4096)
    ids: Any = network.config
    config = ids.text_config
    generator = torch.Generator().manual_seed(0)
    n = grid.count
    features = torch.randn(n, config.hidden_size, generator=generator)

    def picture() -> list[Piece]:
        return [
            Text((ids.vision_start_token_id,)),
            Image(features, grid.rows, grid.columns),
            Text((ids.vision_end_token_id,)),
        ]

    session.push([Text(tuple(range(10, 10 + _BEFORE))), *picture()])
    before = session.snapshot()
    plans = [_plan_s(pair, grid) for _ in range(repeats + 1)][1:]
    figures = []
    for share in shares:
        whole: list[float] = []
        sparse: list[float] = []
        sources = torch.full((n + 2,), -1)
        taken = torch.randperm(n, generator=generator)[: round(share * n)]
        sources[1 + taken] = _BEFORE + 1 + taken
        for turn in range(repeats + 1):
            for seconds, partly in ((whole, False), (sparse, True)):
                begun = time.process_time()
                if partly:
                    session.push(picture(), Sources(sources))
                else:
                    session.push(picture())
                if turn:  # the first one warms up
                    seconds.append(time.process_time() - begun)
                session.rollback(before)
        plan_s = float(np.median(plans))
        single = np.array(whole) / (np.array(sparse) + plan_s)
        figures.append(
            PrefillFigures(
                n,
                share,
                float(np.median(whole)),
                float(np.median(sparse)),
                plan_s,
                float(np.median(whole) / (np.median(sparse) + plan_s)),
                float(single.min()),
                float(single.max()),
            )
        )
    return figures


def _plan_s(pair: tuple[Frame, Frame], grid: TokenGrid) -> float:
    old, new = pair
    begun = time.process_time()
    found = correspond(new, [old], grid, depth_tolerance=0.05)
    compare(pooled(new.rgb, grid), pooled(old.rgb, grid), found)
    return time.process_time() - begun


@dataclass(frozen=True)
class BehindFigures:
    """The same picture once more, partly taken over: relative error of the states of a question behind it.

    Attributes:
        own: in its own slots, rolled back and pushed again: exact.
        rotated, unrotated: behind itself, keys turned to their new place or not: an approximation.
    """

    share: float
    own: float
    rotated: float
    unrotated: float


def measure_behind(
    network: Qwen2_5_VLForConditionalGeneration, grid: TokenGrid, shares: Sequence[float]
) -> list[BehindFigures]:
    """What an approximation it is to take over keys and values in another context."""
    ids: Any = network.config
    n = grid.count
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, ids.text_config.hidden_size, generator=generator)
    picture: list[Piece] = [
        Text((ids.vision_start_token_id,)),
        Image(features, grid.rows, grid.columns),
        Text((ids.vision_end_token_id,)),
    ]
    order = torch.randperm(n, generator=generator)

    def answer(share: float, rotate: bool) -> torch.Tensor:
        session = Session(network, block_tokens=4096)
        session.push([Text(tuple(range(10, 10 + _BEFORE))), *picture, Text(tuple(range(50, 58)))])
        base, taken = session.timeline.tokens, order[: round(share * n)]
        sources = torch.full((n + 2,), -1)
        sources[1 + taken] = _BEFORE + 1 + taken
        if not rotate:  # claim that the keys are where they will be: then they are copied as they are
            shift = session.timeline.next_position + 1 - session.cache.positions[0, _BEFORE + 1]
            session.cache.positions[:, _BEFORE + 1 + taken] += shift
            session.cache.original_positions[:, _BEFORE + 1 + taken] += shift
        session.push(picture, Sources(sources))
        assert session.timeline.tokens == base + n + 2
        return session.push([Text(tuple(range(60, 68)))])

    def in_place(share: float) -> torch.Tensor:
        session = Session(network, block_tokens=4096)
        session.push([Text(tuple(range(10, 10 + _BEFORE)))])
        before = session.snapshot()
        session.push(picture)
        session.rollback(before)
        taken = order[: round(share * n)]
        sources = torch.full((n + 2,), -1)
        sources[1 + taken] = _BEFORE + 1 + taken
        session.push(picture, Sources(sources))
        return session.push([Text(tuple(range(60, 68)))])

    full, alone = answer(0.0, True), in_place(0.0)

    def error(states: torch.Tensor, right: torch.Tensor) -> float:
        return float((states - right).norm() / right.norm())

    return [
        BehindFigures(
            s,
            error(in_place(s), alone),
            error(answer(s, True), full),
            error(answer(s, False), full),
        )
        for s in shares
    ]


@dataclass(frozen=True)
class DriftFigures:
    """Keys in bfloat16 that were handed on so often: relative error against one exact turn of the first.

    Attributes:
        once: turned from the original each time, as it is done.
        stepwise: turned from where they were.
    """

    reuses: int
    once: float
    stepwise: float


def measure_drift(
    network: Qwen2_5_VLForConditionalGeneration, reuses: Sequence[int], tokens: int
) -> list[DriftFigures]:
    """Keys of all layers, moved on by a frame's positions again and again."""
    once, stepwise = (_drift(network, reuses, tokens, keep) for keep in (True, False))
    return [DriftFigures(*row) for row in zip(reuses, once, stepwise, strict=True)]


def _drift(
    network: Qwen2_5_VLForConditionalGeneration, reuses: Sequence[int], tokens: int, keep: bool
) -> list[float]:
    session = Session(network, block_tokens=4096, keep_original_keys=keep)
    session.push([Text(tuple(range(10, 10 + tokens)))])
    cache = session.cache
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.bfloat16(), layer.values.bfloat16()
        layer.original_keys = layer.keys.clone() if keep else None
    first, positions = (
        [layer.keys[:, :, :tokens].float() for layer in cache.layers],
        cache.positions[:, :tokens],
    )
    slots, errors = torch.arange(tokens), []
    for count in range(1, max(reuses) + 1):
        target = torch.arange(cache.length, cache.length + tokens)
        cache.copy_rotated(slots, target, cache.positions[:, slots] + _FRAME_POSITIONS)
        slots = target
        if count in reuses:
            delta = cache.positions[:, slots] - positions
            right = torch.stack([cache.rotated(keys, delta) for keys in first])
            moved = torch.stack([layer.keys[:, :, slots].float() for layer in cache.layers])
            errors.append(float((moved - right).norm() / right.norm()))
    return errors


@dataclass(frozen=True)
class GapFigures:
    """Frames compared with one frame earlier: mean share of tokens with a valid correspondence.

    Attributes:
        of_four: the same with the best of up to four earlier frames, ``gap`` apart.
        alike: share of the tokens that are valid and look alike.
        drift: how far off the most alike neighbours are in the mean, in tokens, median.
        ms: processor time of the geometry with one source, median.
    """

    gap: int
    found: float
    of_four: float
    alike: float
    drift: float
    ms: float


def measure_gaps(
    model: LoadedModel, frames: Sequence[Frame], gaps: Sequence[int], every: int
) -> list[GapFigures]:
    """Geometry and similarity over a recording or a generated motion.

    Args:
        every: every such frame is taken as the new one.
    """
    seen: dict[int, tuple[torch.Tensor, TokenGrid]] = {}

    def look(index: int) -> tuple[torch.Tensor, TokenGrid]:
        if index not in seen:
            image = encode_images(model.network, [patchify(frames[index].rgb, model.pixels, None, None)])[0]
            seen[index] = unit(image.features), TokenGrid(image.height, image.width)
        return seen[index]

    figures = []
    for gap in gaps:
        found_shares, four_shares, alike_shares, drifts, spent_s = [], [], [], [], []
        for index in range(max(gaps), len(frames), every):
            new, grid = look(index)
            begun = time.process_time()
            found = correspond(frames[index], [frames[index - gap]], grid, depth_tolerance=0.05)
            spent_s.append(time.process_time() - begun)
            earlier = [frames[i] for i in range(index - gap, max(-1, index - 4 * gap - 1), -gap)]
            best = correspond(frames[index], earlier, grid, depth_tolerance=0.05)
            four_shares.append(float(best.found.mean()))
            match = refine(new, [look(index - gap)[0]], found, 1)
            found_shares.append(float(found.found.mean()))
            alike_shares.append(float((match.similarity[found.found] >= _ALIKE).sum() / grid.count))
            drifts.append(float(np.hypot(*match.drift[0])))
        figures.append(
            GapFigures(
                gap,
                float(np.mean(found_shares)),
                float(np.mean(four_shares)),
                float(np.mean(alike_shares)),
                float(np.nanmedian(drifts)) if not np.isnan(drifts).all() else float("nan"),
                float(np.median(spent_s)) * 1e3,
            )
        )
    return figures
