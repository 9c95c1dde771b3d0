"""Decides when to ask the engine, between a stream of frames and a stream of action queues.

No threads, no ROS.
"""

from __future__ import annotations

from vln_ros.datatypes import Action, ActionChunk, Frame, Instruction
from vln_ros.engine.execution_log import ExecutionLog
from vln_ros.engine.execution_log import Progress as Progress
from vln_ros.geometry.frame_checks import clock_went_back
from vln_ros.motion.guards import ProgressGuards
from vln_ros.motion.place_drive import PlaceDrive
from vln_ros.profiling.spans import DECISION, FRAME, INSTRUCTION, span
from vln_ros.protocols import Engine, HearsExecuted, LooksDown, WorksAhead


class DecisionLoop:
    """One engine, one run at a time. Not thread-safe: the thread that owns the engine owns this.

    The engine is told what the robot has done, once anybody has reported it. Where decisions are taken on
    every frame it is not: that is open loop, and whatever moves the robot does not follow the queues.

    Args:
        engine: what decides.
        decide_on: ``"progress"``: when the executor reports at most ``decide_ahead`` actions left and
            a frame at least as new as the report was observed; ``"frame"``: after every frame, and a stop
            ends nothing.
        decide_ahead: see above.
        lost_after_ns: a queue that the executor does not name this long after the first frame that
            followed it was lost on the way; the next decision is then due. (Not after the frame it
            answers: a slow engine would take every queue for lost.)
        drive: turns answers that are places into queues, and says when the engine is asked again; None where
            the engine does not answer so, or somebody else drives there.
        guards: give up a run that gets nowhere; None for none, as where decisions are taken on every frame.
        reports_actions: who drives says which actions are done; False where he only says that he is there.
    """

    def __init__(
        self,
        engine: Engine,
        decide_on: str,
        decide_ahead: int,
        lost_after_ns: int,
        drive: PlaceDrive | None = None,
        guards: ProgressGuards | None = None,
        reports_actions: bool = True,
    ) -> None:
        self.engine = engine
        self.guards = guards
        self.ended_by: str | None = None
        """Why the guards gave the run up; it is over, as after a stop. None where they did not."""
        self.drive = drive
        self._reports_actions = reports_actions
        self.decide_ahead = decide_ahead
        self._every_frame = decide_on == "frame"
        self.lost_after_ns = lost_after_ns
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None
        self._unseen: Frame | None = None
        self._last: ActionChunk | None = None
        self._first_after_ns: int | None = None
        self._progress: Progress | None = None
        self._paused = False
        self._queue = 0
        self.lost = 0
        self._log = ExecutionLog()
        self._reporting = False

    @property
    def instruction(self) -> Instruction | None:
        return self._instruction

    @property
    def queue(self) -> int:
        """Number of the newest queue, also while it is being decided."""
        return self._queue

    @property
    def running(self) -> bool:
        """An instruction is being followed: not cancelled, and no stop decided."""
        return self._instruction is not None and not self._stop_decided and self.ended_by is None

    @property
    def _stop_decided(self) -> bool:
        """Deciding on every frame is open loop, for recordings: there a stop ends nothing."""
        if self._every_frame or self._last is None:
            return False
        return any(a.stop for a in self._last.actions)

    @property
    def _stop_executed(self) -> bool:
        return self._stop_decided and self._reported and self._left == 0

    @property
    def _reported(self) -> bool:
        """The executor names the last queue."""
        last, progress = self._last, self._progress
        return (
            last is not None
            and progress is not None
            and (progress.instruction, progress.queue) == (last.instruction, last.queue)
        )

    @property
    def _left(self) -> int:
        return 0 if self._progress is None else self._progress.remaining

    def start(self, instruction: Instruction) -> ActionChunk:
        """Begin a new run. Returns the hold that flushes what the executor still has.

        A pause stays one: the run begins when it ends.
        """
        self._instruction = instruction
        self._frame = self._unseen = self._last = self._progress = None
        self._log.begin()
        self.ended_by = None
        if self.guards is not None:
            self.guards.begin()
        if self.drive is not None:
            self.drive.begin()
        with span(INSTRUCTION, instruction.number):
            self.engine.start(instruction)
        return self._hold(instruction.number)

    def cancel(self) -> ActionChunk | None:
        """End the run without a stop. Returns the hold to publish, None when nothing was running."""
        if self._instruction is None:
            return None
        hold = self._hold(self._instruction.number)
        self._drop_place()
        self._instruction = None
        self._frame = self._unseen = self._last = self._progress = None
        return hold

    def pause(self, paused: bool) -> ActionChunk | None:
        """Hold without ending the run, or go on with it from the newest frame.

        The frames of a pause are not part of the run, but for the newest one: nothing is computed for them.
        A run whose stop was executed is over, and stays so.
        """
        changed, self._paused = paused != self._paused, paused
        if not changed or self._instruction is None or self._stop_executed or self.ended_by is not None:
            return None
        # Whatever the executor had is flushed, so after the pause the next decision starts afresh.
        self._drop_place()
        self._last = self._progress = None
        return self._hold(self._instruction.number) if paused else None

    def observe(self, frame: Frame) -> None:
        """The next frame, in the order of stamps; an older one means that the clock was reset.

        During a pause and once a stop is decided the engine is shown it only if a decision is due after all.
        """
        if self._instruction is None:
            return
        jumped_back = self._frame is not None and clock_went_back(self._frame.stamp_ns, frame.stamp_ns)
        if jumped_back:
            self._log.clock_reset(frame.stamp_ns)
        if self._paused or not self.running:
            self._unseen = frame
        else:
            self._unseen = None
            self._show(frame)
        if jumped_back and not self._stop_executed:
            self._last = self._progress = None
        self._frame = frame
        if self._first_after_ns is None:
            self._first_after_ns = frame.stamp_ns

    def look_down(self, frame: Frame) -> None:
        """What a second camera sees that looks down, for an engine whose model may ask for it."""
        if self.running and isinstance(self.engine, LooksDown):
            self.engine.look_down(frame)

    @property
    def can_work_ahead(self) -> bool:
        """There is a frame, and no pause or end, and the engine can use the time."""
        if not self.running or self._frame is None or self._paused or self._stop_decided:
            return False
        return isinstance(self.engine, WorksAhead)

    def work_ahead(self) -> None:
        """After a decision, and after a frame that makes none due: time to shorten the next one."""
        if self.can_work_ahead and self._frame is not None and isinstance(self.engine, WorksAhead):
            with span(FRAME, self._frame.index):
                self.engine.work_ahead()

    def progress(self, progress: Progress) -> None:
        """The newest report of the executor."""
        self._progress = progress
        self._reporting = True
        if self._instruction is not None and progress.instruction == self._instruction.number:
            new = self._log.hear(progress)
            if self.guards is not None and new:
                for entry in self._log.entries[-new:]:
                    self.guards.completed(entry.action)

    def due(self) -> bool:
        """Is it time to call :meth:`decide`?"""
        frame, last, progress = self._frame, self._last, self._progress
        if frame is None or self._instruction is None or self._paused or self.ended_by is not None:
            return False
        if last is None:
            return True
        if frame.stamp_ns <= last.frame_stamp_ns:
            return False
        if self._every_frame:
            return True
        if progress is not None and frame.stamp_ns >= progress.stamp_ns:
            if (progress.instruction, progress.queue) == (last.instruction, 0):
                return True
            if self._reported and not self._stop_decided:
                return progress.remaining <= self.decide_ahead
        since_ns = last.frame_stamp_ns if self._first_after_ns is None else self._first_after_ns
        if not self._reported and frame.stamp_ns - since_ns > self.lost_after_ns:
            self.lost += 1
            self._reporting = True  # that nobody has begun it is known, too
            return True
        return False

    @property
    def awaits_frame(self) -> bool:
        """The robot has nothing to do, or nearly: the next frame is likely to make a decision due."""
        last, progress = self._last, self._progress
        if self._instruction is None or self._paused or self.ended_by is not None:
            return False
        if last is None or self._every_frame:
            return True
        if progress is None or self._stop_decided:
            return False
        if (progress.instruction, progress.queue) == (last.instruction, 0):
            return True
        return self._reported and progress.remaining <= self.decide_ahead

    def decide(self) -> ActionChunk:
        """Ask the engine, after :meth:`due` said so."""
        return self.begin_decision() or self.ask_engine()

    def begin_decision(self) -> ActionChunk | None:
        """All of a decision but the engine's part, as queue :attr:`queue`; None: the engine is to be asked,
        by :meth:`ask_engine` or by others who then call :meth:`answered`."""
        if self._unseen is not None:
            unseen, self._unseen = self._unseen, None
            self._show(unseen)
        self._queue += 1
        self._tell()
        chunk = self._toward_place() or self._give_up()
        return None if chunk is None else self._conclude(chunk)

    def ask_engine(self) -> ActionChunk:
        """The engine's part of a decision that has begun, and its end."""
        with span(DECISION, self._queue):
            answer = self.engine.decide(self._queue)
        return self.answered(answer)

    def answered(self, answer: ActionChunk) -> ActionChunk:
        """What the engine says to the decision that has begun; the queue that it leads to."""
        return self._conclude(answer if self.drive is None else self.drive.take(answer))

    def _conclude(self, chunk: ActionChunk) -> ActionChunk:
        self._last = chunk
        self._log.sent(self._last)
        # Reports until now are of the queues before.
        self._first_after_ns = self._progress = None
        return self._last

    def _toward_place(self) -> ActionChunk | None:
        """The next queue to the place that is driven to; None where the engine is to be asked."""
        if self.drive is None:
            return None
        ahead: tuple[Action, ...] = ()
        if self._reported and self._left and self._last is not None:
            ahead = self._last.actions[-self._left :]
        with span("local plan"):
            return self.drive.go_on(self._queue, ahead)

    def _give_up(self) -> ActionChunk | None:
        """The hold that ends a run which gets nowhere; None where the engine is to be asked."""
        if self.guards is None or self._every_frame:
            return None
        assert self._frame is not None and self._instruction is not None, "a decision is due"
        self.guards.asked(self._frame.odom_from_base)
        self.ended_by = self.guards.reason
        if self.ended_by is None:
            return None
        held = f"the run is given up: {self.ended_by}"
        return ActionChunk(self._queue, self._instruction.number, self._frame.stamp_ns, (), held=held)

    def _drop_place(self) -> None:
        if self.drive is not None:
            self.drive.drop()

    def _tell(self) -> None:
        told = self._reporting and self._reports_actions and not self._every_frame
        if told and isinstance(self.engine, HearsExecuted):
            self.engine.executed(self._log.entries)

    def _show(self, frame: Frame) -> None:
        self._tell()
        with span(FRAME, frame.index):
            self.engine.observe(frame)
            if self.drive is not None:
                self.drive.observe(frame)

    def _hold(self, instruction: int) -> ActionChunk:
        self._queue += 1
        stamp_ns = 0 if self._frame is None else self._frame.stamp_ns
        return ActionChunk(self._queue, instruction, stamp_ns, ())
