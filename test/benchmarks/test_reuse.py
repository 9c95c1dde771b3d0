"""`vln_ros bench reuse`: its parts measure what they say, and its tables say what was measured."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine_models import tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure.frames import motion_frames, moves
from benchmarks.measure.reuse import measure_behind, measure_drift, measure_gaps, measure_prefill
from benchmarks.measure.reuse_features import (
    compare_windows,
    measure_features,
    refine,
    time_tower,
    unit,
    untouched_share,
)
from benchmarks.measure.reuse_walks import measure_walk, random_model
from benchmarks.suites import reuse as bench_reuse
from benchmarks.suites.reuse import MOTIONS, section
from vln_ros.config import ConfigError, ReuseConfig
from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.geometry.correspondence import Anchors, Correspondence, TokenGrid
from vln_ros.geometry.frame_checks import MotionLimits, pose_jumped


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model("shipped:tiny", device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench_reuse.add_arguments(parser)
    return parser.parse_args(given)


def depth_of(frame: Frame) -> npt.NDArray[np.float32]:
    assert frame.depth_m is not None
    return frame.depth_m


def small(frames: Iterable[Frame]) -> list[Frame]:
    """A quarter of the size, for speed."""
    return [
        replace(
            f,
            rgb=f.rgb[::4, ::4].copy(),
            depth_m=depth_of(f)[::4, ::4].copy(),
            camera=f.camera.resized(160, 120),
        )
        for f in frames
    ]


def test_a_motion_is_what_it_is_called() -> None:
    still, pan, orbit, leap, plate = (
        motion_frames(m, 2) for m in ("static", "pan", "orbit", "teleport", "moving object")
    )
    assert np.array_equal(still[0].rgb, still[1].rgb)
    a, b = (f.odom_from_base for f in pan)
    assert np.array_equal(a.position, b.position) and a.yaw_rad != b.yaw_rad
    for frame in orbit:  # always about the same place, one metre ahead
        assert frame.odom_from_base.transform(np.array([1.0, 0.0, 0.0])) == pytest.approx(
            orbit[0].odom_from_base.transform(np.array([1.0, 0.0, 0.0])), abs=1e-9
        )
    limits = MotionLimits(step_m=1.5, step_rad=1.7)
    assert pose_jumped(leap[0].odom_from_optical, leap[1].odom_from_optical, limits)
    changed = (plate[0].rgb != plate[1].rgb).any(-1)
    assert 0 < changed.mean() < 0.1 and (depth_of(plate[1]) <= depth_of(still[1]) + 1e-6).all()


def test_a_picture_again_is_exact_in_its_own_slots_and_better_when_turned() -> None:
    (half, nothing) = measure_behind(tiny_network(), TokenGrid(4, 5), (0.5, 0.0))
    assert half.own <= 1e-5
    assert 1e-3 < half.rotated < half.unrotated
    assert nothing.rotated == nothing.unrotated == nothing.own == 0.0


def test_drift_grows_only_step_by_step() -> None:
    first, last = measure_drift(tiny_network(), (1, 100), 8)
    assert first.once == first.stepwise
    assert last.once < 0.005 < 0.01 < last.stepwise


def test_prefill_is_timed_at_every_share() -> None:
    first, second = motion_frames("pan", 2)
    figures = measure_prefill(tiny_network(), TokenGrid(17, 23), (0.3, 0.9), (first, second), 1)
    assert [(f.tokens, f.share) for f in figures] == [(391, 0.3), (391, 0.9)]
    assert all(f.low <= f.net <= f.high and f.plan_s > 0 for f in figures)


def test_vision_features_foretell_the_error_best_and_the_tables_show_it(model: LoadedModel) -> None:
    features = measure_features(model, moves(2), (224, 224))
    by_name = {f.feature: f for f in features}
    seen = by_name["vision features"]
    assert seen.error < min(f.error for name, f in by_name.items() if name != "vision features")
    assert seen.rank > max(f.rank for name, f in by_name.items() if "pixels" in name)
    assert np.isnan(by_name["geometry only"].rank)
    tower = time_tower(
        {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 8}, (112, 84), 1
    )
    assert 0.0 < tower.before_full < 0.5
    windows = [
        compare_windows(model, m, small(motion_frames(m, 3)), (160, 120), tower.before_full)
        for m in ("static", "pan", "moving object")
    ]
    assert (windows[0].whole, windows[0].saved) == (2, 0.0)
    assert windows[1].untouched < windows[2].untouched < 1.0
    assert windows[2].saved == windows[2].untouched * tower.before_full
    text = section(
        {
            "features": [{"of": "flats", **asdict(f)} for f in features],
            "windows": {"tower": asdict(tower), "motions": [asdict(w) for w in windows]},
        }
    )
    assert "| flats | 224x224 | vision features |" in text and "| static | 2/2 | 0% |" in text


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_refinement_equals_looking_at_every_neighbour(seed: int, reach: int) -> None:
    rng, grid = np.random.default_rng(seed), TokenGrid(3, 4)
    n = grid.count
    new, *sources = (unit(torch.from_numpy(rng.normal(size=(n, 5)))) for _ in range(3))
    source = rng.integers(-1, 2, n)
    token = np.where(source >= 0, rng.integers(0, n, n), -1)
    nothing, ways = np.full(n, np.nan), np.zeros((n, 2))
    found = Correspondence(
        grid,
        Anchors(np.zeros((n, 2)), nothing),
        source,
        token,
        ways,
        nothing,
        source,
        (1.0, 1.0),
        (1.0, 1.0),
    )
    match = refine(new, sources, found, reach)
    for i in range(n):
        if source[i] < 0:
            assert match.token[i] == -1
            assert math.isnan(match.similarity[i])
            continue
        row, column = divmod(int(token[i]), 4)
        near = [
            r * 4 + c
            for r in range(max(row - reach, 0), min(row + reach, 2) + 1)
            for c in range(max(column - reach, 0), min(column + reach, 3) + 1)
        ]
        scores = [float(sources[source[i]][t] @ new[i]) for t in near]
        assert match.similarity[i] == pytest.approx(max(scores), abs=2e-5)
        assert float(sources[source[i]][match.token[i]] @ new[i]) == pytest.approx(max(scores), abs=2e-5)


def test_drift_shows_poses_that_are_off() -> None:
    grid = TokenGrid(6, 8)
    n = grid.count
    features = unit(torch.randn(n, 16, generator=torch.Generator().manual_seed(0)))
    nothing, zero, ways = np.full(n, np.nan), np.zeros(n, np.int64), np.zeros((n, 2))
    identity = Correspondence(
        grid,
        Anchors(np.zeros((n, 2)), nothing),
        zero,
        np.arange(n),
        ways,
        nothing,
        zero,
        (1.0,),
        (1.0,),
    )
    assert refine(features, [features], identity, 1).drift[0].tolist() == [0.0, 0.0]
    shifted = features.reshape(6, 8, -1).roll(1, 1).reshape(n, -1)  # everything one column to the right
    right, down = refine(features, [shifted], identity, 1).drift[0]
    assert right > 0.7
    assert abs(down) < 0.2
    with pytest.raises(ValueError, match="features"):
        refine(features, [], identity, 1)


def test_windows_are_counted_by_their_tokens(model: LoadedModel) -> None:
    frame = np.zeros((12 * 28, 10 * 28, 3), np.uint8)
    old = patchify(frame, model.pixels, None, None)
    frame[5 * 28, 9 * 28] = 255  # in the middle row of windows, the narrow one at the right
    new = patchify(frame, model.pixels, None, None)
    assert untouched_share(model, old, new, 0.0) == pytest.approx(1 - 4 * 2 / 120)
    assert untouched_share(model, old, old, 0.0) == 1.0
    assert untouched_share(model, old, new, 100.0) == 1.0


def test_gaps_of_a_recording(model: LoadedModel) -> None:
    (one, two) = measure_gaps(model, small(motion_frames("pan", 4)), (1, 2), 1)
    assert 0.5 < one.found <= one.of_four <= 1.0
    assert two.found < one.found and two.found <= two.of_four


def test_the_command_writes_tables_figures_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_reuse, "MOTIONS", ("static", "teleport"))
    monkeypatch.setattr(bench_reuse, "bench_network", tiny_network)
    code = bench_reuse.run(
        options(
            "--only", "geometry", "motions", "drift", "strategies", "--pairs", "1", "--frames", "2",
            "--plots", str(tmp_path / "p"), "--json", str(tmp_path / "f.json"),
        )
    )  # fmt: skip
    assert code == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(figures) == {"geometry", "motions", "drift", "strategies"}
    assert all(f["hidden"] == f["off"] == 0 for f in figures["geometry"])
    assert sum(f["accepted"] for f in figures["geometry"]) > 300
    assert [f["refused"].get("pose jumped", 0) for f in figures["motions"]] == [0, 1]
    contexts = [f["motion"] for f in figures["strategies"]]
    assert {c.split(",")[0] for c in contexts} == {"append", "window_reset", "history"}
    assert len(contexts) == len(set(contexts)) == 4 and all(
        f["decisions"] == 1 for f in figures["strategies"]
    )
    assert section(figures) in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"static.png", "teleport.png"}
    assert len(MOTIONS) == 6


@pytest.mark.parametrize("given", [("--frames", "1"), ("--pairs", "0"), ("--repeats", "0")])
def test_bad_arguments(given: str) -> None:
    with pytest.raises(ConfigError, match=given[0]):
        bench_reuse.run(options(*given))


def test_a_walk_is_timed_frame_by_frame_with_and_without_reuse(model: LoadedModel) -> None:
    decoder = {
        "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    random = random_model(model, 2, 9, decoder, tower)
    config: Any = random.network.config
    assert (config.text_config.num_hidden_layers, config.vision_config.depth) == (2, 9)
    assert config.vision_config.fullatt_block_indexes == [7]
    profile = load_profile("tiny")
    profile = replace(profile, image=replace(profile.image, resize=(320, 240)))
    figures = measure_walk(random, profile, "forward", small(motion_frames("forward", 4)), ReuseConfig())
    assert (figures.frames, figures.parts, figures.refused) == (4, 3, {"first frame": 1})
    assert 0.4 < figures.computed <= 0.51
    assert figures.low <= figures.gain <= figures.high and figures.plan_ms > 0.0
    text = section({"walks": {"depth": [2, 9], "budget": 0.5, "motions": [asdict(figures)]}})
    assert "2 of 36 decoder layers and 9 of 32 vision blocks" in text and "| forward | 3 of 4 |" in text
    whole = measure_walk(random, profile, "pan", small(motion_frames("pan", 2)), ReuseConfig(budget=1.0))
    assert (whole.parts, whole.computed) == (0, 1.0)
