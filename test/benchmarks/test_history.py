"""``vln_ros bench history``: its ways differ in what they compute, not in what they say."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure.history import WAYS, measure_way
from benchmarks.suites import history as bench
from vln_ros.capacity.walk import walk
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.tiny import build_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    build_tiny(path, TinyConfig(hidden=64, heads=2, kv_heads=1, layers=2, vision_hidden=32, vision_depth=2))
    return str(path)


def test_every_way_says_the_same_and_computes_less_than_the_one_before(checkpoint: str) -> None:
    model = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    profile = load_profile("navida")
    profile = replace(profile, image=replace(profile.image, resize=(56, 56)))
    frames = list(walk(24, (64, 64)))
    found = {way.name: measure_way(model, profile, way, frames, every=1)[12:] for way in WAYS}
    in_decision = {name: sum(d.rows for d in decisions) for name, decisions in found.items()}
    in_all = {name: sum(d.rows + d.other_rows for d in decisions) for name, decisions in found.items()}
    for choice in ("profile", "stays"):
        anew, kept, ahead = (way.name for way in WAYS if way.choice == choice)
        queues = [[d.chunk.actions for d in found[name]] for name in (anew, kept, ahead)]
        assert queues[0] == queues[1] == queues[2]
        assert in_decision[anew] > in_decision[kept] > in_decision[ahead]
        assert in_all[anew] > in_all[kept] >= in_all[ahead]
        assert in_decision[anew] == in_all[anew] and in_decision[kept] == in_all[kept]
    assert in_all[WAYS[-1].name] < in_all[WAYS[2].name]


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="tiny has context append"):
        bench.run(options("--profiles", "tiny"))
    with pytest.raises(ConfigError, match="two questions must follow"):
        bench.run(options("--frames", "10"))


@pytest.mark.slow
def test_the_command_writes_its_figures(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "history.json"
    arguments = ["--checkpoint", checkpoint, "--profiles", "navida", "--every", "2", "--frames", "16"]
    assert bench.run(options(*arguments, "--json", str(out))) == 0
    figures: dict[str, Any] = json.loads(out.read_text())
    assert [row["way"] for row in figures["rows"]] == [way.name for way in WAYS]
    assert all(row["same_queues"] == row["decisions"] for row in figures["rows"])
    assert bench.section(figures) in capsys.readouterr().out
