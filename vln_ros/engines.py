"""Builds engines and decision loops from options, one by one or several on one model: the composition root.

What an engine needs is imported where it is built, for the options decide it: a navigator without a model
loads no torch, and none but the expert's, which knows the simulated flats, loads the simulator.
"""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vln_ros.config import ConfigError, NavigatorConfig, to_flat
from vln_ros.datatypes import Action, ActionChunk, StepSize
from vln_ros.engine.decision import DecisionLoop
from vln_ros.geometry.pixel_goal import PixelGoalRules
from vln_ros.motion.guards import GuardLimits, ProgressGuards
from vln_ros.motion.place_drive import PlaceDrive
from vln_ros.profiling.spans import span
from vln_ros.protocols import Engine

if TYPE_CHECKING:
    from vln_ros.engine.checkpoint.model import LoadedModel
    from vln_ros.engine.stream.kv_pool import KVPool
    from vln_ros.engine.stream.layers.accelerate import Accelerator


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
        case "pixel_oracle":
            return _pixel_oracle(config, count)
        case "qwen":
            return _qwen(config, count)
    raise ConfigError(f"engine = {config.engine!r}: unknown")


def free_memory(config: NavigatorConfig) -> None:
    """After the engine that the options name was closed and forgotten: give back what it held."""
    if config.engine == "qwen":
        from vln_ros.engine.checkpoint.model import free_memory as free

        free()


class SharedEngines:
    """Builds engines one by one, for robots that share a model. Implements
    :class:`vln_ros.protocols.SharedModel` for them.

    The first one loads the weights, and the last one that is released lets go of them. From any thread; what
    the protocol asks for from that of the engines.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Shared | None = None
        self._first = NavigatorConfig()
        self._engines: list[Engine] = []

    def build(self, config: NavigatorConfig) -> Engine:
        """An engine as the options say. Only the first one takes time, or who comes while it loads.

        Raises:
            ConfigError: as of :func:`build_engines`; or its model would be another one than that of the
                engines that are there.
        """
        with self._lock:
            if not self._engines:
                self._first, self._loaded = config, _load(config) if config.engine == "qwen" else None
            else:
                _check_same_model(self._first, config)
            (engine,) = [_qwen_on(self._loaded, config)] if self._loaded else build_engines(config, 1)
            self._engines.append(engine)
            return engine

    def release(self, engine: Engine) -> None:
        """Close one that was built here. Forget it, then call :meth:`free_memory`."""
        engine.close()
        with self._lock:
            self._engines = [other for other in self._engines if other is not engine]
            if not self._engines:
                self._loaded = None

    def free_memory(self) -> None:
        """Give back what engines held that were released and forgotten, unless others still hold it."""
        with self._lock:
            if not self._engines:
                free_memory(self._first)

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    def decide(self, engines: Sequence[Engine], queues: Sequence[int]) -> Sequence[ActionChunk | Exception]:
        from vln_ros.engine.batch import decide_together

        with span("decisions of all robots"):
            return decide_together(engines, queues)  # type: ignore[arg-type]

    def work_ahead(self, engines: Sequence[Engine]) -> Sequence[Exception | None]:
        from vln_ros.engine.batch import work_ahead_together

        with span("frames of all robots"):
            return work_ahead_together(engines)  # type: ignore[arg-type]


def _check_same_model(there: NavigatorConfig, config: NavigatorConfig) -> None:
    before, wanted = to_flat(there), to_flat(config)
    names = ("engine", *(f"qwen.{name}" for name in SHARED_OPTIONS if config.engine == "qwen"))
    for name in names:
        if before[name] != wanted[name]:
            raise ConfigError(
                f"{name} = {wanted[name]!r}: another robot of this process has {before[name]!r}, and they "
                "share one model; give them the same, or this one a navigator of its own"
            )


def build_loop(engine: Engine, config: NavigatorConfig) -> DecisionLoop:
    """The decision rule that the options describe, around an engine."""
    nav2 = config.drive == "nav2"
    if nav2 and (config.decide_on != "progress" or config.decide_ahead):
        raise ConfigError(
            f"drive = 'nav2' with decide_on = {config.decide_on!r} and decide_ahead = {config.decide_ahead}: "
            "Nav2 reports goals, not actions; leave progress and 0"
        )
    return DecisionLoop(
        engine,
        config.decide_on,
        config.decide_ahead,
        round(config.lost_after_s * 1e9),
        drive=None
        if nav2 or config.decide_on == "frame"
        else build_drive(config),  # open loop drives nowhere
        guards=ProgressGuards(guard_limits(config)),
        reports_actions=not nav2,
    )


def guard_limits(config: NavigatorConfig) -> GuardLimits:
    """When a run is given up: the options, and the profile's limits where the options leave it to them."""
    declared = GuardLimits()
    if config.engine == "qwen":
        from vln_ros.engine.checkpoint.profile import load_profile

        limits = load_profile(config.qwen.profile).limits
        declared = GuardLimits(
            turns_in_place=limits.turns_in_place, to_and_fro=limits.to_and_fro, stuck=limits.stuck
        )
    chosen = config.guards
    return GuardLimits(
        turns_in_place=declared.turns_in_place if chosen.turns_in_place < 0 else chosen.turns_in_place,
        to_and_fro=declared.to_and_fro if chosen.to_and_fro < 0 else chosen.to_and_fro,
        stuck=declared.stuck if chosen.stuck < 0 else chosen.stuck,
    )


def build_drive(config: NavigatorConfig) -> PlaceDrive | None:
    """What drives to the places that the engine answers; None where it answers none.

    Raises:
        ConfigError: somebody else is to drive.
    """
    if config.drive == "nav2":
        raise ConfigError("drive = 'nav2': only a navigator on a robot has a Nav2; leave drive at queue")
    name = {"qwen": config.qwen.profile, "pixel_oracle": config.pixel_oracle.profile}.get(config.engine)
    if name is None:
        return None
    from vln_ros.engine.checkpoint.profile import load_profile

    spec = load_profile(name).pixel_goal
    if spec is None:
        return None
    nowhere = math.radians(spec.nowhere_turn_deg)
    return PlaceDrive(config.place, _step(config), Action(turn_rad=nowhere) if nowhere else None)


def _step(config: NavigatorConfig) -> StepSize:
    return StepSize(config.step.forward_m, math.radians(config.step.turn_deg))


def _paced(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    from vln_ros.engine.paced import ForwardEngine, PacedEngine

    delay_s = config.paced.decision_ms / 1e3
    return [PacedEngine(ForwardEngine(config.step.forward_m), delay_s) for _ in range(count)]


def _expert(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    path, expert = _episode_file(config), config.expert
    from vln_ros.engine.paced import PacedEngine
    from vln_ros.sim.episodes.episode import read_episodes
    from vln_ros.sim.experts import build_oracle

    episodes = read_episodes(path)
    return [
        PacedEngine(build_oracle(episodes, expert, _step(config)), expert.decision_ms / 1e3)
        for _ in range(count)
    ]


def _pixel_oracle(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    from vln_ros.engine.checkpoint.profile import load_profile

    profile = load_profile(config.pixel_oracle.profile)
    path = _episode_file(config)
    from vln_ros.engine.spoken import SpokenEngine
    from vln_ros.sim.episodes.episode import read_episodes
    from vln_ros.sim.experts import build_pixel_oracle

    episodes = read_episodes(path)
    place = config.place
    room_m = place.robot_radius_m + place.margin_m + 0.05
    return [
        SpokenEngine(
            build_pixel_oracle(episodes, config.expert, config.pixel_oracle, _step(config), room_m),
            profile,
            PixelGoalRules.of(place),
            replace(config.qwen.look_down, picture=config.pixel_oracle.picture),
        )
        for _ in range(count)
    ]


def _episode_file(config: NavigatorConfig) -> Path:
    if not config.expert.episodes:
        raise ConfigError(
            "expert.episodes is empty: the expert only knows the way in episodes; name their file"
        )
    return Path(config.expert.episodes)


MODEL_OPTIONS = ("checkpoint", "device", "dtype", "attention", "quantisation")
"""Of the group qwen: what the weights in memory depend on."""
SHARED_OPTIONS = (
    *MODEL_OPTIONS,
    "accelerate",
    "reuse.enabled",
    "stream.pool_tokens",
    "stream.cache_block_tokens",
)
"""Of the group qwen: what has to be the same for all engines on one model."""


@dataclass(frozen=True)
class _Shared:
    """What the engines on one model have in common."""

    model: LoadedModel
    pool: KVPool | None
    accelerator: Accelerator | None


def _qwen(config: NavigatorConfig, count: int) -> Sequence[Engine]:
    shared = _load(config)
    return [_qwen_on(shared, config) for _ in range(count)]


@contextmanager
def _many_imports() -> Iterator[None]:
    """The collector would search thousands of modules again and again: a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _load(config: NavigatorConfig) -> _Shared:
    from vln_ros.engine.checkpoint.lookup import check_checkpoint
    from vln_ros.engine.checkpoint.options import attention_takes_mask, check_options
    from vln_ros.engine.checkpoint.profile import load_profile

    qwen = config.qwen
    profile = load_profile(qwen.profile)
    if not qwen.checkpoint:  # what drives a robot is never chosen for its owner
        raise ConfigError(
            "qwen.checkpoint is empty: name a folder or hub name of a Qwen2.5-VL checkpoint; profile "
            f"{profile.name} was made for {profile.checkpoint}"
        )
    if qwen.stream.pool_tokens and qwen.accelerate != "none":
        raise ConfigError(
            f"qwen.accelerate = {qwen.accelerate!r} with pool_tokens = {qwen.stream.pool_tokens}: what is "
            "recorded holds memory of its own; set qwen.accelerate to none or qwen.stream.pool_tokens to 0"
        )
    check_options(profile, qwen.stream, qwen.reuse, takes_mask=attention_takes_mask(qwen.attention))
    check_checkpoint(qwen.checkpoint)
    with _many_imports():  # torch: only when it is clear that it is needed
        from vln_ros.engine.checkpoint.model import load_model
        from vln_ros.engine.stream.cache_memory import build_pool
        from vln_ros.engine.stream.layers.accelerate import Accelerator
        from vln_ros.engine.warm_up import warm_up

    with span("model load"):
        model = load_model(qwen.checkpoint, **{name: getattr(qwen, name) for name in MODEL_OPTIONS[1:]})
    with span("warm-up"):
        warm_up(model)
    pool = build_pool(model, qwen.stream, qwen.reuse)
    return _Shared(model, pool, Accelerator.of(qwen.accelerate, model.device))


def _qwen_on(shared: _Shared, config: NavigatorConfig) -> Engine:
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.qwen import QwenEngine
    from vln_ros.engine.warm_up import rehearse

    qwen = config.qwen
    engine = QwenEngine(
        shared.model,
        load_profile(qwen.profile),
        temperature=qwen.temperature,
        seed=qwen.seed,
        sampling=qwen.sampling,
        stream=qwen.stream,
        reuse=qwen.reuse,
        look_down=qwen.look_down,
        place=config.place,
        pool=shared.pool,
        accelerator=shared.accelerator,
    )
    if shared.accelerator is not None:
        with span("warm-up"):
            rehearse(engine)
    return engine
