"""Questions of viewers, and the navigator's answers."""

from __future__ import annotations

from rclpy.node import Node
from std_msgs.msg import String

from vln_ros.ros import qos
from vln_ros.web.feed import Feed

LONGEST_QUESTION = 1000


class QuestionTopics:
    """Publishes questions on ``question`` and shows what comes on ``answer``.

    Args:
        node: gets publisher and subscription.
        feed: gets both as lines of the log.
    """

    def __init__(self, node: Node, feed: Feed) -> None:
        self._feed = feed
        self._asked = 0
        self._publisher = node.create_publisher(String, "question", qos.events())
        node.create_subscription(String, "answer", self._on_answer, qos.events())

    def ask(self, text: str, who: str) -> None:
        """Send a question, if somebody is there to answer."""
        text = text.strip()
        if not text or len(text) > LONGEST_QUESTION:
            self._feed.note("refused", f"a question has 1 to {LONGEST_QUESTION} characters")
        elif not self._publisher.get_subscription_count():
            self._feed.note("refused", "no navigator is there that answers questions")
        else:
            self._asked += 1
            self._feed.note("question", f"{text} ({who})")
            self._publisher.publish(String(data=text))

    def _on_answer(self, msg: String) -> None:
        self._feed.note("answer", msg.data)
