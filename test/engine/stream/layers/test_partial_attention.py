"""Attention in parts is attention: over any number of stretches of context, any groups of heads, any tree."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vln_ros.engine.stream.layers import partial_attention
from vln_ros.engine.stream.layers.partial_attention import attend


def plain(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float) -> Tensor:
    """In one go, in float64, the heads repeated."""
    groups = queries.shape[0] // keys.shape[0]
    repeated = [t.double().repeat_interleave(groups, 0) for t in (keys, values)]
    scores = queries.double() @ repeated[0].transpose(1, 2) * scale
    return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ repeated[1]


def states(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(
    stretches: list[int], n: int, heads: tuple[int, int], masked: bool, seed: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor], Tensor | None, Tensor]:
    kv_heads, groups = heads
    queries = 3.0 * states(seed, kv_heads * groups, n, 16)
    own = states(seed + 1, kv_heads, n, 16), states(seed + 2, kv_heads, n, 16)
    # As in a pool: token by token, so that a head's rows are apart.
    context = [
        tuple(states(seed + 3 + i, k, kv_heads, 16).transpose(0, 1)[None] + 0.1 * j for j in (0, 1))
        for i, k in enumerate(stretches)
    ]
    visible = torch.ones(n, n, dtype=torch.bool).tril()
    if masked:
        visible &= states(seed + 9, n, n) > 0
        visible |= torch.eye(n, dtype=torch.bool)
    keys, values = (torch.cat([*(c[i][0] for c in context), own[i]], 1) for i in (0, 1))
    seen = torch.nn.functional.pad(visible, (sum(stretches), 0), value=True)
    expected = plain(queries, keys, values, seen, 0.25)
    return queries, [(k, v) for k, v in context], own, visible if masked else None, expected


CASES = given(
    st.lists(st.integers(1, 40), max_size=4),
    st.integers(1, 20),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.booleans(),
    st.integers(0, 999),
)


@settings(max_examples=60, deadline=None)
@CASES
def test_parts_equal_the_whole(
    stretches: list[int], n: int, heads: tuple[int, int], masked: bool, seed: int
) -> None:
    queries, context, own, visible, expected = case(stretches, n, heads, masked, seed)
    got = attend(queries, context, own, visible, 0.25)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-5


@settings(max_examples=20, deadline=None)
@CASES
def test_by_hand_is_the_same_as_the_fused_kernel(
    stretches: list[int], n: int, heads: tuple[int, int], masked: bool, seed: int
) -> None:
    """For devices without a kernel that says what the weights summed up to."""
    queries, context, own, visible, expected = case(stretches, n, heads, masked, seed)
    grouped = queries.view(heads[0], heads[1], n, 16)
    keys, values = (t[:, None].expand(-1, heads[1], -1, -1) for t in own)
    seen = torch.ones(n, n, dtype=torch.bool).tril() if visible is None else visible
    parts = [partial_attention.by_hand(grouped, keys, values, seen, 0.25)]
    for keys, values in context:
        out, total = partial_attention.by_hand(grouped.flatten(1, 2)[None], keys, values, None, 0.25)
        parts.append((out.view(grouped.shape), total.view(grouped.shape[:-1])))
    got = partial_attention.joined(parts).reshape(expected.shape)
    assert (got - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.004)])
def test_half_precision_stays_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    queries, context, own, visible, _ = case([30, 7], 9, (2, 4), True, 5)

    def attended(over: torch.dtype) -> Tensor:
        """Of states that were rounded: what their rounding alone changes is no fault of the arithmetic."""
        there = queries, *own, *(t for stretch in context for t in stretch)
        q, k, v, *rest = (t.to(dtype).to(over) for t in there)
        return attend(q, list(zip(rest[::2], rest[1::2], strict=True)), (k, v), visible, 0.25)

    got, expected = attended(dtype), attended(torch.float32)
    assert got.dtype is dtype
    assert (got - expected).abs().max() <= tolerance
