"""Runs the released vision tower with shapes that do not depend on what is in a picture.

The released forward computes its windows one by one, from lengths that it reads back from the device in
every block. Here the tables of a picture size are made once, all windows of a block are one padded batch, and
nothing waits for the device. The modules and weights are the released ones; the features are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.checkpoint.settings import PixelSpec
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.layers.arithmetic import normalise, rotate
from vln_ros.engine.stream.layers.patch_embedding import FoldedEmbedding, PatchEmbedding
from vln_ros.engine.stream.partial_tower import window_cells, window_tokens


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowTables:
    """Where the patches of a picture of one size go, on the device.

    A window holds at most ``longest`` patches; those at the right and lower edge hold fewer. ``n`` patches,
    in the order of the windows, the patches of a token together; ``W`` windows.

    Attributes:
        rows: ``[n * patch_size]`` for each row of pixels of each patch, where it begins in the picture, in
            patch widths.
        back: ``[tokens]`` places of the tokens, read row by row, in the order of the windows.
        tokens: ``[tokens]`` the inverse: which token, counted row by row, stands at each place.
        lengths: patches of each window.
        longest: of them.
        padded: ``[W * longest]`` for each place of the padded batch a patch; a place without one repeats the
            first patch of its window. None where all windows are equally long.
        kept: ``[n]`` places of the patches in the padded batch.
        bias: ``[W, 1, 1, longest]`` 0, and minus infinity where there is no patch; None where all are there.
        cos, sin: ``[n, 1, head width]`` float32; the sine signed as :func:`rotate` takes it.
    """

    rows: Tensor
    back: Tensor
    tokens: Tensor
    lengths: tuple[int, ...]
    longest: int
    padded: Tensor | None
    kept: Tensor
    bias: Tensor | None
    cos: Tensor
    sin: Tensor

    @property
    def patches(self) -> int:
        return sum(self.lengths)


def window_tables(tower: Any, grid_h: int, grid_w: int) -> WindowTables:
    """Tables for a picture of ``grid_h x grid_w`` patches, ordered as the released processor and tower do."""
    config, merge, patch = tower.config, tower.spatial_merge_size, tower.patch_size
    parameter = tower.patch_embed.proj.weight
    height, width = grid_h // merge, grid_w // merge
    windows = window_cells((height, width), window_tokens(config))
    order = torch.cat(windows)
    inside = torch.arange(merge)
    across = (1, merge, merge)
    row = ((order // width * merge)[:, None, None] + inside[:, None]).expand(-1, *across[1:]).flatten()
    column = ((order % width * merge)[:, None, None] + inside).expand(-1, *across[1:]).flatten()
    rows = (row[:, None] * patch + torch.arange(patch)) * grid_w + column[:, None]

    lengths = tuple(len(w) * merge**2 for w in windows)
    longest, first = max(lengths), 0
    padded = torch.zeros(len(lengths), longest, dtype=torch.long)
    there = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for i, n in enumerate(lengths):
        padded[i] = first
        padded[i, :n] = torch.arange(first, first + n)
        there[i, :n] = True
        first += n
    even = len(set(lengths)) == 1
    bias = torch.zeros(there.shape).masked_fill(~there, -torch.inf)[:, None, None]

    frequencies = tower.rotary_pos_emb.inv_freq.detach().to("cpu", torch.float32)
    angles = torch.cat([row[:, None] * frequencies, column[:, None] * frequencies], -1)[:, None]
    cos, sin = angles.cos(), angles.sin()
    device = parameter.device
    return WindowTables(
        rows=rows.flatten().to(device),
        back=order.argsort().to(device),
        tokens=order.to(device),
        lengths=lengths,
        longest=longest,
        padded=None if even else padded.flatten().to(device),
        kept=there.flatten().nonzero()[:, 0].to(device),
        bias=None if even else bias.to(device, parameter.dtype),
        cos=torch.cat([cos, cos], -1).to(device),
        sin=torch.cat([-sin, sin], -1).to(device),
    )


def whole_attention(attention: Any, x: Tensor, tables: WindowTables) -> Tensor:
    """``[b, n, width]``: every patch of a picture sees all of that picture."""
    batch, n = x.shape[:2]
    qkv = attention.qkv(x).view(batch, n, 3, attention.num_heads, -1)
    q, k = (
        rotate(qkv[:, :, :2], tables.cos[:, None], tables.sin[:, None]).to(x.dtype).transpose(1, 3).unbind(2)
    )
    seen = scaled_dot_product_attention(q, k, qkv[:, :, 2].transpose(1, 2))
    out: Tensor = attention.proj(seen.transpose(1, 2).reshape(batch, n, -1))
    return out


def window_attention(attention: Any, x: Tensor, tables: WindowTables) -> Tensor:
    """``[b, n, width]``: every patch sees its window; all windows of all pictures are one batch."""
    batch, n = x.shape[:2]
    windows, longest, heads = len(tables.lengths), tables.longest, attention.num_heads
    qkv = attention.qkv(x).view(batch, n, 3, heads, -1)
    qk = rotate(qkv[:, :, :2], tables.cos[:, None], tables.sin[:, None]).to(x.dtype)
    v, bias = qkv[:, :, 2], tables.bias
    if tables.padded is not None:
        qk, v = qk.index_select(1, tables.padded), v.index_select(1, tables.padded)
    if bias is not None and batch > 1:
        bias = bias.repeat(batch, 1, 1, 1)
    q, k = qk.reshape(batch * windows, longest, 2, heads, -1).transpose(1, 3).unbind(2)
    v = v.reshape(batch * windows, longest, heads, -1).transpose(1, 2)
    seen = scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
    seen = seen.reshape(batch, windows * longest, -1)
    if tables.padded is not None:
        seen = seen.index_select(1, tables.kept)
    out: Tensor = attention.proj(seen)
    return out


class VisionTower(nn.Module):
    """The released tower for whole pictures of bytes.

    Args:
        released: ``network.model.visual``.
        spec: the checkpoint's image settings.
    """

    def __init__(self, released: Any, spec: PixelSpec) -> None:
        super().__init__()
        self.released = released
        self.patch_size = spec.patch_size
        self.embedding = PatchEmbedding(released, spec)
        # Of a function that does not hold this tower: in a circle, its weights would outlive it.
        self.tables = lru_cache(maxsize=_SIZES_KEPT)(partial(window_tables, released))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Features ``[b, tokens, hidden]``, tokens row by row, of pictures of one size.

        Args:
            pictures: ``[b, height, width, 3]`` uint8 on any device; the sides are multiples of a token's.
        """
        side = self.patch_size
        tables = self.tables(pictures.shape[1] // side, pictures.shape[2] // side)
        return self.features(pictures.to(tables.cos.device), tables, self.embedding.folded())

    def features(self, pictures: Tensor, tables: WindowTables, embedding: FoldedEmbedding) -> Tensor:
        """As :meth:`forward`, by tensors alone: pictures on the device, tables and embedding made."""
        return self.merge(self.run_blocks(self.embed(pictures, tables, embedding), tables), tables)

    def embed(self, pictures: Tensor, tables: WindowTables, embedding: FoldedEmbedding) -> Tensor:
        """``[b, n, width]`` of the patches, in the order of the windows."""
        side = self.patch_size
        rows = pictures.view(len(pictures), -1, 3 * side)
        patches = rows.index_select(1, tables.rows).view(-1, 3 * side * side)
        return embedding.embed(patches).view(len(pictures), tables.patches, -1)

    def run_blocks(self, x: Tensor, tables: WindowTables) -> Tensor:
        """``[b, n, width]`` through all blocks."""
        for number, block in enumerate(self.released.blocks):
            attend = whole_attention if number in self.released.fullatt_block_indexes else window_attention
            x = x + attend(block.attn, normalise(block.norm1, x), tables)
            x = x + block.mlp(normalise(block.norm2, x))
        return x

    def merge(self, x: Tensor, tables: WindowTables) -> Tensor:
        """Features ``[b, tokens, hidden]``, tokens row by row."""
        merged: Tensor = self.released.merger(x)
        return merged.view(len(x), len(tables.back), -1).index_select(1, tables.back)


_SIZES_KEPT = 16
"""Picture sizes whose tables are kept: cameras have few, and running out of memory halves them."""
_towers: WeakKeyDictionary[Qwen2_5_VLForConditionalGeneration, VisionTower] = WeakKeyDictionary()


def tower_of(network: Qwen2_5_VLForConditionalGeneration, spec: PixelSpec) -> VisionTower:
    """The network's tower: all sessions of one model share its tables."""
    tower = _towers.get(network)
    if tower is None or tower.embedding.spec != spec:
        tower = _towers[network] = VisionTower(network.model.visual, spec)
    return tower


class RecordedTower:
    """A tower whose forward is recorded once for each size of picture, and for one picture at a time.

    What is recorded reads the weights that were there: once they have changed, it is recorded anew.
    """

    def __init__(self, tower: VisionTower, accelerator: Accelerator) -> None:
        self._tower, self._accelerator = tower, accelerator
        self._replays: dict[torch.Size, tuple[Callable[[], Tensor], Tensor]] = {}
        self._embedding: FoldedEmbedding | None = None

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """As :meth:`VisionTower.forward`."""
        embedding = self._tower.embedding.folded()
        if embedding is not self._embedding:
            self._replays.clear()
            self._embedding = embedding
        known = self._replays.get(pictures.shape)
        if known is None:
            features: Tensor = self._tower(pictures)  # its tables are made
            if len(pictures) == 1 and len(self._replays) < _SIZES_KEPT:
                self._record_size(pictures.to(features.device, copy=True), embedding)
            return features
        replay, shown = known
        shown.copy_(pictures)
        return replay().clone()  # the next one writes over them

    def _record_size(self, shown: Tensor, embedding: FoldedEmbedding) -> None:
        _, height, width, _ = shown.shape
        side = self._tower.patch_size
        tables = self._tower.tables(height // side, width // side)
        replay = self._accelerator.record(
            lambda: self._tower.features(shown, tables, embedding), f"a picture of {width}x{height}"
        )
        if replay is not None:
            self._replays[shown.shape] = replay, shown


Encode = Callable[[Tensor], Tensor]
"""From pictures to features, as :meth:`VisionTower.forward`."""


def encode_pictures(tower: Encode, pictures: Sequence[npt.NDArray[np.uint8]]) -> list[Tensor]:
    """Features ``[tokens, hidden]`` of each picture; those of one size are one batch.

    Args:
        tower: a tower, or a recorded one.
        pictures: ``[height, width, 3]`` as :func:`vln_ros.engine.inputs.preprocess.fit` gives them.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        by_size.setdefault(picture.shape, []).append(i)
    features: dict[int, Tensor] = {}
    for numbers in by_size.values():
        batch = tower(torch.from_numpy(np.stack([pictures[i] for i in numbers])))
        features.update(zip(numbers, batch, strict=True))
    return [features[i] for i in range(len(pictures))]
