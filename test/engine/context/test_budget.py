"""Bounded streams: what is evicted is masked, what stays is exact, and nothing grows."""

import math

import numpy as np
import pytest
import torch
from bounded_streams import Masked, engine, frame
from engine_models import VISION_START, random_patches, words
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import Pose
from vln_ros.engine.context.budget import thin_images
from vln_ros.engine.inputs.vision import encode_video
from vln_ros.engine.oom_fallback import OomFallback, is_out_of_memory
from vln_ros.engine.stream.session import Session
from vln_ros.memory.retention import appearance_distances, choose_evictions, pose_distances


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.just("frame"), st.integers(1, 4), st.integers(1, 4))
        | st.tuples(st.just("text"), st.integers(1, 6), st.just(0))
        | st.tuples(st.just("evict"), st.integers(0, 9), st.integers(0, 2**20)),
        min_size=3,
        max_size=10,
    )
)
def test_evicting_equals_the_one_shot_with_those_keys_masked(operations):
    stream = Masked()
    stream.push_text(words(4, 0))
    for number, (name, a, b) in enumerate(operations):
        if name == "frame":
            stream.push_frame(number, a, b, number)
        elif name == "text":
            stream.push_text(words(a, number), block=number)
        elif blocks := list(stream.session.timeline.blocks()):
            gone = blocks[a % len(blocks)]
            slots = stream.session.timeline.slots(lambda s, gone=gone: s.block == gone).tolist()
            if b % 2:  # single tokens of it instead of the whole block
                slots = [s for i, s in enumerate(slots) if b >> (i % 20) & 1]
            stream.evict(slots)
    stream.push_text(words(3, 99))
    stream.check()


def test_evicting_blocks_by_number():
    stream = Masked()
    stream.push_text(words(4, 0))
    for number in (1, 2, 3):
        stream.push_frame(number, 2, 2, number)
    snapshot = stream.session.snapshot()
    with pytest.raises(ValueError, match=r"no frame blocks \[7\]"):
        stream.session.evict_blocks([7])
    stream.session.evict_blocks([1, 3])
    assert list(stream.session.timeline.blocks()) == [2]
    with pytest.raises(ValueError, match="not a prefix"):
        stream.session.rollback(snapshot)


def test_thinned_images_keep_every_second_row_and_column():
    stream = Masked()
    stream.push_text(words(4, 0))
    stream.push_frame(1, 4, 5, 1)
    stream.push_frame(2, 3, 3, 2)
    image = [i for i, s in enumerate(stream.session.timeline.positions()[0].tolist()) if s == 7]
    thin_images(stream.session, frozenset({1}), 2)
    for i in image:
        row, column = divmod(i - image[0], 5)
        stream.alive[i] = row % 2 == 0 and column % 2 == 0
    assert stream.session.timeline.blocks() == {1: 3 + 6 + 2, 2: 3 + 9 + 2}
    stream.push_text(words(3, 9))
    stream.check()
    before = list(stream.session.timeline.segments)
    thin_images(stream.session, frozenset({1}), 2)
    assert all(a is b for a, b in zip(before, stream.session.timeline.segments, strict=True))


def test_reindexing_a_stream_without_gaps_changes_nothing():
    stream = Masked()
    stream.push_text(words(4, 0))
    stream.push_frame(1, 3, 5, 1)
    patches = random_patches(4, 4, 4, 3)
    stream.push_text((VISION_START,))
    for first in (0, 2):
        part = patches[first * 16 : (first + 2) * 16]
        clip = encode_video(stream.session.network, part, (2, 4, 4), seconds_per_grid=1.5, first_grid=first)
        stream.session.push([clip])
    positions, following = stream.session.timeline.positions(), stream.session.timeline.next_position
    stream.session.reindex()
    assert torch.equal(stream.session.timeline.positions(), positions)
    assert stream.session.timeline.next_position == following


def test_reindexing_moves_what_is_left_together_without_changing_what_it_says():
    """When all that is left moves by one distance, relative positions, and so all answers, stay."""
    stream = Masked()
    stream.push_frame(1, 4, 5, 1)
    stream.push_frame(2, 3, 2, 2)
    stream.push_frame(3, 2, 3, 3)
    stream.session.evict_blocks([1])
    other = stream.session.fork()
    other.reindex()
    assert int(other.timeline.positions().min()) == 0
    assert other.timeline.next_position == stream.session.timeline.next_position - 10
    assert torch.equal(other.cache.positions, other.timeline.positions())
    question, options = words(4, 8), [(i,) for i in range(100)]
    difference = other.ask_choice(question, options) - stream.session.ask_choice(question, options)
    assert difference.abs().max() <= 1e-4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=25),
    st.integers(1, 6),
    st.integers(0, 400),
)
def test_evictions_take_the_least_novel_over_the_budget_and_nothing_else(frames, recent, budget):
    tokens = [t for t, _, _ in frames]
    distances = pose_distances([Pose.planar(x, y, 0.0) for _, x, y in frames], distance_m=1.0, angle_rad=1.0)
    gone = choose_evictions(tokens, distances, recent=recent, budget=budget)
    stay = list(range(len(frames)))
    first_recent = max(0, len(frames) - recent)
    while sum(tokens[i] for i in stay) > budget and len(stay) > 1:
        older = [i for i in stay if i < first_recent]
        if not older:
            stay.pop(0)
            continue
        nearest = {i: min(distances[i, k] for k in stay if k != i) for i in older}
        stay.remove(min(older, key=lambda i: (nearest[i], i)))
    assert gone == tuple(i for i in range(len(frames)) if i not in stay)
    if sum(tokens) <= budget:
        assert gone == ()
    assert stay[-1] == len(frames) - 1


@pytest.mark.parametrize("name", ["activevln-r2r", "activevln-rxr", "qwen-zero-shot", "tiny"])
@pytest.mark.parametrize("pose", [Pose.planar(0.0, 0.0, 0.0), None])
def test_no_turn_goes_while_the_budget_is_not_used_up(model, name, pose):
    """However little the robot moves, and however many turns there are."""
    robot = engine(model, name, decode="tokens", max_phrases=1, recent_turns=2)
    for index in range(24):
        robot.observe(frame(index, pose))
        robot.decide(index)
    assert list(robot.session.timeline.blocks()) == list(range(1, 24))
    report = robot.report()
    assert report.evicted == 0 and report.cached_tokens < robot._budget.budget


def test_distances_measure_way_heading_and_looks():
    poses = [Pose.planar(0, 0, 0), Pose.planar(2, 0, 0), Pose.planar(0, 0, math.pi - 0.1)]
    poses.append(Pose.planar(0, 0, -math.pi + 0.1))
    distances = pose_distances(poses, distance_m=2.0, angle_rad=0.2)
    assert distances[0, 1] == pytest.approx(1.0) and distances[2, 3] == pytest.approx(1.0)
    looks = appearance_distances(np.array([[1, 0], [3, 0], [0, 1]], np.float32), scale=0.5)
    assert looks[0, 1] == pytest.approx(0.0) and looks[0, 2] == pytest.approx(2.0)


def assert_stays_flat(model, frames, keyframes, stride):
    robot = engine(
        model,
        token_budget=300,
        recent_turns=6,
        keyframes=keyframes,
        keyframe_stride=stride,
        keyframe_difference=0.001,
        cache_block_tokens=64,
        max_position=400,
        decode="tokens",
        max_phrases=1,
    )
    tokens, allocated, positions = [], [], []
    for index in range(frames):
        robot.observe(frame(index))
        robot.decide(index)
        report = robot.report()
        tokens.append(report.cached_tokens)
        allocated.append(report.allocated_bytes)
        positions.append(robot.session.timeline.next_position)
    assert max(tokens) <= 300 + 40  # the open turn comes on top
    assert allocated[-1] == allocated[frames // 3] == max(allocated)
    assert max(positions) <= 400 + 40 and robot._budget.reindexed > 0
    numbers = list(robot.session.timeline.blocks())
    assert numbers[-7:] == list(range(frames - 7, frames)) and len(numbers) > 7  # window and keyframes
    assert robot.report().evicted == frames - 1 - len(numbers)


def test_a_bounded_stream_stays_flat(model):
    assert_stays_flat(model, 90, "pose", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("keyframes", "stride"), [("pose", 1), ("appearance", 2)])
def test_a_bounded_stream_stays_flat_over_hundreds_of_frames(model, keyframes, stride):
    assert_stays_flat(model, 340, keyframes, stride)


def test_bytes_bound_a_stream_too(model):
    token = Session(model.network).token_bytes
    robot = engine(model, cache_budget_mb=1, recent_turns=1, keyframe_distance_m=0.01)
    robot.session.close()
    for index in range(40):
        robot.observe(frame(index))
        robot.decide(index)
    assert robot.session.cache.used_bytes == token * robot.session.cache.length
    assert robot._budget.budget == 1_000_000 // token


def test_frames_that_nobody_asks_about_do_not_fill_the_stream(model):
    robot = engine(model, token_budget=200)
    for index in range(60):
        robot.observe(frame(index))
        assert robot.session.timeline.tokens <= 220
    assert robot.decide(0).frame_stamp_ns == frame(59).stamp_ns


def out_of_memory_above(robot, limit):
    """The decoder fails on more than ``limit`` tokens of context, as a small device would."""
    session = robot.session

    def check(_module, _args):
        if session.timeline.tokens > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    return session.network.model.language_model.layers[-1].mlp.register_forward_pre_hook(check)


@pytest.mark.parametrize("name", ["tiny", "navida"])
@pytest.mark.parametrize("arrival", [True, False])
def test_out_of_memory_is_met_step_by_step_and_recorded(model, name, arrival, caplog):
    robot = engine(model, name, recent_turns=100, prefill=arrival, decode="tokens")
    handle = out_of_memory_above(robot, 250)
    try:
        for index in range(30):
            robot.observe(frame(index))
            chunk = robot.decide(index)
            assert chunk.frame_stamp_ns == frame(index).stamp_ns and chunk.actions
    finally:
        handle.remove()
    steps = robot.report().fallback
    assert steps and ("window" in steps[0] or "history" in steps[0])
    assert sum("out of memory" in r.message for r in caplog.records) == len(steps)
    assert robot.session.cache.length <= 250


def test_when_nothing_else_helps_the_stream_begins_anew(model):
    robot = engine(model, recent_turns=100)
    for index in range(3):
        robot.observe(frame(index))
        robot.decide(index)
    calls = iter(range(100))
    see = robot._encoder.encode

    def fail_at_first(rgb):
        if next(calls) < 6:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return see(rgb)

    robot._encoder.encode = fail_at_first
    robot.observe(frame(3))
    steps = robot.report().fallback
    assert "every second frame" in steps and "every 4th frame" in steps
    assert any("pixels" in s for s in steps)
    chunk = robot.decide(3)
    assert chunk.frame_stamp_ns == frame(3).stamp_ns
    robot.observe(frame(5))  # skipped, but then it is the one that is asked about
    assert robot.decide(4).frame_stamp_ns == frame(5).stamp_ns


def test_a_lack_of_memory_between_turns_loses_only_old_turns(model):
    robot = engine(model, recent_turns=100)
    for index in range(9):
        robot.observe(frame(index))
        robot.decide(index)
    calls, see = iter(range(100)), robot._encoder.encode

    def fail_once(rgb):
        if next(calls) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return see(rgb)

    robot._encoder.encode = fail_once
    before = robot.session.timeline.blocks()
    robot.observe(frame(9))
    after = robot.session.timeline.blocks()
    assert list(before) == list(range(1, 9))
    assert list(after)[-2:] == [8, 9] and len(after) < 9
    # Turn 8 is whole: its picture, question and answer; what came in last is its reply.
    assert after[8] > before[8] and all(after[b] >= before[b] for b in after if b != 9)
    assert [s.split()[0] for s in robot.report().fallback] == ["context"]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    fallback = OomFallback([lambda: "less", lambda: None], lambda: "anew")
    with pytest.raises(RuntimeError, match="shape"):
        fallback.run(lambda: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    assert fallback.steps == []
    with pytest.raises(MemoryError):
        fallback.run(lambda: (_ for _ in ()).throw(MemoryError()))
    assert fallback.steps == ["less", "anew"]
    calls = iter([MemoryError, None])
    assert fallback.run(lambda: "done" if (e := next(calls)) is None else (_ for _ in ()).throw(e)) == "done"
    assert fallback.steps == ["less", "anew", "anew"]  # the last resort is there for every piece of work
    assert not is_out_of_memory(ValueError("out of memory"))
