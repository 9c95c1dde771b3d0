"""Memory that runs out at any allocation leaves a stream exact, or visibly less; never silently wrong."""

import numpy as np
import pytest
import torch
from bounded_streams import Masked, engine, frame
from engine_models import words
from torch.utils._python_dispatch import TorchDispatchMode

from vln_ros.datatypes import Instruction, Pose
from vln_ros.engine.oom_fallback import OomFallback, is_out_of_memory
from vln_ros.engine.stream.kv_cache import TornStreamError


class FailAt(TorchDispatchMode):
    """The ``at``-th operation that makes a tensor finds no memory; with ``every`` the ``at``-th of all."""

    def __init__(self, at, every=False):
        super().__init__()
        self.at, self.every, self.count, self.failed = at, every, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        makes = not func._schema.is_mutable and not any(r.alias_info for r in func._schema.returns)
        if makes or self.every:
            self.count += 1
            if self.count - 1 == self.at:
                self.failed = True
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return func(*args, **(kwargs or {}))


def stream_with_frames():
    stream = Masked()
    stream.push_text(words(4, 0))
    for block in (1, 2, 3):
        stream.push_frame(block, 2, 3, block)
    return stream


def state_of(session):
    cache, n = session.cache, session.timeline.tokens
    tensors = [t[:, :, :n].clone() for layer in cache.layers for t in layer.buffers()]
    records = [cache.positions[:, :n].clone(), session.timeline.positions()]
    return [s.ids for s in session.timeline.segments], session.timeline.next_position, tensors + records


def same(a, b):
    return a[:2] == b[:2] and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))


@pytest.mark.parametrize(
    "act", [lambda s: s.evict_blocks([2]), lambda s: s.reindex()], ids=["evict", "reindex"]
)
@pytest.mark.parametrize("every", [False, True])
def test_moving_tokens_is_all_or_nothing(act, every):
    """At every allocation: nothing has changed. At any operation: so, or the stream is known to be torn."""
    unconstrained = stream_with_frames()
    unconstrained.session.evict_blocks([1])
    act(unconstrained.session)
    unconstrained = state_of(unconstrained.session)
    torn = at = 0
    while True:
        stream = stream_with_frames()
        stream.session.evict_blocks([1])
        before = state_of(stream.session)
        fail = FailAt(at, every)
        try:
            with fail:
                act(stream.session)
        except torch.OutOfMemoryError:
            pass
        if not fail.failed:
            break
        try:
            stream.session.cache.check()
        except TornStreamError:
            assert every, "a lack of memory alone tears nothing"
            torn += 1
            with pytest.raises(TornStreamError):
                stream.push_text(words(2, 9))
            stream.session.reset()
            stream.session.cache.check()
        else:
            now = state_of(stream.session)
            assert same(now, before) or same(now, unconstrained)
            if same(now, before):
                act(stream.session)  # and once more it works
            assert same(state_of(stream.session), unconstrained)
        at += 1
    assert at > 5
    assert same(state_of(stream.session), unconstrained)


def test_a_push_that_found_no_memory_leaves_the_stream_and_can_be_tried_again():
    at = 0
    while True:
        stream = stream_with_frames()
        before = state_of(stream.session)
        tokens = words(5, 7)
        fail = FailAt(at)
        try:
            with fail:
                stream.push_text(tokens)
        except torch.OutOfMemoryError:
            assert same(state_of(stream.session), before)
            stream.push_text(tokens)
        stream.check()
        at += 7
        if not fail.failed:
            break
    assert at > 100


def keys_of_text(robot):
    """Tokens of text whose keys in the first layer are not those of the tokens at their positions."""
    session, wrong, start = robot.session, 0, 0
    text = session.network.model.language_model
    layer, cache = text.layers[0], session.cache
    heads, size = cache.layers[0].keys.shape[1], cache.layers[0].keys.shape[3]
    for segment in session.timeline.segments:
        if segment.grid is None:
            embedded = layer.input_layernorm(text.embed_tokens(torch.tensor(segment.ids))[None])
            keys = layer.self_attn.k_proj(embedded).view(1, -1, heads, size).transpose(1, 2)
            keys = cache.rotated(keys, segment.positions)
            there = cache.layers[0].keys[:, :, start : start + segment.count]
            wrong += int(((keys - there).abs().amax((0, 1, 3)) > 1e-4).sum())
        start += segment.count
    return wrong


def run(robot, fail, frames=5):
    """Queues of a run in which the failure happens after its second frame."""
    robot.start(Instruction(1, "go to the red chair"))
    queues = []
    for index in range(frames):
        if index == 2:
            fail.__enter__()
        try:
            robot.observe(frame(index, Pose.planar(0.0, 0.0, 0.0)))
            queues.append(robot.decide(index).actions)
        finally:
            if index == frames - 1:
                fail.__exit__(None, None, None)
    return queues


OPTIONS = {
    "decode": "tokens",
    "max_phrases": 1,
    "token_budget": 80,
    "recent_turns": 1,
    "cache_block_tokens": 16,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["tiny", "navida"])
def test_one_lack_of_memory_anywhere_is_without_effect_or_reported(model, name):
    robot = engine(model, name, **OPTIONS)
    run(robot, FailAt(10**9))  # the cache grows in the first run only
    whole = FailAt(10**9)
    expected = run(robot, whole)
    ids = [s.ids for s in robot.session.timeline.segments]
    assert whole.count > 500
    lacking = 0
    with torch.no_grad():
        for at in np.linspace(0, whole.count - 1, 40).astype(int):
            fail = FailAt(int(at))
            queues = run(robot, fail)
            assert fail.failed and len(queues) == len(expected)
            assert keys_of_text(robot) == 0
            assert {layer.length for layer in robot.session.cache.layers} == {robot.session.cache.length}
            assert robot.session.timeline.tokens <= robot.session.cache.length
            if not robot.given_up():
                assert queues == expected and [s.ids for s in robot.session.timeline.segments] == ids
            lacking += bool(robot.given_up())
            robot.vitals()
        assert lacking
        # And nothing of all this is left in the next run.
        assert run(robot, FailAt(10**9)) == expected and robot.given_up() == ()
        assert robot._budget.budget == 80 and robot._frame_stride == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: cudaErrorMemoryAllocation"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("HIP out of memory. Tried to allocate 1.00 GiB"),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at 'CUDACachingAllocator.cpp':838"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_every_way_to_say_that_memory_ran_out_is_known(error):
    assert is_out_of_memory(error)
    fallback, tries = OomFallback([lambda: "less"], lambda: None), iter([error, None])

    def work():
        if (failure := next(tries)) is not None:
            raise failure
        return "done"

    assert fallback.run(work) == "done" and fallback.steps == ["less"]
    fallback.begin()
    assert fallback.steps == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("shape '[2]' is invalid for input of size 3"),
        OSError(2, "No such file or directory"),
        TornStreamError("torn"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_none(error):
    assert not is_out_of_memory(error)


def test_a_rung_that_finds_no_memory_itself_is_passed_over():
    def lacking():
        raise torch.OutOfMemoryError("CUDA out of memory")

    fallback, tries = OomFallback([lacking, lambda: "less"], lambda: "anew"), iter([1, 0])
    assert fallback.run(lambda: lacking() if next(tries) else "done") == "done"
    assert fallback.steps == ["less"]


def test_a_torn_stream_is_begun_anew_at_once():
    fallback, tries = OomFallback([lambda: "less"], lambda: "a new stream"), iter([1, 0])

    def work():
        if next(tries):
            raise TornStreamError("torn")
        return "done"

    assert fallback.run(work) == "done" and fallback.steps == ["a new stream"]


def test_a_lack_of_memory_at_the_first_frame_leaves_the_budget(model):
    """Nothing is in the stream then that could be given up."""
    robot = engine(model, **OPTIONS)
    see, calls = robot._encoder.encode, iter(range(100))

    def fail_once(rgb):
        if next(calls) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return see(rgb)

    robot._encoder.encode = fail_once
    robot.observe(frame(0))
    robot.decide(0)
    assert robot.given_up() and robot._budget.budget == 80
    assert dict(robot.vitals())["given up for lack of memory"] == "; ".join(robot.given_up())
    robot.start(Instruction(2, "go"))
    assert robot.given_up() == () and robot._frame_stride == 1
    assert robot._encoder.max_pixels == robot.profile.image.max_pixels
    assert "given up for lack of memory" not in dict(robot.vitals())
