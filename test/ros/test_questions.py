"""Questions and answers as text: plain words, JSON, and everything that is neither."""

from __future__ import annotations

import json
from itertools import count

import pytest

pytest.importorskip("std_msgs", reason="needs ROS")

from hypothesis import given, settings
from hypothesis import strategies as st
from std_msgs.msg import String

from vln_ros.questions import Question, QuestionAnswer, QuestionRefusal, Spoken
from vln_ros.ros.questions import (
    UnreadableQuestionError,
    answer_from_string,
    question_from_string,
    string_from_answer,
    string_from_question,
)
from vln_ros.words import MAX_QUESTION_CHARACTERS


def read(text: str) -> Question:
    numbers = count(1)
    return question_from_string(String(data=text), lambda: f"#{next(numbers)}")


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("what do you see?", Question("#1", "what do you see?")),
        ("  what do you see?\n", Question("#1", "what do you see?")),
        ("दरवाज़ा कहाँ है?", Question("#1", "दरवाज़ा कहाँ है?")),
        ('"quoted"', Question("#1", '"quoted"')),
        ("[1, 2]", Question("#1", "[1, 2]")),
        ("17", Question("#1", "17")),
        ('{"question": "what?"}', Question("#1", "what?")),
        ('{"id": "a", "question": "what?"}', Question("a", "what?")),
        ('{"id": null, "question": " what? ", "choices": null}', Question("#1", "what?")),
        (
            '{"id": "a", "question": "door?", "choices": ["yes", " no "]}',
            Question("a", "door?", ("yes", "no")),
        ),
        ('{"question": "door?", "choices": []}', Question("#1", "door?")),
    ],
)
def test_what_people_and_programs_send(text: str, question: Question) -> None:
    assert read(text) == question


@pytest.mark.parametrize(
    ("text", "question_id", "words"),
    [
        ("", "#1", "no words"),
        (" \n\t ", "#1", "no words"),
        ("x" * (MAX_QUESTION_CHARACTERS + 1), "#1", "at most"),
        ("what\x07?", "#1", "control characters"),
        ("what\N{REPLACEMENT CHARACTER}?", "#1", "UTF-8"),
        ("{what?}", "#1", "no JSON"),
        ('{"question": "what?"', "#1", "no JSON"),
        ('{"question": "what?"} again', "#1", "no JSON"),
        ('{"question": ' + "[" * 8000, "#1", "no JSON"),
        ('{"id": 7, "question": "what?"}', "#1", "id = 7"),
        ('{"id": "", "question": "what?"}', "#1", "id = ''"),
        ('{"id": "' + "x" * 65 + '", "question": "what?"}', "#1", "1 to 64"),
        ('{"id": ["a"], "question": "what?"}', "#1", "id = "),
        ('{"id": "a"}', "a", "question = None"),
        ('{"id": "a", "question": null}', "a", "question = None"),
        ('{"id": "a", "question": 3}', "a", "question = 3"),
        ('{"id": "a", "question": ""}', "a", "no words"),
        ('{"id": "a", "question": "what?", "choice": ["yes", "no"]}', "a", "did you mean 'choices'"),
        ('{"id": "a", "question": "what?", "temperature": 1}', "a", "known: id, question, choices"),
        ('{"id": "a", "question": "what?", "choices": "yes"}', "a", "a list of texts"),
        ('{"id": "a", "question": "what?", "choices": {"yes": 1}}', "a", "a list of texts"),
        ('{"id": "a", "question": "what?", "choices": ["yes", 1]}', "a", "a list of texts"),
        ('{"id": "a", "question": "what?", "choices": ["yes"]}', "a", "1 choices"),
        ('{"id": "a", "question": "what?", "choices": ["yes", "yes "]}', "a", "alike"),
        ('{"id": "a", "question": "what?", "choices": ["yes", " "]}', "a", "no words"),
        ('{"id": "a", "question": "\\u0000"}', "a", "control characters"),
        ('{"id": "a", "question": "\\ud800"}', "a", "UTF-8"),
        ('{"id": "\\u0007", "question": "what?"}', "\x07", "control characters"),
    ],
)
def test_what_is_no_question(text: str, question_id: str, words: str) -> None:
    with pytest.raises(UnreadableQuestionError) as caught:
        read(text)
    assert words in str(caught.value)
    assert caught.value.question_id == question_id
    assert caught.value.refusal is QuestionRefusal.NOT_UNDERSTOOD
    assert len(str(caught.value)) < 400, "no message repeats a book"


@settings(deadline=None)
@given(st.text(max_size=200))
def test_whatever_comes_is_a_question_or_says_why_not(text: str) -> None:
    for sent in (text, "{" + text, json.dumps({"question": text, "id": text[:5]})):
        try:
            question = read(sent)
        except UnreadableQuestionError as error:
            answer = QuestionAnswer(
                question_id=error.question_id, question=None, refusal=error.refusal, message=str(error)
            )
            assert answer_from_string(string_from_answer(answer)) == answer
        else:
            assert read(string_from_question(question).data) == question


ANSWERS = [
    QuestionAnswer(
        question_id="a", question=Question("a", "what?"), spoken=Spoken("a door", cut=True), instruction=3,
        frame_stamp_ns=12345678901234567, waited_ms=1.5, answered_ms=20.25,
    ),
    QuestionAnswer(
        question_id="é", question=Question("é", "door?", ("yes", "no")), spoken=Spoken("no", (0.25, 0.75)),
        instruction=3, frame_stamp_ns=1, waited_ms=1.5, answered_ms=20.25,
    ),
    QuestionAnswer(
        question_id="#1", question=None, refusal=QuestionRefusal.NOT_UNDERSTOOD, message="no words"
    ),
    *(
        QuestionAnswer(question_id="b", question=Question("b", "?"), refusal=r, message="why", waited_ms=0.0)
        for r in QuestionRefusal
    ),
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_answers_there_and_back(answer: QuestionAnswer) -> None:
    assert answer_from_string(string_from_answer(answer)) == answer


def test_every_field_is_always_there() -> None:
    fields = {
        "id", "question", "status", "answer", "probabilities", "cut", "reason", "message", "instruction",
        "frame_stamp_ns", "waited_ms", "answered_ms",
    }  # fmt: skip
    for answer in ANSWERS:
        tree = json.loads(string_from_answer(answer).data)
        assert set(tree) == fields
        assert tree["status"] == ("answered" if answer.spoken else "refused")
        assert (tree["reason"] is None) == (tree["message"] is None) == (answer.spoken is not None)


@pytest.mark.parametrize(
    "text",
    ["", "a door", "{}", "[]", "null", "[" * 5000, json.dumps({"id": "a"}),
     string_from_answer(ANSWERS[1]).data.replace("0.25", "NaN"),
     string_from_answer(ANSWERS[2]).data.replace("not_understood", "tired"),
     string_from_answer(ANSWERS[0]).data.replace('"a door"', "null")],
)  # fmt: skip
def test_what_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match="no answer of a navigator"):
        answer_from_string(String(data=text))
