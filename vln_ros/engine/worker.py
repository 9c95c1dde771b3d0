"""The one thread that owns an engine: newest frame in, commands in order, action chunks out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.profiling.spans import PUBLICATION, span
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

    The public methods may be called from any thread and return at once.

    Args:
        loop: owned by the worker's thread from :meth:`start` on.
        decode: turns what the mailbox carries into a frame with the given index. Decoding an image
            takes milliseconds, so it is done here and not in the callback that received it.
        events: told what happens.
    """

    def __init__(self, loop: DecisionLoop, decode: Callable[[Raw, int], Frame], events: WorkerEvents) -> None:
        self._loop = loop
        self._decode = decode
        self._events = events
        self.mailbox: LatestMailbox[Raw] = LatestMailbox()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._reports: deque[Progress] = deque(maxlen=_REPORTS_KEPT)
        self._closing = False
        self._frames = 0
        self._frame: Frame | None = None
        self._last: ActionChunk | None = None
        self.frames_processed = 0
        """Since the start of the worker. Written by its thread only."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def running(self) -> bool:
        """An instruction is being followed."""
        return self._loop.running

    @property
    def queues_lost(self) -> int:
        return self._loop.lost

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float | None = None) -> bool:
        """End the thread after the call in progress. The engine is left to whoever made it.

        Returns:
            Whether it has ended, in ``timeout_s`` if that is given. If not, nothing is told any more, but the
            engine is still in use.
        """
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def put_frame(self, raw: Raw) -> None:
        with self._lock:
            self.mailbox.put(raw)
        self._wake.set()

    def put_progress(self, progress: Progress) -> None:
        with self._lock:
            self._reports.append(progress)
        self._wake.set()

    def command(self, command: Command) -> None:
        """What ends the queue in execution is said at once, however long the engine still computes."""
        with self._lock:
            if isinstance(command, Start):
                # Frames from before the instruction belong to the run before.
                self.mailbox.clear()
            self._commands.append(command)
            last = self._last
            if self._overtaking and last is not None and last.actions:
                # Under the number of the queue that it ends: the count is the worker's.
                hold = ActionChunk(last.queue, last.instruction, last.frame_stamp_ns, ())
                self._say(hold, None, 0.0)
        self._wake.set()

    @property
    def _overtaking(self) -> bool:
        """A command waits before which nothing may be decided any more."""
        return any(isinstance(c, Start | Cancel) or c == Pause(True) for c in self._commands)

    def _say(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        """Under the lock: what is said and what overtakes it keep their order."""
        self._last = chunk
        self._events.on_chunk(chunk, frame, decide_ms)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closing:
                return
            try:
                self._turn()
            except Exception as error:
                if self._closing:
                    return
                hold = self._loop.cancel()
                if hold is not None:
                    with self._lock:
                        self._say(hold, None, 0.0)
                self._events.on_failure(error)
                self._wake.set()  # what came after the one that failed is still waiting

    def _turn(self) -> None:
        """The oldest command, if any; otherwise the reports and the newest frame, then the decision."""
        with self._lock:
            # Under one lock with put_frame: what a Start finds in the mailbox is of the run before, and
            # what comes after it must not be taken before it.
            command = self._commands.popleft() if self._commands else None
            if command is None:
                raw = self.mailbox.take(0.0)
        if command is not None:
            self._wake.set()
            self._apply(command)
            return
        self._hear()
        if raw is not None:
            self._observe(raw)
            self._hear()  # what was completed meanwhile belongs to the chat that is asked about
        if self._loop.due():
            begun = time.monotonic()
            chunk = self._loop.decide()
            decide_ms = (time.monotonic() - begun) * 1e3
            with self._lock:
                if not (self._overtaking or self._closing):
                    with span(PUBLICATION, chunk.queue):
                        self._say(chunk, self._frame, decide_ms)
            self._wake.set()  # a frame or a report may be waiting since before the decision
        elif raw is not None:
            self._loop.work_ahead()

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
        if self._closing:
            return
        self._frames += 1
        self.frames_processed += 1
        self._frame = frame
        self._events.on_frame(frame, (time.monotonic() - begun) * 1e3)
