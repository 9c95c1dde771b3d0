"""The capacity planner: known rooflines, fits that are exact where they can be, limits that limit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_models import build_small, load_small

import vln_ros
from vln_ros.capacity.estimate import (
    ASSUMED,
    DEVICES,
    STAGES,
    Calibration,
    Device,
    Measured,
    StageFit,
    StageTime,
    Workload,
    calibrate,
    leave_one_out,
    parameters,
    plan,
)
from vln_ros.capacity.roofline import Roofline
from vln_ros.capacity.stages import published_config
from vln_ros.capacity.walk import walk
from vln_ros.cli import build_parser
from vln_ros.cli.bench.record import Machine, Record, write_record
from vln_ros.cli.plan import LONG_RUN_PRIMITIVES, history_pictures
from vln_ros.config import ConfigError, StreamConfig
from vln_ros.datatypes import ActionChunk, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ContextSpec, load_profile
from vln_ros.engine.checkpoint.settings import PixelSpec
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.tower import tower_of
from vln_ros.engine.qwen import QwenEngine

EXACT = Calibration(dict.fromkeys(STAGES, StageFit(0.0, 1.0)), 0.0, "the roofline itself")
RELEASED = PixelSpec(
    patch_size=14,
    merge_size=2,
    temporal_patch_size=2,
    mean=(0.48, 0.46, 0.41),
    std=(0.27, 0.26, 0.28),
    min_pixels=3136,
    max_pixels=12845056,
)
LOAD = Workload(
    grid_h=34,
    grid_w=46,
    frame_tokens=391,
    frames_per_s=5.0,
    decisions_per_s=1.0,
    text_tokens=0,
    question_tokens=1,
    context_tokens=4096,
    tree_nodes=0,
    answer_tokens=8,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_small(build_small(tmp_path_factory.mktemp("tiny") / "checkpoint"))


def roofline(shape: str) -> Roofline:
    return Roofline(published_config(shape), 2)


@pytest.mark.parametrize(
    ("device", "shape", "vision_ms", "prefill_ms", "step_ms"),
    [("h100", "3B", 2.1, 2.8, 1.9), ("thor", "3B", 8, 21, 23), ("orin", "3B", 49, 64, 31),
     ("h100", "7B", 2.1, 6.0, 4.3), ("orin", "7B", 49, 139, 70)],
)  # fmt: skip
def test_the_bound_is_the_one_worked_out_by_hand(
    device: str, shape: str, vision_ms: float, prefill_ms: float, step_ms: float
) -> None:
    found = plan(roofline(shape), DEVICES[device], LOAD, EXACT, 2.0)
    step_s = (found.parts["decode"] + found.parts["head"]) / 7.5  # seven steps, eight heads
    assert 1e3 * found.parts["vision"] == pytest.approx(vision_ms, rel=0.1)
    assert 1e3 * found.parts["frame, question, queues"] == pytest.approx(prefill_ms, rel=0.15)
    assert 1e3 * step_s == pytest.approx(step_ms, rel=0.1)
    assert found.decision_s == pytest.approx(found.least_s)
    assert 1e3 * found.frame_s == pytest.approx(vision_ms + prefill_ms, rel=0.15)  # kept, as in the chat


def test_parameters_are_those_of_the_released_models() -> None:
    assert parameters(roofline("3B")) == pytest.approx(3.75e9, rel=0.02)
    assert parameters(roofline("7B")) == pytest.approx(8.29e9, rel=0.02)


def measured(name: str, fits: dict[str, StageFit], host_s: float, scale: float, layers: int) -> Measured:
    stages = {n: StageTime(f.seconds(layers, scale), layers, scale) for n, f in fits.items()}
    return Measured(name, host_s + sum(s.seconds for s in stages.values()), stages)


def test_what_follows_the_model_is_predicted_exactly() -> None:
    fits = {name: StageFit(0.001 * i, 1.5 + i) for i, name in enumerate(STAGES)}
    seen = [measured(str(k), fits, 0.02, 0.01 * k, 1 + k % 3) for k in range(1, 7)]
    found = calibrate(seen, "test")
    assert found.host_s == pytest.approx(0.02)
    for name, fit in fits.items():
        assert found.stages[name].launch_s == pytest.approx(fit.launch_s, abs=1e-9)
        assert found.stages[name].factor == pytest.approx(fit.factor)
    for error in leave_one_out(seen):
        assert error.relative == pytest.approx(0.0, abs=1e-6)
        assert error.uncalibrated < -0.3


def test_few_measurements_are_used_as_far_as_they_go() -> None:
    (only,) = [measured("a", {"vision": StageFit(0.0, 3.0)}, 0.0, 0.01, 1)]
    found = calibrate([only], "test")
    vision = found.stages["vision"]
    assert vision == StageFit(0.0, vision.factor) and vision.factor == pytest.approx(3.0)
    assert found.stages["decode"] == ASSUMED.stages["decode"]
    assert leave_one_out([only]) == []
    with pytest.raises(ValueError, match="at least one"):
        calibrate([], "test")


def test_levers_pull_in_the_right_direction() -> None:
    base = plan(roofline("7B"), DEVICES["orin"], LOAD, ASSUMED, 2.0)
    small = plan(
        roofline("7B"), DEVICES["orin"], replace(LOAD, grid_h=16, grid_w=16, frame_tokens=64), ASSUMED, 2.0
    )
    assert small.frame_s < base.frame_s / 2
    tree = plan(roofline("7B"), DEVICES["orin"], replace(LOAD, tree_nodes=78), ASSUMED, 2.0)
    assert tree.decision_s < base.decision_s / 2
    # Beyond what the frame itself costs:
    assert tree.decision_s - tree.frame_s < (base.decision_s - base.frame_s) / 3
    quantised = plan(roofline("7B"), DEVICES["orin"], LOAD, ASSUMED, 0.5)
    assert quantised.weights_bytes == base.weights_bytes / 4
    assert quantised.decision_s < base.decision_s
    assert base.memory_bytes(0.0) == base.weights_bytes
    assert base.memory_bytes(1e9) == base.weights_bytes + base.robot_bytes


def test_robots_are_bounded_by_what_runs_out_first() -> None:
    fast = replace(LOAD, frames_per_s=0.01, decisions_per_s=0.01)
    by_memory = plan(roofline("7B"), DEVICES["4090"], replace(fast, context_tokens=30000), EXACT, 2.0)
    assert (by_memory.limit, by_memory.robots) == (
        "memory",
        int((0.9 * 24e9 - by_memory.weights_bytes) / by_memory.robot_bytes),
    )
    assert plan(roofline("7B"), DEVICES["h200"], LOAD, EXACT, 2.0).limit == "time"
    nothing = plan(roofline("7B"), Device(DEVICES["orin"].peak, 8e9), fast, EXACT, 2.0)
    assert (nothing.limit, nothing.robots) == ("memory", 0)
    assert plan(roofline("7B"), DEVICES["orin"], LOAD, EXACT, 2.0).robots == 0  # too slow for one


def command(*arguments: str) -> int:
    options = build_parser().parse_args(["plan", *arguments])
    return int(options.run(options))


def test_the_command_prints_its_assumptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", "3B", "--device", "orin", "--camera", "640x480@2"]
    assert command(*arguments, "--json", str(tmp_path / "plan.json")) == 0
    text = capsys.readouterr().out
    assert "assumed, not measured" in text
    assert "error: unknown" in text
    assert "88 tokens a frame" in text  # 640x480 within 76,800 pixels is 308x224
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["plan"]["robots"] >= 0

    fits = dict.fromkeys(STAGES, StageFit(0.0, 4.0))
    seen = [measured(str(k), fits, 0.0, 0.01 * k, 1) for k in (1, 2, 3)]
    figures = {
        "peak": {"flops_per_s": 1e12, "bytes_per_s": 1e11, "source": "measured"},
        "measured": [
            {"name": m.name, "total_s": m.total_s, "stages": {n: vars(s) for n, s in m.stages.items()}}
            for m in seen
        ],
    }
    machine = Machine(processor="Abacus 9", cores=2, system="Linux", gpu="", versions={}, others=None)
    write_record(
        Record(bench="roofline", command="c", day="2026-11-21", wall_s=1.0, machine=machine, figures=figures),
        tmp_path / "r.json",
    )
    calibrated = [*arguments[:3], "measured", "--calibration", str(tmp_path / "r.json")]
    assert command(*calibrated, "--memory-gb", "8") == 0
    text = " ".join(capsys.readouterr().out.split())  # lines end where the terminal does
    assert "3 measured configurations" in text
    assert "0% in the median, 0% at worst" in text
    with pytest.raises(ConfigError, match="--memory-gb"):
        command(*calibrated)


@pytest.mark.parametrize(
    ("profile", "camera", "tokens", "pictures"),
    [
        ("internvla-n1-s2", "640x480@2", 196, 9),  # 384x384
        ("navida", "640x480@2", 99, 9),  # 308x252
        ("activevln-r2r", "640x480@2", 88, 0),
        ("activevln-r2r", "320x240@2", 88, 0),  # the bound is what the released processor keeps
        ("activevln-rxr", "384x384@2", 81, 0),
    ],
)
def test_pictures_and_tokens_are_those_that_the_engine_shows(
    tmp_path: Path, profile: str, camera: str, tokens: int, pictures: int
) -> None:
    out = tmp_path / "plan.json"
    assert command(
        "--checkpoint", "7B", "--device", "orin", "--profile", profile, "--camera", camera, "--json", str(out)
    ) == 0  # fmt: skip
    load = json.loads(out.read_text())["workload"]
    assert load["asked_pictures"] == pictures
    assert load["frame_tokens"] == tokens
    width, height = (int(side) for side in camera.split("@")[0].split("x"))
    rgb = np.zeros((height, width, 3), np.uint8)
    image = load_profile(profile).image
    patches = patchify(rgb, RELEASED, image.max_pixels, image.resize)
    assert (patches.grid_h, patches.grid_w) == (load["grid_h"], load["grid_w"])
    if pictures:
        assert load["context_tokens"] >= pictures * tokens


def test_a_history_is_prefilled_at_the_question_and_a_stream_when_it_arrives() -> None:
    small = replace(LOAD, frame_tokens=196, tree_nodes=78)
    stream = plan(roofline("7B"), DEVICES["orin"], small, EXACT, 2.0)
    load = replace(small, asked_pictures=9, context_tokens=1900, unasked="seen")
    history = plan(roofline("7B"), DEVICES["orin"], load, EXACT, 2.0)
    assert history.frame_s == history.parts["vision"] == stream.parts["vision"]
    assert stream.frame_s > history.frame_s + 0.03
    rows = roofline("7B").decoder(9 * 196 + load.question_tokens + 78, 1900)
    assert history.parts["pictures, question, queues"] == pytest.approx(DEVICES["orin"].peak.least_s(rows))
    assert history.decision_s > 3 * stream.decision_s
    batch = plan(roofline("7B"), DEVICES["orin"], replace(load, asked_vision=9, unasked="unseen"), EXACT, 2.0)
    assert batch.frame_s == 0.0
    assert batch.parts["vision"] == pytest.approx(9 * stream.parts["vision"])
    assert batch.decision_s > history.decision_s + 8 * stream.parts["vision"]
    dropped = plan(roofline("7B"), DEVICES["orin"], replace(LOAD, restart_pictures=8), EXACT, 2.0)
    assert dropped.restart_s > 0.5 > stream.restart_s == 0.0


def test_the_load_is_that_of_frames_and_of_decisions() -> None:
    load = replace(LOAD, frames_per_s=10.0, decisions_per_s=2.0)
    found = {
        way: plan(roofline("3B"), DEVICES["h100"], replace(load, unasked=way), ASSUMED, 2.0)
        for way in ("unseen", "seen", "prefilled")
    }
    for way, p in found.items():
        assert p.busy == pytest.approx(8 * p.frame_s + 2 * p.decision_s), way
        assert p.filled_after_s == pytest.approx(4096 / 391 / (10 if way == "prefilled" else 2))
    assert found["unseen"].frame_s == 0.0
    assert found["seen"].frame_s == pytest.approx(ASSUMED.host_s + found["seen"].parts["vision"])
    assert len({p.decision_s for p in found.values()}) == 1
    often = plan(roofline("3B"), DEVICES["h100"], replace(load, decisions_per_s=99.0), ASSUMED, 2.0)
    assert often.busy == pytest.approx(10 * often.decision_s)  # each decision has a frame of its own


CONTEXTS = {
    "drop": "{strategy: append, unasked_frames: drop}",
    "keep": "{strategy: append, unasked_frames: keep}",
    "window, drop": "{strategy: window_reset, unasked_frames: drop, reset_steps: 1000, history_frames: 2, "
    "history_choice: uniform_floor}",
    "window, keep": "{strategy: window_reset, unasked_frames: keep, reset_steps: 1000, history_frames: 2, "
    "history_choice: uniform_floor}",
    "history": "{strategy: history, history_frames: 2, history_choice: uniform_round, history_empty: none, "
    "history_limit: 0}",
    "video": "{strategy: delayed_batch, recent_frames: 3, important_frames: 1, important_score: 0.0}",
}


@pytest.mark.parametrize("decode", ["tree", "tokens"])
@pytest.mark.parametrize("unasked", [0, 1, 3])
@pytest.mark.parametrize("context", CONTEXTS)
def test_what_is_planned_is_what_the_engine_runs(
    tmp_path: Path, model: LoadedModel, context: str, unasked: int, decode: str
) -> None:
    """Of a run of the real engine in its loop: so many frames, and then one that is asked about."""
    text = (Path(vln_ros.__file__).parent / "profiles/tiny.yaml").read_text("utf-8")
    mine = tmp_path / "mine.yaml"
    text = re.sub(r"(?m)^context: .*$", f"context: {CONTEXTS[context]}", text)
    if context == "history" or context.startswith("window"):
        text = text.replace('next_turn: "', 'next_turn: "{history}')
    mine.write_text(text, "utf-8")
    out = tmp_path / "plan.json"
    assert command(
        "--checkpoint", "3B", "--device", "orin", "--profile", str(mine), "--decode", decode,
        "--json", str(out),
    ) == 0  # fmt: skip
    planned = json.loads(out.read_text())["plan"]

    stream = StreamConfig(decode=decode, tree_nodes=10_000)
    engine = QwenEngine(model, load_profile(str(mine)), temperature=0.0, seed=0, stream=stream)
    loop = DecisionLoop(engine, "progress", 0, 10**12)
    loop.start(Instruction(1, "go to the red chair"))
    pictures = 0

    def watched(_tower: object, arguments: tuple[Any, ...], named: dict[str, Any], _output: object) -> None:
        nonlocal pictures
        grids = named["grid_thw"] if "grid_thw" in named else arguments[1]
        pictures += int(grids[:, 0].sum())

    def looked(_tower: object, arguments: tuple[Any, ...], _output: object) -> None:
        nonlocal pictures
        pictures += len(arguments[0])

    handles = [  # videos go through the released forward
        model.network.model.visual.register_forward_hook(watched, with_kwargs=True),
        tower_of(model.network, model.pixels).register_forward_hook(looked),
    ]
    counted: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    spoken: list[ActionChunk] = []
    for index, one in enumerate(walk(8 * (unasked + 1), (64, 64))):
        asked = index % (unasked + 1) == unasked
        before = (pictures, engine.forwards)
        if asked and spoken:
            loop.progress(Progress(1, spoken[-1].queue, 0, one.stamp_ns))
        loop.observe(one)
        if asked:
            spoken.append(loop.decide())
        else:
            loop.work_ahead()
        counted[asked].append((pictures - before[0], engine.forwards - before[1]))
    for handle in handles:
        handle.remove()
    # Not the first ones: a run begins with a turn of its own, and a history and a video are still short.
    late = counted[False][4 * unasked :]
    for seen in late:
        assert seen[0] == planned["frame"]["vision"]
        if not planned["ahead_s"]:
            assert seen[1] == planned["frame"]["forwards"]
        else:  # behind whichever frame there is something of the next history to take in
            assert seen[1] <= 1
    if planned["ahead_s"] and unasked:
        assert any(forwards for _, forwards in late)
    for chunk, seen in zip(spoken[4:], counted[True][4:], strict=True):
        assert seen[0] == planned["decision"]["vision"]
        if decode == "tree":
            assert seen[1] == planned["decision"]["forwards"]
        else:  # planned for a queue of full length
            assert 1 <= seen[1] <= planned["decision"]["forwards"], chunk


@pytest.mark.parametrize(
    ("context", "asked", "asked_vision", "restart", "unasked"),
    [
        ("{strategy: window_reset, unasked_frames: keep, reset_steps: 32, history_frames: 8, "
         "history_choice: uniform_floor}", 0, 0, 8, "prefilled"),
        ("{strategy: delayed_batch, recent_frames: 5, important_frames: 3, important_score: 0.1}", 4, 4, 0,
         "unseen"),
        ("{strategy: history, history_frames: 2, history_choice: uniform_round, history_empty: none, "
         "history_limit: 0}", 3, 0, 0, "seen"),
        ("{strategy: append, unasked_frames: keep}", 0, 0, 0, "prefilled"),
        ("{strategy: append, unasked_frames: drop}", 0, 0, 0, "unseen"),
    ],
)  # fmt: skip
def test_each_context_strategy_is_planned_for(
    tmp_path: Path,
    context: str,
    asked: int,
    asked_vision: int,
    restart: int,
    unasked: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (Path(vln_ros.__file__).parent / "profiles/qwen-zero-shot.yaml").read_text("utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(re.sub(r"(?m)^context: .*$", f"context: {context}", text), "utf-8")
    out = tmp_path / "plan.json"
    assert command("--checkpoint", "3B", "--device", "orin", "--profile", str(mine), "--json", str(out)) == 0
    load = json.loads(out.read_text())["workload"]
    found = (load["asked_pictures"], load["asked_vision"], load["restart_pictures"])
    assert found == (asked, asked_vision, restart) and load["unasked"] == unasked
    assert ("begun anew" in capsys.readouterr().out) == bool(restart)


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("choice", ["uniform_round", "uniform_floor", "stays"])
@pytest.mark.parametrize("limit", [0, 100])
def test_pictures_of_a_history_are_counted_as_they_are_shown(step: int, choice: str, limit: int) -> None:
    """Against frames that are held in a list and dropped from it."""
    if choice == "stays" and limit:
        return  # refused in a profile
    spec = ContextSpec("history", history_frames=8, history_choice=choice, history_limit=limit)
    frames: list[int] = []
    before: list[int] = []
    kept: list[int] = []
    new: list[int] = []
    for index in range(LONG_RUN_PRIMITIVES[1]):
        if index >= LONG_RUN_PRIMITIVES[0] and (index - LONG_RUN_PRIMITIVES[0]) % step == 0:
            shown = [frames[i] for i in spec.choose_history(len(frames))]
            same = len([1 for n in range(1, len(shown) + 1) if before[:n] == shown[:n]])
            if before:
                kept.append(same)
                new.append(len(shown) - same)
            before = shown
        frames = [*frames, index][-limit:]
    expected = (float(np.mean(kept)), float(np.mean(new)))
    assert history_pictures(spec, step) == pytest.approx(expected)


def test_a_history_is_planned_for_as_it_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The question prefills one picture; what stays costs less between questions, not in them."""
    plans = {}
    for choice in ("profile", "stays"):
        out = tmp_path / f"{choice}.json"
        assert command(
            "--checkpoint", "3B", "--device", "orin", "--profile", "navida", "--history-choice", choice,
            "--json", str(out),
        ) == 0  # fmt: skip
        plans[choice] = json.loads(out.read_text())
    released, stays = plans["profile"], plans["stays"]
    assert released["workload"]["kept_pictures"] + released["workload"]["ahead_pictures"] == pytest.approx(8)
    assert stays["workload"]["ahead_pictures"] < released["workload"]["ahead_pictures"] / 2
    assert stays["plan"]["decision_s"] == pytest.approx(released["plan"]["decision_s"])
    assert stays["plan"]["ahead_s"] < released["plan"]["ahead_s"] / 2
    assert "prefilled ahead" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has no history"):
        command("--checkpoint", "3B", "--device", "orin", "--history-choice", "stays")


@pytest.mark.parametrize("name", DEVICES)
def test_robots_in_one_batch(name: str) -> None:
    """Never fewer than one by one, within memory, and each waits for all of them."""
    device = DEVICES[name]
    for load in (LOAD, replace(LOAD, tree_nodes=78), replace(LOAD, asked_pictures=9, ahead_pictures=6.0)):
        found = plan(roofline("3B"), device, load, ASSUMED, 0.5)
        assert found.batched_robots >= found.robots
        room = 0.9 * device.memory_bytes - found.weights_bytes
        assert found.batched_robots * found.robot_bytes <= max(room, 0.0)
        assert found.batched_decision_s >= found.decision_s * (1 - 1e-9)


def test_the_readme_has_the_table_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--table") == 0
    table = capsys.readouterr().out.strip()
    readme = (Path(vln_ros.__file__).parent.parent / "README.md").read_text("utf-8")
    assert table in readme, "vln_ros plan --table says something else: put it there"
    assert len(table.splitlines()) == 2 + len(DEVICES)
    with pytest.raises(ConfigError, match=r"--device missing.*--table"):
        command("--checkpoint", "3B")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "640x480"], "WIDTHxHEIGHT@RATE"),
        (["--camera", "640x480@0"], "positive rate"),
        (["--camera", "8x8@1"], "at least 28x28"),
        (["--token-budget", "1"], "--token-budget = 1: must be at least 64"),
        (["--decisions-per-s", "0"], "must be positive"),
        (["--device", "measured"], "needs --calibration"),
        (["--calibration", "missing.json"], "cannot read"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command("--checkpoint", "3B", "--device", "orin", *arguments)
