"""A navigator with the shipped policy in its own process is asked while it decides; the run is as without."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("torch", reason="needs the engine's libraries")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.qos import QoSProfile
from robots import NavigatorsRobot, picture
from ros_endings import gone_afterwards
from std_msgs.msg import String

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.datatypes import ActionChunk, Pose
from vln_ros.questions import Question, QuestionAnswer, QuestionRefusal
from vln_ros.ros import qos
from vln_ros.ros.questions import answer_from_string, string_from_question

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FRAMES = 8
SIZE = 56, 56


class Person(NavigatorsRobot):
    """The drivers of a robot, and somebody who asks."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "person", size=SIZE)
        self.question = self.create_publisher(String, "question", qos.events())
        self.change = self.create_client(ChangeState, "navigator/change_state")
        self.answers: list[QuestionAnswer] = []
        self.create_subscription(String, "answer", self._on_answer, qos.events())

    def _on_answer(self, msg: String) -> None:
        self.answers.append(answer_from_string(msg))

    def heard(self) -> object:
        return self.answers, self.values

    def show(self, number: int) -> int:
        """Frame ``number``, the same picture every time, at the next stamp."""
        self.stamp_ns += 100_000_000
        self.rgb = picture(number, SIZE)
        self.publish_info(self.stamp_ns)
        self.publish_pose(Pose.identity(), self.stamp_ns)
        self.publish_images(self.stamp_ns)
        return self.stamp_ns

    def ask(self, question: Question) -> None:
        self.question.publish(string_from_question(question))

    def answer(self, question_id: str) -> QuestionAnswer:
        self.wait(lambda: any(a.question_id == question_id for a in self.answers), f"no answer {question_id}")
        return next(a for a in self.answers if a.question_id == question_id)

    def behind_the_others(self) -> None:
        """Until every question that was sent has its answer: one that waited behind them has."""
        for attempt in itertools.count():
            question_id = f"behind the others {attempt} {self.stamp_ns}"
            self.ask(Question(question_id, "what do you see?"))
            if self.answer(question_id).refusal is not QuestionRefusal.BUSY:
                return

    def vitals(self) -> dict[str, str]:
        """What /diagnostics says of the stream and of what the model thought, after all that was sent."""
        decisions = len([c for c in self.chunks if c.actions])
        self.wait(lambda: self.values.get("decisions") == str(decisions), "the decisions are not counted")
        return {
            k: v for k, v in self.values.items() if k.startswith(("cache", "evicted", "allowed", "answers"))
        }


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder: Path = tmp_path_factory.mktemp("navigator")
    context = Context()
    context.init()
    node = Person(context)
    spec = NodeSpec(
        "navigator",
        {
            "engine": "qwen",
            "qwen.checkpoint": "shipped:tiny",
            "qwen.stream.min_allowed": 0.0,
            "questions.max_waiting": 3,
            "questions.max_question_tokens": 100,
            "questions.max_answer_tokens": 5,
            "extrinsics": "parameters",
            "decide_on": "frame",
            "reliability": "reliable",
            "image_depth": 50,
            "diagnostics_hz": 10.0,
        },
    )
    with gone_afterwards(context, node), Graph(folder, graph_environment()) as graph:
        graph.start(spec)

        def connected() -> bool:
            graph.check()
            return node.is_heard and node.question.get_subscription_count() == 2

        node.wait(connected, "the navigator did not come up")
        yield node
        graph.check()


def drive(person: Person, meanwhile: Callable[[int], None]) -> tuple[list[ActionChunk], dict[str, str]]:
    """The queues of one run over the same frames, and what is known of the stream after it."""
    first = len(person.chunks)
    person.follow("go to the red door")
    for number in range(FRAMES):
        meanwhile(number)
        stamp = person.show(number)
        meanwhile(number)
        person.decided(stamp)
        meanwhile(number)
    return [c for c in person.chunks[first:] if c.actions], person.vitals()


def test_nothing_was_followed_yet(person: Person) -> None:
    person.ask(Question("early", "what do you see?"))
    answer = person.answer("early")
    assert answer.refusal is QuestionRefusal.NO_INSTRUCTION


def test_the_run_is_bit_for_bit_the_one_in_which_nobody_asked(person: Person) -> None:
    silent, before = drive(person, lambda _: None)
    asked: list[str] = []

    def ask(number: int) -> None:
        question_id = f"run-{len(asked)}"
        choices = ("a door", "a wall") if len(asked) % 2 else ()
        asked.append(question_id)
        person.ask(Question(question_id, f"what is in picture {number}?", choices))

    talking, after = drive(person, ask)
    assert [c.actions for c in talking] == [c.actions for c in silent]
    assert len(talking) == FRAMES
    assert after == before, "the same tokens in the cache, the same probabilities behind every decision"
    assert any(k.startswith("allowed") for k in after) and any(k.startswith("cache") for k in after)
    answers = [person.answer(question_id) for question_id in asked]
    given = [a for a in answers if a.spoken is not None]
    assert len(given) > 3
    assert {a.refusal for a in answers} <= {None, QuestionRefusal.BUSY}
    assert [a.question_id for a in person.answers].count(asked[0]) == 1
    for answer in given:
        assert answer.spoken is not None and answer.question is not None
        assert answer.instruction == talking[0].instruction
        assert len(answer.spoken.probabilities) == len(answer.question.choices)
        assert not answer.question.choices or sum(answer.spoken.probabilities) == pytest.approx(1.0)
        assert answer.spoken.text or not answer.question.choices


@pytest.mark.parametrize("profile", ["events", "latched", "commands", "best effort"])
def test_a_question_is_heard_once_however_it_is_published(person: Person, profile: str) -> None:
    person.follow("go on")
    person.show(0)
    made: QoSProfile = qos.sensor("best_effort", 5) if profile == "best effort" else getattr(qos, profile)()
    publisher = person.create_publisher(String, "question", made)
    heard_by = 1 if profile == "best effort" else 2
    person.wait(lambda: publisher.get_subscription_count() == heard_by, "the publisher was not found")
    if profile == "best effort":  # what is sent before the navigator has found the publisher, too, is lost
        sent: list[str] = []

        def is_heard() -> bool:
            sent.append(f"probe {len(sent)}")
            publisher.publish(string_from_question(Question(sent[-1], "what do you see?")))
            return any(a.question_id in sent for a in person.answers)

        person.wait(is_heard, "nothing was heard")
    publisher.publish(string_from_question(Question(profile, "what do you see?")))
    person.answer(profile)
    publisher.publish(string_from_question(Question(f"{profile} again", "what do you see?")))
    person.answer(f"{profile} again")
    ids = [a.question_id for a in person.answers]
    assert ids.count(profile) == ids.count(f"{profile} again") == 1
    person.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ("text", "refusal", "words"),
    [
        ("", QuestionRefusal.NOT_UNDERSTOOD, "no words"),
        ('{"question": 3}', QuestionRefusal.NOT_UNDERSTOOD, "question = 3"),
        ("why " * 100, QuestionRefusal.TOO_LONG, "questions.max_question_tokens"),
    ],
)
def test_what_is_no_question_is_answered_too(
    person: Person, text: str, refusal: QuestionRefusal, words: str
) -> None:
    person.follow("go on")
    person.show(0)
    person.behind_the_others()
    before = len(person.answers)
    person.question.publish(String(data=text))

    def numbered() -> list[QuestionAnswer]:
        """Answers to what had no id of its own, which it was given."""
        return [a for a in person.answers[before:] if a.question_id.startswith("#")]

    person.wait(lambda: len(numbered()) > 0, "no answer came")
    (answer,) = numbered()
    assert answer.refusal is refusal and answer.message is not None and words in answer.message
    person.wait(lambda: int(person.values.get(f"questions refused: {refusal.value}", "0")) > 0, "not counted")


def test_a_navigator_that_rests_says_so_to_who_still_waits(person: Person) -> None:
    person.follow("go on")
    person.show(0)
    person.behind_the_others()
    person.follow("go on")  # and no frame comes: the question waits for it
    person.ask(Question("last", "what do you see?"))
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    person.wait(person.change.service_is_ready, "no lifecycle service")
    future = person.change.call_async(request)
    answer = person.answer("last")
    assert answer.refusal is QuestionRefusal.ENDED
    person.wait(future.done, "it was not deactivated")
