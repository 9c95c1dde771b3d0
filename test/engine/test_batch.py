"""Sessions that share forwards say what they would have said alone, whatever befalls their neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_models import IM_END, VISION_END, VISION_START, random_patches, tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st
from phrases import grammar, options

from vln_ros.config import StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together, push_batch, run_batch
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.decode.decode import DecodeMode, Push, decode_free, decode_queue, run
from vln_ros.engine.decode.scores import GREEDY
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Pixels
from vln_ros.engine.stream.segments import Image, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE, TokenTree
from vln_ros.engine.tiny import build_tiny

TREE = TokenTree.build([20, 21, 22, 23], [-1, 0, 0, -1])


def session(length, attention="sdpa"):
    made = Session(tiny_network(attention), block_tokens=16)
    if length:
        made.push([Text(words(length, length))])
    return made


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
    )
)
def test_a_shared_forward_equals_one_each(robots):
    together, alone, pushes = [], [], []
    for i, (length, count, with_image, with_tree) in enumerate(robots):
        together.append(session(length))
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
        assert one.work == other.work
        assert torch.equal(one.cache.positions, other.cache.positions)
        pairs = zip(content(one), content(other), strict=True)
        assert max((a - b).abs().max().item() for a, b in pairs) <= 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", list(DecodeMode))
def test_eight_robots_decide_together_as_they_would_alone(mode, attention):
    language, how = grammar(), options(mode, 1.0, unconstrained=2)

    def decodings(sessions):
        return [
            decode_queue(s, [Text(words(3, i))], language, how, torch.Generator().manual_seed(i))
            if i % 4
            else decode_free(
                s,
                [Text(words(3, i))],
                max_tokens=4,
                end_tokens=(IM_END,),
                sampling=GREEDY,
                generator=torch.Generator(),
            )
            for i, s in enumerate(sessions)
        ]

    together = [session(3 + 5 * i, attention) for i in range(8)]
    alone = [session(3 + 5 * i, attention) for i in range(8)]
    shared = run_batch(together, decodings(together))
    separate = [run(s, d) for s, d in zip(alone, decodings(alone), strict=True)]
    for i, (a, b) in enumerate(zip(shared, separate, strict=True)):
        if i % 4:
            assert (a.queue, a.ids, a.unconstrained, a.stats) == (b.queue, b.ids, b.unconstrained, b.stats)
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
        else:
            assert a == b
    for one, other in zip(together, alone, strict=True):
        assert one.timeline.tokens == one.cache.length == other.cache.length


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


def engine(model, number, name):
    profile = load_profile(name)
    profile = replace(profile, image=replace(profile.image, resize=(56, 56)))
    robot = QwenEngine(model, profile, temperature=0.0, seed=0, stream=StreamConfig(cache_block_tokens=64))
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
