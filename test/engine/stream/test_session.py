"""Streaming equals the one-shot forward of the released model, whatever the stream went through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from engine_models import (
    IM_END,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    random_patches,
    tiny_network,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from vln_ros.engine.inputs.vision import encode_images, encode_video
from vln_ros.engine.reference import Item, Pixels, greedy, one_shot
from vln_ros.engine.stream.kv_pool import KVPool
from vln_ros.engine.stream.segments import Image, Piece, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.sparse import Sources
from vln_ros.engine.stream.timeline import Segment, Snapshot

TOLERANCE = 1e-4


@dataclass
class Twin:
    """A session and the conversation that it has seen, kept apart from it."""

    session: Session = field(default_factory=lambda: Session(tiny_network(), block_tokens=16))
    seen: list[Item] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def fork(self) -> Twin:
        return Twin(self.session.fork(), list(self.seen), list(self.logits))

    def snapshot(self) -> tuple[Snapshot, int, int]:
        return self.session.snapshot(), len(self.seen), len(self.logits)

    def rollback(self, snapshot: tuple[Snapshot, int, int]) -> None:
        self.session.rollback(snapshot[0])
        del self.seen[snapshot[1] :], self.logits[snapshot[2] :]

    def push(self, pieces: Sequence[Piece], items: Sequence[Item]) -> None:
        self.logits.append(self.session.logits(self.session.push(pieces)))
        self.seen += items

    def push_text(self, ids: tuple[int, ...]) -> None:
        self.push([Text(ids)], [ids])

    def push_image(self, height: int, width: int, seed: int, one_forward: bool = True) -> None:
        pixels = Pixels(random_patches(1, 2 * height, 2 * width, seed), 1, 2 * height, 2 * width)
        (image,) = encode_images(self.session.network, [pixels])
        before, after = (*words(2, seed), VISION_START), (VISION_END,)
        pieces: list[Piece] = [Text(before), image, Text(after)]
        items: list[Item] = [before, pixels, after]
        if one_forward:
            self.push(pieces, items)
        else:
            for piece, item in zip(pieces, items, strict=True):
                self.push([piece], [item])

    def push_video(self, chunks: list[int], height: int, width: int, seconds: float, seed: int) -> None:
        grids = sum(chunks)
        size = 4 * height * width
        patches = random_patches(grids, 2 * height, 2 * width, seed)
        self.push_text((VISION_START,))
        logits, first = [], 0
        for n in chunks:
            part = patches[first * size : (first + n) * size]
            video = encode_video(
                self.session.network,
                part,
                (n, 2 * height, 2 * width),
                seconds_per_grid=seconds,
                first_grid=first,
            )
            logits.append(self.session.logits(self.session.push([video])))
            first += n
        self.logits += logits
        self.seen.append(Pixels(patches, grids, 2 * height, 2 * width, seconds))
        self.push_text((VISION_END,))

    def check(self) -> None:
        expected = one_shot(self.session.network, self.seen)
        assert torch.equal(self.session.timeline.positions(), expected.positions)
        assert torch.equal(self.session.cache.positions, expected.positions)
        assert self.session.cache.length == expected.positions.shape[1]
        assert (torch.cat(self.logits) - expected.logits).abs().max() <= TOLERANCE


TEXT = st.tuples(st.just("text"), st.integers(1, 12), st.integers(0, 999))
IMAGE = st.tuples(st.just("image"), st.integers(1, 5), st.integers(1, 5), st.integers(0, 999), st.booleans())
VIDEO = st.tuples(
    st.just("video"),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0.3, 0.5, 1.0, 2.5]),
    st.integers(0, 999),
)
OTHER = st.sampled_from([("snapshot",), ("rollback",), ("fork",), ("ask",), ("reject",)])
TIMELINES = st.lists(TEXT | IMAGE | VIDEO | OTHER, min_size=2, max_size=9)


def session(paged: bool) -> Session:
    """In memory of its own, or in a pool of small pages of which others hold every few."""
    if not paged:
        return Session(tiny_network(), block_tokens=16)
    pool = KVPool(tiny_network(), tokens=3000, page_tokens=3)
    for _ in range(400):
        pool.take(None)
    return Session(tiny_network(), pool=pool)


def run_timeline(operations: list[Any], paged: bool) -> None:
    twin, snapshots = Twin(session(paged)), []
    twin.push_text(words(3, 1))
    forks = []
    for name, *arguments in operations:
        match name:
            case "text":
                twin.push_text(words(*arguments))
            case "image":
                twin.push_image(*arguments)
            case "video":
                twin.push_video(*arguments)
            case "snapshot":
                snapshots.append(twin.snapshot())
            case "rollback" if snapshots:
                twin.rollback(snapshots.pop())
            case "fork":
                forks.append(twin)
                twin = twin.fork()
            case "ask":
                # A placeholder that the model says is no picture; the released forward would want its pixels.
                ends = [IM_END, IMAGE_PAD, VIDEO_PAD]
                answer = twin.session.ask(words(4, 7), max_tokens=3, end_tokens=ends)
                expected = greedy(
                    twin.session.network, [*twin.seen, words(4, 7)], max_tokens=3, end_tokens=ends
                )
                assert answer == expected
            case "reject":
                with pytest.raises(ValueError, match="vision start"):
                    twin.session.push([Text((9, 9)), Image(torch.zeros(1, 64), 1, 1)])
    for each in [twin, *forks]:
        each.check()


@pytest.mark.parametrize("paged", [False, True])
@settings(max_examples=25, deadline=None)
@given(TIMELINES)
def test_streaming_equals_one_shot(paged: bool, operations: list[Any]) -> None:
    run_timeline(operations, paged)


@pytest.mark.slow
@pytest.mark.parametrize("paged", [False, True])
@settings(max_examples=250, deadline=None)
@given(TIMELINES)
def test_streaming_equals_one_shot_over_many_timelines(paged: bool, operations: list[Any]) -> None:
    run_timeline(operations, paged)


def state(session: Session) -> tuple[list[Tensor], Tensor, list[Segment]]:
    layers = [t[:, :, : session.cache.length].clone() for x in session.cache.layers for t in x.buffers()]
    return layers, session.cache.positions.clone(), list(session.timeline.segments)


def assert_same_bits(session: Session, before: tuple[list[Tensor], Tensor, list[Segment]]) -> None:
    layers, positions, segments = state(session)
    assert all(torch.equal(a, b) for a, b in zip(layers, before[0], strict=True))
    assert torch.equal(positions, before[1])
    assert all(a is b for a, b in zip(segments, before[2], strict=True))


def test_questions_leave_the_stream_bit_for_bit() -> None:
    twin = Twin()
    twin.push_text(words(5, 0))
    twin.push_image(3, 4, 1)
    before = state(twin.session)
    first = twin.session.ask(words(6, 2), max_tokens=40, end_tokens=[IM_END])
    scores = twin.session.ask_choice(words(6, 2), [words(2, 3), words(30, 4)])
    assert_same_bits(twin.session, before)
    assert twin.session.ask(words(6, 2), max_tokens=40, end_tokens=[IM_END]) == first
    assert torch.equal(twin.session.ask_choice(words(6, 2), [words(2, 3), words(30, 4)]), scores)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_choices_are_scored_as_one_forward_each_would(attention: str) -> None:
    twin = Twin(Session(tiny_network(attention), block_tokens=16))
    twin.push_text(words(5, 0))
    twin.push_image(2, 3, 1)
    question = words(4, 2)
    options = [(20, 21, 22), (20, 21, 23), (20, 30), (40,), (20, 21, 22, 41)]
    scores = twin.session.ask_choice(question, options)
    for option, score in zip(options, scores.tolist(), strict=True):
        rows = one_shot(twin.session.network, [*twin.seen, question, option]).logits.log_softmax(-1)
        rows = rows[-len(option) - 1 : -1]
        assert score == pytest.approx(sum(r[t].item() for r, t in zip(rows, option, strict=True)), abs=1e-4)
    twin.push_text(words(3, 3))
    twin.check()


def test_a_snapshot_that_is_no_prefix_any_more_is_refused() -> None:
    session = Session(tiny_network(), block_tokens=16)
    session.push([Text(words(4, 0))])
    early = session.snapshot()
    session.push([Text(words(4, 1))])
    late = session.snapshot()
    session.rollback(early)
    session.push([Text(words(4, 2))])  # same length as before, other content
    with pytest.raises(ValueError, match="not a prefix"):
        session.rollback(late)
    session.rollback(early)
    assert session.timeline.tokens == session.cache.length == 4


def test_a_fork_is_independent() -> None:
    twin = Twin()
    twin.push_text(words(5, 0))
    other = twin.fork()
    twin.push_text(words(3, 1))
    other.push_image(2, 2, 2)
    other.session.fork().close()
    twin.check()
    other.check()


def test_a_forward_that_fails_midway_changes_nothing() -> None:
    twin = Twin()
    twin.push_text(words(5, 0))
    before = state(twin.session)
    last = twin.session.network.model.language_model.layers[-1].mlp  # behind its keys and values

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        twin.session.push([Text(words(9, 1))])
    handle.remove()
    assert_same_bits(twin.session, before)
    twin.push_text(words(4, 2))
    twin.check()


def test_bad_pieces_are_refused() -> None:
    session = Session(tiny_network())
    with pytest.raises(ValueError, match="nothing to push"):
        session.push([])
    with pytest.raises(ValueError, match="at least one token"):
        session.push([Text(())])
    with pytest.raises(ValueError, match="needs 6 features, got 5"):
        session.push([Text((VISION_START,)), Image(torch.zeros(5, 64), 2, 3)])
    with pytest.raises(ValueError, match="option"):
        session.ask_choice((9,), [])
    assert session.cache.length == session.timeline.tokens == 0


def one_token_at_a_time(session: Session, ids: tuple[int, ...], sources: list[int]) -> Tensor:
    """What taking over means, with the released cache and no masks."""
    network, cache = session.network, DynamicCache()
    decoder = network.model.language_model
    base, start = session.timeline.tokens, session.timeline.next_position
    for index, layer in enumerate(session.cache.layers):
        cache.update(layer.keys[:, :, :base].clone(), layer.values[:, :, :base].clone(), index)
    states = []
    for i, (token, source) in enumerate(zip(ids, sources, strict=True)):
        position = torch.full((3, 1), start + i)
        if source < 0:
            embedding = decoder.embed_tokens(torch.tensor([[token]]))
            out = decoder(inputs_embeds=embedding, position_ids=position[:, None], past_key_values=cache)
            states.append(out.last_hidden_state[0, 0])
            continue
        # Take the rotation off and put the new one on, by the released functions.
        old = session.cache.positions[:, source : source + 1]
        for index, layer in enumerate(session.cache.layers):
            key, value = layer.keys[:, :, source : source + 1], layer.values[:, :, source : source + 1]
            back, forth = (decoder.rotary_emb(key, p[:, None]) for p in (-old, position))
            for cos, sin in (back, forth):
                key, _ = apply_rotary_pos_emb(key, key, cos, sin)
            cache.update(key, value.clone(), index)
    return torch.stack(states)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-6, 18), min_size=1, max_size=14), st.integers(0, 99))
def test_sparse_prefill_equals_the_same_one_token_at_a_time(sources: list[int], seed: int) -> None:
    sources = [max(s, -1) for s in sources] + [-1]
    twin = Twin()
    twin.push_text(words(9, seed))
    twin.push_image(2, 3, seed)
    ids = words(len(sources), seed + 1)
    with torch.no_grad():
        expected = one_token_at_a_time(twin.session, ids, sources)
    dense = twin.session.fork()
    before = twin.session.work.tokens
    states = twin.session.push([Text(ids)], Sources(torch.tensor(sources)))
    computed = torch.tensor(sources) < 0
    assert (states[computed] - expected).abs().max() <= TOLERANCE
    assert states[~computed].isnan().all()
    assert twin.session.work.tokens - before == len(expected)
    assert torch.equal(twin.session.cache.positions, twin.session.timeline.positions())
    if len(expected) == len(ids):
        assert (states - dense.push([Text(ids)])).abs().max() <= TOLERANCE


def test_sparse_prefill_refuses_what_it_cannot_do() -> None:
    session = Session(tiny_network(), block_tokens=16)
    session.push([Text(words(5, 0))])
    before = state(session)
    for sources in ([-1, -1], [5, -1, -1], [0, 0, 0]):
        with pytest.raises(ValueError, match="sources"):
            session.push([Text(words(3, 1))], Sources(torch.tensor(sources)))
    assert_same_bits(session, before)
