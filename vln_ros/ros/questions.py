"""Reads and writes questions and answers as std_msgs/String: words or JSON (docs/reference/nodes.md)."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from typing import Any

from std_msgs.msg import String

from vln_ros.questions import (
    MAX_QUESTION_ID_CHARACTERS,
    Question,
    QuestionAnswer,
    QuestionError,
    QuestionRefusal,
    Spoken,
)
from vln_ros.words import MAX_QUESTION_CHARACTERS

QUESTION_TOPIC = "question"
ANSWER_TOPIC = "answer"
_FIELDS = ("id", "question", "choices")


class UnreadableQuestionError(QuestionError):
    """A message on ``question`` that is none; ``question_id`` is its own where that could be read."""

    def __init__(self, question_id: str, text: str) -> None:
        super().__init__(QuestionRefusal.NOT_UNDERSTOOD, text)
        self.question_id = question_id


def question_from_string(msg: String, new_id: Callable[[], str]) -> Question:
    """A person's plain words, or a program's JSON.

    Args:
        new_id: makes one for a question that has none.

    Raises:
        UnreadableQuestionError: the message says why, and what would do.
    """
    text = str(msg.data).strip()
    if len(text) > MAX_QUESTION_CHARACTERS:  # before it is read as anything
        wrong = f"the question has {len(text)} characters, at most {MAX_QUESTION_CHARACTERS} are taken"
        raise UnreadableQuestionError(new_id(), wrong)
    if not text.startswith("{"):
        return _question(new_id(), text, ())
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableQuestionError(
            new_id(), f"the question begins with {{ and is no JSON ({error}): send plain words, or an object"
        ) from error
    question_id = tree.get("id")
    if question_id is None:
        question_id = new_id()
    elif not isinstance(question_id, str) or len(question_id) > MAX_QUESTION_ID_CHARACTERS or not question_id:
        raise UnreadableQuestionError(
            new_id(), f"id = {_short(question_id)}: a text of 1 to {MAX_QUESTION_ID_CHARACTERS} characters"
        )
    for name in tree:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_FIELDS)}"
            raise UnreadableQuestionError(question_id, f"unknown field {_short(name)}: {hint}")
    words, choices = tree.get("question"), tree.get("choices")
    if not isinstance(words, str):
        raise UnreadableQuestionError(question_id, f"question = {_short(words)}: the words of the question")
    choices = [] if choices is None else choices
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise UnreadableQuestionError(question_id, f"choices = {_short(choices)}: a list of texts")
    return _question(question_id, words.strip(), tuple(c.strip() for c in choices))


def string_from_question(question: Question) -> String:
    """With its id and choices, as JSON."""
    tree: dict[str, Any] = {"id": question.question_id, "question": question.text}
    if question.choices:
        tree["choices"] = list(question.choices)
    return String(data=json.dumps(tree, ensure_ascii=False))


def string_from_answer(answer: QuestionAnswer) -> String:
    """Every field of docs/reference/nodes.md, ``null`` where it does not apply."""
    question, spoken = answer.question, answer.spoken
    chances = None
    if spoken is not None and question is not None and spoken.probabilities:
        chances = [list(pair) for pair in zip(question.choices, spoken.probabilities, strict=True)]
    tree = {
        "id": answer.question_id,
        "question": None if question is None else question.text,
        "status": "answered" if spoken is not None else "refused",
        "answer": None if spoken is None else spoken.text,
        "probabilities": chances,
        "cut": None if spoken is None else spoken.cut,
        "reason": None if answer.refusal is None else answer.refusal.value,
        "message": answer.message,
        "instruction": answer.instruction,
        "frame_stamp_ns": answer.frame_stamp_ns,
        "waited_ms": answer.waited_ms,
        "answered_ms": answer.answered_ms,
    }
    return String(data=json.dumps(tree, ensure_ascii=False))


def answer_from_string(msg: String) -> QuestionAnswer:
    """The mirror image of :func:`string_from_answer`.

    Raises:
        ValueError: it is no answer of this package's.
    """
    try:
        tree = json.loads(str(msg.data))
        words, chances, said = tree["question"], tree["probabilities"] or [], tree["answer"]
        names = tuple(str(name) for name, _ in chances)
        shares = tuple(float(share) for _, share in chances)
        if not all(math.isfinite(share) for share in shares):
            raise ValueError(f"probabilities {shares} are not finite")
        return QuestionAnswer(
            question_id=str(tree["id"]),
            question=None if words is None else Question(str(tree["id"]), str(words), names),
            spoken=None if said is None else Spoken(str(said), shares, bool(tree["cut"])),
            refusal=None if tree["reason"] is None else QuestionRefusal(tree["reason"]),
            message=tree["message"],
            instruction=tree["instruction"],
            frame_stamp_ns=tree["frame_stamp_ns"],
            waited_ms=tree["waited_ms"],
            answered_ms=tree["answered_ms"],
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"this is no answer of a navigator: {_short(msg.data)} ({error!r})") from error


def _question(question_id: str, text: str, choices: tuple[str, ...]) -> Question:
    try:
        return Question(question_id, text, choices)
    except QuestionError as error:
        raise UnreadableQuestionError(question_id, str(error)) from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
