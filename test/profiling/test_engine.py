"""The spans of a real engine: where they lie, that they add up to the decision, and what they leave alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_models import build_small

from vln_ros.config import NavigatorConfig, ProfilingConfig, from_flat
from vln_ros.datatypes import ActionChunk, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.decision import DecisionLoop
from vln_ros.engines import build_engine, build_loop
from vln_ros.profiling import spans
from vln_ros.profiling.report import CACHE_ALLOCATED, CACHE_USED, WEIGHTS
from vln_ros.profiling.timings import Timings, freeze


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build_small(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    spans.stop()


def frame(index: int) -> Frame:
    rgb = np.random.default_rng(index).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, index * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def run(checkpoint: Path, level: str, **stream: str | int) -> tuple[list[ActionChunk], Timings | None]:
    """Six frames, each decided on."""
    recorder = spans.start(ProfilingConfig(level=level))
    options = {"qwen.checkpoint": str(checkpoint), "decide_on": "frame", "qwen.stream.min_allowed": 0.0}
    config = from_flat(NavigatorConfig, options | {f"qwen.stream.{k}": v for k, v in stream.items()})
    loop: DecisionLoop = build_loop(build_engine(config), config)
    loop.start(Instruction(1, "go to the red chair"))
    chunks = []
    for index in range(6):
        loop.observe(frame(index))
        chunks.append(loop.decide())
    return chunks, None if recorder is None else freeze(recorder, "test")


def test_every_stage_has_its_span(checkpoint: Path) -> None:
    _, timings = run(checkpoint, "spans", decode="tokens", recent_turns=2, token_budget=400)
    assert timings is not None
    (thread,) = timings.threads
    counts = {s.name: s.count for s in thread.spans}
    assert counts["model load"] == counts["warm-up"] == counts["instruction"] == 1
    assert counts["frame"] == counts["decision"] == counts["vision encode"] == counts["preprocess"] == 6
    assert counts["prefill"] == 6  # frame and question in one forward
    assert counts["decode"] >= 6
    assert counts["grammar"] == counts["head"] == counts["decode"] + 6
    assert counts["memory: selection"] == counts["memory: eviction"] >= 1
    assert counts["cache allocation"] >= 2
    levels = {g.name: g.last for g in timings.gauges}
    assert 0 < levels[CACHE_USED] <= levels[CACHE_ALLOCATED]
    files = sum(p.stat().st_size for p in checkpoint.glob("*.safetensors"))
    assert levels[WEIGHTS] == pytest.approx(files, rel=0.05)


def test_the_spans_of_a_decision_add_up_to_its_wall_time(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that goes on by one at each look, so that nothing depends on the machine's load."""
    ticks = itertools.count(1)
    clock = SimpleNamespace(monotonic_ns=lambda: next(ticks), time=lambda: 0.0)
    monkeypatch.setattr("vln_ros.profiling.spans.time", clock)
    recorder = spans.start(ProfilingConfig(level="spans"))
    assert recorder is not None
    options = {"qwen.checkpoint": str(checkpoint), "decide_on": "frame", "qwen.stream.min_allowed": 0.0}
    config = from_flat(NavigatorConfig, options)
    loop = build_loop(build_engine(config), config)
    loop.start(Instruction(1, "go to the red chair"))
    loop.observe(frame(0))
    (track,) = recorder.tracks
    before = sum(s.own for s in track.statistics.values())
    begun = next(ticks)
    loop.decide()
    wall = next(ticks) - begun
    inside = sum(s.own for s in track.statistics.values()) - before
    assert inside == track.statistics["decision"].total
    assert wall == inside + 2  # from the look outside to the one inside, at either end
    # Prefill, head, grammar and the first memory of two layers were looked at, and the decision itself.
    assert inside == 2 * 5 + 1


def test_recording_changes_no_decision(checkpoint: Path) -> None:
    plain, nothing = run(checkpoint, "off")
    assert nothing is None
    recorded, _ = run(checkpoint, "spans")
    layered, timings = run(checkpoint, "layers")
    assert plain == recorded == layered
    assert timings is not None
    counts = {s.name: s.count for s in timings.threads[0].spans}
    assert counts["layer 00"] == counts["layer 01"] == 6 + 1  # and the warm-up
    assert counts["vision block 00"] == 6 + 1


def test_reuse_shows_its_gate(checkpoint: Path) -> None:
    recorder = spans.start(ProfilingConfig(level="spans"))
    assert recorder is not None
    options = {"qwen.checkpoint": str(checkpoint), "decide_on": "frame", "qwen.reuse.enabled": True}
    config = from_flat(NavigatorConfig, options)
    loop = build_loop(build_engine(config), config)
    loop.start(Instruction(1, "go to the red chair"))
    loop.observe(frame(0))
    loop.decide()
    (track,) = recorder.tracks
    assert {"reuse sight", "reuse gate", "reuse relevance"} <= set(track.statistics)
