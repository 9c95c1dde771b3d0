"""Slots, bytes, moved keys: the cache against recomputation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_models import tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.positions import image_positions, text_positions


def new_cache(block_tokens: int = 8, keep_original_keys: bool = False) -> SlotCache:
    network = tiny_network()
    inv_freq = network.model.language_model.rotary_emb.inv_freq
    return SlotCache(network.config, inv_freq, block_tokens, keep_original_keys)


def fill(
    cache: SlotCache,
    embeddings: Tensor,
    positions: Tensor,
    mask: Tensor | None = None,
    slots: Tensor | None = None,
) -> Tensor:
    with torch.no_grad():
        states = tiny_network().model.language_model(
            inputs_embeds=embeddings[None],
            position_ids=positions[:, None],
            past_key_values=cache,
            attention_mask=None if mask is None else {"full_attention": mask[None, None]},
        )
    cache.record(positions, slots)
    hidden: Tensor = states.last_hidden_state[0]
    return hidden


def embeddings(n: int, seed: int) -> Tensor:
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(seed)) * 0.5


def content(cache: SlotCache) -> list[tuple[Tensor, Tensor]]:
    return [(x.keys[:, :, : x.length].clone(), x.values[:, :, : x.length].clone()) for x in cache.layers]


def difference(a: SlotCache, b: SlotCache) -> float:
    pairs = zip(content(a), content(b), strict=True)
    return max((x - y).abs().max().item() for p, q in pairs for x, y in zip(p, q, strict=True))


def test_bytes_are_what_torch_allocated() -> None:
    cache = new_cache(block_tokens=8)
    assert cache.used_bytes == cache.allocated_bytes == 0
    fill(cache, embeddings(11, 0), text_positions(0, 11).positions)
    per_token = 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, head_dim, float32
    assert cache.used_bytes == 11 * per_token
    assert cache.allocated_bytes == 16 * per_token
    storages = [t.untyped_storage().nbytes() for x in cache.layers for t in (x.keys, x.values)]
    assert cache.allocated_bytes == sum(storages)
    cache.truncate(3)
    cache.trim()
    assert cache.used_bytes == 3 * per_token and cache.allocated_bytes == 8 * per_token
    kept = new_cache(block_tokens=8, keep_original_keys=True)
    fill(kept, embeddings(8, 0), text_positions(0, 8).positions)
    assert kept.used_bytes == kept.allocated_bytes == 8 * per_token * 3 // 2
    kept.discard()
    assert kept.allocated_bytes == 0 and kept.length == 0


def test_generate_of_the_released_code_runs_on_it() -> None:
    ids = torch.tensor([words(9, 0)])
    arguments: dict[str, Any] = {
        "max_new_tokens": 12,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    network: Any = tiny_network()
    ours = network.generate(ids, past_key_values=new_cache(), **arguments)
    assert torch.equal(ours, network.generate(ids, past_key_values=DynamicCache(), **arguments))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.just("append"), st.integers(1, 12))
        | st.tuples(st.just("truncate"), st.integers(0, 30))
        | st.tuples(st.just("keep"), st.integers(0, 2**16))
        | st.tuples(st.just("fork"), st.just(0)),
        max_size=10,
    )
)
def test_slots_hold_what_a_plain_list_holds(operations: list[tuple[str, int]]) -> None:
    """Values are written directly, so that each slot can be told apart; the model is a python list."""
    cache, number, next_position = new_cache(block_tokens=4), 0, 0
    model: list[tuple[int, int]] = []
    for name, n in operations:
        if name == "append":
            states = torch.arange(number, number + n).float()[None, None, :, None].expand(1, 2, n, 16)
            for layer in range(3):
                keys, values = cache.update(states + layer, -states, layer)
                assert keys.shape[2] == values.shape[2] == len(model) + n
            positions, next_position = text_positions(next_position, n)
            cache.record(positions)
            model += [(number + i, next_position - n + i) for i in range(n)]
            number += n
        elif name == "truncate":
            cache.truncate(n)
            del model[n:]
        elif name == "keep":
            start = len(model) // 3
            unconstrained = [i for i in range(start, len(model)) if n >> (i % 16) & 1]
            cache.keep(torch.tensor(unconstrained, dtype=torch.long), start)
            model = model[:start] + [model[i] for i in unconstrained]
        else:
            old, cache = cache, cache.fork()
            old.discard()
        assert cache.length == len(model)
        assert cache.positions[1].tolist() == [p for _, p in model]
        for index, stored in enumerate(cache.layers):
            if stored.is_initialized:
                assert stored.keys[0, 1, : stored.length, 3].tolist() == [v + index for v, _ in model]
                assert stored.values[0, 0, : stored.length, 5].tolist() == [-v for v, _ in model]
        assert cache.allocated_bytes % (3 * 2 * 2 * 16 * 4 * 4) == 0


SHIFTS = st.tuples(st.integers(-5, 400), st.integers(-5, 400), st.integers(-5, 400))


@settings(max_examples=25, deadline=None)
@given(SHIFTS)
def test_moved_keys_equal_keys_computed_at_the_new_place(shift: tuple[int, ...]) -> None:
    delta = torch.tensor(shift)[:, None]
    before, image = text_positions(10, 4), image_positions(14, 3, 4)
    positions = torch.cat([before.positions, image.positions], 1)
    cache, fresh = new_cache(), new_cache()
    fill(cache, embeddings(16, 1), positions)
    fill(fresh, embeddings(16, 1), positions + delta)
    every = torch.arange(16)
    cache.copy_rotated(every, every, positions + delta)
    assert difference(cache, fresh) <= 1e-4
    assert torch.equal(cache.positions, fresh.positions)
    cache.copy_rotated(every, every + 16, positions)  # and back, as a copy behind itself
    cache.keep(every + 16)
    original = new_cache()
    fill(original, embeddings(16, 1), positions)
    assert difference(cache, original) <= 1e-4


def test_a_hundred_moves_in_bfloat16_do_not_drift_when_originals_are_kept() -> None:
    def after_moves(keep: bool) -> float:
        cache = new_cache(keep_original_keys=keep)
        states = torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(0))
        for layer in range(3):
            cache.update(states.bfloat16(), states.bfloat16(), layer)
        cache.record(text_positions(0, 8).positions)
        every = torch.arange(8)
        for step in range(1, 101):
            cache.copy_rotated(every, every, text_positions(7 * step, 8).positions)
        exact = cache.rotated(states, torch.full((3, 8), 700))
        moved = cache.layers[0].keys[:, :, :8].float()
        return float((moved - exact).norm() / exact.norm())

    assert after_moves(keep=True) <= 0.005
    assert after_moves(keep=False) > 0.01  # what it is for


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12), st.integers(0, 99))
def test_replacing_a_frame_in_its_slots_is_exact_at_any_reuse(reused: list[bool], seed: int) -> None:
    """An identical picture, some of its tokens recomputed as sparse queries: the full result."""
    before, image = text_positions(0, 5), image_positions(5, 3, 4)
    after = text_positions(image.next_position, 4)
    full = new_cache()
    fill(full, embeddings(5, seed), before.positions)
    fill(full, embeddings(12, seed + 1), image.positions)
    sparse = full.fork()
    expected = fill(full, embeddings(4, seed + 2), after.positions)
    index = (~torch.tensor(reused)).nonzero()[:, 0]
    slots = index + 5
    if len(slots):
        for layer in sparse.layers:
            layer.keys[:, :, slots] = 99.0
            layer.values[:, :, slots] = 99.0
        mask = torch.arange(17)[None] <= slots[:, None]
        with sparse.scatter(slots, visible=17):
            fill(sparse, embeddings(12, seed + 1)[index], image.positions[:, index], mask, slots)
    assert sparse.length == 17
    got = fill(sparse, embeddings(4, seed + 2), after.positions)
    assert (got - expected).abs().max() <= 1e-5
    assert difference(sparse, full) <= 1e-5


def test_scatter_refuses_slots_that_no_query_could_see() -> None:
    cache = new_cache()
    with pytest.raises(ValueError, match=r"\[0, 4\)"), cache.scatter(torch.tensor([1, 4]), visible=4):
        pass
    with pytest.raises(ValueError, match="block_tokens"):
        new_cache(block_tokens=0)
