"""Declares questions about a run and what comes of them, as they cross module boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vln_ros.words import MAX_QUESTION_CHARACTERS, WordsError, check_words

MAX_QUESTION_ID_CHARACTERS = 64
MAX_CHOICES = 16


class QuestionRefusal(Enum):
    """Why a question is not answered; by these words a program can tell them apart."""

    NOT_UNDERSTOOD = "not_understood"
    TOO_LONG = "too_long"
    BUSY = "busy"
    NO_INSTRUCTION = "no_instruction"
    NO_FRAME = "no_frame"
    NO_MEMORY = "no_memory"
    ENGINE_FAILED = "engine_failed"
    FAILED = "failed"
    NO_MODEL = "no_model"
    ENDED = "ended"


class QuestionError(ValueError):
    """A question cannot be answered; the message says what would help."""

    def __init__(self, refusal: QuestionRefusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


@dataclass(frozen=True)
class Question:
    """What somebody wants to know about a run.

    Attributes:
        question_id: by which the asker knows the answer.
        choices: answers of which the model says how probable each is; empty: it answers freely.

    Raises:
        QuestionError: no id or no words, too long an id; one choice, too many, empty ones or two alike; a
            text that no model should be given (:func:`vln_ros.words.check_words`).
    """

    question_id: str
    text: str
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = ""
        if not 0 < len(self.question_id) <= MAX_QUESTION_ID_CHARACTERS:
            wrong = f"id has {len(self.question_id)} characters: 1 to {MAX_QUESTION_ID_CHARACTERS} are taken"
        elif not self.text.strip():
            wrong = "the question has no words"
        elif self.choices and not 2 <= len(self.choices) <= MAX_CHOICES:
            wrong = f"{len(self.choices)} choices: 2 to {MAX_CHOICES} are taken, or none for a free answer"
        elif not all(c.strip() for c in self.choices):
            wrong = "a choice has no words"
        elif len(set(self.choices)) < len(self.choices):
            wrong = f"two of the choices are alike: {list(self.choices)}"
        if wrong:
            raise QuestionError(QuestionRefusal.NOT_UNDERSTOOD, wrong)
        named = [("the question's id", self.question_id), ("the question", self.text)]
        for name, text in [*named, *(("a choice", choice) for choice in self.choices)]:
            try:
                check_words(name, text, MAX_QUESTION_CHARACTERS)
            except WordsError as error:
                raise QuestionError(QuestionRefusal.NOT_UNDERSTOOD, str(error)) from error


@dataclass(frozen=True)
class Spoken:
    """What a model said to a question.

    Attributes:
        text: its words; of choices the most probable one.
        probabilities: of each choice, among them.
        cut: it would have said more.
    """

    text: str
    probabilities: tuple[float, ...] = ()
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class QuestionAnswer:
    """What came of a question: exactly one of ``spoken`` and ``refusal`` is there.

    Attributes:
        question: None where it could not be read; ``question_id`` is known all the same.
        message: of a refusal, a sentence with the remedy.
        instruction: number of the instruction whose run it is about.
        frame_stamp_ns: of the newest frame that the model saw.
        waited_ms, answered_ms: from its arrival until the model was asked, and from then on; monotonic clock.
    """

    question_id: str
    question: Question | None
    spoken: Spoken | None = None
    refusal: QuestionRefusal | None = None
    message: str | None = None
    instruction: int | None = None
    frame_stamp_ns: int | None = None
    waited_ms: float | None = None
    answered_ms: float | None = None

    def __post_init__(self) -> None:
        if (self.spoken is None) == (self.refusal is None):
            raise ValueError("an answer is either words or a refusal")
