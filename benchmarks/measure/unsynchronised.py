"""Measures decisions as a robot has them: nothing is waited for between the stages.

A clock that waits for the device at each stage adds waits that are not there otherwise. Here the wall
clock runs from the frame in memory to the queue, CUDA events mark the stages in passing, and a profiler
adds up what the device was busy with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.measure.engine import INSTRUCTION, now_s
from vln_ros.axes import base_from_optical
from vln_ros.config import ProfilingConfig, ReuseConfig, StreamConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ImageSpec, Profile, load_profile
from vln_ros.engine.layer_spans import CudaClock
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.layers.accelerate import Accelerator, record_compiled
from vln_ros.profiling import spans

_ROOM_M = np.array([6.0, 4.0, 1.5])
"""Half of the room's length, width and height; its middle is the origin."""
_FORWARD_M = 0.05
_PROFILED = 2
_WARM_UP = 4
"""Decisions before the ones that are measured: a shape is recorded when it comes the second time."""
_TOKEN_BUDGET = 32768
"""More than is shown; what is recorded holds memory for all of it."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run the engine.

    Attributes:
        profile: its name; its picture size is used with ``own_size``.
        accelerate: as ``qwen.accelerate``.
    """

    name: str
    profile: str = "tiny"
    decode: str = "tree"
    reuse: bool = False
    own_size: bool = False
    accelerate: str = "none"


VARIANTS = (
    Variant(name="tree"),
    Variant(name="tokens", decode="tokens"),
    Variant(name="tree, reuse", reuse=True),
    Variant(name="nine pictures", profile="navida"),
    Variant(name="nine pictures of its size", profile="navida", own_size=True),
    Variant(name="tree, graphs", accelerate="graphs"),
    Variant(name="tokens, graphs", decode="tokens", accelerate="graphs"),
    Variant(name="nine pictures, graphs", profile="navida", accelerate="graphs"),
)
COMPILED = (
    Variant(name="tree, compiled", accelerate="compile"),
    Variant(name="tokens, compiled", decode="tokens", accelerate="compile"),
)
"""They take minutes to begin with."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A span of the engine, per decision.

    Attributes:
        host_s: in it and in no inner span: starting work, and waiting where the code waits.
        device_s: between the marks at its begin and end; None without a device that has such marks.
    """

    count: float
    host_s: float
    device_s: float | None


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A variant's decisions.

    Attributes:
        total_s: each from the frame in memory to the queue.
        busy_s: of a decision, what the device's kernels took; on a processor, its operators.
        kernels: of a decision, likewise.
        peak_bytes: most device memory in use, weights included; None on a processor.
        reused: share of the newest pictures' tokens that was taken over; None without reuse.
        recorded: what became of recording; None without.
    """

    variant: str
    total_s: tuple[float, ...]
    stages: dict[str, Stage]
    busy_s: float
    kernels: float
    peak_bytes: int | None
    context_tokens: int
    actions: float
    reused: float | None
    recorded: str | None


@torch.no_grad()
def measure_undisturbed(
    model: LoadedModel,
    variant: Variant,
    *,
    size: tuple[int, int],
    context_frames: int,
    decisions: int,
    compiler: str = "inductor",
) -> Undisturbed:
    """``decisions`` of them behind a context of ``context_frames``, each with a new frame.

    Args:
        compiler: backend of ``torch.compile``.
    """
    accelerator = Accelerator.of(variant.accelerate, model.device)
    if variant.accelerate == "compile":
        accelerator = Accelerator("compile", partial(record_compiled, backend=compiler))
    engine = _engine(model, variant, accelerator)
    frames = drive(context_frames + _WARM_UP + decisions + _PROFILED, size)
    for _ in range(context_frames):
        engine.observe(next(frames))
        engine.prefill()
    for _ in range(_WARM_UP):  # which closes the turn of the context, too
        _decide(engine, next(frames))
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    found: list[tuple[float, int]] = []
    recorder = spans.start(ProfilingConfig(level="spans"))
    assert recorder is not None
    if model.device.type == "cuda":
        recorder.device_clock = CudaClock()
    try:
        for _ in tqdm(range(decisions), desc=variant.name, unit="decision", disable=None):
            frame = next(frames)
            start = now_s(model)  # the device is idle when the frame comes
            with spans.span(spans.DECISION, frame.index):
                engine.observe(frame)
                chunk = engine.decide(frame.index)
            found.append((time.perf_counter() - start, len(chunk.actions)))  # the queue is on the host
            spans.resume(None)  # what is done while the robot moves belongs to no decision
            engine.work_ahead()
            now_s(model)
            spans.resume(recorder)
    finally:
        spans.stop()
    for track in recorder.tracks:
        if recorder.device_clock is not None:
            track.settle(recorder.device_clock)
    peak = torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else None
    busy_s, kernels = _busy(engine, frames, model)
    stats = engine.reuse_stats()
    context_tokens = engine.session.timeline.tokens
    engine.close()
    return Undisturbed(
        variant=variant.name,
        total_s=tuple(total_s for total_s, _ in found),
        stages=_stages(recorder, decisions),
        busy_s=busy_s,
        kernels=kernels,
        peak_bytes=peak,
        context_tokens=context_tokens,
        actions=float(np.mean([actions for _, actions in found])),
        reused=None if stats is None else stats.reuse,
        recorded=None if accelerator is None else str(accelerator),
    )


def _engine(model: LoadedModel, variant: Variant, accelerator: Accelerator | None) -> QwenEngine:
    profile_ = _profile(variant)
    # Random weights are always in doubt; here half of each frame is computed all the same.
    reuse = ReuseConfig(
        enabled=variant.reuse, budget=0.5, max_drift=3.0, doubt=0.0, window=0, refresh_every=100000
    )
    stream = StreamConfig(decode=variant.decode, min_allowed=0.0, token_budget=_TOKEN_BUDGET)
    engine = QwenEngine(
        model, profile_, temperature=0.0, seed=0, stream=stream, reuse=reuse, accelerator=accelerator
    )
    engine.start(Instruction(1, INSTRUCTION))
    return engine


def _profile(variant: Variant) -> Profile:
    found = load_profile(variant.profile)
    if not variant.own_size:
        found = replace(found, image=ImageSpec(None, None))
    if found.context.strategy == "append":
        found = replace(found, context=replace(found.context, unasked_frames="keep"))
    return found


def _decide(engine: QwenEngine, frame: Frame) -> None:
    engine.observe(frame)
    engine.decide(frame.index)
    engine.work_ahead()


def _stages(recorder: spans.Recorder, decisions: int) -> dict[str, Stage]:
    merged: dict[str, Stage] = {}
    for track in recorder.tracks:
        for name, s in track.statistics.items():
            merged[name] = Stage(
                count=s.count / decisions,
                host_s=s.own / 1e9 / decisions,
                device_s=s.device_ms / 1e3 / decisions if s.device_count else None,
            )
    return merged


def _busy(engine: QwenEngine, frames: Iterator[Frame], model: LoadedModel) -> tuple[float, float]:
    """Seconds and number of kernels of a decision."""
    on_device = model.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_device else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(_PROFILED):
            frame = next(frames)
            engine.observe(frame)
            engine.decide(frame.index)
            now_s(model)
    rows: Sequence[Any] = profiler.key_averages()
    if on_device:
        rows = [r for r in rows if r.device_type.name == "CUDA"]
    took_us = sum(r.self_device_time_total if on_device else r.self_cpu_time_total for r in rows)
    return took_us / 1e6 / _PROFILED, sum(r.count for r in rows) / _PROFILED


def drive(count: int, size: tuple[int, int]) -> Iterator[Frame]:
    """Frames with depth and exact poses: straight on through a textured room, and again from its begin."""
    width, height = size
    camera = CameraModel.from_hfov(width, height, math.radians(79.0))
    extrinsics = base_from_optical(0.0, 0.0, 0.0)
    v, u = np.mgrid[0:height, 0:width]
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], -1)
    lane = np.arange(-3.0, 3.0, _FORWARD_M)
    for i in range(count):
        base = Pose.planar(float(lane[i % len(lane)]), 0.3, 0.0)
        optical = base @ extrinsics
        directions = rays @ optical.rotation.T
        with np.errstate(divide="ignore"):
            reach = (np.copysign(_ROOM_M, directions) - optical.position) / directions
        depth_m = np.where(directions == 0.0, np.inf, reach).min(-1)
        place = optical.position + directions * depth_m[..., None]
        shade = np.cos(place @ [1.3, -2.1, 1.7])
        waves = [np.sin(place @ np.roll([5.0, 3.0, 4.0], colour)) * shade for colour in range(3)]
        rgb = (127.0 + 110.0 * np.stack(waves, -1)).astype(np.uint8)
        yield Frame(i, (i + 1) * 10**8, rgb, depth_m.astype(np.float32), camera, base, optical)
