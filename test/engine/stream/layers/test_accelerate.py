"""What is recorded once and run again says what the same forward says when it is run anew."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import ref

import pytest
import torch
from engine_models import VISION_END, VISION_START, random_patches, tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.reference import Pixels
from vln_ros.engine.stream.layers.accelerate import CHUNKS, Accelerator, Record, Work, record_compiled
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE, TokenTree

TOLERANCE = 1e-5
TREE, _ = TokenTree.from_sequences([(20, 21, 22), (20, 30), (40,), (20, 21, 23, 9)])
Step = tuple[Sequence[Piece], TokenTree]


def again(work: Work) -> Work:
    """As a graph: the same work on the same tensors, whatever the stream is like by then."""
    return work


def recording(record: Record = again, room: int = 256) -> tuple[Session, Accelerator]:
    accelerator = Accelerator("again", record)
    return Session(tiny_network(), block_tokens=room, accelerator=accelerator), accelerator


def play(session: Session, steps: Sequence[Step]) -> list[Tensor]:
    """The states of every step; every third is taken back, and every seventh begins anew."""
    found: list[Tensor] = []
    for number, (pieces, tree) in enumerate(steps):
        before = session.snapshot()
        found += session.push_tree(pieces, tree)
        if number % 7 == 6:
            session.reset()
        elif number % 3 == 2:
            session.rollback(before)
    return found


def error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True) if b.numel()
    )


def picture(height: int, width: int) -> list[Piece]:
    pixels = Pixels(random_patches(1, 2 * height, 2 * width, 0), 1, 2 * height, 2 * width)
    (image,) = encode_images(tiny_network(), [pixels])
    return [Text((VISION_START,)), image, Text((VISION_END,))]


TEXTS = st.builds(lambda n, seed: [Text(words(n, seed))], st.integers(1, 40), st.integers(0, 99))
PICTURES = st.builds(picture, st.integers(1, 4), st.integers(1, 5))
STEPS = st.lists(st.tuples(TEXTS | PICTURES, st.sampled_from([NO_TREE, TREE])), min_size=4, max_size=14)


@settings(deadline=None, max_examples=25)
@given(STEPS)
def test_any_stream_is_as_without(steps: list[Step]) -> None:
    plain = play(Session(tiny_network(), block_tokens=16), steps)
    session, accelerator = recording()
    assert error(play(session, steps), plain) < TOLERANCE
    assert accelerator.reason is None


def test_a_shape_is_recorded_when_it_comes_again_and_never_twice() -> None:
    session, accelerator = recording()
    counts = []
    for number in range(8):
        before = session.snapshot()
        session.push_tree([Text(words(3 + number, number))], TREE)
        session.rollback(before)
        counts.append(accelerator.recorded)
    assert counts == [0, *[1] * 7]
    session.push([Text(words(3, 0))])  # without a tree it is another shape
    session.push([Text(words(4, 0))])
    assert accelerator.recorded == 2


def test_what_comes_once_is_not_recorded() -> None:
    """As the options of a question are."""
    session, accelerator = recording()
    session.push([Text(words(5, 0))])
    for number in range(6):
        session.ask_choice(words(2, 1), [words(3, number), words(2, 50 + number)])
    assert accelerator.recorded == 0


def test_a_chunk_that_is_longer_than_all_lengths_runs_as_it_does_without() -> None:
    session, accelerator = recording(room=8192)
    plain = Session(tiny_network(), block_tokens=8192)
    for number in range(2):
        long = [Text(words(CHUNKS[-1] + 1, number))]
        assert error([session.push(long)], [plain.push(long)]) < TOLERANCE
    assert accelerator.recorded == 0


def test_a_cache_that_grows_is_recorded_anew() -> None:
    session, accelerator = recording(room=32)
    plain = Session(tiny_network(), block_tokens=32)
    for number in range(12):
        chunk = [Text(words(9, number))]
        assert error([session.push(chunk)], [plain.push(chunk)]) < TOLERANCE
    assert accelerator.recorded > 1


def test_evicting_and_closing_gaps_go_on_in_what_was_recorded() -> None:
    session, accelerator = recording()
    plain = Session(tiny_network(), block_tokens=256)
    for number in range(9):
        chunk = [Text(words(6, number), block=number)]
        assert error([session.push(chunk)], [plain.push(chunk)]) < TOLERANCE
        if number in (4, 6):
            for each in (session, plain):
                each.evict_blocks([number - 2])
        if number == 7:
            for each in (session, plain):
                each.reindex()
    assert accelerator.recorded <= 3, "closing gaps makes other tensors; evicting does not"


def test_numbers_that_are_none_do_not_outlive_a_run() -> None:
    session, _ = recording()
    for number in range(3):
        session.push([Text(words(5, number))])
    for layer in session.cache.layers:
        layer.values[:] = torch.nan  # a forward overflowed
    session.reset()
    for number in range(3):
        assert bool(session.push([Text(words(5, number))]).isfinite().all())


def test_the_slot_that_fills_up_is_no_token() -> None:
    """Tokens behind the stream may be found again; not the one that was written over."""
    session, _ = recording(room=24)
    session.push([Text(words(20, 0))])
    session.push([Text(words(3, 1))])  # up to the last slot but one
    begin = session.snapshot()
    session.rollback(begin)
    spare = session.cache.capacity - 1
    assert not bool(session.cache.holds(torch.tensor([spare])))


def test_states_are_kept_when_the_next_forward_runs() -> None:
    session, _ = recording()
    session.push([Text(words(4, 0))])
    session.push([Text(words(4, 1))])
    states = session.push([Text(words(4, 2))])
    copy = states.clone()
    session.push([Text(words(4, 3))])
    assert torch.equal(states, copy)


def test_work_that_cannot_be_recorded_is_done_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def failing(_: Work) -> Work:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    session, accelerator = recording(failing)
    plain = Session(tiny_network(), block_tokens=256)
    for number in range(4):
        chunk = [Text(words(5, number))]
        assert error([session.push(chunk)], [plain.push(chunk)]) < TOLERANCE
    assert accelerator.recorded == 0
    assert accelerator.reason is not None and "not permitted" in accelerator.reason
    assert sum("going on without" in r.message for r in caplog.records) == 1
    assert "not permitted" in str(accelerator)


def test_when_memory_runs_out_recorded_forwards_go_first() -> None:
    session, _ = recording(room=1024)
    plain = Session(tiny_network(), block_tokens=16)
    for number in range(3):
        for each in (session, plain):
            each.push([Text(words(5, number))])
    assert session.cache.capacity == 1024
    assert session.stop_recording(16) == "no recorded forwards"
    session.cache.trim()
    assert session.cache.capacity == 16
    assert session.stop_recording(16) is None
    chunk = [Text(words(5, 9))]
    assert error([session.push(chunk)], [plain.push(chunk)]) < TOLERANCE


def test_a_closed_session_holds_nothing() -> None:
    session, _ = recording()
    for number in range(3):
        session.push([Text(words(5, number))])
    keys = ref(session.cache.layers[0].keys)
    session.close()
    assert keys() is None


def test_graphs_need_a_cuda_device_and_say_so() -> None:
    assert Accelerator.of("none", torch.device("cpu")) is None
    accelerator = Accelerator.of("graphs", torch.device("cpu"))
    assert accelerator is not None and accelerator.reason is not None and "CUDA" in accelerator.reason
    compiling = Accelerator.of("compile", torch.device("cpu"))
    assert compiling is not None and compiling.reason is None


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_as_one_graph_it_says_the_same(backend: str) -> None:
    session, accelerator = recording(partial(record_compiled, backend=backend))
    plain = Session(tiny_network(), block_tokens=256)
    for number in range(4):
        step: Step = ([Text(words(5 + number, number))], TREE)
        assert error(play(session, [step]), play(plain, [step])) < TOLERANCE
    assert accelerator.reason is None
    assert accelerator.recorded == 1
