"""Attention over keys that lie in several places: each place on its own, joined by log-sum-exp.

Nothing is copied that grows with the context: neither keys nor values are moved together, and the heads that
share them are not repeated; each group's queries become more rows against the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Partial = tuple[Tensor, Tensor]
"""Weighted values ``[kv_heads, groups, n, head_dim]``, and the log of the weights' sum ``[..., n]``."""


def attend(
    queries: Tensor,
    context: Sequence[tuple[Tensor, Tensor]],
    own: tuple[Tensor, Tensor],
    own_visible: Tensor | None,
    scale: float,
) -> Tensor:
    """What ``n`` tokens read from the context before them and from each other.

    Args:
        queries: ``[heads, n, head_dim]``.
        context: keys and values ``[1, kv_heads, slots, head_dim]`` that all of the tokens see, in any order
            and with any strides but the last dimension's.
        own: keys and values ``[kv_heads, n, head_dim]`` of the tokens themselves.
        own_visible: ``[n, n]`` bool, which of them each sees; None: all before it and itself.

    Returns:
        ``[heads, n, head_dim]``.
    """
    heads, n, width = queries.shape
    kv_heads = own[0].shape[0]
    grouped = queries.reshape(kv_heads, heads // kv_heads, n, width)
    parts = [_over_context(grouped, keys, values, scale) for keys, values in context]
    parts.append(_over_own(grouped, *own, own_visible, scale))
    return joined(parts).reshape(heads, n, width)


def _over_context(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Partial:
    rows = queries.flatten(1, 2)[None]  # groups and tokens: without a mask all rows are alike
    if rows.device.type == "cpu":
        out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            rows, keys, values, scale=scale
        )
    elif rows.device.type == "cuda" and rows.dtype in (torch.float16, torch.bfloat16):
        out, total = torch.ops.aten._scaled_dot_product_flash_attention(rows, keys, values, scale=scale)[:2]
    else:
        out, total = by_hand(rows, keys, values, None, scale)
    return out.reshape(queries.shape), total.reshape(queries.shape[:-1])


def _over_own(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, scale: float) -> Partial:
    keys = keys[:, None].expand(-1, queries.shape[1], -1, -1)
    values = values[:, None].expand(-1, queries.shape[1], -1, -1)
    if queries.device.type == "cpu":
        mask = None
        if visible is not None:
            mask = torch.zeros(visible.shape, dtype=queries.dtype).masked_fill(~visible, -torch.inf)
        out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, is_causal=visible is None, attn_mask=mask, scale=scale
        )
        return out, total
    if visible is None:
        n = queries.shape[2]
        visible = torch.ones(n, n, dtype=torch.bool, device=queries.device).tril()
    return by_hand(queries, keys, values, visible, scale)


def by_hand(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, scale: float) -> Partial:
    scores = queries.float() @ keys.float().transpose(-1, -2) * scale
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    total = scores.logsumexp(-1)
    return ((scores - total[..., None]).exp() @ values.float()).to(values.dtype), total


def joined(parts: Sequence[Partial]) -> Tensor:
    if len(parts) == 1:
        return parts[0][0]
    weights = torch.stack([total for _, total in parts]).softmax(0)
    outs = torch.stack([out for out, _ in parts])
    return (outs * weights[..., None]).sum(0).to(outs.dtype)
