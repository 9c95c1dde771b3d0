"""Reads a stream's keys and values for a chunk of new tokens, and for a token tree at its end.

Heads that share keys and values are never repeated in memory. Three ways say the same:

* :class:`FusedAttention`, for GPUs: nothing has a mask, so that flash attention can do it: the prompt reads
  causally, a tree's nodes read all before the tree, and each of them its few ancestors; the two are merged by
  log-sum-exp.
* :class:`ProcessorAttention`: what is before the chunk has no mask, which is most of it.
* :class:`MaskedAttention`, for everything else: one call with a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.tree import Paths


class Attention(Protocol):
    """How the tokens of one chunk see what is in the cache."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``[1, n, heads, width]`` of ``queries`` likewise.

        Args:
            keys, values: ``[1, kv_heads, capacity, width]`` with the chunk's own in their slots.
        """


class ProcessorAttention:
    """What is before the chunk without a mask, the chunk itself with a small one, merged by log-sum-exp."""

    def __init__(self, prefill: Prefill) -> None:
        self._before, n = prefill.before.tokens, len(prefill.embeddings)
        self._end = self._before + n
        self._is_one = n == 1
        self._mask: Tensor | None = None
        if len(prefill.tree):
            seen = torch.ones(n, n, dtype=torch.bool).tril()
            seen[prefill.prompt :, prefill.prompt :] = prefill.tree.ancestors
            zeros = torch.zeros(n, n, dtype=prefill.embeddings.dtype)
            self._mask = zeros.masked_fill_(seen.logical_not(), -torch.inf)

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows = queries.transpose(1, 2)
        before, end = self._before, self._end
        if self._is_one:
            return _read(rows, keys[:, :, :end], values[:, :, :end])[0].transpose(1, 2)
        near, near_weight = _read(
            rows, keys[:, :, before:end], values[:, :, before:end],
            is_causal=self._mask is None, attn_mask=self._mask,
        )  # fmt: skip
        if before:
            far = _read(rows, keys[:, :, :before], values[:, :, :before])
            near = merge(*far, near, near_weight)
        return near.transpose(1, 2)


def _read(
    queries: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool = False, attn_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What ``scaled_dot_product_attention`` calls on a processor; it alone says the weights, too."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, weight = attend(queries, keys, values, is_causal=is_causal, attn_mask=attn_mask)
    return out, weight


class MaskedAttention:
    """One call over a fixed number of slots. What is seen follows from tensors alone.

    Args:
        ancestors: of the chunk's tree, on the device.
    """

    def __init__(self, prefill: Prefill, columns: int, ancestors: Tensor) -> None:
        self._columns = columns
        device, dtype = prefill.embeddings.device, prefill.embeddings.dtype
        slots = torch.arange(columns, device=device)
        seen = slots <= prefill.slots[:, None]
        nodes = len(ancestors)
        if nodes:
            behind = slots - prefill.lengths[0, 4]
            own = ancestors[:, behind.clamp(0, nodes - 1)]
            of_tree = (behind < 0) | (own & (behind < nodes))
            seen = torch.cat([seen[: prefill.prompt], of_tree])
        self._mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)

    @staticmethod
    def of(prefill: Prefill, columns: int) -> Callable[[Prefill], Attention]:
        """For chunks of this form, with what is the same for all of them made already."""
        ancestors = prefill.tree.ancestors_on(prefill.embeddings.device)
        return lambda chunk: MaskedAttention(chunk, columns, ancestors)

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys[:, :, : self._columns],
            values[:, :, : self._columns],
            attn_mask=self._mask,
            enable_gqa=queries.shape[2] != keys.shape[1],
        ).transpose(1, 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reading:
    """Which queries read which slots: a list of sequences, each on its own.

    All tensors are int32 and on the device, so that a recorded graph can be run again with others.

    Attributes:
        queries: ``[sequences + 1]`` where each sequence's queries begin, and the end of the last.
        slots: likewise where its slots begin.
        seen: ``[sequences]`` how many of them are to be read; None: all.
        longest_queries, longest_slots: of any sequence.
        causal: a sequence's last query sees all that is to be read, each one before that a slot less.
    """

    queries: Tensor
    slots: Tensor
    seen: Tensor | None
    longest_queries: int
    longest_slots: int
    causal: bool


class Read(Protocol):
    """An attention without a mask that says how much weight it found."""

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, reading: Reading
    ) -> tuple[Tensor, Tensor]:
        """``[n, heads, width]``, and the log-sum-exp ``[n, heads]`` of the scores.

        Args:
            queries: ``[n, heads, width]``.
            keys, values: ``[slots, kv_heads, width]``.
        """


class FusedAttention:
    """The prompt reads causally; a tree's nodes read what is before the tree, and their ancestors.

    Args:
        paths: of the chunk's tree, on the device; None: it has none.
    """

    def __init__(self, prefill: Prefill, read: Read, paths: Paths | None) -> None:
        self._read = read
        nodes, self._prompt = len(prefill.tree), prefill.prompt
        prompt, tree = prefill.lengths.to(torch.int32).unbind()
        capacity = prefill.capacity
        self._of_prompt = Reading(
            queries=prompt[:2], slots=prompt[2:4], seen=prompt[4:],
            longest_queries=self._prompt, longest_slots=capacity, causal=True,
        )  # fmt: skip
        self._of_tree = replace(self._of_prompt, queries=tree[:2], longest_queries=nodes, causal=False)
        self._paths: Tensor | None = None
        if paths is not None:
            self._paths = paths.nodes + prefill.lengths[0, 4]  # behind all that is before the tree
            self._of_paths = Reading(
                queries=paths.each, slots=paths.begins, seen=None,
                longest_queries=1, longest_slots=paths.longest, causal=False,
            )  # fmt: skip

    @staticmethod
    def of(prefill: Prefill, read: Read | None = None) -> Callable[[Prefill], Attention]:
        """For chunks of this form, with what is the same for all of them made already.

        Args:
            read: None for :func:`read_by_flash`.
        """
        paths = prefill.tree.paths_on(prefill.embeddings.device) if len(prefill.tree) else None
        return lambda chunk: FusedAttention(chunk, read or read_by_flash, paths)

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        slots, contents = keys[0].transpose(0, 1), values[0].transpose(0, 1)
        rows = queries[0]
        prompt, _ = self._read(rows[: self._prompt], slots, contents, self._of_prompt)
        if self._paths is None:
            return prompt[None]
        asked = rows[self._prompt :]
        far = self._read(asked, slots, contents, self._of_tree)
        path = slots.index_select(0, self._paths), contents.index_select(0, self._paths)
        return torch.cat([prompt, merge(*far, *self._read(asked, *path, self._of_paths))])[None]


def merge(far: Tensor, far_weight: Tensor, near: Tensor, near_weight: Tensor) -> Tensor:
    """Attentions ``[n, heads, width]`` over different slots, of weights ``[n, heads]``, as one over all."""
    share = (near_weight - far_weight).sigmoid()[..., None].to(far.dtype)
    return torch.lerp(far, near, share)


def read_by_flash(queries: Tensor, keys: Tensor, values: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
    """A :class:`Read` for GPUs, in half precision."""
    out, weight = varlen_attn(
        queries, keys, values, reading.queries, reading.slots, reading.longest_queries, reading.longest_slots,
        window_size=(-1, 0) if reading.causal else (-1, -1), enable_gqa=True, seqused_k=reading.seen,
        return_aux=AuxRequest(lse=True),
    )  # fmt: skip
    return out, weight.T  # it comes head by head, whatever its documentation says


def read_plainly(queries: Tensor, keys: Tensor, values: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
    """A :class:`Read` in plain arithmetic, which waits for the device: what others must equal."""
    groups = queries.shape[1] // keys.shape[1]
    begins, ends = reading.slots[:-1].tolist(), reading.slots[1:].tolist()
    if reading.seen is not None:
        ends = [begin + seen for begin, seen in zip(begins, reading.seen.tolist(), strict=True)]
    found: list[Tensor] = []
    weights: list[Tensor] = []
    for rows, begin, end in zip(queries.split(reading.queries.diff().tolist()), begins, ends, strict=True):
        k, v = (t[begin:end].repeat_interleave(groups, 1).float() for t in (keys, values))
        scores = torch.einsum("nhd,shd->nhs", rows.float(), k) * rows.shape[-1] ** -0.5
        if reading.causal:
            visible = torch.ones(len(rows), len(k), dtype=torch.bool, device=k.device).tril(
                len(k) - len(rows)
            )
            scores = scores.masked_fill(~visible[:, None], -torch.inf)
        found.append(torch.einsum("nhs,shd->nhd", scores.softmax(-1), v).to(queries.dtype))
        weights.append(scores.logsumexp(-1))
    return torch.cat(found), torch.cat(weights)


@cache
def flash_fault(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int
) -> str | None:
    """Why :func:`read_by_flash` cannot be used for heads of this shape; None: it says what it should."""
    if device.type == "meta":
        return None  # shapes without numbers: what is counted of them is what a GPU would do
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return f"flash attention is for half precision on a GPU, not for {dtype} on {device.type}"
    return trial_fault(read_by_flash, device, dtype, heads, kv_heads, width)


def trial_fault(
    read: Read, device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int
) -> str | None:
    """Why ``read`` cannot be used; None: on a few numbers it says what plain arithmetic says.

    Which GPUs, widths and versions of torch flash attention serves is a long list, and would be out of date.
    """
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    def numbers(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    queries, keys, values = some(7, heads, width), some(40, kv_heads, width), some(40, kv_heads, width)
    one = Reading(
        queries=numbers(0, 7), slots=numbers(0, 40), seen=numbers(33),
        longest_queries=7, longest_slots=40, causal=True,
    )  # fmt: skip
    many = Reading(
        queries=numbers(*range(8)), slots=numbers(0, 1, 3, 9, 10, 20, 31, 40), seen=None,
        longest_queries=1, longest_slots=11, causal=False,
    )  # fmt: skip
    for reading in (one, replace(one, causal=False), many):
        try:
            found = read(queries, keys, values, reading)
        except (RuntimeError, TypeError, ValueError) as error:
            return f"flash attention fails: {str(error).splitlines()[0]}"
        for ours, expected in zip(found, read_plainly(queries, keys, values, reading), strict=True):
            if ours.shape != expected.shape or not torch.allclose(ours.float(), expected.float(), atol=0.05):
                return "flash attention says something else than plain arithmetic"
    return None
