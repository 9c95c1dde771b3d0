"""What one robot's engine is given to do: newest frame in, commands in order, action chunks out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.engine.questions.desk import QuestionDesk
from vln_ros.engine.turns import EngineThread, Need
from vln_ros.profiling.spans import PUBLICATION, span
from vln_ros.protocols import Engine
from vln_ros.questions import Question
from vln_ros.sync.mailbox import LatestMailbox

Raw = TypeVar("Raw")

_REPORTS_KEPT = 64
"""Reports of the executor that wait while the engine computes; of more the newest."""


class WorkerEvents(Protocol):
    """What the worker tells, from its own thread."""

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        """A frame was taken in."""

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        """A queue to publish, and the frame that it answers (None for a hold)."""

    def on_bad_frame(self, error: ValueError) -> None:
        """A frame that could not be decoded; the stream goes on with the next one."""

    def on_failure(self, error: BaseException) -> None:
        """The engine failed. The run is over, a hold was sent; a new instruction begins a new one."""


@dataclass(frozen=True)
class Start:
    instruction: Instruction


@dataclass(frozen=True)
class Cancel:
    pass


@dataclass(frozen=True)
class Pause:
    paused: bool


@dataclass(frozen=True)
class Tune:
    decide_ahead: int
    lost_after_ns: int


Command = Start | Cancel | Pause | Tune


class EngineWorker(Generic[Raw]):
    """Runs a :class:`DecisionLoop` in a thread. Frames are latest-wins; commands are never lost.

    The public methods may be called from any thread and return at once, but for those of
    :class:`vln_ros.engine.turns.TakesTurns`.

    Args:
        loop: owned by the engine's thread from :meth:`start` on.
        decode: turns what the mailbox carries into a frame with the given index. Decoding an image
            takes milliseconds, so it is done here and not in the callback that received it.
        events: told what happens.
        desk: answers questions where no decision is due; None: nobody asks.
        thread: that other robots' workers share; None: one of its own.
    """

    def __init__(
        self,
        loop: DecisionLoop,
        decode: Callable[[Raw, int], Frame],
        events: WorkerEvents,
        desk: QuestionDesk | None = None,
        thread: EngineThread | None = None,
    ) -> None:
        self._loop = loop
        self._thread = thread or EngineThread()
        self._desk = desk
        self._decode = decode
        self._events = events
        self.mailbox: LatestMailbox[Raw] = LatestMailbox()
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._reports: deque[Progress] = deque(maxlen=_REPORTS_KEPT)
        self.closing = False
        self._frames = 0
        self._frame: Frame | None = None
        self._below: Raw | None = None
        self._last: ActionChunk | None = None
        self.frames_processed = 0
        """Since the start of the worker. Written by its thread only."""
        self._begun_s = 0.0
        self._is_news = False

    @property
    def running(self) -> bool:
        """An instruction is being followed."""
        return self._loop.running

    @property
    def ended_by(self) -> str | None:
        """Why the guards gave the run up; None where they did not."""
        return self._loop.ended_by

    @property
    def runs_given_up(self) -> Mapping[str, int]:
        """By which guard, how often."""
        return {} if self._loop.guards is None else dict(self._loop.guards.tripped)

    @property
    def queues_lost(self) -> int:
        return self._loop.lost

    def start(self) -> None:
        self._thread.join(self)

    def close(self, timeout_s: float | None = None) -> bool:
        """End after the call in progress, if one is; also the thread, if nobody else shares it. The engine is
        left to whoever made it.

        Returns:
            Whether it has ended, in ``timeout_s`` if that is given. If not, nothing is told any more, but the
            engine is still in use.
        """
        self.closing = True
        ended = self._thread.leave(self, timeout_s)
        if ended and self._desk is not None:
            self._desk.close()
        return ended

    def put_frame(self, raw: Raw) -> None:
        with self._lock:
            self.mailbox.put(raw)
        self._thread.wake()

    def put_look_down(self, raw: Raw) -> None:
        """What a second camera sees that looks down. The newest is decoded when a decision is due."""
        with self._lock:
            self._below = raw

    def ask(self, question: Question) -> None:
        """Its answer comes when no decision is due. Raises ValueError if there is no desk."""
        if self._desk is None:
            raise ValueError("this worker has no desk for questions")
        self._desk.put(question)
        self._thread.wake()

    def put_progress(self, progress: Progress) -> None:
        with self._lock:
            self._reports.append(progress)
        self._thread.wake()

    def command(self, command: Command) -> None:
        """What ends the queue in execution is said at once, however long the engine still computes."""
        with self._lock:
            if isinstance(command, Start):
                # Frames from before the instruction belong to the run before.
                self.mailbox.clear()
                self._below = None
            self._commands.append(command)
            last = self._last
            if self._overtaking and last is not None and not last.is_hold:
                # Under the number of the queue that it ends: the count is the worker's.
                hold = ActionChunk(last.queue, last.instruction, last.frame_stamp_ns, ())
                self._say(hold, None, 0.0)
        self._thread.wake()

    @property
    def _overtaking(self) -> bool:
        """A command waits before which nothing may be decided any more."""
        return any(isinstance(c, Start | Cancel) or c == Pause(True) for c in self._commands)

    def _say(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        """Under the lock: what is said and what overtakes it keep their order."""
        self._last = chunk
        self._events.on_chunk(chunk, frame, decide_ms)

    # ------------------------------------------------------------------ turns, in the engine's thread

    @property
    def engine(self) -> Engine:
        return self._loop.engine

    @property
    def can_work_ahead(self) -> bool:
        with self._lock:
            return self._is_news and not (self._overtaking or self.closing) and self._loop.can_work_ahead

    def need(self) -> tuple[Need, float | None]:
        if self.closing:
            return Need.NOTHING, None
        again_s = None if self._desk is None else self._desk.expire()
        with self._lock:
            commands, frames = bool(self._commands), self.mailbox.waiting
        if commands:
            return Need.ANSWER, None
        self._hear()
        if self._loop.due() or (frames and self._loop.awaits_frame):
            return Need.ANSWER, None
        if frames or again_s == 0.0:
            return Need.WORK, None
        return Need.NOTHING, again_s

    def take_in(self) -> bool:
        if self.closing:
            return False
        with self._lock:
            # Under one lock with put_frame: what a Start finds in the mailbox is of the run before, and
            # what comes after it must not be taken before it.
            command = self._commands.popleft() if self._commands else None
            raw = self.mailbox.take(0.0) if command is None else None
        self._is_news = raw is not None
        if command is not None:
            self._apply(command)
            return False
        self._hear()
        if raw is not None:
            self._observe(raw)
            self._hear()  # what was completed meanwhile belongs to the chat that is asked about
        return not self.closing

    def begin_decision(self) -> int | None:
        if not self._loop.due():
            return None
        self._begun_s = time.monotonic()
        self._look_down()
        chunk = self._loop.begin_decision()
        if chunk is not None:
            self._decided(chunk)
        return None if chunk is not None else self._loop.queue

    def decide(self) -> None:
        self._decided(self._loop.ask_engine())

    def answer(self, chunk: ActionChunk) -> None:
        self._decided(self._loop.answered(chunk))

    def work_ahead(self) -> None:
        self._loop.work_ahead()

    def use_spare_time(self) -> None:
        """The next forward of an answer."""
        if self._desk is not None:
            self._desk.step()

    def fail(self, error: Exception) -> None:
        """The run is over; the next instruction begins anew."""
        if self.closing:
            return
        hold = self._loop.cancel()
        if hold is not None:
            with self._lock:
                self._say(hold, None, 0.0)
        if self._desk is not None:
            self._desk.failed(f"{type(error).__name__}: {error}")
        self._events.on_failure(error)

    def _decided(self, chunk: ActionChunk) -> None:
        decide_ms = (time.monotonic() - self._begun_s) * 1e3
        self._is_news = True
        with self._lock:
            if self._overtaking or self.closing:
                return
            with span(PUBLICATION, chunk.queue):
                self._say(chunk, self._frame, decide_ms)

    def _look_down(self) -> None:
        with self._lock:
            raw, self._below = self._below, None
        if raw is None:
            return
        try:
            frame = self._decode(raw, 0)
        except ValueError as error:
            self._events.on_bad_frame(error)
            return
        self._loop.look_down(frame)

    def _hear(self) -> None:
        """Hand on the reports that have come, oldest first."""
        with self._lock:
            reports = list(self._reports)
            self._reports.clear()
        for report in reports:
            self._loop.progress(report)

    def _apply(self, command: Command) -> None:
        chunk: ActionChunk | None = None
        match command:
            case Start(instruction):
                chunk = self._loop.start(instruction)
                self._frames = 0
                self._frame = None
                if self._desk is not None:
                    self._desk.begin(instruction)
            case Cancel():
                chunk = self._loop.cancel()
            case Pause(paused):
                chunk = self._loop.pause(paused)
            case Tune(decide_ahead, lost_after_ns):
                self._loop.decide_ahead, self._loop.lost_after_ns = decide_ahead, lost_after_ns
        if chunk is not None:
            with self._lock:
                self._say(chunk, None, 0.0)

    def _observe(self, raw: Raw) -> None:
        begun = time.monotonic()
        try:
            with span("conversion", self._frames):
                frame = self._decode(raw, self._frames)
        except ValueError as error:
            self._events.on_bad_frame(error)
            return
        self._loop.observe(frame)
        if self.closing:
            return
        self._frames += 1
        self.frames_processed += 1
        self._frame = frame
        if self._desk is not None:
            self._desk.saw(frame)
        self._events.on_frame(frame, (time.monotonic() - begun) * 1e3)
