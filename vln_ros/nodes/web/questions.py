"""Questions of viewers, and the navigator's answers."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from vln_ros.ros import qos
from vln_ros.web.feed import Feed

LONGEST_QUESTION = 1000


class QuestionTopics:
    """Publishes questions on ``question`` and shows what comes on ``answer`` (docs/nodes.md).

    Args:
        node: gets publisher and subscription.
        feed: gets both as lines of the log.
    """

    def __init__(self, node: Node, feed: Feed) -> None:
        self._feed = feed
        self._numbers = count(1)
        self._publisher = node.create_publisher(String, "question", qos.events())
        node.create_subscription(String, "answer", self._on_answer, qos.events())

    def ask(self, text: str, who: str) -> None:
        """Send a question, if somebody is there to answer."""
        text = text.strip()
        if not text or len(text) > LONGEST_QUESTION or not text.isprintable():
            self._feed.note("refused", f"a question has 1 to {LONGEST_QUESTION} characters, in one line")
        elif not self._publisher.get_subscription_count():
            self._feed.note("refused", "no navigator is there that answers questions")
        else:
            self._feed.note("question", f"{text} ({who})")
            question = {"id": f"web-{next(self._numbers)}", "question": text}
            self._publisher.publish(String(data=json.dumps(question, ensure_ascii=False)))

    def _on_answer(self, msg: String) -> None:
        what, text = answer_words(msg.data)
        self._feed.note(what, text)


def answer_words(text: str) -> tuple[str, str]:
    """An answer as a line of the log: its kind, and its words. What cannot be read is shown as it is."""
    try:
        answer: Any = json.loads(text)
        question, said = answer["question"], answer["answer"]
        if said is None:
            return "refused", f"the question was not answered: {answer['message'] or answer['reason']}"
        chances = ", ".join(f"{name} {float(share):.0%}" for name, share in answer["probabilities"] or [])
        words = f"{said} ({chances})" if chances else str(said)
        words += " …" if answer["cut"] else ""
        return "answer", f"{question} – {words}" if question else words
    except (ValueError, KeyError, TypeError, RecursionError):
        return "answer", text
