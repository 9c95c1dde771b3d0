"""Runs an episode without ROS: engine and world take turns, as the graph does in lockstep."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import DecisionLoop
from vln_ros.evaluation.episode.run import EpisodeRun, Observation
from vln_ros.protocols import Engine, HearsExecuted, World


def frame_of(observation: Observation, world: World, index: int) -> Frame:
    """An observation of a world as the frame that the navigator would make of its messages."""
    return Frame(
        index,
        observation.stamp_ns,
        observation.rgb,
        observation.depth_m,
        world.camera,
        observation.pose,
        observation.pose @ world.base_from_optical,
    )


def tell_executed(engine: Engine, run: EpisodeRun) -> None:
    """What the executor would report, where there is none: the world itself has moved the robot."""
    if isinstance(engine, HearsExecuted):
        engine.executed(run.executed)


def lockstep(run: EpisodeRun) -> Generator[Frame | None, ActionChunk | None, None]:
    """One episode without ROS, as what it needs of an engine, step by step.

    Yields each frame that is to be observed, and None where a decision is due, which is then sent in. So
    several episodes can share the forwards of one model.
    """
    frames = 0

    def shown(observation: Observation) -> Frame:
        nonlocal frames
        frames += 1
        return frame_of(observation, run.world, frames - 1)

    yield shown(run.observe())
    while run.ended is None:
        chunk = yield None
        assert chunk is not None, "a decision was asked for"
        if not chunk.actions:
            run.end("hold")
        for observation in run.execute(chunk):
            yield shown(observation)


def run_lockstep(run: EpisodeRun, loop: DecisionLoop, instruction_number: int) -> None:
    """One episode without ROS: the same decisions, action for action, as the graph in lockstep.

    Raises:
        EngineError: the engine cannot go on. What was done until then is no result: discard the run.
    """
    loop.start(Instruction(instruction_number, run.episode.instruction))
    steps = lockstep(run)
    chunk: ActionChunk | None = None
    seen = False
    with contextlib.suppress(StopIteration):
        while True:
            frame = steps.send(chunk)
            begun_s, cpu_s = time.monotonic(), time.process_time()
            if frame is not None:
                if seen:  # the frame before made no decision due
                    loop.work_ahead()
                    run.worked_ahead(time.monotonic() - begun_s)
                    begun_s = time.monotonic()
                tell_executed(loop.engine, run)
                loop.observe(frame)
                chunk, seen = None, True
                run.observed(time.monotonic() - begun_s)
            else:
                chunk, seen = loop.decide(), False
                run.decided(chunk, (time.monotonic() - begun_s) * 1e3)
            run.computed(time.process_time() - cpu_s)
