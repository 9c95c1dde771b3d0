"""Context strategy ``append``: every frame and answer stays in the stream, turn after turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.budget import TokenBudget
from vln_ros.engine.context.pruning import KeepAll
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Snapshot


@dataclass(frozen=True)
class _Asked:
    before: Snapshot
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Answered:
    """What the model said, and the segments of the turn that asked, at the end of the stream."""

    ids: tuple[int, ...]
    actions: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Closed:
    """A turn behind which the next one has begun, and what it takes to open it again.

    ``counted`` primitives of it are in the count already.
    """

    answer: Answered
    counted: int
    prefix: tuple[Piece, ...]
    history: tuple[Image, ...]
    shown: tuple[tuple[Frame, Image], ...]


class AppendContext:
    """One growing chat: every turn stays, with what the robot then did (ActiveVLN, arXiv 2509.12618).

    A turn is closed by the first frame behind its answer, as if all of the answer were done. If less was,
    the reply is put right; if nothing was, the turn is opened again: a chat in which nothing follows a
    question is none that a checkpoint has been trained with.

    Args:
        bound: keeps the stream within a budget.
        pruning: leaves tokens out.
    """

    _prefix: tuple[Piece, ...]
    _suffix: tuple[Piece, ...]
    _history: tuple[Image, ...]
    _turn: list[Piece]
    _shown: tuple[tuple[Frame, Image], ...]
    _pushed: int
    _turn_start: Snapshot
    _asked: _Asked | None
    _answer: Answered | None
    _closed: _Closed | None
    _is_settled: bool
    _number: int
    _actions: int

    def __init__(
        self,
        session: Session,
        template: ChatTemplate,
        encoder: VisionEncoder,
        spec: ContextSpec,
        budget: TokenBudget,
        pruning: KeepAll,
    ) -> None:
        self._session, self._template, self._encoder, self._spec = session, template, encoder, spec
        self._budget, self._pruning = budget, pruning
        self._instruction = ""
        self.reported = False
        self._begin(())

    def start(self, instruction: str) -> None:
        self._instruction = instruction
        self._begin(())

    def observe(self, frame: Frame) -> Image:
        image = self._encoder.encode(frame)
        if self._answer is not None:
            self._close_turn(self._answer)
        elif self._asked is not None:  # the answer did not come about
            self._session.rollback(self._asked.before)
        self._session.on_frame(frame, image)
        anew = self._spec.unasked_frames == "drop" or self._is_long()
        if self._turn and not anew:
            before = self._turn
            taken_in = self._pruning.admit(image, self._session, before[self._pushed :])
            added = self._template.shown(taken_in, self._block)
            self._note(frame, image)
            self._turn = [*before, *added]
            self._shown = (*self._shown, (frame, image))
            self._asked = None
        else:
            self._session.rollback(self._turn_start)
            self._turn, self._pushed = [], 0
            self._compose(((frame, image),))
        self._remember(frame, image)
        return image

    def to_prefill(self) -> Sequence[Piece]:
        """Nothing behind an answer: what it was about is in the stream."""
        return () if self._answer is not None else self._turn[self._pushed :]

    def prefilled(self) -> None:
        self._pushed = len(self._turn)

    def question(self) -> Sequence[Piece]:
        if not self._turn and self._shown:  # opening it again was interrupted
            self._compose(self._shown)
        if not self._turn:
            raise RuntimeError("the model is asked before it has seen a frame")
        if self._asked is None:
            self._asked = _Asked(self._session.snapshot(), (*self._turn[self._pushed :], *self._suffix))
        else:
            self._session.rollback(self._asked.before)
        self._answer = self._closed = None
        self._is_settled = False
        return self._asked.pieces

    def aside(self, stream: Session) -> Sequence[Piece]:
        if self._answer is not None:
            return (*self._template.reply(self._answer.ids), *self._template.user())
        if not self._turn:
            return (*self._prefix, *self._template.user())
        return self.to_prefill()

    def shrink(self) -> str | None:
        if self._answer is not None:
            self._close_turn(self._answer)
        # The open turn is taken back, so that no snapshot outlives the eviction; it is pushed again.
        self._session.rollback(self._turn_start)
        self._pushed, self._asked = 0, None
        before, budget = self._session.timeline.tokens, self._budget.budget
        # Half of what there is, or nothing would be given; what always stays is no window.
        self._budget.budget = max(min(budget, before) // 2, 1)
        try:
            self._budget.enforce(self._session)
        finally:
            self._turn_start = self._session.snapshot()
            if self._session.timeline.tokens == before:
                self._budget.budget = budget
        self._session.cache.trim()
        if self._session.timeline.tokens == before:
            return None
        return f"context window of {self._budget.budget} tokens"

    def restore(self) -> None:
        self._budget.budget = self._budget.options.tokens

    def answered(self, ids: Sequence[int], actions: int) -> None:
        asked = self._session.timeline.segments[len(self._turn_start.segments) :]
        self._answer = Answered(tuple(ids), actions, tuple(s.count for s in asked))

    def executed(self, ids: Sequence[int], actions: int) -> None:
        ids = tuple(ids)
        if self._answer is not None:  # no frame has come since
            if actions:
                self._answer = replace(self._answer, ids=ids, actions=actions)
                self._is_settled = True
            else:
                assert self._asked is not None, "an answer has a question"
                self._session.rollback(self._asked.before)
                self._answer = self._asked = None
        elif self._closed is not None:
            if not actions:
                self._open_again(self._closed)
                return
            if ids != self._closed.answer.ids:
                self._replace_reply(ids, len(self._prefix))
            counted, self._closed = self._closed.counted, None
            self._count(actions - counted)

    def withdraw(self) -> None:
        if self._asked is not None:
            self._session.rollback(self._asked.before)
            self._asked = None

    @property
    def _block(self) -> int | None:
        """The first turn belongs to no block: with the system text it is what must always stay."""
        return self._number or None

    def _begin(self, history: Sequence[Image]) -> None:
        """An empty stream, whose first turn shows ``history``."""
        self._session.reset()
        self._budget.begin()
        self._prefix = self._template.opening()
        self._history = tuple(history)
        self._number = self._actions = self._pushed = 0
        self._turn = []
        self._shown = ()
        self._suffix = ()
        self._turn_start = self._session.snapshot()
        self._asked = self._answer = self._closed = None
        self._is_settled = False

    def _remember(self, frame: Frame, image: Image) -> None:
        """For a strategy that shows frames again. The same frame may come again."""

    def _note(self, frame: Frame, image: Image) -> None:
        if self._block is not None:
            self._budget.note(self._block, frame, image)

    def _compose(self, shown: Sequence[tuple[Frame, Image]]) -> None:
        """The open turn, from its beginning, with these frames. Nothing has changed if that fails."""
        block = self._block
        turn = self._template.turn(self._number, self._instruction, self._history, block)
        pieces = [*self._prefix, *turn.prefix]
        for _, image in shown:
            pieces += self._template.shown(self._pruning.admit(image, self._session, pieces), block)
        self._note(*shown[-1])
        self._turn_start = self._session.snapshot()
        self._turn, self._suffix, self._pushed = pieces, turn.suffix, 0
        self._shown = tuple(shown)
        self._asked = None

    def _close_turn(self, answer: Answered) -> None:
        # What can fail comes first: it is tried again as if nothing had happened.
        prefix = self._template.reply(answer.ids, self._block)
        self._budget.enforce(self._session)
        self._pruning.settle(self._session)
        settled = self._is_settled or not self.reported
        counted = answer.actions if settled else 0
        closed = _Closed(answer, counted, self._prefix, self._history, self._shown)
        self._closed = None if self._is_settled else closed
        self._is_settled = False
        self._prefix = prefix
        self._number += 1
        self._turn, self._pushed = [], 0
        self._shown = self._history = ()
        self._asked = self._answer = None
        self._turn_start = self._session.snapshot()
        self._count(counted)

    def _count(self, actions: int) -> None:
        """So many primitives of the last turn were done."""
        self._actions += actions

    def _replace_reply(self, ids: tuple[int, ...], old: int) -> None:
        """The open turn begins with this reply instead of the first ``old`` pieces; it is pushed anew."""
        prefix = self._template.reply(ids, self._number - 1 or None)
        self._session.rollback(self._turn_start)
        self._turn = [*prefix, *self._turn[old:]] if self._turn else []
        self._prefix, self._pushed, self._asked = prefix, 0, None

    def _open_again(self, closed: _Closed) -> None:
        """The turn before the open one, with the newer frames instead of, or besides, its own."""
        counts = closed.answer.counts
        self._session.rollback(self._turn_start)
        here = self._session.timeline.segments[-len(counts) :]
        if tuple(s.count for s in here) != counts:
            # Some of its tokens were left out since: it is no turn to go on with. It keeps an empty reply.
            self._replace_reply((), len(self._prefix))
            self._closed = None
            return
        self._session.drop_last(len(counts))
        self._number -= 1
        self._prefix, self._history = closed.prefix, closed.history
        self._turn_start = self._session.snapshot()
        keep = self._spec.unasked_frames == "keep"
        self._shown = (*closed.shown, *self._shown) if keep else self._shown[-1:]
        self._turn, self._pushed = [], 0
        self._asked = self._closed = None
        if self._shown:
            self._compose(self._shown)

    def _is_long(self) -> bool:
        """Frames that nobody asks about fill half of the budget: the turn is begun anew."""
        return self._session.timeline.tokens - self._turn_start.tokens > self._budget.budget // 2
