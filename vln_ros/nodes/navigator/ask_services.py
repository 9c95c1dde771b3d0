"""Serves ~/ask and ~/ask_choice, twins of the topics question and answer, where vln_msgs is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from rclpy.node import Node

from vln_ros.questions import Question, QuestionAnswer, QuestionError, QuestionRefusal

if TYPE_CHECKING:
    from vln_msgs.srv import Ask, AskChoice

Send = Callable[[Any, Any], None]
"""A response, and the header of the request that it answers."""


class _Later:
    """In the place of a response: it comes when the model has spoken."""

    def __init__(self, question: Question) -> None:
        self.question = question


class AskServices:
    """One response for each request, when the engine's thread has an answer: nobody waits in a callback.

    A service of rclpy sends what its callback returns; a coroutine that waits would be run over and over. So
    what a callback returns for a question is no response, and is not sent.
    """

    def __init__(self, node: Node, ask: Callable[[Question], None]) -> None:
        """Serve while the node is active. The answer to what ``ask`` takes comes to :meth:`tell`."""
        from vln_msgs.srv import Ask, AskChoice

        self._ask = ask
        self._numbers = count(1)
        self._waiting: dict[str, Callable[[QuestionAnswer], None]] = {}
        for kind, name, take in (
            (Ask, "~/ask", self._on_ask),
            (AskChoice, "~/ask_choice", self._on_ask_choice),
        ):
            service = node.create_service(kind, name, take)
            # The answer comes later, from another thread: what the callback returns is not sent.
            service.send_response = partial(  # type: ignore[method-assign]
                self._send, kind, service.send_response
            )

    def tell(self, answer: QuestionAnswer) -> None:
        """What came of a question, whoever has asked it. From any thread."""
        respond = self._waiting.pop(answer.question_id, None)
        if respond is not None:
            respond(answer)

    def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response | _Later:
        return self._question(request.question, (), response)

    def _on_ask_choice(
        self, request: AskChoice.Request, response: AskChoice.Response
    ) -> AskChoice.Response | _Later:
        choices = tuple(choice.strip() for choice in request.choices)
        if choices:
            return self._question(request.question, choices, response)
        response.reason = f"{QuestionRefusal.NOT_UNDERSTOOD.value}: name the choices, or call ~/ask"
        return response

    def _question(self, text: str, choices: tuple[str, ...], response: Any) -> Any:
        try:
            return _Later(Question(f"service {next(self._numbers)}", text.strip(), choices))
        except QuestionError as error:
            response.reason = f"{error.refusal.value}: {error}"
            return response

    def _send(self, kind: Any, send: Send, response: Any, header: Any) -> None:
        if not isinstance(response, _Later):
            send(response, header)
            return
        question = response.question

        def respond(answer: QuestionAnswer) -> None:
            send(_response(kind, answer), header)

        self._waiting[question.question_id] = respond  # first: the answer may be quick
        self._ask(question)


def _response(kind: Any, answer: QuestionAnswer) -> Any:
    spoken, refusal = answer.spoken, answer.refusal
    response = kind.Response(success=spoken is not None)
    if spoken is not None:
        response.answer = spoken.text
        if spoken.probabilities:
            response.probabilities = list(spoken.probabilities)
    if refusal is not None:
        response.reason = f"{refusal.value}: {answer.message or ''}"
    return response
