"""Studies behind the choices of VLN-Cache: which feature to compare, what the vision tower could reuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vln_ros.datatypes import Float64Array, Frame
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.inputs.preprocess import ImagePatches, patchify
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.segments import Image, Text
from vln_ros.engine.stream.session import Session
from vln_ros.geometry.correspondence import Correspondence, IntArray, TokenGrid, correspond

_BEFORE = 20
_NEARLY = 2 / 255
"""Differences of two grey levels are what a still camera's noise is at least."""
_TIE = 1e-5
_NO_GEOMETRY, _GEOMETRY = "same place in the grid", "geometry only"


@dataclass(frozen=True, eq=False)
class Match:
    """For each token of a new frame the source token that looks most alike; arrays of ``[tokens]``.

    Attributes:
        token: int64, in the source of the correspondence, or -1.
        similarity: float64 in [-1, 1], cosine; NaN where there is none.
        drift: per source ``[2]``, the mean way in tokens, right and down, from where a token should be to
            where it looks most alike. Far from 0 the poses are wrong; NaN without any token.
    """

    token: IntArray
    similarity: Float64Array
    drift: tuple[Float64Array, ...]


def unit(features: Tensor) -> Tensor:
    """``[n, d]`` float32, each row of length 1 (a row of zeros stays)."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


def refine(new: Tensor, sources: Sequence[Tensor], found: Correspondence, reach: int) -> Match:
    """Look for the best of the ``(2 reach + 1) ** 2`` tokens around each correspondence.

    Of equals the one in the middle is taken.

    Args:
        new: ``[tokens, d]`` rows of length 1, see :func:`unit`.
        sources: the same of each source.

    Raises:
        ValueError: not one matrix of that size per source.
    """
    grid = found.grid
    sizes = {tuple(s.shape) for s in (new, *sources)}
    if len(sources) != len(found.depth_ratio) or sizes != {(grid.count, new.shape[-1])}:
        raise ValueError(
            f"{len(found.depth_ratio)} sources need features of {grid.count} tokens, got {sizes}"
        )
    token, similarity = np.full(grid.count, -1), np.full(grid.count, np.nan)
    drift: list[Float64Array] = []
    steps = [(0, 0)]
    steps += [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if (y, x) != (0, 0)]
    for index, source in enumerate(sources):
        rows = np.flatnonzero(found.source == index)
        if not len(rows):
            drift.append(np.full(2, np.nan))
            continue
        at = np.stack(np.divmod(found.token[rows], grid.columns))
        scores = np.empty((len(steps), len(rows)))
        wanted = new[_index(rows, new)]
        for k, step in enumerate(steps):
            place = at + np.array(step)[:, None]
            outside = ((place < 0) | (place >= [[grid.rows], [grid.columns]])).any(0)
            tokens = np.where(outside, 0, place[0] * grid.columns + place[1])
            alike = (source[_index(tokens, source)] * wanted).sum(-1).double().cpu().numpy()
            scores[k] = np.where(outside, -np.inf, alike - (_TIE if k else 0.0))
        best = scores.argmax(0)
        way = np.array(steps)[best]
        token[rows] = found.token[rows] + way @ [grid.columns, 1]
        similarity[rows] = scores[best, np.arange(len(rows))] + np.where(best > 0, _TIE, 0.0)
        drift.append(way[:, ::-1].mean(0))
    return Match(token, similarity, tuple(drift))


def _index(tokens: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(tokens).to(like.device)


@dataclass(frozen=True)
class FeatureFigures:
    """Tokens chosen by the likeness of one feature; means over pairs of frames.

    Attributes:
        error: relative, of the keys (not rotated) and values that are taken over: of the most alike half
            of the tokens, after the search among the neighbours; of all tokens where there is no feature.
        unsearched: the same without the search.
        rank: correlation of unlikeness and error, Spearman's; NaN without a feature.
        make_ms: processor time to have the feature of one frame, median.
    """

    size: tuple[int, int]
    feature: str
    error: float
    unsearched: float
    rank: float
    make_ms: float


@torch.no_grad()
def measure_features(
    model: LoadedModel, pairs: Sequence[tuple[Frame, Frame]], size: tuple[int, int]
) -> list[FeatureFigures]:
    """How well the features of the refinement foretell how wrong it is to take keys and values over.

    Args:
        pairs: an earlier and a later frame.
        size: width and height that the model sees.
    """
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    nothing = float("nan")
    for old, new in pairs:
        patches = [patchify(frame.rgb, model.pixels, None, size) for frame in (old, new)]
        images = encode_images(model.network, patches)
        grid = TokenGrid(images[0].height, images[0].width)
        found = correspond(new, [old], grid, depth_tolerance=0.05)
        at = np.flatnonzero(found.found)
        if len(at) < grid.count // 4:
            continue
        before, now = _keys_and_values(model, images)

        def errors(
            tokens: np.ndarray[Any, np.dtype[np.int64]], at: Any = at, a: Any = before, b: Any = now
        ) -> Any:
            wrong = (b[at] - a[tokens]).norm(dim=-1) / b[at].norm(dim=-1)
            return wrong.mean(-1).numpy()

        for name, tokens in ((_NO_GEOMETRY, at), (_GEOMETRY, found.token[at])):
            wrong = float(errors(tokens).mean())
            rows.setdefault(name, []).append((wrong, wrong, nothing, 0.0))
        for name, make in _features(model).items():
            begun = time.process_time()
            own = [unit(make(p, i)) for p, i in zip(patches, images, strict=True)]
            make_ms = (time.process_time() - begun) * 1e3 / 2
            half = []
            for reach in (1, 0):
                match = refine(own[1], [own[0]], found, reach)
                wrong_each = errors(match.token[at])
                best = np.argsort(-match.similarity[at], kind="stable")[: len(at) // 2]
                half.append((float(wrong_each[best].mean()), _rank(-match.similarity[at], wrong_each)))
            rows.setdefault(name, []).append((half[0][0], half[1][0], half[0][1], make_ms))
    figures = []
    for name, measured in rows.items():
        error, unsearched, rank, _ = np.mean(measured, 0).tolist()
        make_ms = float(np.median([ms for *_, ms in measured]))
        figures.append(FeatureFigures(size, name, error, unsearched, rank, make_ms))
    return figures


def _features(model: LoadedModel) -> dict[str, Callable[[ImagePatches, Image], Tensor]]:
    embed: Any = model.network.model.visual.patch_embed
    m, p = model.pixels.merge_size, model.pixels.patch_size

    def pooled(side: int) -> Callable[[ImagePatches, Image], Tensor]:
        def make(patches: ImagePatches, _: Image) -> Tensor:
            # rows of a merge window; channels; the first of the two equal times
            pixels = patches.patches.view(-1, m, m, 3, model.pixels.temporal_patch_size, p, p)[:, :, :, :, 0]
            token = pixels.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, m * p, m * p)
            return torch.nn.functional.adaptive_avg_pool2d(token, side).flatten(1)

        return make

    return {
        "pooled pixels, 2 x 2": pooled(2),
        "pooled pixels, 4 x 4": pooled(4),
        "patch embeddings": lambda patches, _: embed(patches.patches).reshape(-1, embed.embed_dim * m * m),
        "vision features": lambda _, image: image.features,
    }


def _keys_and_values(model: LoadedModel, images: Sequence[Image]) -> list[Tensor]:
    """``[tokens, layers, d]`` of each image, one behind the other in one stream, keys turned back."""
    session = Session(model.network)
    begin, end = Text((model.tokens.vision_start,)), Text((model.tokens.vision_end,))
    session.push([Text(tuple(range(_BEFORE))), *(p for i in images for p in (begin, i, end))])
    starts = np.cumsum([_BEFORE + 1, *(len(i.features) + 2 for i in images)])
    return [
        _unrotated(session.cache, torch.arange(s, s + len(i.features)))
        for s, i in zip(starts, images, strict=False)
    ]


def _unrotated(cache: SlotCache, slots: Tensor) -> Tensor:
    layers = []
    for layer in cache.layers:
        keys = cache.rotated(layer.keys[:, :, slots], -cache.positions[:, slots])
        both = torch.cat([keys, layer.values[:, :, slots]], -1)
        layers.append(both[0].transpose(0, 1).flatten(1))
    return torch.stack(layers, 1)


def _rank(a: Any, b: Any) -> float:
    return float(spearmanr(a, b).statistic)


# -- windows of the vision tower ---------------------------------------------------------------------


@dataclass(frozen=True)
class WindowFigures:
    """What the windows of one motion would save, if nothing of an untouched one were computed.

    Attributes:
        untouched: share of the tokens in windows of which no pixel changed since the frame before.
        nearly: the same where no pixel changed by more than two grey levels: no longer exact.
        saved: share of the vision tower's time, exact: ``untouched`` of what lies before its first
            layer that looks at the whole frame. Frames that are equal as a whole are left out: they are
            taken over already.
        whole: frames that are.
    """

    motion: str
    untouched: float
    nearly: float
    saved: float
    whole: int
    frames: int


def compare_windows(
    model: LoadedModel, motion: str, frames: Sequence[Frame], size: tuple[int, int], before_full: float
) -> WindowFigures:
    """Each frame with the one before it.

    Args:
        before_full: share of the tower's time before its first layer without windows.
    """
    patches = [patchify(frame.rgb, model.pixels, None, size) for frame in frames]
    exact, nearly, whole = [], [], 0
    for old, new in pairwise(patches):
        if torch.equal(old.patches, new.patches):
            whole += 1
            continue
        exact.append(untouched_share(model, old, new, 0.0))
        nearly.append(untouched_share(model, old, new, _NEARLY / min(model.pixels.std)))
    untouched = float(np.mean(exact)) if exact else 0.0
    return WindowFigures(
        motion,
        untouched,
        float(np.mean(nearly)) if nearly else 0.0,
        untouched * before_full,
        whole,
        len(patches) - 1,
    )


def untouched_share(model: LoadedModel, old: ImagePatches, new: ImagePatches, tolerance: float) -> float:
    """Share of the tokens in attention windows in which nothing differs by more than ``tolerance``."""
    config: Any = model.network.config
    m = model.pixels.merge_size
    side = config.vision_config.window_size // m // model.pixels.patch_size
    rows, columns = new.grid_h // m, new.grid_w // m
    changed = ((new.patches - old.patches).abs() > tolerance).view(rows * columns, -1).any(1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    window = torch.from_numpy(row // side * -(-columns // side) + column // side)
    touched = torch.zeros(int(window.max()) + 1, dtype=torch.bool)
    touched[window[changed]] = True
    return float((~touched[window]).float().mean())


@dataclass(frozen=True)
class TowerTimes:
    """Processor time of the parts of a vision tower for one frame, medians.

    Attributes:
        window_s, full_s: of one layer with and without windows.
        before_full: share of the time of the released tower before its first layer without windows.
    """

    embed_s: float
    window_s: float
    full_s: float
    merger_s: float
    before_full: float


@torch.no_grad()
def time_tower(vision: dict[str, int], size: tuple[int, int], repeats: int) -> TowerTimes:
    """One layer of each kind, timed; the released tower has 28 with windows and 4 without.

    Args:
        vision: ``hidden_size``, ``intermediate_size``, ``num_heads``, ``out_hidden_size`` of the tower.
        size: width and height of the frame in pixels.
    """
    released: Any = Qwen2_5_VLConfig().vision_config
    first, depth = released.fullatt_block_indexes[0], released.depth
    full = len(released.fullatt_block_indexes)
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "vocab_size": 16, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config={**vision, "depth": 2, "fullatt_block_indexes": [1]}
    )
    config._attn_implementation = "sdpa"
    tower: Any = Qwen2_5_VLForConditionalGeneration(config).eval().model.visual
    parts = {
        "embed": tower.patch_embed,
        "window": tower.blocks[0],
        "full": tower.blocks[1],
        "merger": tower.merger,
    }
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda *_, name=name: spent[name].append(-time.process_time()))
        part.register_forward_hook(
            lambda *_, name=name: spent[name].append(spent[name].pop() + time.process_time())
        )
    p = released.patch_size
    grid = torch.tensor([[1, size[1] // (2 * p) * 2, size[0] // (2 * p) * 2]])
    pixels = torch.randn(int(grid.prod()), 3 * released.temporal_patch_size * p * p)
    for _ in range(repeats + 1):
        tower(pixels, grid)
    embed_s, window_s, full_s, merger_s = (float(np.median(own[1:])) for own in spent.values())
    before = embed_s + first * window_s
    whole = embed_s + (depth - full) * window_s + full * full_s + merger_s
    return TowerTimes(embed_s, window_s, full_s, merger_s, before / whole)
