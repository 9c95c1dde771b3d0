"""Sessions that share forwards say what they would have said alone, whatever befalls their neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_models import IM_END, VISION_END, VISION_START, random_patches, tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st
from phrases import grammar, options

from vln_ros.config import ReuseConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import (
    SharedDecisions,
    SharedForwards,
    decide_together,
    observe_together,
    push_batch,
    run_batch,
)
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.decode.decode import Decoded, DecodeMode, Push, decode_free, decode_queue, run
from vln_ros.engine.decode.scores import GREEDY
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Pixels
from vln_ros.engine.stream.cache_memory import build_pool
from vln_ros.engine.stream.kv_pool import KVPool, PoolFullError
from vln_ros.engine.stream.segments import Image, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE, TokenTree
from vln_ros.engine.tiny import build_tiny

TREE = TokenTree.build([20, 21, 22, 23], [-1, 0, 0, -1])


def session(length, attention="sdpa", pool=None, chunk_tokens=None):
    made = Session(tiny_network(attention), block_tokens=16, pool=pool, chunk_tokens=chunk_tokens)
    if length:
        made.push([Text(words(length, length))])
    return made


def small_pages(attention="sdpa"):
    return KVPool(tiny_network(attention), tokens=1200, page_tokens=5)


def content(session):
    return [t[:, :, : session.cache.length].clone() for x in session.cache.layers for t in x.buffers()]


def picture(height, width, seed):
    pixels = Pixels(random_patches(1, 2 * height, 2 * width, seed), 1, 2 * height, 2 * width)
    return encode_images(tiny_network(), [pixels])[0]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 9), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
    st.integers(1, 12),
)
def test_a_shared_forward_equals_one_each(robots, in_pool, chunk_tokens):
    together, alone, pushes = [], [], []
    pool = small_pages() if in_pool else None
    for i, (length, count, with_image, with_tree) in enumerate(robots):
        together.append(session(length, pool=pool, chunk_tokens=chunk_tokens if i % 2 else None))
        alone.append(session(length))
        pieces = [Text(words(count, i))]
        if with_image:
            pieces += [Text((VISION_START,)), picture(1 + i % 3, 2, i), Text((VISION_END,))]
        pushes.append(Push(pieces, TREE if with_tree else NO_TREE))
    rows = push_batch(together, pushes)
    for one, other, push, got in zip(together, alone, pushes, rows, strict=True):
        states, nodes = other.push_tree(push.pieces, push.tree)
        expected = other.logits(torch.cat([states[-1:], nodes]))
        assert (got - expected).abs().max() <= 1e-4
        prompt, before = len(states), bool(other.timeline.tokens - len(states))
        assert one.work.forwards == before + -(-prompt // (one.chunk_tokens or prompt))
        assert replace(one.work, forwards=0) == replace(other.work, forwards=0)
        assert torch.equal(one.cache.positions, other.cache.positions)
        pairs = zip(content(one), content(other), strict=True)
        assert max((a - b).abs().max().item() for a, b in pairs) <= 1e-4


def decodings(sessions, mode, prompts=None):
    """Queues, and of every fourth robot free text."""
    language, how = grammar(), options(mode, 1.0, unconstrained=2)
    prompts = prompts or [3] * len(sessions)
    return [
        decode_queue(s, [Text(words(n, i))], language, how, torch.Generator().manual_seed(i))
        if i % 4
        else decode_free(
            s,
            [Text(words(n, i))],
            max_tokens=4,
            end_tokens=(IM_END,),
            sampling=GREEDY,
            generator=torch.Generator(),
        )
        for i, (s, n) in enumerate(zip(sessions, prompts, strict=True))
    ]


def assert_same_decision(a, b):
    if not isinstance(a, Decoded):
        assert a == b
        return
    assert (a.queue, a.ids, a.unconstrained) == (b.queue, b.ids, b.unconstrained)
    assert [replace(w, forwards=0) for w in (a.stats.work, a.stats.wanted_work)] == [
        replace(w, forwards=0) for w in (b.stats.work, b.stats.wanted_work)
    ]
    assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", list(DecodeMode))
@pytest.mark.parametrize("in_pool", [False, True])
def test_eight_robots_decide_together_as_they_would_alone(mode, attention, in_pool):
    pool = small_pages(attention) if in_pool else None
    together = [session(3 + 5 * i, attention, pool) for i in range(8)]
    alone = [session(3 + 5 * i, attention) for i in range(8)]
    shared = run_batch(together, decodings(together, mode))
    separate = [run(s, d) for s, d in zip(alone, decodings(alone, mode), strict=True)]
    for a, b in zip(shared, separate, strict=True):
        assert_same_decision(a, b)
    for one, other in zip(together, alone, strict=True):
        assert one.timeline.tokens == one.cache.length == other.cache.length


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(1, 60)), min_size=1, max_size=6),
    st.sampled_from(list(DecodeMode)),
    st.booleans(),
    st.sampled_from([None, 1, 7, 16]),
)
def test_robots_that_join_at_any_time_decide_as_they_would_alone(robots, mode, in_pool, chunk_tokens):
    """Each with its step of joining, length of its stream, and length of its prompt."""
    pool = small_pages() if in_pool else None
    together = [session(length, pool=pool, chunk_tokens=chunk_tokens) for _, length, _ in robots]
    alone = [session(length) for _, length, _ in robots]
    prompts = [prompt for _, _, prompt in robots]
    joining = decodings(together, mode, prompts)
    forwards, results = SharedForwards(), {}
    for step in range(200):
        for (when, _, _), robot, decoding in zip(robots, together, joining, strict=True):
            if when == step:
                forwards.add(robot, decoding)
        results |= dict(forwards.step())
        if len(results) == len(robots):
            break
    for robot, other, decoding in zip(together, alone, decodings(alone, mode, prompts), strict=True):
        assert_same_decision(results[robot], run(other, decoding))
        assert robot.timeline.tokens == robot.cache.length == other.cache.length
        assert torch.equal(robot.cache.positions, other.cache.positions)
    assert not len(forwards)


def test_a_long_prefill_does_not_hold_up_what_the_others_decode():
    """Of a prompt of 400 tokens 16 go into each forward: two robots have decided long before."""
    light, heavy = [session(10), session(20)], session(5, chunk_tokens=16)
    sizes = []
    layer = tiny_network().model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:2].numel()))
    forwards = SharedForwards()
    for robot, decoding in zip(
        [heavy, *light], decodings([heavy, *light], DecodeMode.TOKENS, [400, 3, 3]), strict=True
    ):
        forwards.add(robot, decoding)
    ended = {}
    try:
        for step in range(100):
            ended |= {robot: step for robot, _ in forwards.step()}
            if len(ended) == 3:
                break
    finally:
        handle.remove()
    assert max(ended[robot] for robot in light) < 15 < 400 // 16 <= ended[heavy]
    assert max(sizes) <= 16 + 3 + 3


def test_a_forward_that_fails_halfway_through_a_long_prefill_costs_only_that_forward():
    """Memory is short once, while one robot is in its third part and the other decodes."""
    robots, alone = [session(5, chunk_tokens=8), session(9)], [session(5), session(9)]
    layer = tiny_network().model.language_model.layers[1]
    calls = []

    def check(_module, args):
        calls.append(args[0].shape[1])
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    handle = layer.register_forward_pre_hook(check)
    try:
        shared = run_batch(robots, decodings(robots, DecodeMode.TOKENS, [40, 3]))
    finally:
        handle.remove()
    separate = [run(s, d) for s, d in zip(alone, decodings(alone, DecodeMode.TOKENS, [40, 3]), strict=True)]
    for a, b in zip(shared, separate, strict=True):
        assert_same_decision(a, b)
    for robot, other in zip(robots, alone, strict=True):
        assert torch.equal(robot.cache.positions, other.cache.positions)


def test_a_robot_that_fails_in_the_middle_of_its_prefill_is_left_as_it_was():
    robots = [session(5, chunk_tokens=8), session(9)]
    before, tokens = content(robots[0]), robots[0].timeline.tokens
    layer = tiny_network().model.language_model.layers[1]

    def check(_module, args, kwargs):
        if kwargs["past_key_values"].get_seq_length() > 30:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    handle = layer.register_forward_pre_hook(check, with_kwargs=True)
    try:
        heavy, light = run_batch(robots, decodings(robots, DecodeMode.TOKENS, [40, 3]))
    finally:
        handle.remove()
    assert isinstance(heavy, torch.OutOfMemoryError)
    assert robots[0].timeline.tokens == robots[0].cache.length == tokens
    assert all(torch.equal(a, b) for a, b in zip(content(robots[0]), before, strict=True))
    alone = [session(5), session(9)]
    assert_same_decision(light, run(alone[1], decodings(alone, DecodeMode.TOKENS, [40, 3])[1]))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_robot_may_leave_in_the_middle_of_its_prefill_and_come_back(steps):
    robots, alone = [session(5, chunk_tokens=8), session(9)], [session(5), session(9)]
    forwards = SharedForwards()
    for robot, decoding in zip(robots, decodings(robots, DecodeMode.TOKENS, [40, 3]), strict=True):
        forwards.add(robot, decoding)
    results = {}
    for _ in range(steps):
        results |= dict(forwards.step())
    forwards.remove(robots[0])
    assert robots[0].timeline.tokens == robots[0].cache.length == 5
    with pytest.raises(ValueError, match="takes no part"):
        forwards.remove(robots[0])
    forwards.add(robots[0], decodings(robots, DecodeMode.TOKENS, [40, 3])[0])
    while len(forwards):
        results |= dict(forwards.step())
    for robot, other, decoding in zip(
        robots, alone, decodings(alone, DecodeMode.TOKENS, [40, 3]), strict=True
    ):
        assert_same_decision(results[robot], run(other, decoding))


def test_a_robot_whose_run_is_cancelled_is_asked_no_more(model):
    robots = [engine(model, i, "tiny", decode="tokens") for i in range(2)]
    decisions = SharedDecisions()
    for i, robot in enumerate(robots):
        robot.observe(frame(i, 0))
        decisions.ask(robot, 1)
    decisions.step()
    decisions.withdraw(robots[0])
    robots[0].start(Instruction(7, "go to chair 7"))
    robots[0].observe(frame(0, 0))
    decisions.ask(robots[0], 2)
    found = {}
    while len(decisions):
        found |= {id(robot): chunk for robot, chunk in decisions.step()}
    assert found[id(robots[0])].queue == 2 and found[id(robots[0])].instruction == 7
    assert found[id(robots[1])].queue == 1
    alone = engine(model, 7, "tiny", decode="tokens")
    alone.observe(frame(0, 0))
    assert found[id(robots[0])].actions == alone.decide(2).actions


def test_of_a_pool_that_is_full_only_the_one_that_asks_for_more_notices():
    pool = KVPool(tiny_network(), tokens=80, page_tokens=10)
    robots = [session(n, pool=pool) for n in (15, 38, 15)]
    alone = [session(15), session(38), session(15)]
    pushes = [Push([Text(words(n, n))], NO_TREE) for n in (4, 13, 5)]
    rows = push_batch(robots, pushes)
    assert isinstance(rows[1], PoolFullError) and robots[1].cache.length == robots[1].timeline.tokens == 38
    robots[0].close()
    rows[1] = push_batch([robots[1]], [pushes[1]])[0]
    for other, push, got in zip(alone, pushes, rows, strict=True):
        assert (got - other.logits(other.push(push.pieces)[-1:])).abs().max() <= 1e-4


def test_a_broken_session_harms_no_other():
    robots, alone = [session(9), session(4), session(20), session(7)], [session(9), session(4)]
    before = content(robots[2])
    nan = Image(torch.full((2, 64), float("nan")), 1, 2)
    pushes = [
        Push([Text(words(3, 1))], NO_TREE),
        Push([Text(words(5, 2))], TREE),
        Push([nan], NO_TREE),  # outside vision markers
        Push([Text((VISION_START,)), nan, Text((VISION_END,))], NO_TREE),
    ]
    rows = push_batch(robots, pushes)
    assert isinstance(rows[2], ValueError) and "vision start" in str(rows[2])
    assert all(torch.equal(a, b) for a, b in zip(content(robots[2]), before, strict=True))
    assert bool(rows[3].isnan().all())
    for other, push, got in zip(alone, pushes, rows, strict=False):
        states, nodes = other.push_tree(push.pieces, push.tree)
        assert (got - other.logits(torch.cat([states[-1:], nodes]))).abs().max() <= 1e-4


def test_a_forward_that_is_too_large_together_is_run_one_by_one():
    layer = tiny_network().model.language_model.layers[1]

    def check(_module, args, kwargs):
        if args[0].shape[0] > 1 or kwargs["past_key_values"].get_seq_length() > 30:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    robots = [session(9), session(40), session(12)]
    before = content(robots[1])
    handle = layer.register_forward_pre_hook(check, with_kwargs=True)
    try:
        rows = push_batch(robots, [Push([Text(words(3, i))], NO_TREE) for i in range(3)])
    finally:
        handle.remove()
    assert isinstance(rows[1], torch.OutOfMemoryError)
    assert all(torch.equal(a, b) for a, b in zip(content(robots[1]), before, strict=True))
    assert robots[0].cache.length == 12 and robots[2].cache.length == 15
    other = session(12)
    assert (rows[2] - other.logits(other.push([Text(words(3, 2))])[-1:])).abs().max() <= 1e-4


def test_a_batch_needs_different_sessions_of_one_network():
    one = session(3)
    push = Push([Text((9,))], NO_TREE)
    with pytest.raises(ValueError, match="different sessions"):
        push_batch([one, one], [push, push])
    with pytest.raises(ValueError, match="one network"):
        push_batch([one, session(3, "eager")], [push, push])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def frame(robot, index):
    rgb = np.random.default_rng([robot, index]).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, index * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def engine(model, number, name, pool=None, **stream):
    profile = load_profile(name)
    profile = replace(profile, image=replace(profile.image, resize=(56, 56)))
    options = StreamConfig(cache_block_tokens=64, **stream)
    robot = QwenEngine(model, profile, temperature=0.0, seed=0, stream=options, pool=pool)
    robot.start(Instruction(number, f"go to chair {number}"))
    return robot


def test_robots_with_different_profiles_share_a_model(model):
    names = ["tiny", "navida", "tiny", "activevln-r2r"]
    together = [engine(model, i, n) for i, n in enumerate(names)]
    alone = [engine(model, i, n) for i, n in enumerate(names)]
    for index in range(5):
        frames = [frame(i, index) for i in range(len(names))]
        assert observe_together(together, frames) == [None] * len(names)
        for robot, f in zip(alone, frames, strict=True):
            robot.observe(f)
        shared = decide_together(together, [index] * len(names))
        for robot, chunk in zip(alone, shared, strict=True):
            expected = robot.decide(index)
            assert chunk.actions == expected.actions and chunk.unconstrained == expected.unconstrained
            assert chunk.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


def test_robots_in_a_pool_asked_one_after_the_other_decide_as_they_would_alone(model):
    """Whoever has its answer looks at its next frame and is asked again, while the others still decode."""
    names = ["tiny", "navida", "activevln-r2r", "internvla-n1-s2"]
    options = {"decode": "tokens", "token_budget": 400, "chunk_tokens": 16}
    pool = KVPool(model.network, tokens=4000, page_tokens=32)
    robots = [engine(model, i, n, pool, **options) for i, n in enumerate(names)]
    alone = [engine(model, i, n, **options) for i, n in enumerate(names)]
    number = {id(robot): i for i, robot in enumerate(robots)}
    decisions, said, asked = SharedDecisions(), [[] for _ in names], [0] * len(names)

    def ask(i):
        robots[i].observe(frame(i, asked[i]))
        decisions.ask(robots[i], asked[i])
        asked[i] += 1

    for step in range(400):
        if step < len(names):
            ask(step)
        for robot, chunk in decisions.step():
            i = number[id(robot)]
            said[i].append(chunk)
            if asked[i] < 6:
                ask(i)
        if step >= len(names) and not len(decisions):
            break
    for i, robot in enumerate(alone):
        for index, chunk in enumerate(said[i]):
            robot.observe(frame(i, index))
            expected = robot.decide(index)
            assert chunk.actions == expected.actions and chunk.unconstrained == expected.unconstrained
            assert chunk.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        assert len(said[i]) == 6
    for robot in robots:
        robot.close()
    assert pool.free_pages == pool.pages


def test_a_robot_that_finds_the_pool_full_gives_up_what_it_can_and_the_others_nothing(model):
    pool = KVPool(model.network, tokens=1024, page_tokens=32)
    robots = [engine(model, i, "tiny", pool) for i in range(3)]
    for index in range(60):
        for i, robot in enumerate(robots[: 3 if index < 3 else 1]):
            robot.observe(frame(i, index))
        chunks = decide_together(robots[: 3 if index < 3 else 1], [index] * (3 if index < 3 else 1))
        assert all(chunk.actions for chunk in chunks)
        if robots[0].report().fallback:
            break
    assert robots[0].report().fallback
    for i, robot in enumerate(robots):
        robot.observe(frame(i, 70))
    assert all(chunk.actions for chunk in decide_together(robots, [70] * 3))
    assert not robots[1].report().fallback and not robots[2].report().fallback


def test_engines_with_a_pool_in_their_options_share_it(model):
    stream = StreamConfig(pool_tokens=500, cache_block_tokens=64)
    pool = build_pool(model, stream, ReuseConfig())
    assert (pool.pages, pool.page_tokens, pool.keep_original_keys) == (8, 64, False)
    assert build_pool(model, StreamConfig(), ReuseConfig()) is None
    robots = [engine(model, i, "tiny", pool) for i in range(2)]
    for i, robot in enumerate(robots):
        robot.observe(frame(i, 0))
    decide_together(robots, [0, 0])
    assert pool.free_pages == pool.pages - sum(len(r.session.cache.pages) for r in robots) < pool.pages


def test_a_robot_that_cannot_decide_gets_its_own_error(model):
    robots = [engine(model, i, "tiny") for i in range(3)]
    errors = observe_together([robots[0], robots[2]], [frame(0, 0), frame(2, 0)])
    assert errors == [None, None]
    first, second, third = decide_together(robots, [1, 2, 3])
    assert isinstance(second, RuntimeError) and "before any frame" in str(second)
    assert first.actions and third.queue == 3


def test_a_robot_out_of_memory_gives_up_what_it_can_and_decides(model):
    robots = [engine(model, i, "tiny") for i in range(2)]
    for index in range(10):
        robots[0].observe(frame(0, index))
        robots[0].decide(index)
    robots[0].observe(frame(0, 10))
    robots[1].observe(frame(1, 0))
    limit = robots[0].session.timeline.tokens
    last = model.network.model.language_model.layers[-1].mlp

    def check(_module, _args):
        if robots[0].session.timeline.tokens > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    handle = last.register_forward_pre_hook(check)
    try:
        chunks = decide_together(robots, [10, 0])
    finally:
        handle.remove()
    assert all(c.actions for c in chunks)
    assert robots[0].report().fallback and not robots[1].report().fallback
