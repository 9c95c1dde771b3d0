"""Everything wired without ROS: build an engine from options, run an episode in a world."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from vln_ros.config import ConfigError, NavigatorConfig, StepConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction, StepSize
from vln_ros.engine.decision import DecisionLoop
from vln_ros.evaluation.episode.run import EpisodeRun, Observation
from vln_ros.profiling.spans import span
from vln_ros.protocols import Engine, HearsExecuted, World


def step_size(config: StepConfig) -> StepSize:
    """The options in the package's units."""
    return StepSize(config.forward_m, math.radians(config.turn_deg))


def build_engine(config: NavigatorConfig) -> Engine:
    """:func:`build_engines`, one."""
    return build_engines(config, 1)[0]


def build_engines(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    """So many engines as the options say; they share one model. Loading a checkpoint takes its time.

    Raises:
        ConfigError: no such checkpoint, profile, episode file or device; the message says what to do.
    """
    match config.engine:
        case "paced":
            from vln_ros.engine.paced import ForwardEngine, PacedEngine

            delay_s = config.paced.decision_ms / 1e3
            return [PacedEngine(ForwardEngine(config.step.forward_m), delay_s) for _ in range(count)]
        case "expert":
            from vln_ros.engine.paced import PacedEngine
            from vln_ros.sim.episodes.episode import read_episodes
            from vln_ros.sim.oracle.policy import build_guide

            if not config.expert.episodes:
                raise ConfigError(
                    "expert.episodes is empty: the expert only knows the way in episodes; name their file"
                )
            episodes = read_episodes(Path(config.expert.episodes))
            step, expert = step_size(config.step), config.expert
            return [
                PacedEngine(build_guide(episodes, expert, step), expert.decision_ms / 1e3)
                for _ in range(count)
            ]
        case "qwen":
            from vln_ros.engine.checkpoint.profile import load_profile

            profile = load_profile(config.qwen.profile)
            if not config.qwen.checkpoint:  # what drives a robot is never chosen for its owner
                raise ConfigError(
                    "qwen.checkpoint is empty: name a folder or hub name of a Qwen2.5-VL checkpoint; profile "
                    f"{profile.name} was made for {profile.checkpoint}"
                )
            from vln_ros.engine.checkpoint.model import (
                load_model,  # torch: only when it is clear that it is needed
            )
            from vln_ros.engine.qwen import QwenEngine
            from vln_ros.engine.warm_up import warm_up

            with span("model load"):
                model = load_model(
                    config.qwen.checkpoint,
                    device=config.qwen.device,
                    dtype=config.qwen.dtype,
                    attention=config.qwen.attention,
                    quantisation=config.qwen.quantisation,
                )
            with span("warm-up"):
                warm_up(model)
            return [
                QwenEngine(
                    model,
                    profile,
                    temperature=config.qwen.temperature,
                    seed=config.qwen.seed,
                    sampling=config.qwen.sampling,
                    stream=config.qwen.stream,
                    reuse=config.qwen.reuse,
                )
                for _ in range(count)
            ]
    raise ConfigError(f"engine = {config.engine!r}: unknown")


def free_memory(config: NavigatorConfig) -> None:
    """After the engine that the options name was closed and forgotten: give back what it held."""
    if config.engine == "qwen":
        from vln_ros.engine.checkpoint.model import free_memory as free

        free()


def build_loop(engine: Engine, config: NavigatorConfig) -> DecisionLoop:
    """The decision rule that the options describe, around an engine."""
    return DecisionLoop(engine, config.decide_on, config.decide_ahead, round(config.lost_after_s * 1e9))


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
                if seen:  # nobody asks about the frame before, or has asked
                    loop.work_ahead()
                    run.worked_ahead(time.monotonic() - begun_s)
                    begun_s = time.monotonic()
                tell_executed(loop.engine, run)
                loop.observe(frame)
                chunk, seen = None, True
                run.observed(time.monotonic() - begun_s)
            else:
                chunk, seen = loop.decide(), True
                run.decided(chunk, (time.monotonic() - begun_s) * 1e3)
            run.computed(time.process_time() - cpu_s)
