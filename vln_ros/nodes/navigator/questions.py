"""Hears what people ask a navigator, and publishes what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import String

from vln_ros.nodes.instruction_input import Info, InstructionFilter
from vln_ros.questions import Question, QuestionAnswer, QuestionRefusal
from vln_ros.ros import qos
from vln_ros.ros.questions import (
    ANSWER_TOPIC,
    QUESTION_TOPIC,
    UnreadableQuestionError,
    question_from_string,
    string_from_answer,
)


class QuestionTopics:
    """The two topics of a configured navigator: one answer for every question that it hears."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._logger = node.get_logger()
        self._numbers = count(1)
        self._heard = InstructionFilter()
        self._counts: Counter[str] = Counter()
        self._pub = node.create_publisher(String, ANSWER_TOPIC, qos.events())

    def hear(self, ask: Callable[[Question], None]) -> None:
        """Subscribe while the node is active. The answer to what ``ask`` takes comes to :meth:`tell`."""

        def take(msg: String, info: Info) -> None:
            if self._heard.is_new(msg.data, info, latched=False):
                self._take(msg, ask)

        # Reliable publishers are heard by the first, those by best effort by the second only.
        for profile in (qos.events(), qos.sensor("best_effort", qos.events().depth)):
            quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
            self._node.create_subscription(String, QUESTION_TOPIC, take, profile, event_callbacks=quiet)  # type: ignore[arg-type]

    def tell(self, answer: QuestionAnswer) -> None:
        """Publish an answer, and count it. From any thread."""
        self._counts["answered" if answer.refusal is None else answer.refusal.value] += 1
        if answer.message is not None:
            self._logger.warning(f"question {answer.question_id} is refused: {answer.message}")
        self._pub.publish(string_from_answer(answer))

    def values(self) -> tuple[tuple[str, int], ...]:
        """For /diagnostics: what came of the questions, by outcome."""
        answered = self._counts["answered"]
        refused = [(f"questions refused: {k}", n) for k, n in sorted(self._counts.items()) if k != "answered"]
        return (("questions answered", answered), *refused) if answered or refused else ()

    def _new_id(self) -> str:
        return f"#{next(self._numbers)}"

    def _take(self, msg: String, ask: Callable[[Question], None]) -> None:
        try:
            question = question_from_string(msg, self._new_id)
        except UnreadableQuestionError as error:
            none = QuestionAnswer(
                question_id=error.question_id,
                question=None,
                refusal=QuestionRefusal.NOT_UNDERSTOOD,
                message=str(error),
            )
            self.tell(none)
            return
        self._logger.info(f"question {question.question_id}: {question.text}")
        ask(question)
