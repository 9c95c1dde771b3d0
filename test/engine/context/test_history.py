"""A history that stays in the cache and is prefilled ahead shows what one shows that is prefilled anew."""

import itertools
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
import yaml
from conversations import assert_stream_is, conversation, frame
from conversations import profile as profile_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError, LandmarkConfig, PruneConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together, work_ahead_together
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import ContextSpec, parse_profile
from vln_ros.engine.context.base import PrimitiveBank
from vln_ros.engine.context.forecast import QuestionForecast
from vln_ros.engine.context.travelled import TravelledWay
from vln_ros.engine.inputs import prompt
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.plug import Plug
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.tiny import build_tiny

TEXT = "go to the red chair"
PAIRS: dict[str, tuple[QwenEngine, object]] = {}
PICTURE = frame(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def profile(name):
    """Without answers that ask for a second picture: those have tests of their own."""
    return replace(profile_of(name), pixel_goal=None)


def seen(picture, steps, stamp):
    """Any picture from the place after so many primitives; in steps of 25 cm."""
    pose = Pose.planar(0.25 * steps, 0.0, 0.0)
    depth_m = np.full((56, 56), 2.0 + 0.1 * (picture % 3), np.float32)
    return replace(
        frame(picture),
        index=stamp,
        stamp_ns=stamp * 100_000_000,
        depth_m=depth_m,
        odom_from_base=pose,
        odom_from_optical=pose,
    )


def history(**changes):
    context = {"strategy": "history", "history_frames": 4, "history_choice": "uniform_round",
               "history_empty": "none", "history_limit": 0}  # fmt: skip
    own = profile("navida")
    return replace(own, context=ContextSpec(**context | changes))


class Anew:
    """The simple twin: nothing is done ahead, and each chat is prefilled from its opening."""

    def __init__(self, model, own, seed=0, temperature=0.0, **options):
        stream = StreamConfig(**options | {"prefill_on_arrival": False})
        self.robot = QwenEngine(model, own, temperature=temperature, seed=seed, stream=stream)
        self.session, self.context = self.robot.session, self.robot.context
        self.opened = None
        self.answered = False

    def start(self, instruction):
        self.robot.start(instruction)
        self.opened, self.answered = self.session.snapshot(), False

    def observe(self, shown):
        self.robot.observe(shown)
        self.answered = False

    def work_ahead(self):
        self.robot.work_ahead()

    def decide(self, queue):
        self.session.rollback(self.opened)
        self.answered = True
        return self.robot.decide(queue)

    def ask(self, question, *, max_tokens):
        self.forget()
        return self.robot.ask(question, max_tokens=max_tokens)

    def ask_choice(self, question, options):
        self.forget()
        return self.robot.ask_choice(question, options)

    def forget(self):
        """All but the chat that has just been answered, which a question goes on with."""
        if not self.answered:
            self.session.rollback(self.opened)


def pair(model, own, seed, **options):
    """An engine and its twin. Made once, as on a robot: runs must not mix."""
    key = repr((own, sorted(options.items())))
    if key not in PAIRS:
        phrases = min(3, own.max_phrases)
        stream = StreamConfig(max_phrases=phrases, **options)
        robot = QwenEngine(model, own, temperature=100.0, seed=0, stream=stream)
        PAIRS[key] = robot, Anew(model, own, temperature=100.0, max_phrases=phrases, **options)
    for robot in PAIRS[key]:
        robot.start(Instruction(1 + seed, TEXT))  # its number is part of the seed
    return PAIRS[key]


SETTINGS = {
    "navida": (lambda: profile("navida"), {}),
    "n1": (lambda: profile("internvla-n1-s2"), {}),
    "floor": (lambda: history(history_choice="uniform_floor", history_frames=3), {}),
    "the oldest are dropped": (lambda: history(history_limit=5), {}),
    "every other one is dropped": (history, {"bank_frames": 5}),
    "stays": (lambda: history(history_choice="stays"), {}),
    "stays, every other one is dropped": (lambda: history(history_choice="stays"), {"bank_frames": 6}),
    "stays instead of the profile's": (lambda: profile("navida"), {"history_choice": "stays"}),
    "one frame": (lambda: history(history_frames=1, history_empty="current"), {}),
    "voxels": (history, {"prune": PruneConfig(strategy="voxels", window=0)}),
    "seen": (history, {"prune": PruneConfig(strategy="seen", window=0)}),
    "landmarks": (history, {"landmarks": LandmarkConfig(plan="rules", memory=True)}),
    "tokens": (history, {"decode": "tokens"}),
}
OPERATIONS = ("step", "step", "step", "two", "part", "still", "decide", "decide", "ask", "choose",
              "less", "again", "ahead", "ahead")  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), min_size=6, max_size=40), st.booleans(), st.integers(0, 80))
def test_queues_and_probabilities_are_those_of_a_full_prefill(model, name, operations, diligent, seed):
    """Whatever is foreseen wrongly: by frames, questions beside the run, lack of memory, a new run."""
    own, options = SETTINGS[name]
    both = robot, twin = pair(model, own(), seed, **options)
    stamps, steps, runs = itertools.count(), 0.0, itertools.count(100)

    def show(way):
        nonlocal steps
        steps += way
        stamp = next(stamps)
        for one in both:
            one.observe(seen(stamp, steps, stamp))
        if diligent:
            robot.work_ahead()

    show(0.0)
    for operation in operations:
        match operation:
            case "step" | "two" | "part" | "still":
                show({"step": 1.0, "two": 2.0, "part": 0.4, "still": 0.0}[operation])
            case "decide":
                mine, expected = robot.decide(9), twin.decide(9)
                assert (mine.actions, mine.unconstrained, mine.held) == (
                    expected.actions,
                    expected.unconstrained,
                    expected.held,
                )
                assert mine.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
                assert mine.allowed == pytest.approx(expected.allowed, abs=1e-5)
                if diligent:
                    robot.work_ahead()
            case "ask":
                assert robot.ask("what is there?", max_tokens=4) == twin.ask("what is there?", max_tokens=4)
            case "choose":
                mine, expected = (one.ask_choice("a door?", ["yes", "no"]) for one in both)
                assert mine == pytest.approx(expected, abs=1e-5)
            case "less":
                assert robot.context.shrink() == twin.context.shrink()
                twin.answered = False
            case "again":
                number = next(runs)
                for one in both:
                    one.start(Instruction(number, TEXT))
                show(0.0)
            case "ahead":
                robot.work_ahead()
    assert twin.decide(10).actions == robot.decide(10).actions


@pytest.mark.parametrize("name", ["navida", "internvla-n1-s2"])
@pytest.mark.parametrize("choice", ["profile", "stays"])
@pytest.mark.parametrize("gaps", [(1,) * 12, (4,) * 6, (3, 1, 4, 1, 5, 2, 6)])
def test_the_stream_is_the_chat_that_the_profile_renders(model, name, choice, gaps):
    """Token for token, with everything taken in ahead that can be."""
    own = profile(name)
    spec = own.context if choice == "profile" else replace(own.context, history_choice="stays")
    stream = StreamConfig(history_choice=choice)
    robot = QwenEngine(model, own, temperature=0.0, seed=0, stream=stream)
    robot.start(Instruction(1, TEXT))
    asked = set(itertools.accumulate(gaps))
    for index in range(sum(gaps) + 1):
        robot.observe(frame(index))
        if index not in asked:
            robot.work_ahead()
            continue
        robot.decide(index)
        chosen = spec.choose_history(index)
        turn = prompt.Turn(history=len(chosen))
        frames = [frame(i) for i in (*chosen, index)]
        assert_stream_is(robot, model, conversation(model, own, TEXT, [turn], frames))
        robot.work_ahead()


class Pictures(Plug):
    """Counts the pictures whose tokens the decoder computes; all are of one size."""

    def __init__(self):
        self.count = 0

    def on_cached(self, chunk, cache, cost):
        self.count += sum(s.grid is not None for s in chunk.segments)


def pictures(robot, every, frames):
    """How many the decoder computes for each decision, and between them, once the history is full."""
    counter = Pictures()
    robot.session.plugs = (counter,)
    robot.start(Instruction(1, TEXT))
    decisions, between = [], 0
    for index in range(frames):
        if index == 16:
            decisions, between = [], 0
        robot.observe(frame(index))
        before = counter.count
        if index % every == 0:
            robot.decide(index)
            decisions.append(counter.count - before)
        before = counter.count
        robot.work_ahead()
        between += counter.count - before
    return decisions, between


@pytest.mark.parametrize("name", ["navida", "internvla-n1-s2"])
@pytest.mark.parametrize("every", [1, 4])
def test_a_decision_computes_only_its_own_frame(model, name, every):
    """What else it shows was there before it was asked, and nothing was computed in vain."""
    options = {"temperature": 0.0, "seed": 0, "stream": StreamConfig(decode="tokens")}
    ahead = QwenEngine(model, profile(name), **options)
    decisions, between = pictures(ahead, every, 48)
    before, none = pictures(Anew(model, profile(name), decode="tokens"), every, 48)
    assert set(before) == {9} and none == 0
    assert set(decisions) == {1}
    assert len(decisions) + between <= sum(before)


@pytest.mark.parametrize("every", [1, 4])
def test_a_beginning_that_stays_is_computed_once(model, every):
    own = profile("navida")
    before = 9 * len(range(16, 96, every))
    stays = StreamConfig(history_choice="stays", decode="tokens")
    robot = QwenEngine(model, own, temperature=0.0, seed=0, stream=stays)
    decisions, between = pictures(robot, every, 96)
    assert set(decisions) == {1}
    assert 2 * (len(decisions) + between) <= before


def test_working_ahead_twice_does_nothing_more(model):
    robot, _ = pair(model, history(), 0)
    for index in range(9):
        robot.observe(seen(index, index, index))
        robot.work_ahead()
        done = robot.forwards
        robot.work_ahead()
        assert robot.forwards == done
    robot.decide(1)
    robot.work_ahead()
    done = robot.forwards
    robot.work_ahead()
    assert robot.forwards == done


def test_nothing_is_done_ahead_where_that_is_switched_off(model):
    robot, _ = pair(model, history(), 0, prefill_on_arrival=False)
    opened = robot.forwards
    for index in range(5):
        robot.observe(seen(index, index, index))
        robot.work_ahead()
    assert robot.forwards == opened
    # But what two chats have in common stays all the same.
    robot.decide(1)
    robot.session.plugs = (counter := Pictures(),)
    robot.decide(2)
    assert counter.count == 0  # the same question
    robot.observe(seen(5, 5, 5))
    robot.decide(3)
    assert 0 < counter.count < 5


def test_a_question_beside_the_run_keeps_what_it_can_of_the_chat(model):
    """The answer is part of it until the next frame, also where the stream has gone on already."""
    robot, twin = pair(model, history(), 3)
    for index in range(7):
        for one in (robot, twin):
            one.observe(seen(index, index, index))
            one.decide(index)
        robot.work_ahead()
        mine, expected = (one.ask_choice("a door?", ["yes", "no"]) for one in (robot, twin))
        assert mine == pytest.approx(expected, abs=1e-5)


def test_robots_on_one_model_work_ahead_together(model):
    own = history()
    robots = [QwenEngine(model, own, temperature=0.0, seed=s, stream=StreamConfig()) for s in range(3)]
    twins = [Anew(model, own, s) for s in range(3)]
    for one in (*robots, *twins):
        one.start(Instruction(1, TEXT))
    for index in range(10):
        shown = [seen(100 * i + index, index, index) for i in range(3)]
        assert observe_together(robots, shown) == [None] * 3
        for one, picture in zip(twins, shown, strict=True):
            one.observe(picture)
        if index % 3:
            assert work_ahead_together(robots) == [None] * 3
            continue
        found = decide_together(robots, [index] * 3)
        for mine, one in zip(found, twins, strict=True):
            expected = one.decide(index)
            assert mine.actions == expected.actions
            assert mine.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        assert work_ahead_together(robots) == [None] * 3


def test_one_robot_that_cannot_work_ahead_does_not_keep_the_others_from_it(model):
    own = history()
    robots = [QwenEngine(model, own, temperature=0.0, seed=0, stream=StreamConfig()) for _ in range(2)]
    for one in robots:
        one.start(Instruction(1, TEXT))
        for index in range(3):
            one.observe(seen(index, index, index))

    def broken():
        raise ValueError("no")

    robots[0].context.to_prefill = broken
    before = robots[1].forwards
    errors = work_ahead_together(robots)
    assert str(errors[0]) == "no" and errors[1] is None
    assert robots[1].forwards == before + 1


@settings(max_examples=200, deadline=None)
@given(
    st.integers(3, 12),
    st.integers(0, 9),
    st.integers(0, 40),
    st.integers(0, 12),
    st.sampled_from(["uniform_round", "uniform_floor", "stays"]),
    st.integers(1, 8),
    st.booleans(),
)
def test_what_is_foreseen_of_a_history_is_its_beginning(limit, keep, now, more, choice, most, makes_room):
    spec = ContextSpec("history", history_frames=most, history_choice=choice)
    keep = keep and keep + 2

    def bank():
        return PrimitiveBank(limit, TravelledWay(0.25, 0.26))

    def show(bank, index, way):
        pose = Pose.planar(way, 0.0, 0.0)
        shown = Frame(index, index, PICTURE.rgb, None, PICTURE.camera, pose, pose)
        bank.show(shown, Image(torch.full((1, 1), float(index)), 1, 1))
        if keep:
            bank.keep(keep)

    own = bank()
    for index in range(now + 1):
        show(own, index, 0.25 * index)
    if makes_room:
        show(own, now + 1, 0.25 * now + 0.01)
    entered = own.entered + more
    foreseen = [int(i.features) for i in own.choose_foreseen(spec, entered, keep)]
    later = now + 1 + makes_room
    way = 0.25 * (now + 1)
    first = True
    while own.entered < entered or first:
        show(own, later, way)
        first, later, way = False, later + 1, way + 0.25
    shown = [int(i.features) for i in own.choose_past(spec, len(own) - 1)]
    assert shown[: len(foreseen)] == foreseen
    # And it is all of it that is there.
    if len(foreseen) < len(shown):
        assert shown[len(foreseen)] > now


@pytest.mark.parametrize("past", range(60))
@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_a_choice_that_stays(past, most):
    spec = ContextSpec("history", history_frames=most, history_choice="stays")
    chosen = spec.choose_history(past)
    assert len(chosen) <= most and list(chosen) == sorted(set(chosen))
    if not past:
        assert chosen == ()
        return
    assert chosen[-1] == past - 1 and (most == 1 or chosen[0] == 0)
    if past <= most:
        assert chosen == tuple(range(past)) or most == 1
    strides = {b - a for a, b in itertools.pairwise(chosen[:-1])}
    assert len(strides) <= 1 and all(s & (s - 1) == 0 for s in strides)
    if most > 2 and past > most:
        assert len(chosen) > most // 2  # a doubled stride leaves half of the places, and no fewer
    before = spec.choose_history(past - 1)
    if most > 2 and len(strides) == 1 and strides == {b - a for a, b in itertools.pairwise(before[:-1])}:
        assert chosen[: len(before) - 1] == before[:-1]


def test_a_forecast_follows_who_asks():
    by_answer = QuestionForecast()
    assert by_answer.entered() == 1
    entered = 1
    for primitives in (4, 3, 6, 1, 2):  # all is done, then the next question
        by_answer.answered(entered, primitives)
        assert by_answer.entered() == entered + primitives
        entered += primitives
        by_answer.seen()
    ahead, entered = QuestionForecast(), 1
    for number, primitives in enumerate((4, 3, 6, 5, 2)):  # the last primitive is still to be done
        ahead.answered(entered, primitives)
        if number:
            assert ahead.entered() == entered + primitives - 1
        entered += primitives - 1
        ahead.seen()
    rhythm, entered = QuestionForecast(), 1
    for number, primitives in enumerate((4, 3, 6, 1, 2, 5)):  # every third frame, whatever was answered
        rhythm.answered(entered, primitives)
        if number > 1:
            assert rhythm.entered() == entered + 3
        entered += 3
        rhythm.seen()


def test_a_forecast_learns_nothing_from_a_question_put_twice():
    forecast = QuestionForecast()
    forecast.answered(1, 4)
    forecast.answered(1, 4)
    assert forecast.entered() == 5
    forecast.seen()
    forecast.answered(5, 2)
    assert forecast.entered() == 7
    forecast.begin()
    assert forecast.entered() == 1


def test_stays_is_for_histories(model):
    with pytest.raises(ConfigError, match=r"history_choice = 'stays'.*append"):
        QwenEngine(
            model, profile("tiny"), temperature=0.0, seed=0, stream=StreamConfig(history_choice="stays")
        )


def test_a_profile_that_stays_drops_no_oldest_frame():
    tree = yaml.safe_load((resources.files("vln_ros") / "profiles" / "navida.yaml").read_text("utf-8"))
    tree["context"]["history_choice"] = "stays"
    with pytest.raises(ConfigError, match=r"history_limit = 199: expected 0 with history_choice stays"):
        parse_profile("mine", tree)
    tree["context"]["history_limit"] = 0
    assert parse_profile("mine", tree).context.history_choice == "stays"
    tree["context"] |= {"strategy": "window_reset", "unasked_frames": "drop", "reset_steps": 32}
    del tree["context"]["history_empty"], tree["context"]["history_limit"]
    with pytest.raises(ConfigError, match="history_choice = 'stays': expected one of uniform_round"):
        parse_profile("mine", tree)
