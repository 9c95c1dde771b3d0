"""`vln_ros bench engine`: the figures mean what they say, and every section can be chosen."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure.counts import (
    counted,
    counting,
    measure_counts,
    measure_shapes,
    shape_without_numbers,
)
from benchmarks.measure.engine import (
    DECODE_MODES,
    STRATEGIES,
    Flat,
    Spread,
    measure_batch,
    measure_context,
    measure_decoding,
    measure_flat,
)
from benchmarks.measure.engine_sections import Deadline
from benchmarks.measure.released import measure_ways
from benchmarks.measure.robots import (
    BY_TURNS,
    TOGETHER,
    few_layers,
    jain,
    measure_crowd,
    measure_newcomer,
)
from benchmarks.measure.unsynchronised import COMPILED, VARIANTS, Variant, drive, measure_undisturbed
from benchmarks.suites import engine as bench_engine
from benchmarks.tables.stages import plot_stages, stages_text
from vln_ros.capacity.roofline import Cost, Peak, Roofline
from vln_ros.capacity.stages import measure_stages, narrowed, published_config, random_model
from vln_ros.capacity.walk import walk
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import ImageSpec, Profile, load_profile
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.stream.segments import Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.tiny import build_tiny

PEAK = Peak(1e9, 1e9, "test")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    build_tiny(path, TinyConfig(hidden=64, heads=2, kv_heads=1, layers=2, vision_hidden=32, vision_depth=2))
    return str(path)


@pytest.fixture(scope="module")
def model(checkpoint: str) -> LoadedModel:
    return load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none")


@pytest.fixture(scope="module")
def profile() -> Profile:
    return replace(load_profile("tiny"), image=ImageSpec((56, 56), None))


def test_spread_is_of_the_values() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.median, spread.count) == (2.0, 3) and spread.p5 < 2.0 < spread.p95


def test_flat_compares_the_last_hundred_with_the_second() -> None:
    steady = tuple([9.0] * 100 + [1.0] * 100 + [5.0] * 100 + [1.05] * 100)
    flat = Flat(1, steady, steady, (1,), (1,), (1,), (3.0,) * 3, (2.0,) * 3, 0, 0)
    assert flat.paired_ratio == 1.5
    assert flat.ratio("frame_s") == pytest.approx(1.05)


def test_a_bounded_stream_is_measured_frame_by_frame(model: LoadedModel, profile: Profile) -> None:
    flat = measure_flat(model, profile, frames=20, token_budget=150)
    assert len(flat.frame_s) == len(flat.cpu_s) == len(flat.resident_bytes) == 20
    assert min(flat.frame_s) > 0 and min(flat.resident_bytes) > 10_000_000
    assert len(flat.old_s) == len(flat.young_s) == 6
    assert flat.cached_tokens[-1] > flat.cached_tokens[0]
    assert len(set(flat.cache_bytes)) == 1  # one block holds it all


def test_robots_together_are_held_to_robots_alone(model: LoadedModel, profile: Profile) -> None:
    batch = measure_batch(model, profile, robots=3, rounds=2, repeats=2)
    assert batch.same_queues and batch.probability_difference <= 1e-4
    assert len(batch.together_s) == len(batch.separate_s) == 4


@pytest.mark.parametrize("decode", ["tree", "tokens"])
def test_many_robots_say_the_same_together_and_by_turns(
    model: LoadedModel, profile: Profile, decode: str
) -> None:
    together, by_turns = (
        measure_crowd(model, profile, robots=3, rounds=2, decode=decode, way=way)
        for way in (TOGETHER, BY_TURNS)
    )
    assert together.queues == by_turns.queues and [len(q) for q in together.queues] == [2, 2, 2]
    for crowd in (together, by_turns):
        assert len(crowd.latency_s) == 6 and min(crowd.latency_s) > 0 and crowd.per_s > 0
        assert crowd.cache_bytes > 0 and 1 / 3 <= crowd.fairness <= 1.0


def test_fairness_is_jain_s_index() -> None:
    assert jain([3, 3, 3, 3]) == 1.0
    assert jain([5, 0, 0, 0]) == 0.25
    assert jain([1, 2]) == pytest.approx(0.9)


def test_a_newcomer_s_prefill_is_parted(model: LoadedModel, profile: Profile) -> None:
    small, whole = (measure_newcomer(model, profile, robots=3, frames=6, chunk_tokens=n) for n in (16, 4096))
    # Its frames are prefilled in parts: more forwards until it has decided.
    assert len(small.gap_s) > len(whole.gap_s) >= 1
    assert len(small.alone_gap_s) == len(whole.alone_gap_s) == 12 and small.took_s > 0


def test_a_released_decoder_with_few_layers(model: LoadedModel) -> None:
    made = random_model(model, few_layers("3B", 2, model.network.config), "meta", torch.float32)
    layer: Any = made.network.model.language_model.layers[1]
    config: Any = model.network.config
    assert len(made.network.model.language_model.layers) == 2
    assert layer.self_attn.q_proj.weight.shape == (2048, 2048)
    assert layer.self_attn.k_proj.weight.shape == (256, 2048)
    assert layer.mlp.gate_proj.weight.shape == (11008, 2048)
    assert made.network.lm_head.weight.shape == (config.text_config.vocab_size, 2048)
    assert made.network.config.image_token_id == config.image_token_id


def test_ways_to_decode_are_counted(model: LoadedModel, profile: Profile) -> None:
    costs = {way: measure_decoding(model, profile, way, 4, 3.0, 8) for way in DECODE_MODES}
    tree, tokens = costs["tree"], costs["tokens"]
    assert tree.queues == tokens.queues
    assert set(tree.forwards) == {1}
    # Token by token: each word and comma but the last is one more forward.
    assert all(f <= 2 * len(q) for f, q in zip(tokens.forwards, tokens.queues, strict=True))
    assert all(f >= 2 * len(q) - 1 for f, q in zip(tokens.forwards, tokens.queues, strict=True))
    assert tree.tokens > tokens.tokens
    assert all(0 < f <= 8 for f in costs["free"].forwards)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_contexts_are_measured_on_one_stream(model: LoadedModel, profile: Profile, strategy: str) -> None:
    profile = replace(profile, image=ImageSpec(None, None))
    frames = list(walk(6, (84, 56)))
    cost = measure_context(model, profile, strategy, frames, every=2)
    assert len(cost.observe_s) == 6 and len(cost.decide_s) == 3
    assert cost.tokens > 0 and cost.flops > 0 and cost.cached_tokens > 0
    patches = 6 * 4  # of one frame
    if strategy == "delayed_batch":
        assert cost.patches == patches * (1 + 2 + 3)  # all again at each question, two frames in a patch
        assert cost.compression == 1.0
    else:
        assert cost.patches == patches * 6
        assert cost.compression is None


def test_roofline_counts_what_torch_counts(checkpoint: str) -> None:
    # Eager: torch counts no fused attention on a CPU.
    model = load_model(checkpoint, device="cpu", dtype="float32", attention="eager", quantisation="none")
    roofline = Roofline(model.network.config, 4)
    (frame,) = walk(1, (140, 112))
    patches = patchify(frame.rgb, model.pixels, None, None)
    with FlopCounterMode(display=False) as counter:
        encode_images(model.network, [patches])
    vision = roofline.vision(patches.grid_h, patches.grid_w)
    assert vision.flops == counter.get_total_flops()

    session = Session(model.network)
    session.push([Text(tuple(range(10, 60)))])
    with FlopCounterMode(display=False) as counter:
        hidden = session.push([Text(tuple(range(10, 40)))])
        logits = session.logits(hidden[-3:])
    assert logits.shape[0] == 3
    cost = roofline.decoder(30, 80) + roofline.head(3)
    # Torch counts a causal product in full; the roofline counts the half that is needed.
    t: Any = model.network.config.text_config
    unseen = 4.0 * t.hidden_size * t.num_hidden_layers * 30 * 30 / 2
    assert cost.flops + unseen == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert session.token_bytes == roofline.token_bytes


def test_roofline_of_the_released_shapes() -> None:
    small, large = (Roofline(published_config(shape), 2) for shape in ("3B", "7B"))
    assert small.token_bytes == 36 * 1024 and large.token_bytes == 56 * 1024
    assert small.vision(34, 46).flops == pytest.approx(2.07e12, rel=0.02)  # 640x480
    base = Peak(989e12, 3.35e12, "H100")
    frame = large.decoder(403, 4096 + 403)
    assert base.least_s(frame) == pytest.approx(6.0e-3, rel=0.1) and base.bound(frame) == "compute"
    step = large.decoder(1, 4096) + large.head(1)
    assert base.least_s(step) == pytest.approx(4.3e-3, rel=0.1) and base.bound(step) == "memory"
    assert base.bound(Cost(1.0, 1e9)) == "memory"


@pytest.mark.parametrize(("shape", "billions"), [("3B", 3.75), ("7B", 8.29)])
def test_released_shapes_have_the_released_number_of_parameters(
    model: LoadedModel, shape: str, billions: float
) -> None:
    made = random_model(model, published_config(shape), "meta", torch.bfloat16)
    assert {p.device.type for p in made.network.parameters()} == {"meta"}
    assert {p.dtype for p in made.network.parameters()} == {torch.bfloat16}
    count = sum(p.numel() for p in made.network.parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


def test_random_weights_are_made_on_the_device_and_decide(
    checkpoint: str, model: LoadedModel, profile: Profile
) -> None:
    made = random_model(model, model.network.config, "cpu", torch.bfloat16)
    frames = list(walk(5, (84, 56)))
    own = replace(profile, image=ImageSpec(None, None))
    found, slow = (
        measure_stages(made, own, frames, context_frames=2, decode=way, peak=PEAK)
        for way in ("tree", "tokens")
    )
    assert len(found) == len(slow) == 2
    assert {d.actions for d in (*found, *slow)} == {4}
    assert {d.stages["decode"].forwards for d in slow} == {
        6
    }  # four words and three commas, the last one free
    for decision in found:
        assert decision.stages["prefill"].forwards == 1
        # Random weights may want what is not among the likeliest queues, which were computed with the frame.
        assert decision.stages["decode"].forwards < 6
        parts = sum(p.seconds for p in decision.stages.values())
        assert math.isclose(parts, decision.total_s, rel_tol=1e-6)
        assert decision.stages["vision"].seconds > 0 and decision.stages["vision"].least_s > 0
    assert found[1].context_tokens > found[0].context_tokens


def test_frames_of_a_drive_fit_together() -> None:
    """Depth and pose of one say where its places are in the next, and those have the same colour there."""
    first, second = drive(2, (64, 48))
    v, u = np.mgrid[0:48, 0:64]
    depth = first.depth_m.astype(np.float64)  # type: ignore[union-attr]
    camera = first.camera
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], -1)
    optical = first.odom_from_optical
    places = (rays * depth[..., None]) @ optical.rotation.T + optical.position
    seen = second.odom_from_optical.inverse()
    x, y, z = np.moveaxis(places @ seen.rotation.T + seen.position, -1, 0)
    column, row = (f * a / z + c for f, a, c in ((camera.fx, x, camera.cx), (camera.fy, y, camera.cy)))
    inside = (z > 0) & (column >= 0) & (column <= 63) & (row >= 0) & (row <= 47)
    assert inside.mean() > 0.9
    column, row, z = column[inside], row[inside], z[inside]
    # On a wall 1 / depth is linear in the picture.
    there = 1.0 / map_coordinates(1.0 / second.depth_m.astype(np.float64), [row, column], order=1)  # type: ignore[union-attr]
    assert np.median(np.abs(there - z)) < 1e-4
    column, row = (np.rint(a).astype(int) for a in (column, row))
    difference = np.abs(second.rgb[row, column].astype(int) - first.rgb[inside].astype(int))
    assert np.median(difference) < 20


@pytest.mark.parametrize("variant", [*VARIANTS, *COMPILED], ids=lambda v: v.name)
def test_decisions_are_measured_without_waits_between_their_stages(
    checkpoint: str, model: LoadedModel, variant: Variant
) -> None:
    size = (224, 112) if variant.reuse else (84, 56)  # two windows of the tower, of which one is passed over
    found = measure_undisturbed(
        model, variant, size=size, context_frames=9, decisions=3, compiler="aot_eager"
    )
    assert len(found.total_s) == 3 and min(found.total_s) > 0
    assert found.busy_s > 0 and found.kernels > 100 and found.context_tokens > 0
    assert found.peak_bytes is None  # a processor's memory is not the device's
    stages = found.stages
    assert {"preprocess", "vision encode", "prefill", "head", "decision"} <= set(stages)
    assert all(stage.device_s is None for stage in stages.values())
    assert sum(stage.host_s for stage in stages.values()) <= 1.05 * sum(found.total_s) / 3
    assert (found.recorded is not None) == (variant.accelerate != "none")
    if variant.accelerate == "graphs":  # not on this device, and it says so
        assert "CUDA" in str(found.recorded)
    if variant.accelerate == "compile":
        assert "none any more" not in str(found.recorded) and "compile: 0 shapes" not in str(found.recorded)
    assert (found.reused is not None) == variant.reuse
    if variant.reuse:
        assert found.reused > 0.0  # type: ignore[operator]
    if variant.decode == "tokens":
        assert stages["decode"].count > 0


def test_a_deadline_ends_nothing_and_begins_nothing() -> None:
    past, far = Deadline(0.0), Deadline(60.0)
    assert not past.allows("a") and not past.allows("b") and past.skipped == ["a", "b"]
    assert far.allows("a") and not far.allows("b", takes_s=90.0) and far.skipped == ["b"]


@pytest.mark.parametrize("shape", ["3B", "7B"])
def test_narrowed_shapes_keep_heads_and_vocabulary(shape: str) -> None:
    full: Any = published_config(shape)
    small: Any = narrowed(full)
    for name in ("num_attention_heads", "num_key_value_heads", "vocab_size", "tie_word_embeddings"):
        assert getattr(small.text_config, name, None) == getattr(full.text_config, name, None)
    assert small.image_token_id == full.image_token_id
    assert small.vision_config.patch_size == full.vision_config.patch_size


@pytest.mark.slow
def test_everything_that_a_gpu_is_to_measure_is_tried_on_a_processor(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", checkpoint, "--quick", "--only", "stages", "--shapes", "3B"]
    assert bench_engine.run(options(*arguments, "--json", str(tmp_path / "s.json"))) == 0
    figures = json.loads((tmp_path / "s.json").read_text())["stages"]
    assert [s["name"] for s in figures["shapes"]] == ["as loaded", "3B narrowed"]
    for shape in figures["shapes"]:
        compiled = COMPILED if "narrowed" in shape["name"] else ()
        assert [u["variant"] for u in shape["undisturbed"]] == [v.name for v in (*VARIANTS, *compiled)]
        assert set(shape["ways"]) == {"tree", "tokens"} and shape["generate"] and not shape["too_late"]
    text = capsys.readouterr().out
    assert "| nine pictures |" in text and "not measured" not in text.lower()
    figures["shapes"][1]["too_late"] = ["3B: generate"]
    figures["shapes"][1]["generate"] = None
    figures["shapes"][1]["ways"] = {}
    assert "Not measured for lack of time: 3B: generate." in stages_text(figures)
    plot_stages(figures, tmp_path / "stages.png")


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench_engine.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.slow
def test_command_writes_tables_json_and_plots(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", checkpoint, "--quick", "--frames", "9", "--shapes"]
    assert bench_engine.run(options(*arguments, "--json", str(tmp_path / "e.json"))) == 0
    said = capsys.readouterr().out
    for name in bench_engine.SECTIONS:
        assert f"== {name}" in said
    figures = json.loads((tmp_path / "e.json").read_text())
    assert set(figures) == {"network", *bench_engine.SECTIONS}
    assert all(figures["forwards"]["same_queues"].values()) and figures["batch"]["same_queues"]
    assert np.isfinite(figures["flat"]["rows"]["frame_s"]["ratio"])
    text = bench_engine.section(figures)
    for part in bench_engine.SECTIONS.values():
        assert f"### {part.title}" in text
    assert "identical" in text and "NOT identical" not in text and "| `window_reset` |" in text
    bench_engine.plot(figures, tmp_path / "plots")
    assert {p.stem for p in (tmp_path / "plots").iterdir()} == set(bench_engine.SECTIONS)


def test_one_section_can_be_chosen(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_engine.run(options("--checkpoint", checkpoint, "--quick", "--only", "batch")) == 0
    said = capsys.readouterr().out
    assert "== batch" in said and "== flat" not in said and "identical" in said and "M parameters" in said


@pytest.mark.parametrize(("flag", "value"), [("--frames", "3"), ("--token-budget", "1")])
def test_bad_arguments(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        bench_engine.run(options(flag, value))


# -- counts ----------------------------------------------------------------------------------------


def test_what_a_device_is_asked_is_counted_and_nothing_else() -> None:
    x = torch.zeros(3, 4, device="meta")
    weight = torch.ones(4, device="meta")
    with counting() as device:
        with counted(device) as tally:
            torch.zeros(5).add(1.0)  # the host's own
            x.view(12)[2:].unsqueeze(0)  # other views
            torch.empty(7, device="meta")
        assert not tally.kernels and not tally.copies
        with counted(device) as tally:
            (x + x) @ x.T
            torch.nn.functional.rms_norm(x, (4,), weight, 1e-6)
            heads = x.view(1, 1, 3, 4)
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        assert tally.kernels == {"add": 1, "mm": 1, "rms_norm": 1, "attention": 1}
        with counted(device) as tally:
            torch.arange(3).to("meta")
            assert x.sum().item() == 0.0
            assert x.cpu().tolist() == [[0.0] * 4] * 3
        assert tally.copies == {"to the device": 1, "to the host": 2}
        assert tally.kernels == {"sum": 1}


@pytest.mark.parametrize("shape", ["3B", "7B"])
def test_a_frame_and_its_decision_are_few_kernels_and_three_copies(model: LoadedModel, shape: str) -> None:
    """At the released depth: 5,005 kernels and some 125 waits or copies with the released forwards."""
    found = measure_counts(
        shape_without_numbers(model, published_config(shape)), load_profile("tiny"), (640, 480), "tree"
    )
    assert 1000 < found.kernels <= 2000
    assert found.copies <= 3
    assert found.decision.kernels["attention"] == 32, "one call for all windows of each block"


def test_a_history_with_a_penalty_is_few_kernels_too(model: LoadedModel) -> None:
    """Its past pictures are kept in main memory, and copied each time that one is shown anew."""
    found = measure_counts(
        shape_without_numbers(model, published_config("3B")), load_profile("navida"), (308, 252), "tree"
    )
    assert 1000 < found.kernels <= 2000


@pytest.mark.slow
def test_the_number_of_recorded_shapes_does_not_grow(model: LoadedModel, profile: Profile) -> None:
    recorded = measure_shapes(model, profile)
    assert len(recorded) == 5
    assert 0 < recorded[1] == recorded[-1]


def test_ways_are_compared_by_turns(model: LoadedModel, profile: Profile) -> None:
    released, ours = measure_ways(model, profile, (56, 56), 3, compiled=False)
    assert (released.way, ours.way) == ("released", "fixed shapes")
    assert released.same == ours.same == len(ours.seconds) == 3
    assert released.difference == 0.0 and ours.difference < 1e-4
