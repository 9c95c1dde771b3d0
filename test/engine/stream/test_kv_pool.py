"""Streams in one pool are what they would be in memory of their own, and none knows of the others."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from engine_models import tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.engine.oom_fallback import is_out_of_memory
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.kv_pool import KVPool, PagedCache, PoolFullError
from vln_ros.engine.stream.positions import text_positions
from vln_ros.engine.stream.segments import Text
from vln_ros.engine.stream.session import Session

PAGE = 4


def new_pool(tokens: int = 400, keep_original_keys: bool = False) -> KVPool:
    return KVPool(tiny_network(), tokens=tokens, page_tokens=PAGE, keep_original_keys=keep_original_keys)


def new_cache(keep_original_keys: bool) -> SlotCache:
    network: Any = tiny_network()
    inv_freq = network.model.language_model.rotary_emb.inv_freq
    return SlotCache(network.config, inv_freq, PAGE, keep_original_keys)


def assert_same(paged: SlotCache, own: SlotCache) -> None:
    n = own.length
    assert paged.length == n
    assert torch.equal(paged.positions, own.positions)
    assert torch.equal(paged.original_positions, own.original_positions)
    assert torch.equal(paged.serials, own.serials)
    for mine, other in zip(paged.layers, own.layers, strict=True):
        if not other.is_initialized:
            continue
        for a, b in zip(mine.buffers(), other.buffers(), strict=True):
            assert torch.equal(a[:, :, :n], b[:, :, :n])
        runs = mine.runs(n)
        assert torch.equal(torch.cat([k for k, _ in runs], 2), other.keys[:, :, :n]) if runs else not n


def assert_apart(pool: KVPool, caches: list[PagedCache]) -> None:
    pages = [page for cache in caches for page in cache.pages]
    assert len(set(pages)) == len(pages) == pool.pages - pool.free_pages
    page_bytes = pool.allocated_bytes // pool.pages
    assert sum(c.allocated_bytes for c in caches) == len(pages) * page_bytes


class Twin:
    """The same stream in a pool and in memory of its own."""

    def __init__(self, paged: PagedCache, own: SlotCache) -> None:
        self.both: tuple[PagedCache, SlotCache] = (paged, own)
        self.next_position = 0

    def append(self, n: int, seed: int) -> None:
        for cache in self.both:
            states = torch.randn(1, 2, n, 16, generator=torch.Generator().manual_seed(seed))
            for layer in range(3):
                keys, values = cache.update(states + layer, -states, layer)
                assert keys.shape[2] == values.shape[2] == cache.layers[layer].length
            cache.record(text_positions(self.next_position, n).positions)
        self.next_position += n

    def change(self, name: str, n: int) -> None:
        length = self.both[1].length
        for cache in self.both:
            match name:
                case "truncate":
                    cache.truncate(n)
                case "keep":
                    start = length // 3
                    kept = [i for i in range(start, length) if n >> (i % 16) & 1]
                    cache.keep(torch.tensor(kept, dtype=torch.long), start)
                case "turn" if length:
                    cache.turn_to(text_positions(n, length).positions)
                case "copy" if length > 2:
                    source = torch.arange(length // 2)
                    target = source + length - n % 3  # over its own end, too
                    cache.copy_rotated(source, target, text_positions(n, len(source)).positions)
                case "scatter" if length > 1:
                    slots = torch.arange(0, length, 2)
                    states = torch.full((1, 2, len(slots), 16), float(n))
                    with cache.scatter(slots, visible=length):
                        for layer in range(3):
                            cache.update(states, states + layer, layer)
                    cache.record(text_positions(n, len(slots)).positions, slots)
                case "trim":
                    cache.trim()
                case "discard":
                    cache.discard()

    def fork(self) -> Twin:
        paged, own = self.both
        other = Twin(paged.fork(), own.fork())
        other.next_position = self.next_position
        return other


NAMES = ("append", "truncate", "keep", "turn", "copy", "scatter", "trim", "discard", "fork")


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((*NAMES, "append", "append")), st.integers(0, 2), st.integers(0, 2**16)),
        max_size=16,
    ),
    st.booleans(),
)
def test_streams_in_a_pool_hold_what_streams_of_their_own_hold(
    operations: list[tuple[str, int, int]], keep_original_keys: bool
) -> None:
    pool = new_pool(keep_original_keys=keep_original_keys)
    twins = [Twin(pool.new_cache(), new_cache(keep_original_keys)) for _ in range(3)]
    for name, which, n in operations:
        if name == "append":
            twins[which].append(1 + n % 9, n)
        elif name == "fork":
            twins[which] = twins[(which + n) % 3].fork()
        else:
            twins[which].change(name, n % 30 if name == "truncate" else n % 5000)
        for twin in twins:
            assert_same(*twin.both)
        assert_apart(pool, [twin.both[0] for twin in twins])


def test_a_stream_that_is_dropped_closed_or_trimmed_gives_its_pages_back() -> None:
    pool = new_pool(tokens=40)
    session = Session(tiny_network(), pool=pool)
    session.push([Text(words(18, 1))])
    assert pool.free_pages == 5
    fork = session.fork()
    assert pool.free_pages == 0
    del fork
    gc.collect()
    assert pool.free_pages == 5
    session.evict(torch.arange(3, 15))
    session.cache.trim()
    assert pool.free_pages == 8
    session.close()
    assert pool.free_pages == 10
    session.push([Text(words(40, 1))])
    assert pool.free_pages == 0


def test_growing_streams_lie_in_few_pieces() -> None:
    """Eight streams that grow by turns, until the pool is nearly full."""
    pool = KVPool(tiny_network(), tokens=8 * 16 * PAGE, page_tokens=PAGE)
    caches = [pool.new_cache() for _ in range(8)]
    for tokens in range(PAGE, 15 * PAGE, PAGE):
        for cache in caches:
            cache.reserve(tokens, torch.empty(0))
    pieces = [len(cache.layers[0].runs(14 * PAGE)) for cache in caches]
    assert max(pieces) <= 4, pieces


def test_without_a_free_page_a_stream_is_left_as_it_was_and_the_others_go_on() -> None:
    pool = new_pool(tokens=48)
    first, second = (Session(tiny_network(), pool=pool) for _ in range(2))
    first.push([Text(words(20, 1))])
    second.push([Text(words(20, 2))])
    before = [t.clone() for layer in second.cache.layers for t in layer.buffers()]
    with pytest.raises(PoolFullError, match=r"12 pages of 4 tokens.*token_budget") as error:
        second.push([Text(words(9, 3))])
    assert is_out_of_memory(error.value)
    assert second.timeline.tokens == second.cache.length == 20
    after = [t for layer in second.cache.layers for t in layer.buffers()]
    assert all(torch.equal(a[:, :, :20], b[:, :, :20]) for a, b in zip(after, before, strict=True))
    assert pool.free_pages == 2
    first.push([Text(words(8, 4))])
    first.close()
    alone = Session(tiny_network())
    alone.push([Text(words(20, 2))])
    assert (second.push([Text(words(9, 3))]) - alone.push([Text(words(9, 3))])).abs().max() <= 1e-4


def test_nothing_of_a_page_s_last_stream_is_left_in_it() -> None:
    pool = new_pool(tokens=16)
    broken = Session(tiny_network(), pool=pool)
    broken.push([Text(words(16, 1))])
    for layer in broken.cache.layers:
        for tensor in layer.storage():
            tensor.fill_(torch.nan)
    broken.close()
    session, alone = Session(tiny_network(), pool=pool), Session(tiny_network())
    for n in (1, 6, 2):
        got, expected = (s.push([Text(words(n, n))]) for s in (session, alone))
        assert (got - expected).abs().max() <= 1e-4
    assert not any(bool(t.isnan().any()) for layer in session.cache.layers for t in layer.buffers())


def test_a_pool_is_one_network_s() -> None:
    with pytest.raises(ValueError, match="another network"):
        Session(tiny_network("eager"), pool=new_pool())
    for tokens, page in ((0, 4), (8, 0)):
        with pytest.raises(ValueError, match=f"tokens = {tokens}, page_tokens = {page}"):
            KVPool(tiny_network(), tokens=tokens, page_tokens=page)
    assert KVPool(tiny_network(), tokens=9, page_tokens=4).pages == 3
