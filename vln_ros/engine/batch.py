"""Runs the forwards of several robots' sessions as one, on one model.

Each session keeps its own cache, which a shared forward reads where it lies. The weights, which are
what a small forward mostly reads, are then read once for all. A long prefill goes into several
forwards, so that the others need not wait for it. A session whose part fails is left as it was and
gets its own error; the others do not notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vln_ros.datatypes import ActionChunk, Frame
from vln_ros.engine.decode.decode import Decoding, Push
from vln_ros.engine.oom_fallback import is_out_of_memory
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.layers.ragged import Chunk, run_ragged
from vln_ros.engine.stream.segments import Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE
from vln_ros.profiling.spans import span

T = TypeVar("T")


@torch.no_grad()
def push_batch(sessions: Sequence[Session], pushes: Sequence[Push]) -> list[Tensor | Exception]:
    """What several sessions of one network push, in shared forwards.

    Returns:
        Per session ``[1 + nodes, vocabulary]`` scores, as :class:`Push` is answered; or the error
        that its part met, and then the session is as it was.

    Raises:
        ValueError: the sessions are of different networks, or one occurs twice.
    """
    _check(sessions)
    results: dict[int, Tensor | Exception] = {}
    jobs: dict[int, _Job] = {}
    for i, (session, push) in enumerate(zip(sessions, pushes, strict=True)):
        try:
            jobs[i] = _Job.prepared(session, push)
        except Exception as error:  # it is this session's result
            results[i] = error
    while waiting := [job for job in jobs.values() if job.result is None]:
        _advance(waiting)
    results |= {i: job.result for i, job in jobs.items() if job.result is not None}
    return [results[i] for i in range(len(sessions))]


class SharedForwards(Generic[T]):
    """Decodings of several sessions under way on one network. Used from one thread.

    A session may join at any time: what it pushes first is prefilled beside what the others decode. Until its
    decoding has ended nobody else uses it.
    """

    def __init__(self) -> None:
        self._members: list[_Member[T]] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, session: Session, decoding: Decoding[T]) -> None:
        """Take part from the next step on.

        Raises:
            ValueError: the session is of another network than the others, or takes part already.
        """
        _check([*(member.session for member in self._members), session])
        self._members.append(_Member(session, decoding))

    def remove(self, session: Session) -> None:
        """Give its decoding up, between two steps; what it has pushed so far stays, as when it fails.

        Raises:
            ValueError: it takes no part.
        """
        found = [member for member in self._members if member.session is session]
        if not found:
            raise ValueError("the session takes no part in these forwards")
        found[0].give_up()
        self._members.remove(found[0])

    @torch.no_grad()
    def step(self) -> list[tuple[Session, T | Exception]]:
        """One forward for all. The results of the decodings that end by it, or each one's own error."""
        for member in self._members:
            if member.job is None:
                member.advance(None)
        jobs = [member.job for member in self._members if member.job is not None]
        if jobs:
            first = any(member.is_first for member in self._members)
            with span("prefill" if first else "decode", device=True):
                _advance(jobs)
        for member in self._members:
            member.hear()
        ended = [(m.session, m.results[0]) for m in self._members if m.results]
        self._members = [m for m in self._members if not m.results]
        return ended


class SharedDecisions:
    """Decisions of several robots under way on one model; others may be asked at any time."""

    def __init__(self) -> None:
        self._forwards: SharedForwards[ActionChunk] = SharedForwards()
        self._asked: dict[Session, tuple[QwenEngine, int]] = {}

    def __len__(self) -> int:
        return len(self._forwards)

    def ask(self, engine: QwenEngine, queue: int) -> None:
        """As :meth:`QwenEngine.decide`; the answer comes from a later :meth:`step`. Its errors, too."""
        engine.ready()
        self._forwards.add(engine.session, engine.deciding(queue))
        self._asked[engine.session] = engine, queue

    def withdraw(self, engine: QwenEngine) -> None:
        """Its answer is wanted no more: the run was cancelled, or another instruction came.

        Raises:
            ValueError: it is not asked.
        """
        self._forwards.remove(engine.session)
        del self._asked[engine.session]

    def step(self) -> list[tuple[QwenEngine, ActionChunk | Exception]]:
        """One forward for all. The decisions that are taken by it, or each one's own error.

        A robot for which memory ran out is asked again on its own, where it gives up what it can.
        """
        decided: list[tuple[QwenEngine, ActionChunk | Exception]] = []
        for session, result in self._forwards.step():
            engine, queue = self._asked.pop(session)
            if isinstance(result, Exception) and is_out_of_memory(result):
                try:
                    result = engine.decide(queue)
                except Exception as error:  # it is this robot's result
                    result = error
            decided.append((engine, result))
        return decided


def run_batch(sessions: Sequence[Session], decodings: Sequence[Decoding[T]]) -> list[T | Exception]:
    """The results of several decodings, their forwards run together; or each one's own error."""
    forwards: SharedForwards[T] = SharedForwards()
    for session, decoding in zip(sessions, decodings, strict=True):
        forwards.add(session, decoding)
    results: dict[Session, T | Exception] = {}
    while len(forwards):
        results |= dict(forwards.step())
    return [results[session] for session in sessions]


def observe_together(engines: Sequence[QwenEngine], frames: Sequence[Frame]) -> list[Exception | None]:
    """Each engine takes in its frame; or each one's own error."""
    errors: list[Exception | None] = [None] * len(engines)
    for i, (engine, frame) in enumerate(zip(engines, frames, strict=True)):
        try:
            engine.observe(frame)
        except Exception as error:  # it is this robot's result
            errors[i] = error
    return errors


def work_ahead_together(engines: Sequence[QwenEngine]) -> list[Exception | None]:
    """What each engine can prefill before it is asked, in one forward; or each one's own error."""
    errors: list[Exception | None] = [None] * len(engines)
    pieces: dict[int, Sequence[Piece]] = {}
    for i, engine in enumerate(engines):
        try:
            if found := engine.ahead():
                pieces[i] = found
        except Exception as error:  # it is this robot's result
            errors[i] = error
    with span("prefill", device=True):
        rows = push_batch([engines[i].session for i in pieces], [Push(p, NO_TREE) for p in pieces.values()])
    for i, row in zip(pieces, rows, strict=True):
        if not isinstance(row, Exception):
            engines[i].context.prefilled()
            continue
        try:
            if not is_out_of_memory(row):
                raise row
            engines[i].prefill()  # on its own, where it gives up what it can
        except Exception as error:  # it is this robot's result
            errors[i] = error
    return errors


def decide_together(engines: Sequence[QwenEngine], queues: Sequence[int]) -> list[ActionChunk | Exception]:
    """The decisions of several robots on one model, in shared forwards; or each one's own error.

    A robot for which memory ran out is asked again on its own, where it gives up what it can.
    """
    _check([engine.session for engine in engines])
    decisions = SharedDecisions()
    results: dict[Session, ActionChunk | Exception] = {}
    for engine, queue in zip(engines, queues, strict=True):
        try:
            decisions.ask(engine, queue)
        except Exception as error:  # it is this robot's result
            results[engine.session] = error
    while len(decisions):
        results |= {engine.session: result for engine, result in decisions.step()}
    return [results[engine.session] for engine in engines]


def _check(sessions: Sequence[Session]) -> None:
    if len({id(s) for s in sessions}) != len(sessions) or len({id(s.network) for s in sessions}) > 1:
        raise ValueError("a batch needs different sessions of one network")


@dataclass(eq=False)
class _Job:
    """What a session pushes, on its way through one forward or several.

    Attributes:
        done: tokens computed so far, in so many ``forwards``.
        result: scores behind the last piece and each node of the tree, or an error; None: not yet.
    """

    session: Session
    prefill: Prefill
    done: int = 0
    forwards: int = 0
    result: Tensor | Exception | None = None

    @staticmethod
    def prepared(session: Session, push: Push) -> _Job:
        """Raises ValueError as :meth:`Session.push`, and PoolFullError; nothing has changed then."""
        prefill = session.prepare(push.pieces, push.tree)
        try:
            tokens = prefill.before.tokens + len(prefill.embeddings)
            session.cache.reserve(tokens, prefill.embeddings)
        except BaseException:
            session.abandon(prefill)
            raise
        return _Job(session, prefill)

    def chunk(self) -> Chunk:
        """What goes into the next forward. A tree is never parted, and never without a token before it."""
        prompt = self.prefill.prompt
        end = self.done + (self.session.chunk_tokens or prompt)
        return Chunk.of(self.session.cache, self.prefill, self.done, end if end < prompt else None)

    def asked(self, chunk: Chunk, states: Tensor) -> Tensor:
        """Of the chunk's states those that scores are wanted for: none before the last chunk."""
        is_last = self.done + len(chunk) == len(self.prefill.embeddings)
        return states[len(states) - len(self.prefill.tree) - 1 :] if is_last else states[:0]

    def took(self, chunk: Chunk, scores: Tensor) -> None:
        """The chunk was computed."""
        self.done += len(chunk)
        self.forwards += 1
        if self.done < len(self.prefill.embeddings):
            return
        try:
            self.session.complete(self.prefill, forwards=self.forwards)
        except Exception as error:  # a plug's
            self.fail(error)
            return
        self.session.count_logits(scores.shape[0])
        self.result = scores

    def undo(self) -> None:
        """The forward of the next chunk failed: back to before it."""
        self.session.cache.truncate(self.prefill.before.tokens + self.done)
        self.session.cache.forget_loose()

    def fail(self, error: Exception) -> None:
        self.session.abandon(self.prefill)
        self.result = error


def _advance(jobs: Sequence[_Job]) -> None:
    """One forward with a chunk of each."""
    network = jobs[0].session.network
    try:
        chunks = [job.chunk() for job in jobs]
        states = run_ragged(network, chunks)
        asked = [job.asked(chunk, rows) for job, chunk, rows in zip(jobs, chunks, states, strict=True)]
        wanted = torch.cat(asked)
        # One product with the vocabulary for all; counted where it belongs.
        scores = network.lm_head(wanted).float() if len(wanted) else wanted
    except Exception as error:
        for job in jobs:
            job.undo()
        if len(jobs) == 1:
            jobs[0].fail(error)
            return
        # Together it was too much, or one of them is to blame: each on its own tells which.
        for job in jobs:
            _advance([job])
        return
    for job, chunk, part in zip(jobs, chunks, scores.split([len(rows) for rows in asked]), strict=True):
        job.took(chunk, part)


@dataclass(eq=False)
class _Member(Generic[T]):
    """A session with its decoding.

    Attributes:
        job: what it waits for; None: nothing yet.
        is_first: that is the first push of the decoding.
        results: the one result, once there is one.
    """

    session: Session
    decoding: Decoding[T]
    job: _Job | None = None
    is_first: bool = True
    results: list[T | Exception] = field(default_factory=list)

    def advance(self, scores: Tensor | None) -> None:
        """Answer the decoding, and prepare what it asks for next."""
        self.job = None
        try:
            with span("grammar"):  # on a GPU it waits for the scores
                push = next(self.decoding) if scores is None else self.decoding.send(scores)
            self.job = _Job.prepared(self.session, push)
        except StopIteration as stop:
            self.results.append(stop.value)
        except Exception as error:  # it is this robot's result
            self._end(error)

    def hear(self) -> None:
        """What the last forward came to."""
        if self.job is None or self.job.result is None:
            return
        self.is_first = False
        if isinstance(self.job.result, Exception):
            self._end(self.job.result)
        else:
            self.advance(self.job.result)

    def give_up(self) -> None:
        """Close the decoding; of what is on its way nothing stays."""
        if self.job is not None:
            self.session.abandon(self.job.prefill)
        self.decoding.close()

    def _end(self, error: Exception) -> None:
        self.decoding.close()
        self.results.append(error)
