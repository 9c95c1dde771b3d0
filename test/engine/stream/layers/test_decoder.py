"""Layers run on slots say what the released forward says, whichever way the cache is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from engine_models import VISION_END, VISION_START, random_patches, tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.reference import Pixels
from vln_ros.engine.stream.layers import decoder
from vln_ros.engine.stream.layers.attention import (
    FusedAttention,
    MaskedAttention,
    ProcessorAttention,
    Reading,
    flash_fault,
    merge,
    read_plainly,
)
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE, TokenTree

TOLERANCE = 1e-5
Step = tuple[Sequence[Piece], TokenTree]
WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "processor": lambda _, p: ProcessorAttention(p),
    "masked": lambda _, p: MaskedAttention.of(p, p.before.tokens + len(p.embeddings))(p),
    "masked, a fixed number of slots": lambda _, p: MaskedAttention.of(p, p.capacity)(p),
    "fused": lambda _, p: FusedAttention.of(p, read_plainly)(p),
}


def session_reading(way: str, **options: Any) -> Session:
    return Session(tiny_network(), run_chunk=partial(decoder.run_chunk, read=WAYS[way]), **options)


def states_of(session: Session, steps: Sequence[Step]) -> list[Tensor]:
    """Of every step; every third is taken back, as a decision is."""
    found: list[Tensor] = []
    for number, (pieces, tree) in enumerate(steps):
        before = session.snapshot()
        found += session.push_tree(pieces, tree)
        if number % 3 == 2:
            session.rollback(before)
    return found


def picture(height: int, width: int, seed: int) -> list[Piece]:
    pixels = Pixels(random_patches(1, 2 * height, 2 * width, seed), 1, 2 * height, 2 * width)
    (image,) = encode_images(tiny_network(), [pixels])
    return [Text((VISION_START,)), image, Text((VISION_END,))]


def tree_of(parents: Sequence[int], seed: int) -> TokenTree:
    """Each entry chooses a parent among those before it, or none."""
    chosen = [p % (node + 1) - 1 for node, p in enumerate(parents)]
    return TokenTree.build(words(len(chosen), seed), chosen)


TREES = st.builds(tree_of, st.lists(st.integers(0, 99), max_size=14), st.integers(0, 99))
TEXTS = st.builds(lambda n, seed: [Text(words(n, seed))], st.integers(1, 20), st.integers(0, 99))
PICTURES = st.builds(picture, st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
STEPS = st.lists(st.tuples(TEXTS | PICTURES, TREES), min_size=1, max_size=6)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative to how large the states are."""
    return float((ours - theirs).abs().max() / theirs.abs().max()) if theirs.numel() else 0.0


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=30)
@given(steps=STEPS)
def test_any_stream_equals_the_released_forward(way: str, steps: list[Step]) -> None:
    """Empty and long contexts, one token and many, trees of any form behind each, steps taken back."""
    released = states_of(Session(tiny_network("eager"), block_tokens=16), steps)
    ours = states_of(session_reading(way, block_tokens=16), steps)
    for got, expected in zip(ours, released, strict=True):
        assert got.shape == expected.shape
        assert error(got, expected) < TOLERANCE


@pytest.mark.parametrize("way", WAYS)
def test_the_keys_and_values_are_the_released_ones(way: str) -> None:
    steps: list[Step] = [([Text(words(20, 0))], NO_TREE), (picture(3, 4, 1), tree_of([3, 1, 4, 1, 5], 2))]
    released, ours = Session(tiny_network("eager")), session_reading(way)
    states_of(released, steps)
    states_of(ours, steps)
    assert ours.cache.length == released.cache.length
    assert torch.equal(ours.cache.positions, released.cache.positions)
    for mine, theirs in zip(ours.cache.layers, released.cache.layers, strict=True):
        n = ours.cache.length
        assert error(mine.keys[:, :, :n], theirs.keys[:, :, :n]) < TOLERANCE
        assert error(mine.values[:, :, :n], theirs.values[:, :, :n]) < TOLERANCE


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_behind_the_stream_is_not_seen(way: str) -> None:
    """Slots that were rolled back keep what was in them; so does room that was never used."""
    clean, used = session_reading(way), session_reading(way)
    for session in (clean, used):
        session.push([Text(words(9, 0))])
    before = used.snapshot()
    used.push([Text(words(30, 1))])
    used.rollback(before)
    for layer in used.cache.layers:
        layer.keys[:, :, 9:], layer.values[:, :, 9:] = 1e4, 1e4
    tree = tree_of([0, 1, 1, 2], 3)
    for a, b in zip(*(s.push_tree([Text(words(3, 2))], tree) for s in (clean, used)), strict=True):
        assert torch.equal(a, b)


def test_grouped_heads_are_not_repeated() -> None:
    """The largest tensor that a forward behind a long context makes is smaller than even a mask would be."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in known:
                largest = max(largest, out.numel())
            return out

    found = []
    for attention in ("sdpa", "eager"):
        session = Session(tiny_network(attention), block_tokens=1024)
        session.push([Text(words(600, 0))])
        largest = 0
        with Watch():
            session.push([Text(words(3, 1))])
        found.append(largest)
    # 3 queries and 603 slots; the released forward repeats the keys of two heads for four, 16 wide.
    assert found[0] < 3 * 603
    assert found[1] >= 4 * 603 * 16


def test_reading_in_plain_arithmetic_by_hand() -> None:
    """One head, width 1: the scores are products, the weights their exponentials."""
    keys, values = (
        torch.tensor([0.0, 1.0, 2.0, 5.0]).view(4, 1, 1),
        torch.tensor([1.0, 3.0, 5.0, 7.0]).view(4, 1, 1),
    )
    queries = torch.ones(2, 1, 1)
    numbers = {"queries": torch.tensor([0, 2]), "slots": torch.tensor([0, 4]), "seen": torch.tensor([3])}
    found, weight = read_plainly(
        queries, keys, values, Reading(**numbers, longest_queries=2, longest_slots=4, causal=True)
    )
    e = torch.tensor([0.0, 1.0, 2.0]).exp()
    assert weight[:, 0].tolist() == pytest.approx([float(e[:2].sum().log()), float(e.sum().log())])
    expected = [float((e[:2] @ values[:2, 0, 0]) / e[:2].sum()), float((e @ values[:3, 0, 0]) / e.sum())]
    assert found[:, 0, 0].tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 6),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([1.0, 30.0]),
    st.integers(0, 99),
)
def test_two_readings_merged_are_one_reading_of_both(
    n: int, far: int, near: int, scale: float, seed: int
) -> None:
    """Also where nearly all of the weight is on one side."""
    torch.manual_seed(seed)
    queries = scale * torch.randn(n, 4, 8)
    keys, values = torch.randn(far + near, 2, 8), torch.randn(far + near, 2, 8)

    def read(first: int, last: int) -> tuple[Tensor, Tensor]:
        part = Reading(
            queries=torch.tensor([0, n]), slots=torch.tensor([0, last - first]), seen=None,
            longest_queries=n, longest_slots=last - first, causal=False,
        )  # fmt: skip
        return read_plainly(queries, keys[first:last], values[first:last], part)

    merged = merge(*read(0, far), *read(far, far + near))
    assert torch.allclose(merged, read(0, far + near)[0], atol=1e-5)


def test_paths_lead_from_a_root_to_each_node() -> None:
    tree = TokenTree.build((5, 6, 7, 8, 9), (-1, 0, 0, -1, 1))
    paths = tree.paths_on(torch.device("cpu"))
    ways = [w.tolist() for w in paths.nodes.tensor_split(paths.begins[1:-1].tolist())]
    assert ways == [[0], [0, 1], [0, 2], [3], [0, 1, 4]]
    assert paths.longest == 3 and paths.each.tolist() == [0, 1, 2, 3, 4, 5]
    assert tree.paths_on(torch.device("cpu")) is paths
    assert tree.ancestors_on(torch.device("cpu")) is tree.ancestors_on(torch.device("cpu"))


def test_a_processor_has_no_flash_attention_and_says_so() -> None:
    fault = flash_fault(torch.device("cpu"), torch.bfloat16, 16, 2, 128)
    assert fault is not None and "bfloat16 on cpu" in fault
    assert flash_fault(torch.device("cuda"), torch.float32, 16, 2, 128) is not None


def test_flash_attention_that_says_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried on numbers before it is trusted: here it forgets to count slots, or fails."""
    from vln_ros.engine.stream.layers import attention

    def forgetful(queries: Tensor, keys: Tensor, values: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        return read_plainly(queries, keys, values, replace(reading, seen=None))

    def failing(queries: Tensor, keys: Tensor, values: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer\nand more")

    cpu = torch.device("cpu")
    assert attention.trial_fault(read_plainly, cpu, torch.bfloat16, 6, 2, 16) is None
    said = attention.trial_fault(forgetful, cpu, torch.bfloat16, 6, 2, 16)
    assert said is not None and "something else" in said
    said = attention.trial_fault(failing, cpu, torch.bfloat16, 6, 2, 16)
    assert said is not None and "Ampere" in said and "more" not in said


def test_released_attention_stays_for_who_asks_for_it() -> None:
    assert decoder.runs_on_slots(tiny_network())
    assert not decoder.runs_on_slots(tiny_network("eager"))
