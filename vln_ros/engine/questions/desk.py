"""Answers questions in the order in which they come, between the decisions of a run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import KW_ONLY, dataclass, field

from vln_ros.config import QuestionConfig
from vln_ros.datatypes import Frame, Instruction
from vln_ros.protocols import AnswersQuestions, Engine
from vln_ros.questions import Question, QuestionAnswer, QuestionError, QuestionRefusal, Spoken


@dataclass
class _Asked:
    """A question, when it came, and what is known of its answer so far. Monotonic times."""

    question: Question
    came_s: float
    _: KW_ONLY
    steps: Generator[None, None, Spoken] | None = None
    begun_s: float = 0.0
    instruction: int | None = None
    frame_stamp_ns: int | None = None
    last_s: float = field(init=False)
    """When it came, or when its last step was done."""

    def __post_init__(self) -> None:
        self.last_s = self.came_s


class QuestionDesk:
    """Answers questions one after the other, one forward at a time, when the engine's thread has the time.

    :meth:`put` may be called from any thread; all else from the engine's.

    Args:
        engine: that of the run.
        told: gets exactly one answer for every question, in either thread.
    """

    def __init__(
        self, engine: Engine, config: QuestionConfig, told: Callable[[QuestionAnswer], None]
    ) -> None:
        self._engine, self._config, self._told = engine, config, told
        self._lock = threading.Lock()
        self._waiting: deque[_Asked] = deque()
        self._now: _Asked | None = None
        self._instruction: Instruction | None = None
        self._newest: Frame | None = None
        self._failure: str | None = None
        self._closed = False

    def put(self, question: Question) -> None:
        """Its answer is computed later; a refusal may be told at once."""
        asked = _Asked(question, time.monotonic())
        with self._lock:
            waiting, closed = len(self._waiting), self._closed
            takes = not closed and waiting < self._config.max_waiting
            takes = takes and isinstance(self._engine, AnswersQuestions)
            if takes:
                self._waiting.append(asked)
        if takes:
            return
        if closed:
            self._refuse(asked, QuestionRefusal.ENDED, _ENDED)
        elif not isinstance(self._engine, AnswersQuestions):
            self._refuse(
                asked, QuestionRefusal.NO_MODEL,
                "there is no model that could answer: start the navigator with engine qwen",
            )  # fmt: skip
        else:
            self._refuse(
                asked, QuestionRefusal.BUSY,
                f"{waiting} questions wait already (questions.max_waiting): ask again when they are answered",
            )  # fmt: skip

    def begin(self, instruction: Instruction) -> None:
        """A run begins. A question under way is still answered about the run before."""
        self._instruction, self._newest, self._failure = instruction, None, None

    def saw(self, frame: Frame) -> None:
        """The newest frame, whether the run was shown it or not."""
        self._newest = frame

    def failed(self, why: str) -> None:
        """The engine failed: what it holds is of no use until the next run."""
        self._failure = why
        self._end_now(QuestionRefusal.ENGINE_FAILED, _failed(why))

    def close(self) -> None:
        """Whoever still waits is told that there will be no answer. The engine's thread has ended."""
        with self._lock:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
        self._end_now(QuestionRefusal.ENDED, _ENDED)
        for asked in left:
            self._refuse(asked, QuestionRefusal.ENDED, _ENDED)

    def step(self) -> None:
        """The next forward of an answer, or the beginning of the next one, if anybody waits."""
        if self._now is None:
            self._now = self._next()
        asked = self._now
        if asked is None:
            return
        assert asked.steps is not None, "a question is begun when it is taken"
        try:
            next(asked.steps)
        except StopIteration as end:
            self._now = None
            self._answer(asked, end.value)
        except QuestionError as error:
            self._now = None
            self._refuse(asked, error.refusal, str(error))
        except (RuntimeError, ValueError, MemoryError, OSError) as error:  # the run does not end of it
            self._now = None
            self._refuse(asked, QuestionRefusal.FAILED, f"the answer could not be computed: {error}")
        else:
            asked.last_s = time.monotonic()

    def expire(self) -> float | None:
        """Refuse who has waited too long.

        Returns:
            Seconds until :meth:`step` (0: it can do something) or this is due again; None: nobody waits.
        """
        limit_s, now_s = self._config.timeout_s, time.monotonic()
        while (old := self._overdue(now_s - limit_s)) is not None:
            if self._newest is None and self._instruction is not None:
                self._refuse(
                    old, QuestionRefusal.NO_FRAME,
                    f"no frame of this run has come within {limit_s:g} s: is the camera there?",
                )  # fmt: skip
            else:
                self._refuse(old, QuestionRefusal.BUSY, _no_time(limit_s))
        if self._now is not None:
            if now_s - self._now.last_s > limit_s:
                self._end_now(QuestionRefusal.BUSY, _no_time(limit_s))
            else:
                return 0.0
        with self._lock:
            if not self._waiting:
                return None
            oldest_s = self._waiting[0].came_s
        if self._instruction is None or self._failure is not None or self._newest is not None:
            return 0.0
        return max(oldest_s + limit_s - now_s, 0.0) + 1e-3

    def _overdue(self, since_s: float) -> _Asked | None:
        with self._lock:
            if self._waiting and self._waiting[0].came_s < since_s:
                return self._waiting.popleft()
        return None

    def _next(self) -> _Asked | None:
        """The oldest one that can be begun; those of which it is clear that they cannot are refused."""
        if self._instruction is not None and self._failure is None and self._newest is None:
            return None  # its frames may be on their way
        with self._lock:
            asked = self._waiting.popleft() if self._waiting else None
        if asked is None:
            return None
        if self._failure is not None:
            self._refuse(asked, QuestionRefusal.ENGINE_FAILED, _failed(self._failure))
            return None
        if self._instruction is None or self._newest is None:
            self._refuse(
                asked, QuestionRefusal.NO_INSTRUCTION,
                "no instruction was followed yet, so the model has seen nothing: give one first",
            )  # fmt: skip
            return None
        assert isinstance(self._engine, AnswersQuestions), "others are refused at once"
        asked.begun_s = time.monotonic()
        asked.instruction, asked.frame_stamp_ns = self._instruction.number, self._newest.stamp_ns
        try:
            asked.steps = self._engine.asking(
                asked.question,
                self._newest,
                max_question_tokens=self._config.max_question_tokens,
                max_answer_tokens=self._config.max_answer_tokens,
            )
        except (RuntimeError, ValueError, MemoryError, OSError) as error:
            self._refuse(asked, QuestionRefusal.FAILED, f"the answer could not be computed: {error}")
            return None
        return asked

    def _end_now(self, refusal: QuestionRefusal, text: str) -> None:
        asked, self._now = self._now, None
        if asked is not None:
            if asked.steps is not None:
                asked.steps.close()
            self._refuse(asked, refusal, text)

    def _refuse(self, asked: _Asked, refusal: QuestionRefusal, text: str) -> None:
        self._tell(asked, None, refusal, text)

    def _answer(self, asked: _Asked, spoken: Spoken) -> None:
        self._tell(asked, spoken, None, None)

    def _tell(
        self, asked: _Asked, spoken: Spoken | None, refusal: QuestionRefusal | None, text: str | None
    ) -> None:
        now_s = time.monotonic()
        begun = asked.steps is not None
        self._told(
            QuestionAnswer(
                question_id=asked.question.question_id,
                question=asked.question,
                spoken=spoken,
                refusal=refusal,
                message=text,
                instruction=asked.instruction,
                frame_stamp_ns=asked.frame_stamp_ns,
                waited_ms=((asked.begun_s if begun else now_s) - asked.came_s) * 1e3,
                answered_ms=(now_s - asked.begun_s) * 1e3 if begun else None,
            )
        )


_ENDED = "the navigator was deactivated or ended before the answer: ask again when it is active"


def _failed(why: str) -> str:
    return f"the engine failed ({why}): give a new instruction, which begins anew"


def _no_time(limit_s: float) -> str:
    return (
        f"decisions, which come first, left no time for it within {limit_s:g} s (questions.timeout_s): ask "
        "again when the robot stands"
    )
