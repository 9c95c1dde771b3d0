"""Context strategies: what of the past is in the stream when the model is asked.

All share one interface and one session; which one a checkpoint was trained with is in its profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vln_ros.datatypes import Float64Array, Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.budget import StreamBound
from vln_ros.engine.context.pruning import KeepAll, shown_by
from vln_ros.engine.context.travelled import TravelledWay
from vln_ros.engine.inputs.chat_template import Script
from vln_ros.engine.inputs.vision import Eyes
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Snapshot
from vln_ros.memory.landmarks import LandmarkRule, choose_shown, rank_frames


class Context(Protocol):
    """From frames and answers to the pieces that stand before the next answer.

    The caller pushes what :meth:`question` returns, decodes behind it, and reports the answer. If
    that fails it may ask again: the stream goes back to where it was.
    """

    reported: bool
    """:meth:`executed` will say of each answer what the robot did. Otherwise all of it counts as done."""

    def start(self, instruction: str) -> None:
        """Forget everything and begin a run."""

    def observe(self, frame: Frame) -> None:
        """Take in the next frame: see it. If that fails it may be tried again."""

    def to_prefill(self) -> Sequence[Piece]:
        """What can be pushed already, before the model is asked."""

    def prefilled(self) -> None:
        """What :meth:`to_prefill` returned has been pushed."""

    def question(self) -> Sequence[Piece]:
        """What is still to be pushed before the model answers for the newest frame.

        Raises:
            RuntimeError: no frame yet.
        """

    def aside(self) -> Sequence[Piece]:
        """What is still to be pushed before a question beside the run, at the end of a user turn.

        The caller takes it back afterwards.
        """

    def answered(self, ids: Sequence[int], actions: int) -> None:
        """The model said ``ids``, which is ``actions`` primitive actions."""

    def executed(self, ids: Sequence[int], actions: int) -> None:
        """The robot did ``actions`` primitives; ``ids`` say them, and stand in the chat from now on.

        None at all: the question counts as not asked. To be called once for each answer, with whatever is
        known before the next question.
        """

    def withdraw(self) -> None:
        """The answer does not count: back to before the question."""

    def shrink(self) -> str | None:
        """Show less of the past from now on; what was given up, or None if nothing is left to give.

        Called when memory ran out, in the midst of anything; what was interrupted is tried again.
        """

    def restore(self) -> None:
        """A new run begins: what :meth:`shrink` gave up is there again."""

    def score(self, scores: tuple[float, ...]) -> None:
        """How surely the frame of the last answer shows each landmark of the instruction."""


class FrameBank:
    """Vision features of past frames, in main memory.

    Args:
        limit: when there are more they are thinned evenly; with a rule, the worst go.
        rule: frames are kept and chosen for the landmarks that they show.
    """

    def __init__(self, limit: int, rule: LandmarkRule | None = None) -> None:
        self._limit, self._rule = limit, rule
        self._images: list[Image] = []
        self._seen: list[tuple[float, ...]] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: Image) -> None:
        image = replace(image, features=image.features.cpu())
        self._images.append(image)
        self._seen.append(())
        if self._rule is not None:
            self.keep(self._limit)
        elif len(self._images) > self._limit:
            # Every other one of all but the newest: an even choice among these stays nearly even.
            self._images = [*self._images[:-1:2], self._images[-1]]
            self._seen = [*self._seen[:-1:2], self._seen[-1]]

    def renew(self, image: Image) -> None:
        """In the place of the newest frame."""
        self._images[-1] = replace(image, features=image.features.cpu())
        self._seen[-1] = ()

    def score(self, scores: tuple[float, ...]) -> None:
        """How surely the newest frame shows each landmark."""
        if self._seen:
            self._seen[-1] = scores

    def keep(self, count: int) -> None:
        """Only the newest so many; with a rule the newest one and the best of the others."""
        while len(self._images) > count:
            gone = 0 if self._rule is None else rank_frames(self._scores(len(self._images) - 1))[-1]
            del self._images[gone], self._seen[gone]

    def clear(self) -> None:
        self._images.clear()
        self._seen.clear()

    def choose(self, indices: Sequence[int]) -> list[Image]:
        return [self._images[i] for i in indices]

    def choose_past(self, spec: ContextSpec, past: int) -> list[Image]:
        """Those of the oldest ``past`` frames that a question shows."""
        if self._rule is None:
            return self.choose(spec.choose_history(past))
        most = spec.history_frames or 0
        return self.choose(choose_shown(self._scores(past), most=most, threshold=self._rule.threshold))

    def _scores(self, count: int) -> Float64Array:
        """``[count, landmarks]``; frames that nobody asked about have zeros."""
        most = max(map(len, self._seen), default=0)
        rows = [row or (0.0,) * most for row in self._seen[:count]]
        return np.array(rows, np.float64).reshape(count, most)


class PrimitiveBank(FrameBank):
    """One frame for each primitive that the robot has completed, and the newest one.

    When the next frame comes the newest one stays if the robot has completed a primitive since the frame
    before it, and makes room otherwise.

    Args:
        limit, rule: see :class:`FrameBank`.
        way: tells whether the robot has completed a primitive between two frames.
    """

    def __init__(self, limit: int, way: TravelledWay, rule: LandmarkRule | None = None) -> None:
        super().__init__(limit, rule)
        self._way = way
        self._newest: Frame | None = None

    @property
    def past(self) -> int:
        """How many frames stay when the next one comes."""
        return len(self) - (self._newest is not None and not self._way.is_step)

    def show(self, frame: Frame, image: Image) -> None:
        """The next frame. The newest one may be shown again, e.g. because something failed meanwhile."""
        if frame is self._newest:
            self.renew(image)
            return
        if len(self) and not self._way.is_step:
            self.renew(image)
        else:
            self.add(image)
        self._way.go_on(frame)
        self._newest = frame

    def clear(self) -> None:
        super().clear()
        self._newest = None
        self._way.begin()


@dataclass(frozen=True)
class _Asked:
    before: Snapshot
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class _Answered:
    """What the model said, and the segments of the turn that asked, at the end of the stream."""

    ids: tuple[int, ...]
    actions: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Closed:
    """A turn behind which the next one has begun, and what it takes to open it again.

    ``counted`` primitives of it are in the count already.
    """

    answer: _Answered
    counted: int
    lead: tuple[Piece, ...]
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

    _lead: tuple[Piece, ...]
    _tail: tuple[Piece, ...]
    _history: tuple[Image, ...]
    _turn: list[Piece]
    _shown: tuple[tuple[Frame, Image], ...]
    _pushed: int
    _turn_start: Snapshot
    _asked: _Asked | None
    _answer: _Answered | None
    _closed: _Closed | None
    _is_settled: bool
    _number: int
    _actions: int

    def __init__(
        self,
        session: Session,
        script: Script,
        eyes: Eyes,
        spec: ContextSpec,
        bound: StreamBound,
        pruning: KeepAll,
    ) -> None:
        self._session, self._script, self._eyes, self._spec = session, script, eyes, spec
        self._bound, self._pruning = bound, pruning
        self._instruction = ""
        self.reported = False
        self._begin(())

    def start(self, instruction: str) -> None:
        self._instruction = instruction
        self._begin(())

    def observe(self, frame: Frame) -> None:
        image = self._eyes.see(frame.rgb)
        if self._answer is not None:
            self._close_turn(self._answer)
        elif self._asked is not None:  # the answer did not come about
            self._session.rollback(self._asked.before)
        image = self._pruning.locate(frame, image)
        anew = self._spec.unasked_frames == "drop" or self._is_long()
        if self._turn and not anew:
            before = self._turn
            earlier = shown_by(self._session, before[self._pushed :])
            added = self._script.shown(self._pruning.admit(image, earlier), self._block)
            self._note(frame, image)
            self._turn = [*before, *added]
            self._shown = (*self._shown, (frame, image))
            self._asked = None
        else:
            self._session.rollback(self._turn_start)
            self._turn, self._pushed = [], 0
            self._compose(((frame, image),))
        self._remember(frame, image)

    def to_prefill(self) -> Sequence[Piece]:
        return self._turn[self._pushed :]

    def prefilled(self) -> None:
        self._pushed = len(self._turn)

    def question(self) -> Sequence[Piece]:
        if not self._turn and self._shown:  # opening it again was interrupted
            self._compose(self._shown)
        if not self._turn:
            raise RuntimeError("the model is asked before it has seen a frame")
        if self._asked is None:
            self._asked = _Asked(self._session.snapshot(), (*self._turn[self._pushed :], *self._tail))
        else:
            self._session.rollback(self._asked.before)
        self._answer = self._closed = None
        self._is_settled = False
        return self._asked.pieces

    def aside(self) -> Sequence[Piece]:
        if self._answer is not None:
            return (*self._script.reply(self._answer.ids), *self._script.user())
        if not self._turn:
            return (*self._lead, *self._script.user())
        return self.to_prefill()

    def shrink(self) -> str | None:
        if self._answer is not None:
            self._close_turn(self._answer)
        # The open turn is taken back, so that no snapshot outlives the eviction; it is pushed again.
        self._session.rollback(self._turn_start)
        self._pushed, self._asked = 0, None
        before, budget = self._session.timeline.tokens, self._bound.budget
        # Half of what there is, or nothing would be given; what always stays is no window.
        self._bound.budget = max(min(budget, before) // 2, 1)
        try:
            self._bound.enforce(self._session)
        finally:
            self._turn_start = self._session.snapshot()
            if self._session.timeline.tokens == before:
                self._bound.budget = budget
        self._session.cache.trim()
        if self._session.timeline.tokens == before:
            return None
        return f"context window of {self._bound.budget} tokens"

    def restore(self) -> None:
        self._bound.budget = self._bound.options.tokens

    def answered(self, ids: Sequence[int], actions: int) -> None:
        asked = self._session.timeline.segments[len(self._turn_start.segments) :]
        self._answer = _Answered(tuple(ids), actions, tuple(s.count for s in asked))

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
                self._replace_reply(ids, len(self._lead))
            counted, self._closed = self._closed.counted, None
            self._count(actions - counted)

    def withdraw(self) -> None:
        if self._asked is not None:
            self._session.rollback(self._asked.before)
            self._asked = None

    def score(self, scores: tuple[float, ...]) -> None:
        if self._block is not None and self._answer is not None:  # a lack of memory may have ended the turn
            self._bound.score(self._block, scores)

    @property
    def _block(self) -> int | None:
        """The first turn belongs to no block: with the system text it is what must always stay."""
        return self._number or None

    def _begin(self, history: Sequence[Image]) -> None:
        """An empty stream, whose first turn shows ``history``."""
        self._session.reset()
        self._bound.begin()
        self._lead = self._script.opening()
        self._history = tuple(history)
        self._number = self._actions = self._pushed = 0
        self._turn = []
        self._shown = ()
        self._tail = ()
        self._turn_start = self._session.snapshot()
        self._asked = self._answer = self._closed = None
        self._is_settled = False

    def _remember(self, frame: Frame, image: Image) -> None:
        """For a strategy that shows frames again. The same frame may come again."""

    def _note(self, frame: Frame, image: Image) -> None:
        if self._block is not None:
            self._bound.note(self._block, frame, image)

    def _compose(self, shown: Sequence[tuple[Frame, Image]]) -> None:
        """The open turn, from its beginning, with these frames. Nothing has changed if that fails."""
        block = self._block
        turn = self._script.turn(self._number, self._instruction, self._history, block)
        pieces = [*self._lead, *turn.head]
        for _, image in shown:
            earlier = shown_by(self._session, pieces)
            pieces += self._script.shown(self._pruning.admit(image, earlier), block)
        self._note(*shown[-1])
        self._turn_start = self._session.snapshot()
        self._turn, self._tail, self._pushed = pieces, turn.tail, 0
        self._shown = tuple(shown)
        self._asked = None

    def _close_turn(self, answer: _Answered) -> None:
        # What can fail comes first: it is tried again as if nothing had happened.
        lead = self._script.reply(answer.ids, self._block)
        self._bound.enforce(self._session)
        self._pruning.settle(self._session)
        settled = self._is_settled or not self.reported
        counted = answer.actions if settled else 0
        closed = _Closed(answer, counted, self._lead, self._history, self._shown)
        self._closed = None if self._is_settled else closed
        self._is_settled = False
        self._lead = lead
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
        lead = self._script.reply(ids, self._number - 1 or None)
        self._session.rollback(self._turn_start)
        self._turn = [*lead, *self._turn[old:]] if self._turn else []
        self._lead, self._pushed, self._asked = lead, 0, None

    def _open_again(self, closed: _Closed) -> None:
        """The turn before the open one, with the newer frames instead of, or besides, its own."""
        counts = closed.answer.counts
        self._session.rollback(self._turn_start)
        here = self._session.timeline.segments[-len(counts) :]
        if tuple(s.count for s in here) != counts:
            # Some of its tokens were left out since: it is no turn to go on with. It keeps an empty reply.
            self._replace_reply((), len(self._lead))
            self._closed = None
            return
        self._session.drop_last(len(counts))
        self._number -= 1
        self._lead, self._history = closed.lead, closed.history
        self._turn_start = self._session.snapshot()
        keep = self._spec.unasked_frames == "keep"
        self._shown = (*closed.shown, *self._shown) if keep else self._shown[-1:]
        self._turn, self._pushed = [], 0
        self._asked = self._closed = None
        if self._shown:
            self._compose(self._shown)

    def _is_long(self) -> bool:
        """Frames that nobody asks about fill half of the budget: the turn is begun anew."""
        return self._session.timeline.tokens - self._turn_start.tokens > self._bound.budget // 2


class WindowResetContext(AppendContext):
    """A chat that is dropped every ``reset_steps`` primitives and begun anew with some past frames.

    The rhythm of StreamVLN (arXiv 2507.05240). The reset happens when the first frame after the
    actions arrives, so a queue that is still being executed is not touched by it; where it is reported
    what is executed, when the last of them is.
    """

    def __init__(
        self,
        session: Session,
        script: Script,
        eyes: Eyes,
        spec: ContextSpec,
        bound: StreamBound,
        pruning: KeepAll,
        bank: PrimitiveBank,
    ) -> None:
        self._bank = bank
        self._past: list[Image] = []
        super().__init__(session, script, eyes, spec, bound, pruning)

    def start(self, instruction: str) -> None:
        self._bank.clear()
        super().start(instruction)

    def _close_turn(self, answer: _Answered) -> None:
        self._past = self._bank.choose_past(self._spec, self._bank.past)
        super()._close_turn(answer)

    def _count(self, actions: int) -> None:
        super()._count(actions)
        assert self._spec.reset_steps is not None
        if self._actions >= self._spec.reset_steps:
            shown, past = self._shown, self._pruning.thin(self._past, whole=0)
            self._begin(past)
            self._shown = shown
            if shown:
                self._compose(shown)

    def _remember(self, frame: Frame, image: Image) -> None:
        self._bank.show(frame, image)

    def score(self, scores: tuple[float, ...]) -> None:
        super().score(scores)
        self._bank.score(scores)
