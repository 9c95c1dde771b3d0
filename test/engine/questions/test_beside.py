"""A question beside the run: the answer is that of its moment, and the run is bit for bit as without it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conversations import engine, frame, profile, windowed

from vln_ros.config import PruneConfig, ReuseConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.protocols import AnswersQuestions
from vln_ros.questions import Question, QuestionError, QuestionRefusal, Spoken

SEEN = Question("1", "what do you see?")
DOOR = Question("2", "is there a door?", ("yes", "no", "maybe"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def with_depth(index: int) -> Frame:
    plain = frame(index)
    return replace(plain, depth_m=torch.full((56, 56), 2.0).numpy())


def asking(
    robot: QwenEngine, question: Question, newest: Frame | None = None, *, longest: int = 512, words: int = 6
) -> Generator[None, None, Spoken]:
    return robot.asking(question, newest, max_question_tokens=longest, max_answer_tokens=words)


def result(steps: Generator[None, None, Spoken]) -> Spoken:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            spoken: Spoken = end.value
            return spoken


def delayed() -> Profile:
    return profile(strategy="delayed_batch", recent_frames=3, important_frames=0, important_score=0.6)


def made(model: LoadedModel, own: Profile, temperature: float = 0.0, **options: Any) -> QwenEngine:
    return QwenEngine(model, own, temperature=temperature, seed=3, **options)


def reuse() -> ReuseConfig:
    return ReuseConfig(enabled=True, doubt=0.0, window=0)


def pruned(strategy: str) -> StreamConfig:
    return StreamConfig(prune=PruneConfig(strategy=strategy, window=0))


RUNS: dict[str, Callable[[LoadedModel], QwenEngine]] = {
    "append": lambda m: engine(m, profile()),
    "dropping": lambda m: engine(m, profile(strategy="append", unasked_frames="drop"), prefill=False),
    "history": lambda m: made(m, profile("navida")),
    "history, thinned": lambda m: made(m, profile("navida"), stream=pruned("voxels")),
    "window": lambda m: engine(m, windowed()),
    "delayed batch": lambda m: engine(m, delayed()),
    "sampled": lambda m: made(m, profile(), temperature=1.0),
    "a small budget": lambda m: engine(m, profile(), token_budget=150, recent_turns=1),
    "reuse": lambda m: made(m, profile(), reuse=reuse()),
    "pruning": lambda m: made(m, profile(), stream=pruned("seen")),
}


def same_cache(a: QwenEngine, b: QwenEngine) -> bool:
    n = a.session.timeline.tokens
    return n == b.session.timeline.tokens and all(
        torch.equal(mine.keys[:, :, :n], other.keys[:, :, :n])
        and torch.equal(mine.values[:, :, :n], other.values[:, :, :n])
        for mine, other in zip(a.session.cache.layers, b.session.cache.layers, strict=True)
        if n
    )


@pytest.mark.parametrize("name", RUNS)
def test_the_run_goes_on_bit_for_bit_whatever_is_asked_meanwhile(model: LoadedModel, name: str) -> None:
    asked, undisturbed = RUNS[name](model), RUNS[name](model)
    assert isinstance(asked, AnswersQuestions)
    for each in (asked, undisturbed):
        each.start(Instruction(1, "go to the red door"))
    under_way: list[Generator[None, None, Spoken]] = []
    answers: list[Spoken] = []
    chunks: list[tuple[ActionChunk, ActionChunk]] = []

    def go_on() -> None:
        """One step of the question under way; the next one, with and without choices in turns, begins."""
        if not under_way:
            question = (SEEN, DOOR)[len(answers) % 2]
            under_way.append(asking(asked, question, with_depth(index) if index % 3 == 0 else None))
        try:
            next(under_way[-1])
        except StopIteration as end:
            answers.append(end.value)
            under_way.clear()

    for index in range(14):
        for each in (asked, undisturbed):
            each.observe(with_depth(index))
        go_on()
        if index % 2 == 0:
            chunks.append((asked.decide(index), undisturbed.decide(index)))
            go_on()
        for each in (asked, undisturbed):
            each.work_ahead()
        go_on()
        assert same_cache(asked, undisturbed), f"after frame {index}"
    assert len(answers) > 2
    for mine, other in chunks:
        assert mine == other  # probabilities, wanted and all, to the last bit
    assert asked.session.work == undisturbed.session.work
    assert {k: v for k, v in asked.figures().items() if not k.endswith("[ms]")} == {
        k: v for k, v in undisturbed.figures().items() if not k.endswith("[ms]")
    }


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("question", [SEEN, DOOR], ids=["free", "choices"])
def test_an_answer_is_that_of_its_first_step(model: LoadedModel, name: str, question: Question) -> None:
    robot, other = RUNS[name](model), RUNS[name](model)
    for each in (robot, other):
        each.start(Instruction(1, "go"))
        for index in range(3):
            each.observe(with_depth(index))
            each.decide(index)
    expected = result(asking(other, question))
    steps = asking(robot, question)
    next(steps)
    for index in range(3, 40):
        if index == 5:
            robot.start(Instruction(2, "turn around"))
        robot.observe(with_depth(index))
        robot.decide(index)
        try:
            next(steps)
        except StopIteration as end:
            assert end.value == expected
            return
    raise AssertionError("no answer came")


def test_the_answer_is_the_one_that_the_stream_itself_gives(model: LoadedModel) -> None:
    robot = engine(model, profile())
    robot.start(Instruction(1, "go"))
    for index in range(3):
        robot.observe(frame(index))
        robot.decide(index)
        assert result(asking(robot, SEEN)).text == robot.ask(SEEN.text, max_tokens=6).strip()
        spoken = result(asking(robot, DOOR))
        assert spoken.probabilities == pytest.approx(robot.ask_choice(DOOR.text, DOOR.choices), abs=1e-5)
        assert spoken.text == DOOR.choices[spoken.probabilities.index(max(spoken.probabilities))]
        assert sum(spoken.probabilities) == pytest.approx(1.0)


def test_a_frame_that_is_not_in_the_run_is_shown_beside_it(model: LoadedModel) -> None:
    robot = engine(model, profile())
    robot.start(Instruction(1, "go"))
    chances = {result(asking(robot, DOOR)).probabilities, result(asking(robot, DOOR, frame(7))).probabilities}
    robot.observe(frame(0))
    plain = result(asking(robot, DOOR)).probabilities
    assert result(asking(robot, DOOR, frame(0))).probabilities == plain, "it is in the run already"
    chances |= {plain} | {result(asking(robot, DOOR, frame(i))).probabilities for i in (1, 2)}
    assert len(chances) == 5
    dropping = engine(model, profile(strategy="append", unasked_frames="drop"), prefill=False)
    dropping.start(Instruction(1, "go"))
    dropping.observe(frame(0))
    dropping.decide(0)
    dropping.observe(frame(1))
    first = result(asking(dropping, DOOR)).probabilities
    dropping.observe(frame(2))  # it replaces the one before
    assert result(asking(dropping, DOOR)).probabilities != first


def test_a_step_is_one_forward_at_most(model: LoadedModel) -> None:
    robot = engine(model, profile("navida"))
    robot.start(Instruction(1, "go"))
    for index in range(5):
        robot.observe(frame(index))
    forwards: list[int] = []
    run = robot.session.network.model.language_model.norm  # once in each forward of the decoder
    hook = run.register_forward_hook(lambda *_: forwards.append(1))
    try:
        steps = asking(robot, SEEN, words=4)
        done = False
        most = count = 0
        while not done:
            before = len(forwards)
            try:
                next(steps)
            except StopIteration:
                done = True
            most, count = max(most, len(forwards) - before), count + 1
    finally:
        hook.remove()
    assert most == 1
    assert count > 5, "five pictures are not one forward"


def test_what_cannot_be_asked_is_said_and_leaves_nothing_behind(model: LoadedModel) -> None:
    robot = engine(model, profile())
    with pytest.raises(RuntimeError, match="before any instruction"):
        asking(robot, SEEN)
    robot.start(Instruction(1, "go"))
    robot.observe(frame(0))
    for question in (SEEN, DOOR):
        with pytest.raises(QuestionError, match="max_question_tokens") as caught:
            result(asking(robot, question, longest=3))
        assert caught.value.refusal is QuestionRefusal.TOO_LONG
    with pytest.raises(QuestionError, match="positions") as caught:
        result(asking(robot, SEEN, words=10**6))
    assert caught.value.refusal is QuestionRefusal.TOO_LONG
    assert robot.beside.drop() is None
    assert len(robot.decide(0).actions)


def test_an_answer_that_does_not_end_is_cut_and_says_so(model: LoadedModel) -> None:
    robot = engine(model, profile())
    robot.start(Instruction(1, "go"))
    robot.observe(frame(0))
    long = result(asking(robot, SEEN, words=3))
    assert long.cut and long.text


def test_when_the_run_needs_the_memory_the_question_goes_and_nothing_of_the_run(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot, undisturbed = engine(model, profile()), engine(model, profile())
    for each in (robot, undisturbed):
        each.start(Instruction(1, "go"))
        each.observe(frame(0))
    steps = asking(robot, SEEN, words=40)
    next(steps)
    next(steps)
    push, left = robot.session.push_tree, [1]

    def lacking(*arguments: object, **options: object) -> object:
        if left.pop() if left else 0:
            raise MemoryError
        return push(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(robot.session, "push_tree", lacking)
    assert robot.decide(0) == undisturbed.decide(0)
    assert not left
    assert robot.given_up() == ()
    with pytest.raises(QuestionError) as caught:
        next(steps)
    assert caught.value.refusal is QuestionRefusal.NO_MEMORY
    assert result(asking(robot, SEEN)) == result(asking(undisturbed, SEEN))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("bad_alloc")]
)
@pytest.mark.parametrize("at", ["fork", "push"])
def test_no_memory_for_a_question_costs_the_run_nothing(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
) -> None:
    robot, undisturbed = engine(model, profile()), engine(model, profile())
    for each in (robot, undisturbed):
        each.start(Instruction(1, "go"))
        each.observe(frame(0))

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(robot.session), at, fail)
        with pytest.raises(QuestionError, match="keeps what it has") as caught:
            result(asking(robot, SEEN))
    assert caught.value.refusal is QuestionRefusal.NO_MEMORY
    assert robot.given_up() == ()
    assert robot.decide(0) == undisturbed.decide(0)
    assert result(asking(robot, SEEN)) == result(asking(undisturbed, SEEN))
