"""Runs the vision tower on some of the windows of a picture, and keeps what a later picture may take over.

Most blocks of the tower look within a window only, so a window can be left out of them altogether. In the
few blocks that look at the whole picture, a window that was left out takes part with the keys and values of
an earlier picture's tokens, turned to the place where they are shown now. That is an approximation; of a
picture whose windows are all computed, the released tower makes the same to rounding.

How many rows the tower has depends on the bucket alone: what the windows leave of it is filled with copies
of the first token. What is computed is a matter of index tables, which are inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from vln_ros.engine.checkpoint.settings import PixelSpec
from vln_ros.engine.stream.layers.patch_embedding import PatchEmbedding

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TowerStates:
    """What the tower made of a picture; tokens are numbered row by row.

    Attributes:
        features: ``[tokens, hidden]``.
        keys, values: ``[tokens, patches of a token, heads, head width]`` of each block with full attention;
            keys are not turned to their place yet.
        is_fresh: all of it was computed from this very picture.
    """

    features: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    is_fresh: bool = True


@dataclass(frozen=True, eq=False)
class TowerPart:
    """Which windows of a picture are computed, and what the others take over.

    Attributes:
        computed: ``[tokens]`` bool, whole windows.
        token: ``[tokens]``, of those that are not computed: whose states in ``source`` they take over.
        source: the states of one earlier picture of the same size.
        bucket: number of tokens that the tower computes; at least as many as there are in ``computed``.
    """

    computed: npt.NDArray[np.bool_]
    token: IntArray
    source: TowerStates
    bucket: int


def window_tokens(vision_config: Any) -> int:
    """Side of a window of the tower, in tokens."""
    return int(vision_config.window_size // vision_config.spatial_merge_size // vision_config.patch_size)


def window_cells(grid: tuple[int, int], side: int) -> list[Tensor]:
    """The tokens of each window ``side`` wide, numbered row by row in the picture."""
    numbers = torch.arange(grid[0] * grid[1]).reshape(grid)
    return [cell.flatten() for row in numbers.split(side) for cell in row.split(side, 1)]


@lru_cache(maxsize=8)
def window_of_token(grid: tuple[int, int], side: int) -> IntArray:
    """``[tokens]`` the number of the window that each token is in."""
    window = np.empty(grid[0] * grid[1], np.int64)
    for number, cells in enumerate(window_cells(grid, side)):
        window[cells.numpy()] = number
    window.setflags(write=False)
    return window


def patch_positions(grid: tuple[int, int], merge: int) -> Tensor:
    """``[patches, 2]`` row and column of each patch, those of a token together."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0] * merge), torch.arange(grid[1] * merge), indexing="ij"
    )
    both = torch.stack([rows, columns], -1).reshape(grid[0], merge, grid[1], merge, 2)
    return both.transpose(1, 2).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class PartTables:
    """Where the rows of a partial pass come from and go to. Shapes follow from grid and bucket alone.

    Attributes:
        tokens: ``[bucket]`` which token each row's patches are of; copies of the first one at the end.
        slots: ``[windows * longest]`` the patch row that goes to each place of the padded windows.
        padding: ``[windows, 1, 1, longest]`` bool, which of those places hold a patch of their window.
        rows: ``[bucket * patches of a token]`` the place of each patch row among those.
    """

    tokens: Tensor
    slots: Tensor
    padding: Tensor
    rows: Tensor

    @staticmethod
    def of(computed: npt.NDArray[np.bool_], window: IntArray, bucket: int, patches: int) -> PartTables:
        """Args: ``window``: see :func:`window_of_token`; ``patches`` of a token."""
        sizes = np.bincount(window)
        longest, count = int(sizes.max()) * patches, most_windows(sizes, bucket)
        chosen = np.flatnonzero(computed)
        chosen = chosen[np.argsort(window[chosen], kind="stable")]
        number, first, lengths = np.unique(window[chosen], return_index=True, return_counts=True)
        if not len(chosen) or len(chosen) > bucket or (lengths != sizes[number]).any():
            raise ValueError(
                f"{len(chosen)} of {len(window)} tokens to compute in {bucket} rows: must be whole windows, "
                "at least one, and no more than fit"
            )
        tokens = np.full(bucket, chosen[0])
        tokens[: len(chosen)] = chosen
        slots = np.zeros((count, longest), np.int64)
        padding = np.zeros((count, longest), bool)
        padding[len(number) :] = True  # nobody reads them; a softmax of nothing would not be a number
        rows = np.empty(bucket * patches, np.int64)
        for place, (start, length) in enumerate(zip(first * patches, lengths * patches, strict=True)):
            slots[place, :length] = np.arange(start, start + length)
            padding[place, :length] = True
            rows[start : start + length] = place * longest + np.arange(length)
        rows[len(chosen) * patches :] = np.tile(rows[:patches], bucket - len(chosen))
        return PartTables(
            torch.from_numpy(tokens),
            torch.from_numpy(slots.ravel()),
            torch.from_numpy(padding[:, None, None]),
            torch.from_numpy(rows),
        )


def turn_tables(
    visual: Any, merge: int, grid: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine that turn the keys of each patch to its place."""
    places = patch_positions(grid, merge).to(device)
    cos, sin = visual.rotary_pos_emb(torch.empty(1, dtype=dtype, device=device), places)
    return cos, sin


def most_windows(sizes: IntArray, bucket: int) -> int:
    """How many windows of these sizes fit into ``bucket`` tokens at most."""
    return int((np.cumsum(np.sort(sizes)) <= bucket).sum())


@contextmanager
def keep_states(network: Qwen2_5_VLForConditionalGeneration) -> Iterator[list[Tensor]]:
    """Within, keys and values of the tower's blocks with full attention are noted, block by block.

    ``[patches, 2, heads, head width]``, in the order of its windows; what it computes stays what it is.
    """
    visual: Any = network.model.visual
    noted: list[Tensor] = []

    def note(module: Any, _inputs: Any, output: Tensor) -> None:
        heads = visual.config.num_heads
        noted.append(output.reshape(-1, 3, heads, output.shape[-1] // 3 // heads)[:, 1:])

    hooks = [visual.blocks[i].attn.qkv.register_forward_hook(note) for i in full_blocks(visual)]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def full_blocks(visual: Any) -> list[int]:
    """The blocks that look at the whole picture, in order."""
    return sorted(visual.fullatt_block_indexes)


def states_of(
    network: Qwen2_5_VLForConditionalGeneration, noted: list[Tensor], features: Tensor, grid: tuple[int, int]
) -> TowerStates:
    """What :func:`keep_states` noted of one whole picture of ``grid`` tokens."""
    config: Any = network.config.vision_config
    order = torch.cat(window_cells(grid, window_tokens(config)))
    back = order.argsort().to(features.device)
    merged = config.spatial_merge_size**2
    by_token = [n.unflatten(0, (-1, merged)).index_select(0, back) for n in noted]
    keys, values = (tuple(n[:, :, i].contiguous() for n in by_token) for i in (0, 1))
    return TowerStates(features, keys, values)


class PartialTower:
    """The tower of one network, for pictures of any grid.

    Args:
        released: ``network.model.visual``.
        embedding: its patch embedding.
    """

    def __init__(self, released: Any, embedding: PatchEmbedding) -> None:
        self._visual, self._embedding = released, embedding
        # Of a function that does not hold this tower: in a circle, its weights would outlive it.
        self._turn = lru_cache(maxsize=2)(partial(turn_tables, released, embedding.spec.merge_size))

    @torch.no_grad()
    def encode(self, picture: Tensor, part: TowerPart) -> TowerStates:
        """The states of a picture ``[H, W, 3]`` uint8 on the network's device, at the size of the model.

        Raises:
            ValueError: what is to be computed are no whole windows, or do not fit into the bucket.
        """
        visual, spec = self._visual, self._embedding.spec
        merged, side = spec.merge_size**2, spec.token_side
        grid = (picture.shape[0] // side, picture.shape[1] // side)
        device = picture.device
        window = window_of_token(grid, window_tokens(visual.config))
        tables = PartTables.of(part.computed, window, part.bucket, merged)
        tokens, slots, rows = (t.to(device) for t in (tables.tokens, tables.slots, tables.rows))
        # Without a mask the fast kernels are taken; all windows are alike in many sizes.
        padding = None if bool(tables.padding.all()) else tables.padding.to(device)
        token = torch.from_numpy(np.where(part.computed, 0, part.token)).to(device)
        at = (tokens[:, None] * merged + torch.arange(merged, device=device)).flatten()
        x = self._embedding.folded().embed(_patches(picture, tokens, grid, spec))
        all_cos, all_sin = self._turn(grid, device, x.dtype)
        cos, sin = all_cos[at], all_sin[at]
        count, heads = len(x), visual.config.num_heads
        full = full_blocks(visual)
        keys, values = [], []

        def windowed(states: Tensor) -> Tensor:
            return states[slots].view(len(tables.padding), -1, heads, states.shape[-1]).transpose(1, 2)

        for number, block in enumerate(visual.blocks):
            attention = block.attn
            query, key, value = attention.qkv(block.norm1(x)).view(count, 3, heads, -1).unbind(1)
            if number in full:
                index = full.index(number)
                key = _merged(part.source.keys[index], token, tokens, key)
                value = _merged(part.source.values[index], token, tokens, value)
                keys.append(key)
                values.append(value)
                query, _ = apply_rotary_pos_emb_vision(query, query, cos, sin)
                key = key.flatten(0, 1)
                key, _ = apply_rotary_pos_emb_vision(key, key, all_cos, all_sin)
                query, key, value = (t.transpose(0, 1)[None] for t in (query, key, value.flatten(0, 1)))
                seen = scaled_dot_product_attention(query, key, value)[0].transpose(0, 1)
            else:
                query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
                query, key, value = (windowed(t) for t in (query, key, value))
                seen = scaled_dot_product_attention(query, key, value, attn_mask=padding)
                seen = seen.transpose(1, 2).flatten(0, 1)[rows]
            x = x + attention.proj(seen.reshape(count, -1))
            x = x + block.mlp(block.norm2(x))
        features = part.source.features.index_select(0, token)
        features.index_copy_(0, tokens, visual.merger(x).to(features.dtype))
        fresh = bool(part.computed.all())
        return TowerStates(features, tuple(keys), tuple(values), fresh)


def _patches(picture: Tensor, tokens: Tensor, grid: tuple[int, int], spec: PixelSpec) -> Tensor:
    """``[rows, values]`` uint8 of these tokens, the patches of each together."""
    side, merge, patch = spec.token_side, spec.merge_size, spec.patch_size
    cut = picture.view(grid[0], side, grid[1], side, 3).transpose(1, 2).flatten(0, 1)[tokens]
    blocks = cut.view(-1, merge, patch, merge, patch, 3).transpose(2, 3)
    return blocks.reshape(len(tokens) * merge * merge, -1)


def _merged(old: Tensor, token: Tensor, tokens: Tensor, new: Tensor) -> Tensor:
    """Those of ``old`` at ``token``, and ``new`` ones of ``tokens``, copies of one token being equal."""
    states = old.index_select(0, token)
    states.index_copy_(0, tokens, new.reshape(len(tokens), *states.shape[1:]))
    return states
