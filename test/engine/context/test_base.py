"""Every context strategy shows the model the conversation that its profile renders, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conversations import assert_stream_is, conversation, engine, frame, profile, windowed
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import TinyConfig
from vln_ros.datatypes import STOP, Instruction
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.context.base import FrameBank
from vln_ros.engine.inputs import prompt
from vln_ros.engine.inputs.preprocess import stack_video
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.reference import Pixels, one_shot
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.tiny import build_tiny
from vln_ros.memory.star import scene_change, select_frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def spoken(engine, chunk):
    """The text behind a queue."""
    words = {p.actions: p.text for p in engine.profile.vocabulary}
    return engine.profile.separator.join(words[(a,)] for a in chunk.actions)


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("decode", ["tree", "tokens"])
def test_append_keeps_every_turn_and_answer(model, prefill, decode):
    own = profile()
    robot = engine(model, own, prefill=prefill, decode=decode)
    robot.start(Instruction(1, "go to the red chair"))
    turns, frames, index = [], [], 0
    for count in (1, 1, 3, 1):
        for _ in range(count):
            robot.observe(frame(index))
            frames.append(frame(index))
            index += 1
        chunk = robot.decide(len(turns))
        assert chunk.frame_stamp_ns == frames[-1].stamp_ns and chunk.instruction == 1
        assert_stream_is(
            robot,
            model,
            conversation(model, own, "go to the red chair", [*turns, prompt.Turn(images=count)], frames),
        )
        turns.append(prompt.Turn(images=count, reply=spoken(robot, chunk)))


@pytest.mark.parametrize(("prefill", "seen"), [(True, 5), (False, 3)])
def test_append_can_drop_frames_that_nobody_asked_about(model, prefill, seen, monkeypatch):
    own = profile(strategy="append", unasked_frames="drop")
    robot = engine(model, own, prefill=prefill)
    looks = []
    see = VisionEncoder.encode
    monkeypatch.setattr(VisionEncoder, "encode", lambda encoder, rgb: looks.append(rgb) or see(encoder, rgb))
    robot.start(Instruction(1, "go"))
    for index in range(3):
        robot.observe(frame(index))
    first = robot.decide(0)
    robot.observe(frame(3))
    robot.observe(frame(4))
    robot.decide(1)
    # The first frame is always looked at; of the others, where nothing is done ahead, those asked about.
    assert len(looks) == seen
    turns = [prompt.Turn(reply=spoken(robot, first)), prompt.Turn()]
    assert_stream_is(robot, model, conversation(model, own, "go", turns, [frame(2), frame(4)]))


def test_asking_again_about_the_same_frame_gives_the_same_answer(model):
    robot = engine(model, profile())
    robot.start(Instruction(1, "go"))
    robot.observe(frame(0))
    first = robot.decide(0)
    tokens = robot.session.timeline.tokens
    assert replace(robot.decide(1), queue=0) == first
    assert robot.session.timeline.tokens == tokens
    robot.observe(frame(1))
    robot.decide(2)
    turns = [prompt.Turn(reply=spoken(robot, first)), prompt.Turn()]
    assert_stream_is(robot, model, conversation(model, profile(), "go", turns, [frame(0), frame(1)]))


def test_a_new_instruction_forgets_the_stream(model):
    robot = engine(model, profile())
    robot.start(Instruction(1, "go"))
    for index in range(2):
        robot.observe(frame(index))
        robot.decide(index)
    robot.start(Instruction(2, "turn"))
    robot.observe(frame(7))
    robot.decide(2)
    assert_stream_is(robot, model, conversation(model, profile(), "turn", [prompt.Turn()], [frame(7)]))


def test_window_is_dropped_after_its_steps_and_begun_with_past_frames(model):
    own = windowed()
    robot = engine(model, own)
    robot.start(Instruction(1, "go"))
    turns, frames, steps, resets = [], [], 0, 0
    for index in range(9):
        if steps >= 6:
            shown = [frame(i) for i in own.context.choose_history(index)]
            turns, frames, steps = [], shown, 0
            resets += 1
        robot.observe(frame(index))
        frames.append(frame(index))
        chunk = robot.decide(index)
        turn = prompt.Turn(history=len(frames) - 1 if not turns else 0)
        assert_stream_is(robot, model, conversation(model, own, "go", [*turns, turn], frames))
        turns.append(replace(turn, reply=spoken(robot, chunk)))
        steps += len(chunk.actions)
    assert resets >= 1


def test_a_reset_while_actions_are_queued_changes_neither_queue_nor_stream(model):
    """The frames that arrive while the robot still moves trigger the reset, in whatever number."""
    own = windowed()
    robot = engine(model, replace(own, context=replace(own.context, reset_steps=1)))
    robot.start(Instruction(1, "go"))
    robot.observe(frame(0))
    queued = robot.decide(0)
    for index in (1, 2, 3):  # still executing: three frames, one of them resets, none is asked about
        robot.observe(frame(index))
    robot.decide(1)
    assert queued.actions and queued.queue == 0
    shown = [frame(0), frame(3)]
    assert_stream_is(robot, model, conversation(model, own, "go", [prompt.Turn(history=1)], shown))


@pytest.mark.parametrize("name", ["navida", "internvla-n1-s2"])
def test_history_is_shown_anew_with_every_question(model, name):
    own = replace(profile(name), pixel_goal=None)  # answers with a second picture have tests of their own
    robot = engine(model, own)
    robot.start(Instruction(1, "go"))
    for index in range(11):
        robot.observe(frame(index))
        if index in (0, 1, 4, 10):
            robot.decide(index)
            chosen = own.context.choose_history(index)
            if not index and own.context.history_empty == "current":
                chosen = (0,)
            frames = [frame(i) for i in (*chosen, index)]
            turn = prompt.Turn(history=len(chosen))
            assert_stream_is(robot, model, conversation(model, own, "go", [turn], frames))


def test_history_encodes_each_frame_once(model, monkeypatch):
    from vln_ros.engine.inputs import vision

    calls = []
    encode = vision.encode_images
    monkeypatch.setattr(vision, "encode_images", lambda n, i: calls.append(len(i)) or encode(n, i))
    robot = engine(model, profile("navida"))
    robot.start(Instruction(1, "go"))
    for index in range(5):
        robot.observe(frame(index))
        robot.decide(index)
    assert calls == [1] * 5


def test_delayed_batch_shows_chosen_frames_as_one_video(model):
    own = profile(strategy="delayed_batch", recent_frames=3, important_frames=3, important_score=0.6)
    robot = engine(model, own)
    robot.start(Instruction(1, "go"))
    order = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]  # the picture changes at frames 3 and 6
    for i, picture in enumerate(order):
        robot.observe(replace(frame(picture), index=i, stamp_ns=i * 200_000_000))
    assert robot.session.work.forwards == 0
    chunk = robot.decide(0)
    assert robot.context.selection.indices and robot.context.selection.total == len(order)
    assert robot.context.selection.compression_ratio == pytest.approx(len(order) / 6)
    shown = [0, 3, 6, 8, 9, 10]
    clip = stack_video([frame(order[i]).rgb for i in shown], model.pixels, None, (56, 56))
    video = Pixels(clip.patches, clip.grid_t, clip.grid_h, clip.grid_w, 2 * (10 * 0.2 / 5))
    items = conversation(model, own, "go", [prompt.Turn()], [frame(0)])
    assert_stream_is(robot, model, [items[0], video, items[2]])
    forwards = robot.session.work.forwards
    assert robot.decide(1).actions == chunk.actions
    assert robot.session.work.forwards == forwards + 1  # the video is not prefilled again


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 4))
def test_choosing_as_frames_come_equals_choosing_at_the_end(scores, recent, important):
    kept = []
    for i, score in enumerate(scores):
        kept.append((i, score))
        picked = select_frames([s for _, s in kept], recent=recent, important=important, threshold=0.6)
        kept = [kept[k] for k in picked.indices]
    final = select_frames(scores, recent=recent, important=important, threshold=0.6)
    assert tuple(i for i, _ in kept) == final.indices
    assert len(final.indices) <= recent + important
    assert final.compression_ratio >= 1.0


def test_scene_change_is_zero_for_the_same_and_one_for_nothing_in_common():
    black, white = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    assert scene_change(black, black) == 0.0
    assert scene_change(black, white) == 1.0
    half = black.copy()
    half[:, 32:] = 255
    assert scene_change(half, half[:, ::-1]) == 1.0  # same colours, other places
    assert scene_change(black, half) == pytest.approx(0.5)


def test_bank_stays_within_its_limit_and_keeps_an_even_choice():
    bank = FrameBank(8)
    for i in range(100):
        bank.add(Image(torch.full((1, 1), float(i)), 1, 1))
        assert len(bank) <= 8
    values = [int(image.features) for image in bank.choose(range(len(bank)))]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 99


@pytest.mark.parametrize("name", ["tiny", "navida", "delayed"])
def test_questions_beside_the_run_are_coherent_and_leave_no_trace(model, name):
    own = (
        profile(name)
        if name != "delayed"
        else profile(strategy="delayed_batch", recent_frames=3, important_frames=0, important_score=0.6)
    )
    robot, undisturbed = engine(model, own), engine(model, own)
    for each in (robot, undisturbed):
        each.start(Instruction(1, "go"))
    answers = set()

    def ask():
        first = robot.ask("what do you see?", max_tokens=6)
        assert robot.ask("what do you see?", max_tokens=6) == first
        chances = robot.ask_choice("is there a door?", ["yes", "no", "maybe"])
        assert sum(chances) == pytest.approx(1.0)
        answers.add(chances)

    ask()
    for index in range(4):
        for each in (robot, undisturbed):
            each.observe(frame(index))
        ask()
        assert robot.decide(index) == undisturbed.decide(index)
        ask()
    assert len(answers) > 3  # what was seen in between matters
    if name == "tiny":  # the others build their stream anew with every question anyway
        n = undisturbed.session.cache.length
        for mine, other in zip(robot.session.cache.layers, undisturbed.session.cache.layers, strict=True):
            assert torch.equal(mine.keys[:, :, :n], other.keys[:, :, :n])
            assert torch.equal(mine.values[:, :, :n], other.values[:, :, :n])


def test_a_question_beside_the_run_is_a_turn_of_the_chat(model):
    robot = engine(model, profile())
    robot.start(Instruction(1, "go"))
    robot.observe(frame(0))
    chunk = robot.decide(0)
    items = conversation(model, profile(), "go", [prompt.Turn(reply=spoken(robot, chunk))], [frame(0)])
    question = "<|im_start|>user\nis there a door?<|im_end|>\n<|im_start|>assistant\n"
    question = tuple(model.tokenizer(question, add_special_tokens=False).input_ids)
    row = one_shot(model.network, [*items, question]).logits[-1].log_softmax(-1)
    # The end token comes behind each option: score two options of one token with it.
    yes, no = (model.tokenizer(w, add_special_tokens=False).input_ids for w in ("y", "n"))
    assert len(yes) == len(no) == 1
    expected = []
    for ids in (yes, no):
        after = one_shot(model.network, [*items, question, tuple(ids)]).logits[-1].log_softmax(-1)
        expected.append(row[ids[0]] + after[model.tokens.im_end])
    expected = torch.stack(expected).softmax(-1).tolist()
    assert robot.ask_choice("is there a door?", ["y", "n"]) == pytest.approx(expected, abs=1e-4)


def test_stop_ends_the_queue_and_order_of_calls_is_checked(model):
    robot = engine(model, profile())
    with pytest.raises(RuntimeError, match="before any instruction"):
        robot.decide(0)
    with pytest.raises(RuntimeError, match="before any instruction"):
        robot.observe(frame(0))
    robot.start(Instruction(1, "go"))
    with pytest.raises(RuntimeError, match="before any frame"):
        robot.decide(0)
    robot.observe(frame(0))
    chunk = robot.decide(0)
    assert STOP not in chunk.actions[:-1]
    robot.close()
    assert robot.report().allocated_bytes == 0
