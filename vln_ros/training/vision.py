"""Runs the vision tower for many frames of one size at once.

The released code runs its attention window by window and frame by frame; that is most of its time
for small pictures. Here all frames go through a window together. The numbers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vln_ros.engine.stream.partial_tower import patch_positions
from vln_ros.engine.stream.partial_tower import window_cells as window_cells
from vln_ros.engine.stream.partial_tower import window_tokens as window_tokens


def encode_frames(
    visual: Any, patches: Tensor, grid: tuple[int, int], origins: Tensor | None = None
) -> Tensor:
    """Features ``[frames, tokens, hidden]``, as ``get_image_features`` would give them.

    Args:
        visual: the vision tower of a ``Qwen2_5_VLForConditionalGeneration``.
        patches: ``[frames, patches, values]`` of single images: one half of each temporal patch, for both
            are equal.
        grid: rows and columns of tokens of a frame.
        origins: ``[frames * tokens]``: whose keys and values a token has in layers of full attention, its
            own number or another one's; None: all have their own. Keys are turned to the token's place.
    """
    config = visual.config
    merge = config.spatial_merge_size
    order, bounds = _windows(grid, window_tokens(config))
    order = order.to(patches.device)
    kernel = visual.patch_embed.proj.weight
    frames, count = patches.shape[:2]
    # Both halves hold the same picture, so the sum of the kernels over time does with one.
    x = (patches @ kernel.sum(2).flatten(1).T).float()

    def windowed(values: Tensor) -> Tensor:
        """``[..., patches, n]`` from the processor's order to the windows'."""
        blocks = values.reshape(*values.shape[:-2], -1, merge * merge, values.shape[-1])
        return blocks.index_select(-3, order).reshape(values.shape)

    cos, sin = visual.rotary_pos_emb(x, patch_positions(grid, merge).to(patches.device))
    cos, sin = windowed(cos)[:, None], windowed(sin)[:, None]
    x = windowed(x)
    whole = [(0, count)]
    parts = [(a * merge**2, b * merge**2) for a, b in bounds]
    taken = None if origins is None else _taken_rows(origins, order, merge)
    for number, block in enumerate(visual.blocks):
        attention = block.attn
        full = number in visual.fullatt_block_indexes
        qkv = attention.qkv(block.norm1(x)).reshape(frames, count, 3, attention.num_heads, -1)
        query, key, value = qkv.unbind(2)
        if full and taken is not None:
            key, value = (t.flatten(0, 1)[taken].view(t.shape) for t in (key, value))
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        query, key, value = (t.transpose(1, 2).float() for t in (query, key, value))
        # Never in bfloat16: for windows this small its gradient takes four times as long on a CPU.
        with torch.autocast(x.device.type, enabled=False):
            seen = [
                scaled_dot_product_attention(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b])
                for a, b in (whole if full else parts)
            ]
        x = x + attention.proj(torch.cat(seen, 2).transpose(1, 2).reshape(frames, count, -1))
        x = x + block.mlp(block.norm2(x))
    merged = visual.merger(x.reshape(frames * count, -1)).reshape(frames, count // merge**2, -1)
    features: Tensor = merged[:, order.argsort()]
    return features


def _taken_rows(origins: Tensor, order: Tensor, merge: int) -> Tensor:
    """``[frames * patches]``, in the order of the windows: the row whose keys and values each patch has."""
    tokens = len(order)
    at = order.argsort()  # where in the order of the windows each token is
    wanted = origins.view(-1, tokens)[:, order]
    row = wanted // tokens * tokens + at[wanted % tokens]
    patch = torch.arange(merge * merge, device=origins.device)
    return (row[..., None] * merge * merge + patch).flatten()


def _windows(grid: tuple[int, int], side: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tokens in the order of their windows ``side`` wide, and the range of each window in it."""
    cells = window_cells(grid, side)
    ends = torch.tensor([len(c) for c in cells]).cumsum(0).tolist()
    return torch.cat(cells), list(zip([0, *ends[:-1]], ends, strict=True))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin
