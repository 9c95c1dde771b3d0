"""`vln_ros bench prune`: every variant sees the same, and the table says what the figures say."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.suites import prune as bench_prune
from benchmarks.suites.prune import FULL, VARIANTS, Tally, Walk, measure, section, walks
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import ImageSpec, load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench_prune.add_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture(scope="module")
def walk() -> Walk:
    (only,) = walks("room", 1)
    return only


def test_walks_have_frames_and_questions(walk: Walk) -> None:
    assert walk.events[0] is not None and walk.events[1] is None
    frames = [e for e in walk.events if e is not None]
    assert len(frames) > 3 and all(f.depth_m is not None for f in frames)


def test_the_table_is_of_the_same_frames(tmp_path: Path, walk: Walk) -> None:
    torch.set_num_threads(1)
    build_tiny(tmp_path / "c", TinyConfig(hidden=64, heads=2, kv_heads=1, layers=2, vision_depth=2))
    model = load_model(
        str(tmp_path / "c"), device="cpu", dtype="float32", attention="sdpa", quantisation="none"
    )
    profile = replace(load_profile("tiny"), image=ImageSpec((112, 84), None))
    streams = {name: replace(stream, decode="tokens") for name, stream in VARIANTS.items()}
    streams["landmark memory"] = replace(
        streams["landmark memory"], landmarks=replace(streams["landmark memory"].landmarks, plan_tokens=2)
    )
    engines = {
        name: QwenEngine(model, profile, temperature=0.0, seed=0, stream=stream)
        for name, stream in streams.items()
    }
    tallies = {name: Tally() for name in engines}
    measure(Walk(walk.instruction, walk.events[:14]), 0, engines, tallies)
    full = tallies[FULL]
    assert set(full.agreed) == {True} and set(full.kept) == {1.0} and full.taken_in == [1.0]
    assert tallies["landmark memory"].plan_ms[0] > 0 and tallies["landmark memory"].overhead_ms[0] > 0
    assert all(t.kept[-1] < 1.0 for name, t in tallies.items() if "0.5" in name)
    assert tallies["seen, 0.5 m"].taken_in[0] < 1.0 == tallies["voxels, 0.5 m"].taken_in[0]
    text = section({"setting": "test", "variants": {name: vars(t) for name, t in tallies.items()}})
    assert f"| {FULL} | 100% | 100% |" in text and "1.00 (–) | 100%" in text


def test_bad_arguments() -> None:
    for given in (("--episodes", "0"), ("--size", "large")):
        with pytest.raises(ConfigError, match=given[0]):
            bench_prune.run(options(*given))
