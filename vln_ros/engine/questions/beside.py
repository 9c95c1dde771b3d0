"""Asks questions of a copy of a run's stream, so that the run may go on meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from vln_ros.datatypes import Frame
from vln_ros.engine.context.base import Context
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.oom_fallback import is_out_of_memory
from vln_ros.engine.stream.kv_cache import TornStreamError
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.questions import Question, QuestionError, QuestionRefusal, Spoken


class BesideTheRun:
    """Answers questions about a run without touching it: not its stream, its plugs, its counts or its memory.

    Args:
        session, context: of the run; read only.
        encoder: not the run's own, which numbers what it sees.
        end_tokens: any of these ends an answer.
    """

    def __init__(
        self,
        session: Session,
        template: ChatTemplate,
        context: Context,
        encoder: VisionEncoder,
        end_tokens: Sequence[int],
    ) -> None:
        self._session, self._template, self._context, self._encoder = session, template, context, encoder
        self._end_tokens = tuple(end_tokens)
        self._copy: Session | None = None

    def asking(
        self,
        question: Question,
        newest: Frame | None,
        max_pixels: int | None,
        *,
        max_question_tokens: int,
        max_answer_tokens: int,
    ) -> Generator[None, None, Spoken]:
        """See :meth:`vln_ros.protocols.AnswersQuestions.asking`. One question at a time.

        Args:
            newest: a frame that is not in the run.
            max_pixels: of a frame, as in the run at this moment.
        """
        query = self._template.query(question.text)
        choices = [(*self._template.choice(c), self._end_tokens[0]) for c in question.choices]
        length = len(query) + sum(map(len, choices))
        if length > max_question_tokens:
            raise QuestionError(
                QuestionRefusal.TOO_LONG,
                f"the question has {length} tokens, at most {max_question_tokens} are taken "
                "(questions.max_question_tokens): ask a shorter one",
            )
        try:
            copy, pieces = self._begin(newest, max_pixels)
            try:
                yield
                for part in _parts(pieces):
                    self._check(copy)
                    copy.push(part)
                    yield
                self._check(copy)
                self._check_room(copy, len(query) + max(max_answer_tokens, *map(len, choices), 0))
                if choices:
                    scores = copy.ask_choice(query, choices).softmax(-1)
                    chances: list[float] = scores.tolist()
                    return Spoken(question.choices[chances.index(max(chances))], tuple(chances))
                ids = yield from self._words(copy, query, max_answer_tokens)
                cut = len(ids) == max_answer_tokens
                return Spoken(self._template.detokenize(ids).strip(), cut=cut)
            finally:
                self.drop()
        except (MemoryError, RuntimeError, OSError) as error:
            if isinstance(error, TornStreamError) or not is_out_of_memory(error):
                raise
            raise _no_memory() from error

    def drop(self) -> str | None:
        """Give up the question under way and the memory of its copy; None if there is none."""
        copy, self._copy = self._copy, None
        if copy is None:
            return None
        copy.cache.discard()
        return "no question beside the run"

    def _begin(self, newest: Frame | None, max_pixels: int | None) -> tuple[Session, Sequence[Piece]]:
        """A copy of the stream, and what is to follow before the question."""
        copy = self._copy = self._session.fork()
        pieces = list(self._context.aside(copy))
        if newest is not None:
            self._encoder.max_pixels = max_pixels
            pieces += self._template.shown(self._encoder.encode_picture(newest.rgb))
        return copy, pieces

    def _words(
        self, copy: Session, query: Sequence[int], max_tokens: int
    ) -> Generator[None, None, tuple[int, ...]]:
        asking = copy.asking(query, max_tokens=max_tokens, end_tokens=self._end_tokens)
        while True:
            self._check(copy)
            try:
                next(asking)
            except StopIteration as end:
                ids: tuple[int, ...] = end.value
                return ids
            yield

    def _check(self, copy: Session) -> None:
        if self._copy is not copy:  # the run has needed the memory
            raise _no_memory()

    def _check_room(self, copy: Session, more: int) -> None:
        config: Any = copy.network.config
        limit, position = config.text_config.max_position_embeddings, copy.timeline.next_position
        if position + more > limit:
            raise QuestionError(
                QuestionRefusal.TOO_LONG,
                f"question and answer take {more} positions behind the run's {position}, and the model has "
                f"{limit}: ask a shorter question, or lower questions.max_answer_tokens",
            )


def _parts(pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
    """Forwards of one picture each, so that a decision waits for no more than that."""
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        # The marker that ends a picture begins the next part.
        if parts[-1] and any(isinstance(p, Image) for p in parts[-1]):
            parts.append([])
        parts[-1].append(piece)
    return [part for part in parts if part]


def _no_memory() -> QuestionError:
    return QuestionError(
        QuestionRefusal.NO_MEMORY,
        "there is no memory for a copy of the run's stream; the run keeps what it has. A lower "
        "qwen.stream.token_budget leaves more; so does a larger qwen.stream.pool_tokens, if there is a pool",
    )
