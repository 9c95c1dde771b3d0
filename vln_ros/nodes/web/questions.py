"""Questions of viewers, and the navigator's answers, as lines of the log."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from rclpy.node import Node
from std_msgs.msg import String

from vln_ros.questions import Question, QuestionAnswer, QuestionError
from vln_ros.ros import qos
from vln_ros.ros.convert import MessageError
from vln_ros.ros.questions import (
    ANSWER_TOPIC,
    QUESTION_TOPIC,
    answer_from_string,
    question_from_string,
    string_from_question,
)
from vln_ros.web.feed import Feed


class QuestionTopics:
    """Publishes questions on ``question`` and shows what comes on ``answer`` (docs/reference/nodes.md).

    Args:
        node: gets publisher and subscription.
        feed: gets both as lines of the log.
        refuse: gets answers that cannot be read.
    """

    def __init__(self, node: Node, feed: Feed, refuse: Callable[[MessageError], None]) -> None:
        self._feed, self._refuse = feed, refuse
        self._numbers = count(1)
        self._waiting: dict[str, Question] = {}
        self._publisher = node.create_publisher(String, QUESTION_TOPIC, qos.events())
        node.create_subscription(String, ANSWER_TOPIC, self._on_answer, qos.events())

    def ask(self, text: str, who: str) -> None:
        """Send a question, if somebody is there to answer; behind ``|`` are answers to choose from."""
        words, *choices = (part.strip() for part in text.split("|"))
        try:
            msg = string_from_question(Question(f"web-{next(self._numbers)}", words, tuple(choices)))
            question = question_from_string(msg, str)  # what a navigator would refuse, is refused here
        except QuestionError as error:
            self._feed.note("refused", str(error))
            return
        if not self._publisher.get_subscription_count():
            self._feed.note("refused", "no navigator is there that answers questions")
            return
        self._feed.note("question", f"{question.text} ({who})")
        self._waiting[question.question_id] = question
        self._publisher.publish(msg)

    def tick(self, is_navigator_there: bool) -> None:
        """A navigator answers every question, as long as it lives."""
        if self._waiting and not is_navigator_there:
            for question in self._waiting.values():
                self._feed.note("unanswered", f"{question.text} – the navigator is silent: ask again")
            self._waiting.clear()

    def _on_answer(self, msg: String) -> None:
        try:
            answer = answer_from_string(msg)
        except ValueError as error:
            self._refuse(MessageError("bad_answer", str(error)))
            return
        self._waiting.pop(answer.question_id, None)
        self._feed.note(*answer_line(answer))


def answer_line(answer: QuestionAnswer) -> tuple[str, str]:
    """An answer, or a refusal, as what is noted and its words."""
    question = answer.question
    asked = f"{question.text} – " if question is not None else ""
    if answer.spoken is None:
        return "unanswered", f"{asked}{answer.message}"
    said = answer.spoken
    chances = ""
    if question is not None and said.probabilities:
        pairs = zip(question.choices, said.probabilities, strict=True)
        chances = f" ({', '.join(f'{name} {share:.0%}' for name, share in pairs)})"
    return "answer", f"{asked}{said.text}{' …' if said.cut else ''}{chances}"
