"""Questions to a worker: each gets exactly one answer, decisions come first, and refusals say why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from vln_ros.config import QuestionConfig
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.decision import DecisionLoop
from vln_ros.engine.questions.desk import QuestionDesk
from vln_ros.engine.worker import Cancel, EngineWorker, Pause, Start
from vln_ros.questions import Question, QuestionAnswer, QuestionError, QuestionRefusal, Spoken

CAMERA = CameraModel.from_hfov(16, 16, 1.0)
DEADLINE_S = 20.0
LONG = QuestionConfig(timeout_s=3600.0)
SHORT = QuestionConfig(timeout_s=0.1)


def decode(raw: int, index: int) -> Frame:
    return Frame(index, raw, np.zeros((16, 16, 3), np.uint8), None, CAMERA, Pose.identity(), Pose.identity())


class Blind:
    """Cannot answer; decides."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.instruction = 0
        self.stamp = 0
        self.fails = False

    def start(self, instruction: Instruction) -> None:
        self.instruction = instruction.number
        self.calls.append(f"start {instruction.number}")

    def observe(self, frame: Frame) -> None:
        self.stamp = frame.stamp_ns
        self.calls.append(f"observe {frame.stamp_ns}")
        if self.fails:
            raise RuntimeError("the frame burns")

    def decide(self, queue: int) -> ActionChunk:
        self.calls.append(f"decide {self.stamp}")
        return ActionChunk(queue, self.instruction, self.stamp, (Action(forward_m=0.25),))

    def close(self) -> None: ...


class Seeing(Blind):
    """Answers in three steps, each of which waits for its gate; what is asked decides what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        self.closed: list[str] = []

    def asking(
        self, question: Question, newest: Frame | None, *, max_question_tokens: int, max_answer_tokens: int
    ) -> Generator[None, None, Spoken]:
        if question.text == "refused at once":
            raise RuntimeError("not begun")
        return self._steps(question, newest)

    def _steps(self, question: Question, newest: Frame | None) -> Generator[None, None, Spoken]:
        about = f"{self.instruction} {newest.stamp_ns if newest else None}"
        try:
            for number in range(3):
                self.calls.append(f"step {number}")
                self.stepping.set()
                assert self.gate.wait(DEADLINE_S)
                match question.text:
                    case "too long":
                        raise QuestionError(QuestionRefusal.TOO_LONG, "shorter, please")
                    case "breaks":
                        raise RuntimeError("a wire is loose")
                yield
            return Spoken(about)
        except GeneratorExit:
            self.closed.append(question.question_id)
            raise


class Answers:
    """Collects what is told; :meth:`of` waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.all: list[QuestionAnswer] = []
        self.chunks: list[ActionChunk] = []
        self.failures: list[BaseException] = []

    def told(self, answer: QuestionAnswer) -> None:
        with self._changed:
            self.all.append(answer)
            self._changed.notify_all()

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        with self._changed:
            self._changed.notify_all()

    def on_bad_frame(self, error: ValueError) -> None: ...

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        with self._changed:
            self.chunks.append(chunk)
            self._changed.notify_all()

    def on_failure(self, error: BaseException) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), vars(self)

    def of(self, question_id: str) -> QuestionAnswer:
        self.wait(lambda: any(a.question_id == question_id for a in self.all))
        (answer,) = (a for a in self.all if a.question_id == question_id)
        return answer


class Rig:
    def __init__(self, engine: Blind, config: QuestionConfig, decide_on: str) -> None:
        self.engine, self.answers = engine, Answers()
        loop = DecisionLoop(engine, decide_on, 0, 10**15)
        desk = QuestionDesk(engine, config, self.answers.told)
        self.worker: EngineWorker[int] = EngineWorker(loop, decode, self.answers, desk)

    def begin(self, number: int = 1, *stamps: int) -> None:
        """An instruction and frames, of which each is answered if it is decided on."""
        self.worker.command(Start(Instruction(number, "go")))
        self.answers.wait(lambda: any(c.instruction == number for c in self.answers.chunks))
        for stamp in stamps:
            self.frame(stamp)

    def frame(self, stamp: int) -> None:
        before = self.worker.frames_processed
        self.worker.put_frame(stamp)
        self.answers.wait(lambda: self.worker.frames_processed > before or bool(self.answers.failures))

    def ask(self, text: str, question_id: str = "") -> str:
        question_id = question_id or text
        self.worker.ask(Question(question_id, text))
        return question_id


@contextmanager
def rig(
    engine: Blind | None = None, config: QuestionConfig = LONG, decide_on: str = "progress"
) -> Iterator[Rig]:
    it = Rig(engine or Seeing(), config, decide_on)
    it.worker.start()
    try:
        yield it
    finally:
        if isinstance(it.engine, Seeing):
            it.engine.gate.set()
        it.worker.close()


def refused(answer: QuestionAnswer, refusal: QuestionRefusal, *words: str) -> None:
    assert answer.refusal is refusal and answer.spoken is None
    assert answer.message is not None
    for word in words:
        assert word in answer.message


def test_an_answer_says_what_it_is_about() -> None:
    with rig() as it:
        it.begin(3, 100, 200)
        answer = it.answers.of(it.ask("where?"))
        assert answer.spoken == Spoken("3 200")
        assert (answer.instruction, answer.frame_stamp_ns) == (3, 200)
        assert answer.question == Question("where?", "where?")
        assert answer.waited_ms is not None and answer.answered_ms is not None
        assert answer.message is None and answer.refusal is None


def test_questions_are_answered_in_their_order_and_each_once() -> None:
    with rig(config=QuestionConfig(max_waiting=50, timeout_s=3600.0)) as it:
        it.begin(1, 100)
        for number in range(30):
            it.ask("what?", f"{number}")
        it.answers.of("29")
        assert [a.question_id for a in it.answers.all] == [str(n) for n in range(30)]


@pytest.mark.parametrize("moment", ["never told", "cancelled", "paused", "stopped", "no frame yet"])
def test_when_a_question_can_be_asked(moment: str) -> None:
    with rig() as it:
        if moment == "never told":
            it.worker.put_frame(1)
            refused(it.answers.of(it.ask("what?")), QuestionRefusal.NO_INSTRUCTION, "give one first")
            return
        if moment == "no frame yet":  # it may be on its way
            it.begin(1)
            it.ask("what?")
            it.frame(700)
            assert it.answers.of("what?").spoken == Spoken("1 700")
            return
        it.begin(1, 100)
        if moment == "cancelled":
            it.worker.command(Cancel())
        elif moment == "paused":
            it.worker.command(Pause(True))
        it.frame(200)
        answer = it.answers.of(it.ask("what?"))
        assert answer.spoken == Spoken("1 200"), "the newest frame is shown beside the run"


def test_who_waits_for_a_frame_that_does_not_come_is_told() -> None:
    with rig(config=SHORT) as it:
        it.begin(1)
        refused(it.answers.of(it.ask("what?")), QuestionRefusal.NO_FRAME, "camera")


def test_an_engine_without_a_model_says_so_at_once() -> None:
    with rig(Blind()) as it:
        refused(it.answers.of(it.ask("what?")), QuestionRefusal.NO_MODEL, "engine qwen")


def test_more_than_may_wait_are_busy() -> None:
    engine = Seeing()
    with rig(engine, QuestionConfig(max_waiting=2, timeout_s=3600.0)) as it:
        it.begin(1, 100)
        engine.gate.clear()
        it.ask("what?", "first")
        assert engine.stepping.wait(DEADLINE_S)
        for name in ("second", "third", "fourth", "fifth"):
            it.ask("what?", name)
        for name in ("fourth", "fifth"):
            refused(it.answers.of(name), QuestionRefusal.BUSY, "2 questions wait", "questions.max_waiting")
        engine.gate.set()
        for name in ("first", "second", "third"):
            assert it.answers.of(name).spoken is not None
        assert it.answers.of(it.ask("what?", "later")).spoken is not None


def test_a_decision_that_falls_due_comes_before_the_next_step() -> None:
    engine = Seeing()
    with rig(engine, decide_on="frame") as it:
        it.begin(1, 100)
        it.answers.wait(lambda: len([c for c in it.answers.chunks if c.actions]) == 1)
        engine.gate.clear()
        it.ask("what?")
        assert engine.stepping.wait(DEADLINE_S)
        it.worker.put_frame(200)
        engine.gate.set()
        assert it.answers.of("what?").spoken == Spoken("1 100"), "as it stood when the question was begun"
        assert engine.calls.index("decide 200") == engine.calls.index("step 1") - 1
        assert engine.calls.index("observe 200") > engine.calls.index("step 0")


def test_decisions_that_leave_no_time_are_said() -> None:
    """Every turn finds a frame, so that a decision is always due."""
    engine = Seeing()
    with rig(engine, SHORT, "frame") as it:
        it.begin(1, 100)
        stamps = iter(range(200, 10**9))
        decide = engine.decide

        def busy(queue: int) -> ActionChunk:
            it.worker.put_frame(next(stamps))
            return decide(queue)

        engine.decide = busy  # type: ignore[method-assign]
        it.worker.put_frame(next(stamps))
        it.ask("what?")
        refused(it.answers.of("what?"), QuestionRefusal.BUSY, "come first", "questions.timeout_s")
        engine.decide = decide  # type: ignore[method-assign]
        assert it.answers.of(it.ask("what?", "later")).spoken is not None


def test_an_answer_that_decisions_have_interrupted_for_too_long_ends() -> None:
    engine = Seeing()
    with rig(engine, SHORT, "frame") as it:
        it.begin(1, 100)
        it.answers.wait(lambda: len([c for c in it.answers.chunks if c.actions]) == 1)
        engine.gate.clear()
        it.ask("what?")
        assert engine.stepping.wait(DEADLINE_S)
        stamps = iter(range(200, 10**9))
        decide = engine.decide

        def busy(queue: int) -> ActionChunk:
            if not it.answers.all:
                it.worker.put_frame(next(stamps))
            return decide(queue)

        engine.decide = busy  # type: ignore[method-assign]
        it.worker.put_frame(next(stamps))
        engine.gate.set()
        refused(it.answers.of("what?"), QuestionRefusal.BUSY, "come first")
        assert engine.closed == ["what?"]


@pytest.mark.parametrize(
    ("text", "refusal", "words"),
    [
        ("too long", QuestionRefusal.TOO_LONG, "shorter, please"),
        ("breaks", QuestionRefusal.FAILED, "a wire is loose"),
        ("refused at once", QuestionRefusal.FAILED, "not begun"),
    ],
)
def test_a_question_that_fails_does_not_end_the_run(text: str, refusal: QuestionRefusal, words: str) -> None:
    with rig(decide_on="frame") as it:
        it.begin(1, 100)
        refused(it.answers.of(it.ask(text)), refusal, words)
        assert it.answers.of(it.ask("what?")).spoken is not None
        it.frame(200)
        it.answers.wait(lambda: it.answers.chunks[-1].frame_stamp_ns == 200)
        assert it.worker.running and not it.answers.failures


def test_an_engine_that_failed_is_asked_nothing_until_it_begins_anew() -> None:
    engine = Seeing()
    with rig(engine) as it:
        it.begin(1, 100)
        engine.fails = True
        it.frame(200)
        it.answers.wait(lambda: bool(it.answers.failures))
        refused(
            it.answers.of(it.ask("what?")),
            QuestionRefusal.ENGINE_FAILED,
            "the frame burns",
            "new instruction",
        )
        engine.fails = False
        it.begin(2, 300)
        assert it.answers.of(it.ask("what?", "again")).spoken == Spoken("2 300")


def test_a_failure_ends_the_question_under_way() -> None:
    engine = Seeing()
    with rig(engine) as it:
        it.begin(1, 100)
        engine.gate.clear()
        it.ask("what?", "first")
        it.ask("what?", "second")
        assert engine.stepping.wait(DEADLINE_S)
        engine.fails = True
        it.worker.put_frame(200)
        engine.gate.set()
        for name in ("first", "second"):
            refused(it.answers.of(name), QuestionRefusal.ENGINE_FAILED, "the frame burns")
        assert engine.closed == ["first"]


def test_a_new_instruction_leaves_the_question_under_way() -> None:
    engine = Seeing()
    with rig(engine) as it:
        it.begin(1, 100)
        engine.gate.clear()
        it.ask("what?")
        assert engine.stepping.wait(DEADLINE_S)
        it.worker.command(Start(Instruction(2, "go back")))
        engine.gate.set()
        answer = it.answers.of("what?")
        assert answer.spoken == Spoken("1 100") and answer.instruction == 1


def test_whoever_still_waits_at_the_end_is_told() -> None:
    engine = Seeing()
    with rig(engine) as it:
        it.begin(1, 100)
        engine.gate.clear()
        for name in ("first", "second"):
            it.ask("what?", name)
        assert engine.stepping.wait(DEADLINE_S)
        closer = threading.Thread(target=it.worker.close)
        closer.start()
        while not it.worker.closing:
            time.sleep(0)
        engine.gate.set()
        closer.join()
        for name in ("first", "second"):
            refused(it.answers.of(name), QuestionRefusal.ENDED, "when it is active")
        refused(it.answers.of(it.ask("what?", "after")), QuestionRefusal.ENDED)
        assert len(it.answers.all) == 3


def test_a_worker_without_a_desk_takes_no_question() -> None:
    engine = Seeing()
    worker: EngineWorker[int] = EngineWorker(DecisionLoop(engine, "frame", 0, 1), decode, Answers())
    with pytest.raises(ValueError, match="desk"):
        worker.ask(Question("1", "what?"))


@pytest.mark.parametrize(
    ("question_id", "text", "choices", "words"),
    [
        ("", "what?", (), "id has 0"),
        ("x" * 65, "what?", (), "id has 65"),
        ("1", " \n", (), "no words"),
        ("1", "what?", ("yes",), "1 choices"),
        ("1", "what?", tuple(map(str, range(17))), "17 choices"),
        ("1", "what?", ("yes", ""), "a choice has no words"),
        ("1", "what?", ("yes", "no", "yes"), "alike"),
    ],
)
def test_questions_that_are_none(question_id: str, text: str, choices: tuple[str, ...], words: str) -> None:
    with pytest.raises(QuestionError, match=words) as caught:
        Question(question_id, text, choices)
    assert caught.value.refusal is QuestionRefusal.NOT_UNDERSTOOD


def test_an_answer_is_words_or_a_refusal() -> None:
    with pytest.raises(ValueError, match="either"):
        QuestionAnswer(question_id="1", question=None)
    with pytest.raises(ValueError, match="either"):
        QuestionAnswer(question_id="1", question=None, spoken=Spoken("a"), refusal=QuestionRefusal.BUSY)
