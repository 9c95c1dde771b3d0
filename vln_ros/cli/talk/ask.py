"""``vln_ros ask``: asks a robot about what it has seen, and prints the answer."""

from __future__ import annotations

import argparse
import sys
import uuid
from typing import TYPE_CHECKING, Any

from vln_ros.cli.arguments.parsing import rename_options, seconds
from vln_ros.cli.talk.person import NobodyError, Person, add_place
from vln_ros.config import ConfigError
from vln_ros.questions import Question, QuestionError

if TYPE_CHECKING:
    from vln_ros.questions import QuestionAnswer

HELP = "Ask a robot about what it has seen; its run goes on untouched"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help="in words, e.g. 'what is to your left?'")
    parser.add_argument(
        "--choice",
        action="append",
        default=[],
        metavar="TEXT",
        help="one of the answers to choose among, with its probability; give the option once for each",
    )
    parser.add_argument("--raw", action="store_true", help="print the message on the topic as it came")
    parser.add_argument(
        "--answer-s", type=seconds, default=120.0, help="seconds to wait for the answer (default: 120)"
    )
    add_place(parser)
    rename_options(parser, {"--json": "--raw"})


def run(options: argparse.Namespace) -> int:
    try:
        question = Question(uuid.uuid4().hex, options.question.strip(), tuple(options.choice))
    except QuestionError as error:
        raise ConfigError(str(error)) from error
    try:
        with Person.of(options) as person:
            return _ask(person, question, options)
    except NobodyError as error:
        print(f"vln_ros: {error}", file=sys.stderr)
        return 1


def _ask(person: Person, question: Question, options: argparse.Namespace) -> int:
    from std_msgs.msg import String

    from vln_ros.ros import qos
    from vln_ros.ros.questions import (
        ANSWER_TOPIC,
        QUESTION_TOPIC,
        answer_from_string,
        string_from_question,
    )

    found: list[tuple[QuestionAnswer, str]] = []

    def hear(msg: Any) -> None:
        try:
            answer = answer_from_string(msg)
        except ValueError as error:
            print(f"{ANSWER_TOPIC}: {error}", file=sys.stderr)
            return
        if answer.question_id == question.question_id:
            found.append((answer, msg.data))

    publisher = person.node.create_publisher(String, QUESTION_TOPIC, qos.events())
    person.hear(String, ANSWER_TOPIC, hear, qos.events())
    person.find(
        "navigator that takes questions",
        lambda: publisher.get_subscription_count() > 0 and person.node.count_publishers(ANSWER_TOPIC) > 0,
        "start one, and see that it is active",
    )
    publisher.publish(string_from_question(question))
    if not person.until(lambda: bool(found), options.answer_s):
        print(f"vln_ros: no answer within {options.answer_s:g} s (--answer-s)", file=sys.stderr)
        return 1
    answer, text = found[0]
    if options.raw:
        print(text)
    elif answer.spoken is not None:
        print("\n".join(_lines(answer)))
    if answer.refusal is not None:
        print(f"vln_ros: {answer.refusal.value}: {answer.message}", file=sys.stderr)
        return 1
    return 0


def _lines(answer: QuestionAnswer) -> list[str]:
    spoken, question = answer.spoken, answer.question
    assert spoken is not None and question is not None, "an answer of words has both"
    if not spoken.probabilities:
        return [spoken.text + (" ..." if spoken.cut else "")]
    ranked = sorted(zip(spoken.probabilities, question.choices, strict=True), reverse=True)
    return [f"{share:6.1%}  {choice}" for share, choice in ranked]
