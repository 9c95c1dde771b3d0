"""Chunks of several streams in one forward: what each would be alone, and nothing copied that grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_models import tiny_network, words
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vln_ros.engine.batch import push_batch
from vln_ros.engine.decode.decode import Push
from vln_ros.engine.stream.forward import run_decoder
from vln_ros.engine.stream.kv_pool import KVPool
from vln_ros.engine.stream.segments import Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE, TokenTree

TREE = TokenTree.build([20, 21, 22, 23], [-1, 0, 0, -1])

ATTENTION = "_attn_implementation"
"""Where transformers keeps it; it has no public name."""


_SOURCES = {"index_copy_": 3, "index_put_": 2}


class WrittenBytes(TorchDispatchMode):
    """Counts what operators write: new tensors, and those that they change in place."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = {t.untyped_storage().data_ptr() for t in tensors}
        if name in _SOURCES:  # they return all of their target, and write their source
            self.count += args[_SOURCES[name]].nbytes
        elif name.endswith("_") or name == "copy":
            self.count += args[0].nbytes
        else:
            new = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
            self.count += sum(t.nbytes for t in new if t.untyped_storage().data_ptr() not in there)
        return result


def written(sessions: list[Session], pushes: list[Push]) -> int:
    with WrittenBytes() as counted:
        rows = push_batch(sessions, pushes)
    assert all(isinstance(row, torch.Tensor) for row in rows)
    return int(counted.count)


def own_memory(count: int) -> list[Session]:
    return [Session(tiny_network(), block_tokens=4096) for _ in range(count)]


def pooled(count: int) -> list[Session]:
    pool = KVPool(tiny_network(), tokens=16384, page_tokens=512)
    return [Session(tiny_network(), pool=pool) for _ in range(count)]


@pytest.mark.parametrize("memory", [own_memory, pooled])
@pytest.mark.parametrize(
    "push",
    [
        Push([Text(words(1, 1))], NO_TREE),
        Push([Text(words(17, 1))], NO_TREE),
        Push([Text(words(9, 1))], TREE),
    ],
    ids=["token", "chunk", "tree"],
)
def test_what_a_shared_forward_writes_does_not_grow_with_the_context(
    memory: Callable[[int], list[Session]], push: Push
) -> None:
    push_batch(memory(1), [push])  # what is made once, as the tables of a tree, is made
    counts = {}
    for context in (100, 612, 2148):  # no page is turned, no block outgrown: growing has a test of its own
        sessions = memory(4)
        for i, session in enumerate(sessions):
            session.push([Text(words(context + 40 * i, i))])
        counts[context] = written(sessions, [push] * 4)
    assert len(set(counts.values())) == 1, counts
    # It is the new tokens' states and scores: less than the context's keys and values would be.
    context_bytes = sum(s.cache.used_bytes for s in sessions)
    assert counts[100] < context_bytes


def test_the_padded_way_would_have_been_noticed() -> None:
    """The released attention, which repeats the heads of all keys where there is a mask."""
    counts = []
    for context in (100, 1636):
        session = Session(tiny_network(), block_tokens=4096)
        session.push([Text(words(context, 1))])
        prefill = session.prepare([Text(words(9, 1))], TREE)
        assert prefill.visible is not None
        with torch.no_grad(), WrittenBytes() as counted:
            run_decoder(
                session.network,
                session.cache,
                prefill.embeddings[None],
                prefill.positions[:, None],
                prefill.visible[None],
            )
        counts.append(counted.count)
    assert counts[1] > 4 * counts[0]


def test_a_pool_s_streams_grow_without_copying_what_they_hold() -> None:
    counts = []
    for context in (505, 2041):  # the next push turns a page
        (session,) = pooled(1)
        session.push([Text(words(context, 1))])
        pages = len(session.cache.pages)  # type: ignore[attr-defined]
        counts.append(written([session], [Push([Text(words(16, 1))], NO_TREE)]))
        assert len(session.cache.pages) == pages + 1  # type: ignore[attr-defined]
    # Of each token its number and two positions are noted on the host, in seven integers.
    assert abs(counts[1] - counts[0]) <= 8 * 7 * (2041 - 505 + 512)


@pytest.mark.parametrize("memory", [own_memory, pooled])
def test_no_row_is_padded(memory: Callable[[int], list[Session]]) -> None:
    """A long prefill beside single tokens: the layers compute the tokens that there are."""
    rows: list[int] = []
    layer = tiny_network().model.language_model.layers[1]
    handle = layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:2].numel()))
    sessions = memory(4)
    try:
        push_batch(sessions, [Push([Text(words(n, n))], NO_TREE) for n in (1, 90, 3, 1)])
    finally:
        handle.remove()
    assert rows == [95]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_released_network_is_left_as_it_is(attention: str) -> None:
    network: Any = tiny_network(attention)
    decoder = network.model.language_model
    before = {name: id(module) for name, module in network.named_modules()}
    session, alone = Session(network, block_tokens=16), Session(network, block_tokens=16)
    for n in (5, 1, 8):
        (row,) = push_batch([session], [Push([Text(words(n, n))], TREE)])
        assert isinstance(row, torch.Tensor)
        states, nodes = alone.push_tree([Text(words(n, n))], TREE)
        assert (row - alone.logits(torch.cat([states[-1:], nodes]))).abs().max() <= 1e-4
    assert {name: id(module) for name, module in network.named_modules()} == before
    configs = [decoder.config, *(layer.self_attn.config for layer in decoder.layers)]
    assert {getattr(config, ATTENTION) for config in configs} == {attention}
