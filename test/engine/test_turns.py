"""Several robots on one thread: fair turns, no harm of one by another, and the answers of a thread each."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from vln_ros.config import NavigatorConfig, from_flat
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.engine.turns import EngineThread, Turns
from vln_ros.engine.worker import Cancel, EngineWorker, Start
from vln_ros.engines import SharedEngines, build_loop
from vln_ros.protocols import Engine, SharedModel

F = Action(forward_m=0.25)
CAMERA = CameraModel.from_hfov(56, 56, 1.2)
DEADLINE_S = 30.0


# ------------------------------------------------------------------ whose turn it is


@pytest.mark.parametrize("robots", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_for_ever(robots: int, seed: int) -> None:
    """Whatever the others want, and however often."""
    chance = random.Random(seed)
    turns: Turns[int] = Turns()
    eager = [chance.random() for _ in range(robots)]
    wants: dict[int, str] = {}
    since: dict[int, int] = {}
    served_meanwhile: dict[int, list[int]] = {r: [] for r in range(robots)}
    for turn in range(400):
        for robot in range(robots):
            if robot not in wants and chance.random() < eager[robot]:
                wants[robot], since[robot] = chance.choice(["answer", "work"]), turn
                served_meanwhile[robot] = []
            elif wants.get(robot) == "work" and chance.random() < 0.1:
                wants[robot], since[robot] = "answer", turn  # its queue has run out meanwhile
        standing = [r for r in range(robots) if wants.get(r) == "answer"]
        driving = [r for r in range(robots) if wants.get(r) == "work"]
        chosen = turns.next(standing, driving)
        assert bool(chosen) == bool(wants)
        assert set(chosen) == set(standing) or (len(chosen) == 1 and chosen[0] in driving)
        for robot in chosen:
            waited = turn - since[robot]
            assert waited <= (1 if wants[robot] == "answer" else 2 * robots)
            if wants[robot] == "work":
                alone = [r for r in served_meanwhile[robot] if r >= 0]
                assert len(alone) == len(set(alone)) <= robots - 1, "somebody had two turns before it"
            del wants[robot]
        if len(chosen) == 1 and chosen[0] in driving:
            for waiting in wants:
                served_meanwhile[waiting].append(chosen[0])


def test_who_always_wants_more_gets_no_more() -> None:
    turns: Turns[str] = Turns()
    got = [turns.next([], ["flooding", "calm"])[0] for _ in range(10)]
    assert got.count("calm") == got.count("flooding") == 5
    turns.forget("calm")
    assert turns.next([], ["flooding"]) == ["flooding"]
    assert turns.next([], []) == []


# ------------------------------------------------------------------ workers that share a thread


def frame(robot: int, index: int) -> Frame:
    rgb = np.random.default_rng([robot, index]).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(0, (index + 1) * 10**8, rgb, None, CAMERA, pose, pose)


def decode(raw: Frame, index: int) -> Frame:
    if raw.stamp_ns < 0:
        raise ValueError("a picture that cannot be decoded")
    return replace(raw, index=index)


class Scripted:
    """Forward, unless it is told to fail; waits while its gate is closed."""

    def __init__(self) -> None:
        self.gate, self.deciding = threading.Event(), threading.Event()
        self.gate.set()
        self.fails_in = ""
        self._instruction = self._stamp_ns = 0

    def _maybe(self, where: str) -> None:
        if where == self.fails_in:
            raise RuntimeError(f"broken in {where}")

    def start(self, instruction: Instruction) -> None:
        self._instruction = instruction.number
        self._maybe("start")

    def observe(self, frame: Frame) -> None:
        self._stamp_ns = frame.stamp_ns
        self._maybe("observe")

    def work_ahead(self) -> None:
        self._maybe("work_ahead")

    def decide(self, queue: int) -> ActionChunk:
        self.deciding.set()
        assert self.gate.wait(DEADLINE_S)
        self._maybe("decide")
        return ActionChunk(queue, self._instruction, self._stamp_ns, (F,))

    def close(self) -> None: ...


class Told:
    """What a worker tells; may be broken itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.chunks: list[ActionChunk] = []
        self.answers: list[ActionChunk] = []
        """Those that answer a frame."""
        self.frames = self.bad = 0
        self.failures: list[str] = []
        self.is_broken = False

    def _note(self, note: Callable[[], None]) -> None:
        if self.is_broken:
            raise OSError("nobody can be told anything")
        with self._changed:
            note()
            self._changed.notify_all()

    def on_frame(self, frame: Frame, observe_ms: float) -> None:
        self._note(lambda: setattr(self, "frames", self.frames + 1))

    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None:
        def note() -> None:
            self.chunks.append(chunk)
            if frame is not None:
                self.answers.append(chunk)

        self._note(note)

    def on_bad_frame(self, error: ValueError) -> None:
        self._note(lambda: setattr(self, "bad", self.bad + 1))

    def on_failure(self, error: BaseException) -> None:
        self._note(lambda: self.failures.append(str(error)))

    def wait(self, condition: Callable[[Told], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), DEADLINE_S), vars(self)


class Robot:
    def __init__(self, number: int, thread: EngineThread | None, loop: DecisionLoop) -> None:
        self.number, self.told = number, Told()
        self.worker: EngineWorker[Frame] = EngineWorker(loop, decode, self.told, None, thread)
        self.worker.start()

    def begin(self, instruction: int = 1) -> None:
        self.worker.command(Start(Instruction(instruction, f"go to chair {self.number}")))
        self.told.wait(lambda t: any(c.instruction == instruction for c in t.chunks) or bool(t.failures))

    def see(self, index: int) -> None:
        self.worker.put_frame(frame(self.number, index))

    def answered(self, index: int) -> ActionChunk:
        stamp_ns = frame(self.number, index).stamp_ns
        self.told.wait(lambda t: any(c.frame_stamp_ns == stamp_ns for c in t.answers))
        return self.told.answers[-1]

    def step(self, index: int) -> ActionChunk:
        """One frame, and its queue."""
        self.see(index)
        return self.answered(index)


@contextmanager
def robots(
    *engines: Engine, model: SharedModel | None = None, decide_on: str = "frame"
) -> Iterator[tuple[list[Robot], EngineThread]]:
    thread = EngineThread(model)
    made = [Robot(i, thread, DecisionLoop(e, decide_on, 0, 10**12)) for i, e in enumerate(engines)]
    try:
        yield made, thread
    finally:
        for engine in engines:
            if isinstance(engine, Scripted):
                engine.gate.set()
        for robot in made:
            robot.worker.close()


@pytest.mark.parametrize("where", ["start", "observe", "decide", "work_ahead"])
def test_an_engine_that_fails_is_its_robots_affair(where: str) -> None:
    broken, sound = Scripted(), Scripted()
    with robots(broken, sound) as ((first, second), _):
        second.begin()
        broken.fails_in = where
        first.begin()
        for index in range(3):
            first.see(index)
            second.step(index)
        first.told.wait(lambda t: bool(t.failures))
        assert first.told.failures[0] == f"broken in {where}"
        assert not first.told.chunks or not first.told.chunks[-1].actions, "it was not told to stand"
        assert len(second.told.answers) == 3 and not second.told.failures
        broken.fails_in = ""
        first.begin(2)
        first.step(7)


def test_pictures_that_cannot_be_decoded_are_their_robots_affair() -> None:
    with robots(Scripted(), Scripted()) as ((first, second), _):
        first.begin()
        second.begin()
        for index in range(5):
            first.worker.put_frame(replace(frame(0, index), stamp_ns=-1))
            second.step(index)
        first.told.wait(lambda t: t.bad > 0)
        assert len(second.told.answers) == 5 and second.told.bad == 0
        first.step(9)


def test_who_cannot_even_be_told_of_a_failure_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with robots(Scripted(), Scripted()) as ((first, second), _):
        first.begin()
        second.begin()
        first.told.is_broken = True
        first.see(0)
        for index in range(5):
            second.step(index)
        assert len(died) == 1, "what ended a robot's share is not swallowed"


def test_a_silent_robot_and_one_that_floods() -> None:
    with robots(Scripted(), Scripted(), Scripted(), decide_on="progress") as ((silent, floods, calm), _):
        for robot in (silent, floods, calm):
            robot.begin()
        ended = threading.Event()

        def flood() -> None:
            index = 0
            while not ended.is_set():
                floods.see(index)
                index += 1

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for index in range(10):
                chunk = calm.step(10 * index)
                done = Progress(chunk.instruction, chunk.queue, 0, (10 * index + 2) * 10**8)
                calm.worker.put_progress(done)
        finally:
            ended.set()
            flooding.join()
        assert len(calm.told.answers) == 10
        assert silent.told.answers == [] and silent.told.failures == []


def test_who_leaves_is_not_waited_for_and_waits_for_nobody() -> None:
    slow, quick = Scripted(), Scripted()
    with robots(slow, quick) as ((first, second), _):
        first.begin()
        second.begin()
        slow.gate.clear()
        first.see(0)
        assert slow.deciding.wait(DEADLINE_S)
        assert second.worker.close(DEADLINE_S), "it has nothing to do with the call that takes so long"
        assert not first.worker.close(0.05), "its engine is in use"
        known = len(first.told.chunks)
        slow.gate.set()
        assert first.worker.close(DEADLINE_S)
        assert len(first.told.chunks) == known, "told after it was closed"


def test_the_thread_ends_with_the_last_and_begins_anew() -> None:
    thread = EngineThread()
    for _ in range(3):
        robot = Robot(0, thread, DecisionLoop(Scripted(), "frame", 0, 10**12))
        robot.begin()
        robot.step(0)
        running = [t for t in threading.enumerate() if t.name == "engine"]
        assert len(running) == 1
        assert robot.worker.close(DEADLINE_S)
        assert not running[0].is_alive()


class Asked:
    """A model that notes who is asked together."""

    is_loaded = True

    def __init__(self) -> None:
        self.decided: list[int] = []
        self.worked_ahead: list[int] = []
        self.fails = False

    def decide(self, engines: Sequence[Engine], queues: Sequence[int]) -> list[ActionChunk | Exception]:
        self.decided.append(len(engines))
        if self.fails:
            raise MemoryError("no room for all")
        return [engine.decide(queue) for engine, queue in zip(engines, queues, strict=True)]

    def work_ahead(self, engines: Sequence[Engine]) -> list[Exception | None]:
        self.worked_ahead.append(len(engines))
        return [None for _ in engines]


def test_those_who_wait_at_once_are_answered_together() -> None:
    model, engines = Asked(), [Scripted() for _ in range(4)]
    with robots(*engines, model=model) as (made, thread):
        for robot in made:
            robot.begin()
        engines[0].gate.clear()
        made[0].see(0)
        assert engines[0].deciding.wait(DEADLINE_S)
        for robot in made[1:]:
            robot.see(0)
        asked = thread.asked
        engines[0].gate.set()
        for robot in made:
            robot.told.wait(lambda t: len(t.answers) == 1)
        assert model.decided == [3]
        assert (thread.asked - asked, thread.answers) == (1, 4)
        # A command in the meantime comes before an answer that nobody wants any more.
        made[1].worker.command(Cancel())
        made[2].step(1)
        assert made[1].told.answers == made[1].told.answers[:1]


def test_a_failure_of_all_is_told_to_all_and_the_next_run_begins() -> None:
    model, engines = Asked(), [Scripted() for _ in range(3)]
    with robots(*engines, model=model) as (made, _):
        for robot in made:
            robot.begin()
        engines[0].gate.clear()
        made[0].see(0)
        assert engines[0].deciding.wait(DEADLINE_S)
        model.fails = True
        for robot in made[1:]:
            robot.see(0)
        engines[0].gate.set()
        for robot in made[1:]:
            robot.told.wait(lambda t: bool(t.failures))
            assert not robot.told.chunks[-1].actions
        model.fails = False
        for robot in made:
            robot.begin(2)
            robot.step(1)


# ------------------------------------------------------------------ the same queues as alone

PROFILES = ("tiny", "navida", "tiny", "activevln-r2r")


def config_of(profile: str) -> NavigatorConfig:
    return from_flat(
        NavigatorConfig,
        {
            "engine": "qwen",
            "qwen.checkpoint": "shipped:tiny",
            "qwen.profile": profile,
            "qwen.device": "cpu",
            "decide_on": "frame",
        },
    )


@pytest.mark.slow
def test_queues_are_those_of_a_navigator_of_its_own() -> None:
    """Whoever decides together with whom: in every step other robots come together."""
    shared = SharedEngines()
    thread = EngineThread(shared)
    built = [(shared.build(c), c) for c in map(config_of, PROFILES)]
    fleet = [Robot(i, thread, build_loop(e, c)) for i, (e, c) in enumerate(built)]
    for robot in fleet:
        robot.begin()
    try:
        for index in range(6):
            taking_part = [r for r in fleet if (r.number + index) % 3]
            for robot in taking_part:
                robot.see(index)
            for robot in taking_part:
                robot.answered(index)
        assert thread.answers > thread.asked, "none decided together"
    finally:
        for robot in fleet:
            robot.worker.close()
    for number, profile in enumerate(PROFILES):
        alone = SharedEngines()
        config = config_of(profile)
        engine = alone.build(config)
        robot = Robot(number, None, build_loop(engine, config))
        robot.begin()
        chunks = [robot.step(index) for index in range(6) if (number + index) % 3]
        robot.worker.close()
        alone.release(engine)
        for together, one in zip(fleet[number].told.answers, chunks, strict=True):
            assert (together.queue, together.frame_stamp_ns) == (one.queue, one.frame_stamp_ns)
            assert (together.actions, together.unconstrained) == (one.actions, one.unconstrained)
            assert together.probabilities == pytest.approx(one.probabilities, abs=1e-4)
    for engine, _ in built:
        shared.release(engine)
    assert not shared.is_loaded
