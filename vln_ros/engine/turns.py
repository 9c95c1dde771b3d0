"""The one thread that runs engines: robots take turns that share a model, and are answered together."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Generic, Protocol, TypeVar

from vln_ros.datatypes import ActionChunk
from vln_ros.protocols import Engine, SharedModel

K = TypeVar("K", bound=Hashable)


class Need(Enum):
    """What a robot wants of the engine's thread."""

    NOTHING = "nothing"
    WORK = "work"
    """A frame of a robot that still drives, a forward of an answer to a question."""
    ANSWER = "answer"
    """A command, or what leads to a decision: until it is there the robot stands."""


class Turns(Generic[K]):
    """Who is served next. No threads.

    Those who stand are answered together. After them one of those who drive has a turn, the one that was
    served longest ago. So nobody waits for ever: who stands waits for the turn that is under way, and for one
    of a robot that drives; who drives waits for one turn of each other one that drives, with an answer to
    those who stand before each.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._served: dict[K, int] = {}
        self._answered = False

    def next(self, standing: Sequence[K], driving: Sequence[K]) -> list[K]:
        """Whose turn it is; empty where nobody wants anything.

        Args:
            standing, driving: who wants an answer, and who wants anything else.
        """
        self._answered = bool(standing) and not (self._answered and driving)
        chosen = sorted(standing if self._answered else driving, key=self._last)
        chosen = chosen if self._answered else chosen[:1]
        self._turn += 1
        self._served.update(dict.fromkeys(chosen, self._turn))
        return chosen

    def forget(self, robot: K) -> None:
        """It is gone."""
        self._served.pop(robot, None)

    def _last(self, robot: K) -> int:
        return self._served.get(robot, 0)


class TakesTurns(Hashable, Protocol):
    """One robot's share of the thread. What it is called for here happens in the thread."""

    @property
    def engine(self) -> Engine: ...

    @property
    def can_work_ahead(self) -> bool:
        """Something has changed since it last did, there is time, and the engine can use it."""

    def need(self) -> tuple[Need, float | None]:
        """What it wants now, and after how many seconds it is to be asked again if nothing happens; None: it
        need not be."""

    def take_in(self) -> bool:
        """The oldest command, or else what has come of reports and frames. Whether to go on to the rest."""

    def begin_decision(self) -> int | None:
        """The queue for which the engine is to be asked; None: it need not be."""

    def decide(self) -> None:
        """Ask the engine, which nobody else is asked with."""

    def answer(self, chunk: ActionChunk) -> None:
        """What the engine was asked for together with others."""

    def work_ahead(self) -> None:
        """See :class:`vln_ros.protocols.WorksAhead`, alone."""

    def use_spare_time(self) -> None:
        """No decision was due."""

    def fail(self, error: Exception) -> None:
        """One of these failed, or the engine did."""


class EngineThread:
    """Runs the engines of those who have joined. It lives as long as there is one.

    What one of them meets (a picture that cannot be decoded, an engine that fails) ends nothing of another's.

    Args:
        model: asks several engines at once; None: they share none.
    """

    def __init__(self, model: SharedModel | None = None) -> None:
        self._model = model
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._members: list[TakesTurns] = []
        self._at_work: list[TakesTurns] = []
        self._turns: Turns[TakesTurns] = Turns()
        self._thread: threading.Thread | None = None
        self.asked = self.answers = 0
        """How often the engines were asked, and for how many decisions. Written by the thread only."""

    def join(self, member: TakesTurns) -> None:
        """From now on it takes part."""
        with self._changed:
            self._members.append(member)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
        self.wake()

    def leave(self, member: TakesTurns, timeout_s: float | None = None) -> bool:
        """From now on it takes no part; the call in progress is waited for.

        Returns:
            Whether that is over, in ``timeout_s`` if that is given.
        """
        with self._changed:
            if member in self._members:
                self._members.remove(member)
            last = None if self._members else self._thread
            self.wake()
            if not self._changed.wait_for(lambda: member not in self._at_work, timeout_s):
                return False
            self._turns.forget(member)
        if last is not None:
            last.join(timeout_s)
        return True

    def wake(self) -> None:
        """Something has come. From any thread."""
        self._wake.set()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        patience_s: float | None = 0.0
        while True:
            self._wake.wait(patience_s)
            self._wake.clear()
            with self._changed:
                if not self._members:
                    self._thread = None
                    return
                members = self._at_work = list(self._members)
            patience_s = self._choose(members)
            if self._at_work:
                self._serve(self._at_work)
                patience_s = 0.0
            self._now_at_work([])

    def _now_at_work(self, members: Sequence[TakesTurns]) -> None:
        """The others may leave."""
        with self._changed:
            self._at_work = [m for m in members if m in self._members]
            self._changed.notify_all()

    def _choose(self, members: Sequence[TakesTurns]) -> float | None:
        """Puts those whose turn it is to work. Returns how long to wait if there are none."""
        wanted: dict[Need, list[TakesTurns]] = {need: [] for need in Need}
        patience_s: list[float] = []
        for member in members:
            with self._of(member):
                need, again_s = member.need()
                wanted[need].append(member)
                if again_s is not None:
                    patience_s.append(again_s)
        with self._changed:
            chosen = self._turns.next(wanted[Need.ANSWER], wanted[Need.WORK])
        self._now_at_work(chosen)
        return min(patience_s, default=None)

    def _serve(self, members: Sequence[TakesTurns]) -> None:
        ready: list[TakesTurns] = []
        asked: dict[TakesTurns, int] = {}
        for member in members:
            with self._of(member):
                if member.take_in():
                    ready.append(member)
        idle: list[TakesTurns] = []
        for member in ready:
            with self._of(member):
                queue = member.begin_decision()
                if queue is None:
                    idle.append(member)
                else:
                    asked[member] = queue
        if asked:
            self._ask(asked)
        if ahead := [m for m in ready if m.can_work_ahead]:
            self._work_ahead(ahead)
        for member in idle:
            with self._of(member):
                member.use_spare_time()

    def _ask(self, asked: dict[TakesTurns, int]) -> None:
        self.asked += 1
        self.answers += len(asked)
        if self._model is None or not self._model.is_loaded or len(asked) == 1:
            for member in asked:
                with self._of(member):
                    member.decide()
            return
        answers: Sequence[ActionChunk | Exception]
        try:
            answers = self._model.decide([m.engine for m in asked], list(asked.values()))
        except Exception as error:  # of none of them alone
            answers = [error] * len(asked)
        for member, answer in zip(asked, answers, strict=True):
            with self._of(member):
                if isinstance(answer, Exception):
                    raise answer
                member.answer(answer)

    def _work_ahead(self, members: Sequence[TakesTurns]) -> None:
        if self._model is None or not self._model.is_loaded or len(members) == 1:
            for member in members:
                with self._of(member):
                    member.work_ahead()
            return
        errors: Sequence[Exception | None]
        try:
            errors = self._model.work_ahead([m.engine for m in members])
        except Exception as error:  # of none of them alone
            errors = [error] * len(members)
        for member, failure in zip(members, errors, strict=True):
            with self._of(member):
                if failure is not None:
                    raise failure

    @contextmanager
    def _of(self, member: TakesTurns) -> Iterator[None]:
        """What fails here is this robot's."""
        try:
            yield
        except Exception as error:
            try:
                member.fail(error)
            except Exception as fatal:  # not even that: it ends as a thread of its own would, and stands
                with self._changed:
                    self._members = [m for m in self._members if m is not member]
                threading.excepthook(
                    threading.ExceptHookArgs((type(fatal), fatal, fatal.__traceback__, None))
                )
