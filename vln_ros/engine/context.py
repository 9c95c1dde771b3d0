"""Context strategies: what of the past is in the stream when the model is asked.

All share one interface and one session; which one a checkpoint was trained with is in its profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vln_ros.datatypes import Float64Array, Frame
from vln_ros.engine.bound import StreamBound
from vln_ros.engine.pieces import Image, Piece
from vln_ros.engine.profile import ContextSpec
from vln_ros.engine.pruning import KeepAll, shown_by
from vln_ros.engine.script import Script
from vln_ros.engine.session import Session
from vln_ros.engine.timeline import Snapshot
from vln_ros.engine.vision import Eyes
from vln_ros.memory.landmarks import LandmarkRule, choose_shown, rank_frames


class Context(Protocol):
    """From frames and answers to the pieces that stand before the next answer.

    The caller pushes what :meth:`question` returns, decodes behind it, and reports the answer. If
    that fails it may ask again: the stream goes back to where it was.
    """

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

    def withdraw(self) -> None:
        """The answer does not count: back to before the question."""

    def shrink(self) -> str | None:
        """Show less of the past from now on; what was given up, or None if nothing is left to give.

        Called when memory ran out, in the midst of anything; what was interrupted is tried again.
        """

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
        self._images.append(replace(image, features=image.features.cpu()))
        self._seen.append(())
        if self._rule is not None:
            self.keep(self._limit)
        elif len(self._images) > self._limit:
            # Every other one of all but the newest: an even choice among these stays nearly even.
            self._images = [*self._images[:-1:2], self._images[-1]]
            self._seen = [*self._seen[:-1:2], self._seen[-1]]

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


@dataclass(frozen=True)
class _Asked:
    before: Snapshot
    pieces: tuple[Piece, ...]


class AppendContext:
    """One growing chat: every turn and answer stays (ActiveVLN, arXiv 2509.12618).

    Args:
        bound: keeps the stream within a budget.
        pruning: leaves tokens out.
    """

    _lead: tuple[Piece, ...]
    _tail: tuple[Piece, ...]
    _history: tuple[Image, ...]
    _turn: list[Piece]
    _pushed: int
    _turn_start: Snapshot
    _asked: _Asked | None
    _answer: tuple[int, ...] | None
    _number: int
    _actions: int
    _answer_actions: int

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
        self._begin(())

    def start(self, instruction: str) -> None:
        self._instruction = instruction
        self._begin(())

    def observe(self, frame: Frame) -> None:
        image = self._eyes.see(frame.rgb)
        if self._answer is not None:
            self._close_turn()
        if self._turn and (self._spec.unasked_frames == "drop" or self._is_long()):
            self._session.rollback(self._turn_start)
            self._turn, self._pushed = [], 0
        image = self._pruning.locate(frame, image)
        self._remember(image)
        if not self._turn:
            self._turn_start = self._session.snapshot()
            turn = self._script.turn(self._number, self._instruction, self._history, self._block)
            self._turn = [*self._lead, *turn.head]
            self._tail = turn.tail
        self._asked = None
        earlier = shown_by(self._session, self._turn[self._pushed :])
        self._turn += self._script.shown(self._pruning.admit(image, earlier), self._block)
        if self._block is not None:
            self._bound.note(self._block, frame, image)

    def to_prefill(self) -> Sequence[Piece]:
        return self._turn[self._pushed :]

    def prefilled(self) -> None:
        self._pushed = len(self._turn)

    def question(self) -> Sequence[Piece]:
        if not self._turn:
            raise RuntimeError("the model is asked before it has seen a frame")
        if self._asked is None:
            self._asked = _Asked(self._session.snapshot(), (*self._turn[self._pushed :], *self._tail))
        else:
            self._session.rollback(self._asked.before)
        self._answer = None
        return self._asked.pieces

    def aside(self) -> Sequence[Piece]:
        if self._answer is not None:
            return (*self._script.reply(self._answer), *self._script.user())
        if not self._turn:
            return (*self._lead, *self._script.user())
        return self.to_prefill()

    def shrink(self) -> str | None:
        if self._answer is not None:
            self._close_turn()
        # The open turn is taken back, so that no snapshot outlives the eviction; it is pushed again.
        self._session.rollback(self._turn_start)
        self._pushed, self._asked = 0, None
        before = self._session.timeline.tokens
        self._bound.budget = min(self._bound.budget, before) // 2
        self._bound.enforce(self._session)
        self._turn_start = self._session.snapshot()
        self._session.cache.trim()
        if self._session.timeline.tokens == before:
            return None
        return f"context window of {self._bound.budget} tokens"

    def answered(self, ids: Sequence[int], actions: int) -> None:
        self._answer = tuple(ids)
        self._answer_actions = actions

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
        self._number = self._actions = self._pushed = self._answer_actions = 0
        self._turn = []
        self._tail = ()
        self._turn_start = self._session.snapshot()
        self._asked = None
        self._answer = None

    def _remember(self, image: Image) -> None:
        """For a strategy that shows frames again."""

    def _close_turn(self) -> None:
        assert self._answer is not None
        self._lead = self._script.reply(self._answer, self._block)
        self._number += 1
        self._actions += self._answer_actions
        self._turn, self._pushed = [], 0
        self._history = ()
        self._asked = self._answer = None
        self._bound.enforce(self._session)
        self._pruning.settle(self._session)
        self._turn_start = self._session.snapshot()

    def _is_long(self) -> bool:
        """Frames that nobody asks about fill half of the budget: the turn is begun anew."""
        return self._session.timeline.tokens - self._turn_start.tokens > self._bound.budget // 2


class WindowResetContext(AppendContext):
    """A chat that is dropped every ``reset_steps`` actions and begun anew with some past frames.

    The rhythm of StreamVLN (arXiv 2507.05240). The reset happens when the first frame after the
    actions arrives, so a queue that is still being executed is not touched by it.
    """

    def __init__(
        self,
        session: Session,
        script: Script,
        eyes: Eyes,
        spec: ContextSpec,
        bound: StreamBound,
        pruning: KeepAll,
        bank: FrameBank,
    ) -> None:
        self._bank = bank
        super().__init__(session, script, eyes, spec, bound, pruning)

    def start(self, instruction: str) -> None:
        self._bank.clear()
        super().start(instruction)

    def _close_turn(self) -> None:
        super()._close_turn()
        assert self._spec.reset_steps is not None
        if self._actions >= self._spec.reset_steps:
            past = self._bank.choose_past(self._spec, len(self._bank))
            self._begin(self._pruning.thin(past, whole=0))

    def _remember(self, image: Image) -> None:
        self._bank.add(image)

    def score(self, scores: tuple[float, ...]) -> None:
        super().score(scores)
        self._bank.score(scores)
