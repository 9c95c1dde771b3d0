"""The instruction agent and the frame memory inside the engine."""

from array import array
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_models import eager

from vln_ros.config import ConfigError, LandmarkConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.plug import Plug
from vln_ros.engine.tiny import build_tiny
from vln_ros.evaluation.episode.record import EpisodeCost
from vln_ros.evaluation.runs.results import EpisodeResult
from vln_ros.memory.instruction import PlanFallback, PlanSource, plan_question
from vln_ros.protocols import HasFigures

TOLD = "leave the bedroom, pass the red chair and stop at the lamp"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def frame(index, pose=None):
    rgb = np.random.default_rng(index).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = pose or Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, index * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def engine(model, name="tiny", context=None, stream=None, **landmarks):
    own = load_profile(name)
    own = replace(own, image=replace(own.image, resize=(56, 56)), context=context or own.context)
    options = replace(stream or StreamConfig(decode="tokens"), landmarks=LandmarkConfig(**landmarks))
    return eager(QwenEngine(model, own, temperature=0.0, seed=0, stream=options))


def test_off_by_default(model):
    robot = engine(model)
    robot.start(Instruction(1, TOLD))
    work = robot.session.work
    assert work.forwards == 0
    robot.observe(frame(0))
    robot.decide(0)
    before = robot.session.work
    robot.observe(frame(1))
    assert (robot.session.work - before).forwards == 1
    report = robot.report().landmarks
    assert report.plan is None and report.chunks == 0 and robot.landmarks.slots() == {}


def test_the_model_is_asked_once_per_instruction_and_rules_step_in(model):
    """What a random network says is no plan; that is counted, and the run goes on untouched."""
    robot, plain = engine(model, plan="model", plan_tokens=12), engine(model)
    for each in (robot, plain):
        each.start(Instruction(1, TOLD))
    report = robot.report().landmarks
    assert report.plan.source is PlanSource.RULES and report.plan.fallback_reason in PlanFallback
    assert sum(report.refused.values()) == 1
    assert [m.name for m in report.plan.landmarks] == ["bedroom", "red chair", "lamp"]
    assert report.plan_cost.ms > 0
    asked = len(robot._template.query(plan_question(TOLD)))
    assert asked < report.plan_cost.work.tokens < asked + 200
    for index in range(3):
        for each in (robot, plain):
            each.observe(frame(index))
        assert robot.decide(index) == plain.decide(index)
    robot.start(Instruction(2, "turn left and go to the red chair"))
    second = robot.report().landmarks
    assert [(m.name, m.number) for m in second.plan.landmarks] == [("red chair", 1)]
    assert sum(second.refused.values()) == 2


def test_a_plan_of_the_model_is_taken(model, monkeypatch):
    robot = engine(model, plan="model")
    said = "leave the bedroom | bedroom\npass the red chair | red chair\nstop |"
    monkeypatch.setattr(robot._template, "detokenize", lambda ids: said)
    monkeypatch.setattr(robot.session, "ask", lambda *args, **kwargs: (5, 6))
    robot.start(Instruction(1, TOLD))
    plan = robot.landmarks.plan
    assert plan.source is PlanSource.MODEL and [s.text for s in plan.stages][-1] == "stop"
    assert robot.report().landmarks.refused == {}


def alone(robot, name, index):
    """The same question by itself, with a forward of its own per answer."""
    query = robot._template.query(f"Is the {name} in the last picture? Answer yes or no.")
    answers = [robot._template.tokenize(a) for a in ("yes", "no")]
    with robot._aside():
        return float(robot.session.ask_choice(query, answers).softmax(-1)[0])


@pytest.mark.parametrize("context", ["tiny", "navida"])
def test_scores_of_all_landmarks_take_one_forward_and_equal_single_questions(model, context):
    robot = engine(model, context, plan="rules", memory=True)
    plain = engine(model, context)
    for each in (robot, plain):
        each.start(Instruction(1, TOLD))
    for index in range(4):
        for each in (robot, plain):
            each.observe(frame(index))
        assert robot.decide(index) == plain.decide(index)
        expected = [alone(robot, m.name, index) for m in robot.landmarks.plan.landmarks]
        before = robot.session.work
        robot._score()
        report = robot.report().landmarks
        assert report.scores == pytest.approx(expected, abs=1e-5)
        done = robot.session.work - before
        if context == "tiny" or index:
            assert done.forwards == 2  # the answer's end, and the questions
        assert report.prefill_cost.work == done and report.chunks == index + 1
    assert report.chunks_ms >= report.prefill_cost.ms > 0


def test_a_frame_is_scored_when_the_next_one_comes_and_only_if_it_was_asked_about(model):
    robot = engine(model, plan="rules", memory=True)
    robot.start(Instruction(1, TOLD))
    robot.observe(frame(0))
    robot.observe(frame(1))
    assert robot.report().landmarks.chunks == 0
    robot.decide(0)
    assert robot.report().landmarks.chunks == 0
    robot.observe(frame(2))
    robot.observe(frame(3))
    assert robot.report().landmarks.chunks == 1
    figures = robot.figures()
    assert isinstance(robot, HasFigures) and figures["landmarks: chunks"] == 1
    assert figures["landmarks: named"] == 3 and figures["landmarks: chunks [ms]"] > 0
    record = EpisodeCost(
        load_s=0.0,
        render_s=0.0,
        measure_s=0.0,
        observe_s=0.0,
        waited_s=0.0,
        forwards=1,
        tokens=1,
        prepared=0,
        figures=figures,
    )
    line = EpisodeResult(
        episode_id="1",
        scene_id="s",
        instruction=TOLD,
        folder="1",
        ended="stop",
        wall_s=1.0,
        decisions=0,
        latencies_ms=array("d"),
        video_frames=0,
        metrics=None,
        standing_s=None,
        cost=record,
    ).to_json()
    read = EpisodeResult.from_json(line).cost.figures
    assert read == pytest.approx(figures, abs=1e-3)
    robot.start(Instruction(2, "turn left"))  # names nothing: nothing is asked
    robot.observe(frame(0))
    robot.decide(1)
    robot.observe(frame(1))
    report = robot.report().landmarks
    assert report.chunks == 0 and report.prefill_cost is None and report.scores == ()


def scripted(robot, monkeypatch, scores):
    """Let the model be this sure, frame by frame."""
    told = iter(scores)
    monkeypatch.setattr(robot.landmarks, "look", lambda: next(told))


def test_turns_stay_in_the_stream_for_their_landmarks(model, monkeypatch):
    stream = StreamConfig(decode="tokens", recent_turns=2, token_budget=5000)
    robot = engine(model, stream=stream, plan="rules", memory=True, threshold=0.6, frames=2)
    robot.start(Instruction(1, TOLD))
    sure = {3: (0.7, 0.0, 0.0), 4: (0.0, 0.65, 0.0), 6: (0.61, 0.0, 0.0), 7: (0.59, 0.5, 0.3)}
    scripted(robot, monkeypatch, [sure.get(i, (0.1, 0.1, 0.1)) for i in range(20)])
    for index in range(11):
        robot.observe(frame(index, Pose.planar(5.0 * index, 0.0, 0.0)))  # novel, every one of them
        robot.decide(index)
    assert list(robot.session.timeline.blocks()) == [3, 4, 8, 9, 10]
    assert robot.report().evicted == 5


def test_history_shows_the_frames_that_show_landmarks(model, monkeypatch):
    own = load_profile("navida").context
    robot = engine(
        model, "navida", replace(own, history_frames=4, history_limit=7), plan="rules", memory=True
    )
    robot.start(Instruction(1, TOLD))
    sure = {1: (0.9, 0.0, 0.0), 2: (0.0, 0.8, 0.0)}
    scripted(robot, monkeypatch, [sure.get(i, (0.1, 0.1, 0.1)) for i in range(30)])
    for index in range(20):
        robot.observe(frame(index))
        robot.decide(index)
    held = [int(i) for i in _frames_in(robot, 20)]
    assert held[:2] == [1, 2] and held[-2:] == [18, 19] and len(held) == 5
    assert len(robot.context._bank) == 8


def _frames_in(robot, count):
    """Which frames the bank would show, by their features."""
    bank, past = robot.context._bank, len(robot.context._bank) - 1
    shown = [*bank.choose_past(robot.context._spec, past), *bank.choose([past])]
    features = {i: robot._encoder.encode_picture(frame(i).rgb).features for i in range(count)}
    for image in shown:
        yield next(i for i, f in features.items() if torch.equal(f, image.features))


def test_landmarks_are_found_in_the_stream(model):
    robot = engine(model, plan="rules")
    robot.start(Instruction(1, TOLD))
    robot.observe(frame(0))
    ids = [i for s in robot.session.timeline.segments for i in s.ids]
    slots = robot.landmarks.slots()
    names = {m.number: m.name for m in robot.landmarks.plan.landmarks}
    assert set(slots) == set(names)
    for number, where in slots.items():
        text = robot._template.detokenize([ids[i] for i in where.tolist()])
        assert text.strip() == names[number]


def test_bad_combinations_are_refused(model, monkeypatch):
    with pytest.raises(ConfigError, match=r"landmarks\.plan to rules or model"):
        engine(model, memory=True)
    monkeypatch.setattr(model.network.config.text_config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ConfigError, match="sdpa or eager"):
        engine(model, plan="rules", memory=True)
    engine(model, plan="rules")


class ShortOfMemory(Plug):
    """Lets the next forward run out of memory."""

    done = False

    def plan(self, prefill: Prefill, cache: SlotCache) -> None:
        if not self.done:
            self.done = True
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("unasked", ["drop", "keep"])
@pytest.mark.parametrize("interrupted", [1, 4])
def test_a_turn_that_lack_of_memory_interrupts_is_scored_and_evicted_like_any_other(
    model, monkeypatch, interrupted, unasked, memory
):
    own = replace(load_profile("tiny").context, unasked_frames=unasked)
    stream = StreamConfig(decode="tokens", recent_turns=2, token_budget=150)
    robot = engine(model, context=own, stream=stream, plan="rules", memory=memory)
    robot.start(Instruction(1, TOLD))
    if memory:
        scripted(robot, monkeypatch, [(0.1, 0.1, 0.1)] * 20)
    for index in range(14):
        robot.observe(frame(index, Pose.planar(5.0 * index, 0.0, 0.0)))
        if index == interrupted:
            robot.session.plugs += (ShortOfMemory(),)
        robot.decide(index)
        if index == interrupted:
            assert interrupted in robot.session.timeline.blocks() and len(robot.given_up()) == 1
    assert interrupted not in robot.session.timeline.blocks()
    assert 13 in robot.session.timeline.blocks()


def test_memory_survives_a_lack_of_memory(model):
    robot = engine(model, plan="rules", memory=True)
    robot.start(Instruction(1, TOLD))
    for index in range(4):
        robot.observe(frame(index))
        robot.decide(index)
    calls, ask = iter(range(9)), robot.session.ask_choice

    def fail_once(*args):
        if next(calls) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return ask(*args)

    robot.session.ask_choice = fail_once
    robot.observe(frame(4))
    assert robot.decide(4).frame_stamp_ns == frame(4).stamp_ns
    assert robot.report().fallback
