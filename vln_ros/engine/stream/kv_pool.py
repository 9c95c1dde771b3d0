"""Keys and values of several streams in one pool of pages.

A page holds the same slots of every layer. A stream takes a page when it outgrows its last one and
gives pages back when it shrinks: what one robot frees another one uses, and growing copies nothing. In
each layer the pool is one tensor, token by token, so that a table of pages says where a stream's slots
are, as paged attention wants it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.stream.kv_cache import SlotCache, SlotLayer


class PoolFullError(torch.OutOfMemoryError):
    """No page is free: a stream has to give something up, as if the device had run out of memory."""


class KVPool:
    """Memory for the keys and values of all streams on one network, taken once.

    Args:
        tokens: slots for all streams together, rounded up to whole pages.
        page_tokens: slots of a page. Of its last page a stream leaves half unused on average.
        keep_original_keys: see :class:`SlotCache`; the same for all streams.
    """

    def __init__(
        self,
        network: Qwen2_5_VLForConditionalGeneration,
        *,
        tokens: int,
        page_tokens: int,
        keep_original_keys: bool = False,
    ) -> None:
        if tokens < 1 or page_tokens < 1:
            raise ValueError(f"tokens = {tokens}, page_tokens = {page_tokens}: both must be at least 1")
        self.network = network
        self.page_tokens = page_tokens
        self.keep_original_keys = keep_original_keys
        self.pages = -(-tokens // page_tokens)
        config: Any = network.config
        decoder: Any = network.model.language_model
        text, like = config.text_config, decoder.embed_tokens.weight
        head_dim = text.hidden_size // text.num_attention_heads
        shape = (self.pages * page_tokens, text.num_key_value_heads, head_dim)
        kinds = 3 if keep_original_keys else 2
        self._tensors = [[like.new_zeros(shape) for _ in range(kinds)] for _ in range(text.num_hidden_layers)]
        self._used = [False] * self.pages

    @property
    def allocated_bytes(self) -> int:
        """Of the whole pool."""
        return sum(t.nbytes for layer in self._tensors for t in layer)

    @property
    def free_pages(self) -> int:
        return self._used.count(False)

    def new_cache(self) -> PagedCache:
        """An empty stream's cache."""
        return PagedCache(self)

    def storage(self, layer: int) -> list[Tensor]:
        """Keys, values and originals of all pages ``[1, kv_heads, slots, head_dim]``."""
        return [tensor.transpose(0, 1)[None] for tensor in self._tensors[layer]]

    def take(self, behind: int | None) -> int:
        """A free page: if possible the one ``behind`` the given page, so that a stream lies in few pieces.

        Else it is the middle of the longest free stretch, so that both neighbours have room to grow.

        Raises:
            PoolFullError: there is none.
        """
        page = 0 if behind is None else behind + 1
        if behind is None or page >= self.pages or self._used[page]:
            start, length = self._longest_stretch()
            if not length:
                raise PoolFullError(
                    f"all {self.pages} pages of {self.page_tokens} tokens are in use: out of memory for keys "
                    "and values; set a larger qwen.stream.pool_tokens or a smaller qwen.stream.token_budget"
                )
            page = start if start == 0 else start + length // 2
        self._used[page] = True
        for layer in self._tensors:
            for tensor in layer:  # of what another stream has left here not even a NaN gets through
                tensor[page * self.page_tokens : (page + 1) * self.page_tokens].zero_()
        return page

    def give_back(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._used[page] = False

    def _longest_stretch(self) -> tuple[int, int]:
        """First page and number of pages."""
        best, start = (0, 0), 0
        for page, used in enumerate([*self._used, True]):
            if used:
                best = max(best, (start, page - start), key=lambda stretch: stretch[1])
                start = page + 1
        return best


class PageTable:
    """Which pages a stream has, in the order of its slots."""

    def __init__(self, pool: KVPool, device: torch.device) -> None:
        self._pool = pool
        self._pages: list[int] = []
        weakref.finalize(self, pool.give_back, self._pages)  # a stream that is dropped without a word, too
        # For the whole pool at once: growing it would copy what grows with the stream.
        self._rows = torch.zeros(pool.pages * pool.page_tokens, dtype=torch.long, device=device)

    @property
    def pages(self) -> tuple[int, ...]:
        return tuple(self._pages)

    @property
    def capacity(self) -> int:
        """Slots."""
        return len(self._pages) * self._pool.page_tokens

    def resize(self, tokens: int) -> None:
        """Take or give back pages, so that they are as many as ``tokens`` need. All that is lacking, or none.

        Raises:
            PoolFullError: so many are not free.
        """
        size = self._pool.page_tokens
        wanted, before = -(-tokens // size), len(self._pages)
        try:
            while len(self._pages) < wanted:
                page = self._pool.take(self._pages[-1] if self._pages else None)
                at = len(self._pages) * size
                self._rows[at : at + size] = torch.arange(page * size, (page + 1) * size)
                self._pages.append(page)
        except PoolFullError:
            wanted = before
            raise
        finally:
            self._pool.give_back(self._pages[wanted:])
            del self._pages[wanted:]

    def rows(self, slots: Tensor) -> Tensor:
        """``[n]`` where the slots ``[n]`` lie in the pool."""
        return self._rows[slots.to(self._rows.device)]

    def span(self, start: int, end: int) -> Tensor:
        """:meth:`rows` of consecutive slots."""
        return self._rows[start:end]

    def runs(self, length: int) -> list[tuple[int, int]]:
        """First row and number of rows of each stretch that the first ``length`` slots lie in."""
        size = self._pool.page_tokens
        found: list[tuple[int, int]] = []
        for index, page in enumerate(self._pages[: -(-length // size)]):
            count = min(size, length - index * size)
            if found and sum(found[-1]) == page * size:
                found[-1] = found[-1][0], found[-1][1] + count
            else:
                found.append((page * size, count))
        return found


def _in_order(kind: int) -> Any:
    """What the base classes hold as a tensor of their own; that they begin without one says nothing here."""

    def get(layer: _PagedLayer) -> Tensor | None:
        return layer.in_order(kind)

    def begin(_layer: _PagedLayer, _: None) -> None:
        pass

    return property(get, begin)


class _PagedLayer(SlotLayer):
    """One layer of a stream in the pool."""

    def __init__(self, pool: KVPool, index: int, table: PageTable) -> None:
        super().__init__(pool.page_tokens, pool.keep_original_keys)
        self._storage, self._table = pool.storage(index), table
        self.dtype, self.device = self._storage[0].dtype, self._storage[0].device
        self.is_initialized = True

    # Slot by slot, for whoever only looks: of several pieces these are copies.
    keys = _in_order(0)
    values = _in_order(1)
    original_keys = _in_order(2)

    @property
    def capacity(self) -> int:
        return self._table.capacity

    def storage(self) -> list[Tensor]:
        return self._storage

    def rows(self, slots: Tensor) -> Tensor:
        return self._table.rows(slots)

    def runs(self, length: int) -> list[tuple[Tensor, Tensor]]:
        keys, values = self._storage[:2]
        return [
            (keys[:, :, row : row + n], values[:, :, row : row + n]) for row, n in self._table.runs(length)
        ]

    def write(self, start: int, states: list[Tensor]) -> None:
        for buffer, new in zip(self._storage, states, strict=False):
            buffer.index_copy_(2, self._table.span(start, start + new.shape[2]), new)

    def resize(self, tokens: int) -> None:
        self._table.resize(tokens)

    def in_order(self, kind: int) -> Tensor | None:
        """The tensor of that kind, slot by slot; None without it."""
        if kind >= len(self._storage):
            return None
        runs = self._table.runs(self.capacity)
        pieces = [self._storage[kind][:, :, row : row + n] for row, n in runs]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces, 2) if pieces else self._storage[kind][:, :, :0]


class PagedCache(SlotCache):
    """A stream's keys and values in a pool. Of several pieces the released attention reads copies."""

    paged = True

    def __init__(self, pool: KVPool) -> None:
        self._pool = pool
        decoder: Any = pool.network.model.language_model
        super().__init__(
            pool.network.config, decoder.rotary_emb.inv_freq, pool.page_tokens, pool.keep_original_keys
        )
        self._begin_empty()

    @property
    def pages(self) -> tuple[int, ...]:
        """The pages in use, in the order of their slots."""
        return self._table.pages

    def fork(self) -> PagedCache:
        """An independent copy in the same pool. Raises PoolFullError."""
        other = self._pool.new_cache()
        other.reserve(self.length, self._pool.storage(0)[0])
        every = torch.arange(self.length)
        for mine, copy in zip(self.layers, other.layers, strict=True):
            source, target = mine.rows(every), copy.rows(every)
            for theirs, buffer in zip(copy.storage(), mine.storage(), strict=True):
                theirs[:, :, target] = buffer[:, :, source]
            copy.length = mine.length
        self._copy_records(other)
        return other

    def blank(self) -> None:
        """Nothing is left of what was ever written to its own pages."""
        rows = self._table.span(0, self._table.capacity)
        for layer in self.layers:
            for buffer in layer.storage():
                buffer.index_fill_(2, rows, 0.0)
        self._serials.zero_()

    def discard(self) -> None:
        """Give every page back."""
        self._table.resize(0)
        super().discard()
        self._begin_empty()

    def _begin_empty(self) -> None:
        self._table = PageTable(self._pool, self._pool.storage(0)[0].device)
        self.layers = [_PagedLayer(self._pool, i, self._table) for i in range(len(self.layers))]
