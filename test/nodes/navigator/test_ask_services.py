"""The services ask and ask_choice over real DDS: answers as by topic, and refusals with their reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("torch", reason="needs the engine's libraries")

from driven_robot import DrivenRobot, driven_robot
from std_msgs.msg import String
from std_srvs.srv import Trigger
from vln_msgs_prefix import load_here, prefix, sourced

from vln_ros.cli.graph import graph_environment
from vln_ros.config import Scalar
from vln_ros.questions import Question, QuestionAnswer
from vln_ros.ros import qos
from vln_ros.ros.questions import ANSWER_TOPIC, QUESTION_TOPIC, answer_from_string, string_from_question

pytestmark = [pytest.mark.ros, pytest.mark.slow]

POLICY: dict[str, Scalar] = {
    "engine": "qwen", "qwen.checkpoint": "shipped:tiny", "qwen.device": "cpu",
    "questions.max_answer_tokens": 4,
}  # fmt: skip
CHOICES = ["a door", "a wall"]


class Asker:
    """Calls the services, and hears the topic."""

    def __init__(self, robot: DrivenRobot) -> None:
        from vln_msgs.srv import Ask, AskChoice

        self.robot, self._ask, self._choice = robot, Ask, AskChoice
        self._free = robot.create_client(Ask, "navigator/ask")
        self._of_choices = robot.create_client(AskChoice, "navigator/ask_choice")
        self.answers: list[QuestionAnswer] = []
        robot.create_subscription(
            String, ANSWER_TOPIC, lambda m: self.answers.append(answer_from_string(m)), qos.events()
        )
        self._topic = robot.create_publisher(String, QUESTION_TOPIC, qos.events())
        robot.wait(self._of_choices.service_is_ready, "no service")
        robot.wait(lambda: self._topic.get_subscription_count() > 0, "nobody hears questions")

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self.robot.wait(future.done, "no response")
        return future.result()

    def ask(self, question: str) -> Any:
        return self._call(self._free, self._ask.Request(question=question))

    def choose(self, question: str, choices: list[str]) -> Any:
        return self._call(self._of_choices, self._choice.Request(question=question, choices=choices))

    def by_topic(self, question: Question) -> QuestionAnswer:
        self._topic.publish(string_from_question(question))
        self.robot.wait(
            lambda: any(a.question_id == question.question_id for a in self.answers), "no answer by topic"
        )
        return next(a for a in self.answers if a.question_id == question.question_id)


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with pytest.MonkeyPatch.context() as patch:
        built: Path | None = prefix()
        load_here(built, patch)
        environment = sourced(built, graph_environment())
        folder = tmp_path_factory.mktemp("asked")
        with driven_robot(folder, "/asked", POLICY, environment=environment) as (robot, graph):
            yield Asker(robot)
            graph.check()


def test_before_an_instruction_there_is_nothing_to_ask_about(asker: Asker) -> None:
    response = asker.ask("what do you see?")
    assert not response.success
    assert response.reason.startswith("no_instruction: ")
    assert response.answer == ""


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("  ", CHOICES),
        ("what?", []),
        ("what?", ["a door"]),
        ("what?", ["a door", "a door"]),
        ("what?", ["a", " "]),
    ],
    ids=["no words", "no choices", "one choice", "two alike", "a choice without words"],
)
def test_what_is_no_question_is_refused_at_once(asker: Asker, question: str, choices: list[str]) -> None:
    response = asker.choose(question, choices)
    assert not response.success
    assert response.reason.startswith("not_understood: ")
    assert len(response.probabilities) == 0


def test_answers_are_those_of_the_topic_and_the_run_goes_on(asker: Asker) -> None:
    robot = asker.robot
    number = robot.tell("go to the door")
    robot.wait(lambda: asker.ask("what do you see?").success, "it does not answer")
    response = asker.choose("what is it?", CHOICES)
    assert response.success, response.reason
    assert response.answer in CHOICES
    assert sum(response.probabilities) == pytest.approx(1.0)
    best = max(range(2), key=lambda i: response.probabilities[i])
    assert response.answer == CHOICES[best]
    answer = asker.by_topic(Question("mine", "what is it?", tuple(CHOICES)))
    assert answer.spoken is not None
    assert len(answer.spoken.probabilities) == len(CHOICES)
    assert {t.status for told in robot.told for t in told if t.number == number} <= {
        "accepted",
        "driving",
        "succeeded",
    }
    robot.call(robot.cancel, Trigger.Request())


def test_what_is_asked_by_service_is_heard_by_topic(asker: Asker) -> None:
    """Whoever keeps a record of the questions misses none."""
    before = len(asker.answers)
    asker.ask("are you there?")
    asker.robot.wait(lambda: len(asker.answers) > before, "the topic does not tell")
    assert asker.answers[-1].question is not None
    assert asker.answers[-1].question.text == "are you there?"
