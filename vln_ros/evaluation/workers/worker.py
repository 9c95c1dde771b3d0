"""One worker of an evaluation: a world, a model, and the episodes that it is told to run."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from vln_ros.config import ConfigError, EvalConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engines import build_engines
from vln_ros.evaluation.episode.lockstep import lockstep, tell_executed
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.episode.video import VideoWriter
from vln_ros.evaluation.runs.results import versions
from vln_ros.evaluation.runs.run_folder import EpisodeOutcome, outcome_of
from vln_ros.evaluation.workers.schedule import Job
from vln_ros.evaluation.workers.worlds import build_worlds
from vln_ros.profiling.files import recorded
from vln_ros.profiling.spans import DECISION, FRAME, INSTRUCTION, span
from vln_ros.protocols import (
    CountsWork,
    Engine,
    EngineError,
    GivesUp,
    HasFigures,
    WorksAhead,
    World,
    WorldLostError,
)
from vln_ros.reuse.accounting import Reusing

VIDEO_FPS = 4.0


@dataclass(frozen=True)
class Ready:
    """The worker has loaded what it needs.

    Attributes:
        checkpoint: fingerprint of its weights; empty for an engine without.
        versions: of the libraries that it uses.
    """

    checkpoint: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Refused:
    """An episode that cannot be run: no such scene, a start in a wall; or one at which the engine failed."""

    episode_id: str
    scene_id: str
    reason: str
    engine_failure: bool = False


@dataclass(frozen=True)
class Interrupted:
    """An episode whose world was lost under it. The worker is well, and the episode worth another try."""

    episode_id: str
    scene_id: str
    reason: str


@dataclass(frozen=True)
class Unable:
    """The worker cannot work at all, and no other one could: the options are wrong."""

    reason: str


@dataclass(frozen=True)
class LastWords:
    """What has brought the worker down; it ends with it."""

    text: str


Event = Ready | Refused | Interrupted | EpisodeOutcome | Unable


def episode_limits(config: EvalConfig) -> EpisodeLimits:
    """What holds under these options, the profile's own limits included."""
    declared = None
    if config.navigator.engine == "qwen":
        from vln_ros.engine.checkpoint.profile import load_profile

        declared = load_profile(config.navigator.qwen.profile).limits
    return EpisodeLimits.of(config.max_steps, config.limits, declared)


class _Slot:
    """A place for one robot: its world, its engine, and its episode under way."""

    def __init__(self, world: World, engine: Engine) -> None:
        self.world = world
        self.engine = engine
        self.job: Job | None = None
        self.run: EpisodeRun
        self.video: Path | None = None
        self.steps: Generator[Frame | None, ActionChunk | None, None]
        self.wants: Frame | None = None
        """The frame to be observed next; None: a decision is due."""
        self.queue = 0
        self.prepared = 0
        self.before = (0, 0)
        """Forwards and tokens of the engine when the episode began."""

    def advance(self, chunk: ActionChunk | None) -> bool:
        """On to the next thing that it needs; False when the episode has ended."""
        try:
            self.wants = self.steps.send(chunk)
        except StopIteration:
            return False
        return True


class Worker:
    """Runs episodes side by side on one model. Used from one thread.

    Args:
        config: the options; ``expert.episodes`` filled in.
        worker: its number; where the device is ``auto``, workers are dealt to the machine's GPUs in turn.

    Raises:
        ConfigError: what they name does not exist or does not go together.
    """

    def __init__(self, config: EvalConfig, worker: int = 0) -> None:
        self._config = config
        self._limits = episode_limits(config)
        qwen = replace(config.navigator.qwen, seed=config.seed)
        if config.navigator.engine == "qwen":
            from vln_ros.engine.checkpoint.model import deal_device

            qwen = replace(qwen, device=deal_device(qwen.device, worker))
        navigator = replace(config.navigator, qwen=qwen)
        engines = build_engines(navigator, config.sessions)
        worlds = build_worlds(config, config.sessions)
        self._slots = [_Slot(world, engine) for world, engine in zip(worlds, engines, strict=True)]
        self._together = config.sessions > 1 and navigator.engine == "qwen"
        self._scene = ""
        self._films: tempfile.TemporaryDirectory[str] | None = None  # made for the first video

    def ready(self) -> Ready:
        """What it works with."""
        engine = self._slots[0].engine
        return Ready(engine.fingerprint if isinstance(engine, CountsWork) else "", versions())

    def step(self, jobs: Sequence[Job]) -> list[Event]:
        """Begin these episodes, and go on with all until one or more end.

        Raises:
            ValueError: more jobs than slots are free.
        """
        events: list[Event] = []
        for job in jobs:
            slot = next((s for s in self._slots if s.job is None), None)
            if slot is None:
                raise ValueError(f"no slot free for {len(jobs)} more episodes")
            e = job.episode
            try:
                self._begin(slot, job)
            except EngineError as error:
                events.append(self._failed(slot, error))
            except ValueError as error:  # of this episode: scene or start are not as they should be
                slot.job = None
                events.append(Refused(e.episode_id, e.scene_id, str(error)))
            except WorldLostError as error:
                if slot.job is not None:
                    self._interrupt(slot, error)
                events.append(Interrupted(e.episode_id, e.scene_id, str(error)))
        while not events and any(s.job is not None for s in self._slots):
            events = self._round()
        return events

    def close(self) -> None:
        """Free everything; what is under way is given up."""
        for slot in self._slots:
            if slot.job is not None:
                slot.run.discard()
            slot.engine.close()
            slot.world.close()
        if self._films is not None:
            self._films.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, slot: _Slot, job: Job) -> None:
        config = self._config
        video = None
        if job.video:
            self._films = self._films or tempfile.TemporaryDirectory(prefix="vln_ros-video-")
            slot.video = Path(self._films.name) / f"{job.number}.mp4"
            video = VideoWriter(slot.video, VIDEO_FPS)
        else:
            slot.video = None
        recorder = EpisodeRecorder(episode_info(job.episode), video)
        try:
            slot.run = EpisodeRun(
                slot.world,
                job.episode,
                start_ns=0,
                step_period_ns=round(config.step_period_s * 1e9),
                limits=self._limits,
                recorder=recorder,
                basic=config.measures == "basic",
            )
        except BaseException:
            recorder.discard()
            raise
        slot.prepared = int(job.episode.scene_id != self._scene)
        self._scene = job.episode.scene_id
        engine = slot.engine
        slot.before = (engine.forwards, engine.tokens) if isinstance(engine, CountsWork) else (0, 0)
        slot.job = job
        with span(INSTRUCTION, job.number):
            slot.engine.start(Instruction(job.number, job.episode.instruction))
        slot.queue = 1  # as in the graph, where the hold that begins a run is number one
        slot.steps = lockstep(slot.run)
        slot.advance(None)

    def _round(self) -> list[Event]:
        """Every robot sees its frames, then every robot decides; the ends that come of it."""
        slots = [s for s in self._slots if s.job is not None]
        events: list[Event] = []
        while showing := [s for s in slots if s.wants is not None]:
            events += self._observe(showing)
            for slot in showing:
                events += self._advance(slot, None)
            # Who wants to see more: nobody asks about the frame that it has just seen.
            events += self._work_ahead([s for s in showing if s.job is not None and s.wants is not None])
            slots = [s for s in slots if s.job is not None]
        if events:
            return events  # the rest decides together with those who come in
        chunks, events = self._decide(slots)
        for slot, chunk in zip([s for s in slots if s.job is not None], chunks, strict=True):
            events += self._advance(slot, chunk)
        return events

    def _advance(self, slot: _Slot, chunk: ActionChunk | None) -> list[Event]:
        """On to the next thing that a slot needs; its end, if this is it."""
        if slot.job is None:
            return []
        try:
            return [] if slot.advance(chunk) else [self._finish(slot)]
        except WorldLostError as error:
            return [self._interrupt(slot, error)]

    def _interrupt(self, slot: _Slot, error: WorldLostError) -> Interrupted:
        """Give up what a slot has under way."""
        assert slot.job is not None
        episode, slot.job = slot.job.episode, None
        slot.run.discard()
        self._scene = ""  # its world begins anew
        if slot.video is not None:
            slot.video.unlink(missing_ok=True)
        return Interrupted(episode.episode_id, episode.scene_id, str(error))

    def _failed(self, slot: _Slot, error: EngineError) -> Refused:
        """Its episode is no result: nothing of it is kept."""
        assert slot.job is not None, "an episode was under way"
        episode, slot.job = slot.job.episode, None
        slot.run.discard()
        if slot.video is not None:
            slot.video.unlink(missing_ok=True)
        return Refused(episode.episode_id, episode.scene_id, f"engine failure: {error}", engine_failure=True)

    def _ended(self, slot: _Slot, error: Exception | None) -> list[Event]:
        """What an error of a slot's engine or world means for its episode; any other is raised."""
        if error is None:
            return []
        if isinstance(error, EngineError):
            return [self._failed(slot, error)]
        if isinstance(error, WorldLostError):  # of an expert, which has one of its own
            return [self._interrupt(slot, error)]
        raise error

    def _observe(self, slots: Sequence[_Slot]) -> list[Event]:
        events: list[Event] = []
        for slot in slots:
            assert slot.wants is not None, "only who is to be shown a frame"
            begun_s, cpu_s = time.monotonic(), time.process_time()
            try:
                tell_executed(slot.engine, slot.run)
                with span(FRAME, slot.wants.index):
                    slot.engine.observe(slot.wants)
            except (EngineError, WorldLostError) as error:
                events += self._ended(slot, error)
                continue
            slot.run.observed(time.monotonic() - begun_s)
            slot.run.computed(time.process_time() - cpu_s)
        return events

    def _work_ahead(self, slots: Sequence[_Slot]) -> list[Event]:
        """What can be done for the next decision of these."""
        able = [s for s in slots if isinstance(s.engine, WorksAhead)]
        if not able:
            return []
        begun_s, cpu_s = time.monotonic(), time.process_time()
        if self._together:
            from vln_ros.engine.batch import work_ahead_together

            with span("frames of all robots"):
                errors = work_ahead_together([s.engine for s in able])  # type: ignore[misc]
        else:
            errors = [_failure_of(s.engine.work_ahead) for s in able]  # type: ignore[attr-defined]
        for slot in able:
            slot.run.worked_ahead((time.monotonic() - begun_s) / len(able))
            slot.run.computed((time.process_time() - cpu_s) / len(able))
        return [e for slot, error in zip(able, errors, strict=True) for e in self._ended(slot, error)]

    def _decide(self, slots: Sequence[_Slot]) -> tuple[list[ActionChunk], list[Event]]:
        """A queue for each slot that keeps its job, and what became of the others."""
        for slot in slots:
            slot.queue += 1
        chunks: list[ActionChunk] = []
        events: list[Event] = []
        begun_s, cpu_s = time.monotonic(), time.process_time()
        if self._together:
            from vln_ros.engine.batch import decide_together

            with span("decisions of all robots"):
                found = decide_together([s.engine for s in slots], [s.queue for s in slots])  # type: ignore[misc]
            for slot, answer in zip(slots, found, strict=True):
                slot.run.computed((time.process_time() - cpu_s) / len(slots))
                if isinstance(answer, Exception):
                    events += self._ended(slot, answer)
                    continue
                chunks.append(answer)
                slot.run.decided(answer, (time.monotonic() - begun_s) * 1e3)
            return chunks, events
        for slot in slots:
            begun_s, cpu_s = time.monotonic(), time.process_time()
            try:
                with span(DECISION, slot.queue):
                    chunks.append(slot.engine.decide(slot.queue))
            except (EngineError, WorldLostError) as error:
                events += self._ended(slot, error)
                continue
            slot.run.decided(chunks[-1], (time.monotonic() - begun_s) * 1e3)
            slot.run.computed(time.process_time() - cpu_s)
        return chunks, events

    def _finish(self, slot: _Slot) -> EpisodeOutcome:
        engine = slot.engine
        forwards = tokens = None
        if isinstance(engine, CountsWork):
            forwards, tokens = engine.forwards - slot.before[0], engine.tokens - slot.before[1]
        figures = engine.figures() if isinstance(engine, HasFigures) else None
        reuse = engine.reuse_stats() if isinstance(engine, Reusing) else None
        given_up = engine.given_up() if isinstance(engine, GivesUp) else ()
        record = slot.run.finish(
            forwards=forwards,
            tokens=tokens,
            prepared=slot.prepared,
            figures=figures,
            reuse=reuse,
            given_up=given_up,
        )
        slot.job = None
        outcome = outcome_of(record, slot.video)
        if slot.video is not None:
            slot.video.unlink()
        return outcome


def _failure_of(work: Callable[[], object]) -> EngineError | None:
    """What the engine failed of in ``work``, if it did."""
    try:
        work()
    except EngineError as error:
        return error
    return None


def run_worker(config: EvalConfig, worker: int, connection: Connection[Any, Any]) -> None:
    """The main function of a worker process: answers lists of orders with lists of events.

    Ends when the connection does, so that nothing outlives a driver that was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it ends its workers
    # Bars of libraries would make a semaphore, which is left behind when a worker is ended, with a warning.
    tqdm.set_lock(threading.RLock())
    with connection, recorded(config.navigator.profiling, f"worker-{worker}"):
        try:
            _serve(config, worker, connection)
        except Exception as error:
            with contextlib.suppress(OSError):
                connection.send(LastWords(f"{type(error).__name__}: {error}".strip().split("\n")[0]))
            raise


def _serve(config: EvalConfig, worker: int, connection: Connection[Any, Any]) -> None:
    try:
        bench = Worker(config, worker)
    except ConfigError as error:
        connection.send([Unable(str(error))])
        return
    with bench, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send([bench.ready()])
        while True:
            connection.send(bench.step(connection.recv()))
