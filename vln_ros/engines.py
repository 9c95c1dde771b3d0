"""Builds engines and decision loops from options: the composition root.

What an engine needs is imported where it is built, for the options decide it: a navigator without a model
loads no torch, and none but the expert's, which knows the simulated flats, loads the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vln_ros.config import ConfigError, NavigatorConfig
from vln_ros.datatypes import StepSize
from vln_ros.engine.decision import DecisionLoop
from vln_ros.profiling.spans import span
from vln_ros.protocols import Engine


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
            return _paced(config, count)
        case "expert":
            return _expert(config, count)
        case "qwen":
            return _qwen(config, count)
    raise ConfigError(f"engine = {config.engine!r}: unknown")


def free_memory(config: NavigatorConfig) -> None:
    """After the engine that the options name was closed and forgotten: give back what it held."""
    if config.engine == "qwen":
        from vln_ros.engine.checkpoint.model import free_memory as free

        free()


def build_loop(engine: Engine, config: NavigatorConfig) -> DecisionLoop:
    """The decision rule that the options describe, around an engine."""
    return DecisionLoop(engine, config.decide_on, config.decide_ahead, round(config.lost_after_s * 1e9))


def _paced(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    from vln_ros.engine.paced import ForwardEngine, PacedEngine

    delay_s = config.paced.decision_ms / 1e3
    return [PacedEngine(ForwardEngine(config.step.forward_m), delay_s) for _ in range(count)]


def _expert(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    expert = config.expert
    if not expert.episodes:
        raise ConfigError(
            "expert.episodes is empty: the expert only knows the way in episodes; name their file"
        )
    from vln_ros.engine.paced import PacedEngine
    from vln_ros.sim.episodes.episode import read_episodes
    from vln_ros.sim.experts import build_oracle

    episodes = read_episodes(Path(expert.episodes))
    step = StepSize(config.step.forward_m, math.radians(config.step.turn_deg))
    return [PacedEngine(build_oracle(episodes, expert, step), expert.decision_ms / 1e3) for _ in range(count)]


def _qwen(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    from vln_ros.engine.checkpoint.profile import load_profile

    qwen = config.qwen
    profile = load_profile(qwen.profile)
    if not qwen.checkpoint:  # what drives a robot is never chosen for its owner
        raise ConfigError(
            "qwen.checkpoint is empty: name a folder or hub name of a Qwen2.5-VL checkpoint; profile "
            f"{profile.name} was made for {profile.checkpoint}"
        )
    from vln_ros.engine.checkpoint.model import load_model  # torch: only when it is clear that it is needed
    from vln_ros.engine.qwen import QwenEngine
    from vln_ros.engine.warm_up import warm_up

    with span("model load"):
        model = load_model(
            qwen.checkpoint,
            device=qwen.device,
            dtype=qwen.dtype,
            attention=qwen.attention,
            quantisation=qwen.quantisation,
        )
    with span("warm-up"):
        warm_up(model)
    return [
        QwenEngine(
            model,
            profile,
            temperature=qwen.temperature,
            seed=qwen.seed,
            sampling=qwen.sampling,
            stream=qwen.stream,
            reuse=qwen.reuse,
        )
        for _ in range(count)
    ]
