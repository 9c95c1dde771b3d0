"""The engine as the pipeline sees it: instructions and frames in, action queues out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_models import eager

from vln_ros.config import ConfigError, StreamConfig, TinyConfig
from vln_ros.datatypes import ActionChunk, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import list_profiles, load_profile
from vln_ros.engine.decode.decode import DecodeMode
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.protocols import Engine


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def frame(index):
    rgb = np.random.default_rng(index).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, index * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def profile(name="tiny", **changes):
    base = load_profile(name)
    return replace(base, image=replace(base.image, resize=(56, 56)), **changes)


def engine(model, own=None, temperature=0.0, seed=0, **options):
    made: Engine = QwenEngine(
        model, own or profile(), temperature=temperature, seed=seed, stream=StreamConfig(**options)
    )
    return made


def queues(robot, count=6, number=1):
    robot.start(Instruction(number, "go to the red chair"))
    chunks = []
    for index in range(count):
        robot.observe(frame(index))
        chunks.append(robot.decide(100 + index))
    return chunks


def test_every_way_to_decode_gives_the_same_run(model):
    runs = {mode: queues(engine(model, decode=mode.value)) for mode in DecodeMode}
    runs["late"] = queues(engine(model, prefill_on_arrival=False))
    runs["eager"] = queues(eager(engine(model)))
    runs["narrow"] = queues(engine(model, tree_nodes=5))
    expected = runs[DecodeMode.TOKENS]
    for chunks in runs.values():
        for a, b in zip(chunks, expected, strict=True):
            assert (a.actions, a.unconstrained, a.queue, a.frame_stamp_ns) == (
                b.actions,
                b.unconstrained,
                b.queue,
                b.frame_stamp_ns,
            )
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
    assert [c.queue for c in expected] == list(range(100, 106))


def test_a_decision_is_one_forward_with_the_tree(model):
    robot = engine(model, prefill_on_arrival=False, tree_nodes=4096)
    robot.start(Instruction(1, "go"))
    for index in range(4):
        robot.observe(frame(index))
        robot.report()
        robot.decide(index)
        assert robot.report().decision.forwards == 1  # frame, question and queue together
    kept = profile(context=replace(profile().context, unasked_frames="keep"))
    for ahead in (True, False):
        arriving = engine(model, kept, tree_nodes=4096, prefill_on_arrival=ahead)
        arriving.start(Instruction(1, "go"))
        arriving.observe(frame(0))
        assert arriving.report().decision.forwards == 0  # it may be the one that is asked about
        arriving.work_ahead()
        assert arriving.report().decision.forwards == ahead
        arriving.observe(frame(1))
        arriving.decide(0)
        assert arriving.report().decision.forwards == 1


@pytest.mark.parametrize("ahead", [True, False])
def test_a_frame_that_the_next_one_replaces_costs_nothing(model, ahead, monkeypatch):
    """Four frames a decision, as in lockstep: one look and one forward for all of them; the same queues."""
    looks = 0
    expected = queues(engine(model))

    def counted(self, rgb, see=VisionEncoder.see):
        nonlocal looks
        looks += 1
        return see(self, rgb)

    monkeypatch.setattr(VisionEncoder, "see", counted)
    robot = engine(model, tree_nodes=4096, prefill_on_arrival=ahead)
    robot.start(Instruction(1, "go to the red chair"))
    for decision in range(6):
        looks = 0
        for unasked in (90, 91, 92):
            if decision:
                robot.observe(frame(unasked))
                robot.work_ahead()
        robot.observe(frame(decision))
        robot.report()
        chunk = robot.decide(100 + decision)
        assert (looks, robot.report().decision.forwards) == (1, 1)
        assert chunk.actions == expected[decision].actions
        assert chunk.probabilities == pytest.approx(expected[decision].probabilities, abs=1e-4)


def test_the_same_seed_gives_the_same_samples_and_another_gives_others(model):
    first = queues(engine(model, temperature=1.5, seed=3))
    again = queues(engine(model, temperature=1.5, seed=3))
    assert [c.actions for c in first] == [c.actions for c in again]
    assert any(
        [c.actions for c in first] != [c.actions for c in queues(engine(model, temperature=1.5, seed=s))]
        for s in range(4, 8)
    )
    robot = engine(model, temperature=1.5, seed=3)
    queues(robot, number=5)
    assert [c.actions for c in queues(robot, number=1)] == [c.actions for c in first]


def test_a_phrase_of_several_primitives_is_one_choice(model):
    own = profile("activevln-r2r")
    for chunk in queues(engine(model, own, temperature=3.0), count=8):
        assert len(chunk.probabilities) == len(chunk.actions)
        assert all(0.0 < p <= 1.0 for p in chunk.probabilities)
        runs = 1 + sum(a != b for a, b in zip(chunk.actions, chunk.actions[1:], strict=False))
        choices = sum(p < 1.0 for p in chunk.probabilities)
        assert 1 <= choices <= 3 and runs <= 3


def test_queues_can_be_kept_shorter_than_the_profile_allows(model):
    assert {len(c.actions) for c in queues(engine(model, max_phrases=1, temperature=2.0))} == {1}


def say(robot, texts, monkeypatch):
    """Let free decoding say these texts; the forwards behind it are real."""
    said = iter(texts)
    template = robot._template
    monkeypatch.setattr(template, "detokenize", lambda ids: next(said))


@pytest.mark.parametrize("policy", ["hold", "repeat", "ask_again"])
def test_what_is_not_an_action_is_dealt_with_as_the_profile_says(model, policy, monkeypatch):
    robot = engine(model, profile(on_unparsed=policy), decode="free", free_tokens=4)
    robot.start(Instruction(1, "go"))
    texts = ["left, forward", "I am not sure", "hmm", "what", "no"]
    if policy == "ask_again":
        texts[3] = "right"
    say(robot, texts, monkeypatch)
    robot.observe(frame(0))
    first = robot.decide(1)
    assert [str(a) for a in first.actions] == ["left 15 deg", "forward 25 cm"] and first.unconstrained is None
    robot.observe(frame(1))
    second = robot.decide(2)
    assert second.unconstrained == "I am not sure" and second.probabilities == ()
    expected = {"hold": [], "repeat": ["left 15 deg"], "ask_again": ["right 15 deg"]}[policy]
    assert [str(a) for a in second.actions] == expected
    assert robot.report().unparsed == 1


def test_asking_again_ends_in_a_hold_never_in_a_stop(model, monkeypatch):
    robot = engine(model, profile(on_unparsed="ask_again"), decode="free", free_tokens=4)
    robot.start(Instruction(1, "go"))
    say(robot, ["?"] * 4, monkeypatch)
    robot.observe(frame(0))
    assert robot.decide(1) == ActionChunk(1, 1, 0, (), (), "?")


def test_repeating_before_there_was_anything_holds(model, monkeypatch):
    robot = engine(model, profile(on_unparsed="repeat"), decode="free", free_tokens=4)
    robot.start(Instruction(1, "go"))
    say(robot, ["?"], monkeypatch)
    robot.observe(frame(0))
    assert robot.decide(1).actions == ()


def test_free_text_of_a_random_model_is_never_an_accident(model):
    """Nothing that a random model says is an action; every decision holds and says what was said."""
    for chunk in queues(engine(model, decode="free", free_tokens=5)):
        assert chunk.actions == () and chunk.unconstrained


def test_what_was_wanted_is_text(model):
    unconstrained = [c.unconstrained for c in queues(engine(model, wanted_tokens=4))]
    assert any(unconstrained) and all(w is None or isinstance(w, str) for w in unconstrained)
    assert all(c.actions for c in queues(engine(model)))


def test_closing_frees_the_cache_and_the_engine_can_start_again(model):
    robot = engine(model)
    first = queues(robot)
    assert robot.report().allocated_bytes >= robot.report().used_bytes > 0
    robot.close()
    assert robot.report().allocated_bytes == 0
    assert [c.actions for c in queues(robot)] == [c.actions for c in first]


@pytest.mark.parametrize("name", [n for n in list_profiles() if n != "tiny"])
def test_every_shipped_profile_decides(model, name):
    for chunk in queues(engine(model, profile(name)), count=3):
        assert chunk.actions


@pytest.mark.parametrize(("dtype", "attention"), [("bfloat16", "sdpa"), ("float32", "eager")])
def test_other_number_formats_and_attention_run(tmp_path, dtype, attention):
    build_tiny(tmp_path / "c", TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    other = load_model(
        str(tmp_path / "c"), device="cpu", dtype=dtype, attention=attention, quantisation="none"
    )
    robot = engine(other, token_budget=150, max_position=200)
    chunks = queues(robot, count=12)
    assert all(c.actions for c in chunks) and robot.report().evicted
    assert robot.report().used_bytes == robot.session.token_bytes * robot.session.cache.length


def test_a_tree_needs_an_attention_that_takes_a_mask(model, monkeypatch):
    monkeypatch.setattr(model.network.config.text_config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ConfigError, match="sdpa or eager"):
        engine(model, decode="tree")
    engine(model, decode="tokens")
