"""Numbers that are none: nothing that is not finite comes out of the engine, wherever it got in."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import build_small, eager
from engine_models import load_small as load
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.hooks import RemovableHandle

import vln_ros
from vln_ros.config import LandmarkConfig, ReuseConfig, StreamConfig
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together
from vln_ros.engine.checkpoint.files import CheckpointError
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.finite import NotFiniteError, not_finite, weights_not_finite
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.timeline import SegmentKind
from vln_ros.protocols import EngineError

SHIPPED = Path(vln_ros.__file__).parent / "checkpoints" / "tiny"
BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}
MODES = ("tree", "tokens", "free")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def model(checkpoint: Path) -> LoadedModel:
    """One of its own for each test: it is broken there."""
    return load(checkpoint)


def frame(index: int) -> Frame:
    rgb = np.random.default_rng(index).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    depth = np.full((56, 56), 2.0, np.float32)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, (index + 1) * 10**8, rgb, depth, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def engine(
    model: LoadedModel,
    *,
    temperature: float = 0.0,
    reuse: ReuseConfig | None = None,
    profile: str = "tiny",
    **options: Any,
) -> QwenEngine:
    own = load_profile(profile)
    own = replace(own, image=replace(own.image, resize=(56, 56)))
    robot = QwenEngine(
        model, own, temperature=temperature, seed=0, stream=StreamConfig(**options), reuse=reuse
    )
    robot.start(Instruction(1, "go to the red chair"))
    return robot


def spoil(module: torch.nn.Module, value: float) -> RemovableHandle:
    """``module`` says ``value`` somewhere in what it computes."""

    def hook(_module: object, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., 3] = value
        return output

    return module.register_forward_hook(hook)


PLACES = {
    "vision features": lambda n: n.model.visual.merger,
    "a layer's activations": lambda n: n.model.language_model.layers[0].mlp.down_proj,
    "hidden states": lambda n: n.model.language_model.norm,
    "scores": lambda n: n.lm_head,
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", MODES)
def test_no_way_to_decode_makes_an_action_of_what_is_no_number(
    model: LoadedModel, mode: str, place: str, value: str
) -> None:
    robot = engine(model, decode=mode)
    robot.observe(frame(0))
    robot.decide(1)
    handle = spoil(PLACES[place](model.network), BAD[value])
    robot.observe(frame(1))
    with pytest.raises(EngineError, match="not finite"):
        robot.decide(2)
    handle.remove()
    robot.start(Instruction(2, "go to the red chair"))  # and it begins anew
    robot.observe(frame(0))
    assert robot.decide(3).instruction == 2


@pytest.mark.parametrize("mode", MODES)
def test_sampling_is_no_way_around_it(model: LoadedModel, mode: str) -> None:
    robot = engine(model, decode=mode, temperature=1.0)
    robot.observe(frame(0))
    spoil(model.network.lm_head, math.nan)
    with pytest.raises(NotFiniteError):
        robot.decide(1)


@pytest.mark.parametrize("profile", ["tiny", "navida", "activevln-r2r", "internvla-n1-s2"])
@pytest.mark.parametrize("value", BAD)
def test_every_strategy_finds_a_frame_whose_features_are_none(
    model: LoadedModel, profile: str, value: str
) -> None:
    robot = engine(model, profile=profile)
    handle = spoil(model.network.model.visual.merger, BAD[value])
    robot.observe(frame(0))
    with pytest.raises(NotFiniteError):
        robot.decide(1)
    handle.remove()


@pytest.mark.parametrize("what", ["keys", "values"])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("reuse", [False, True])
def test_a_poisoned_cache_is_found_and_named(model: LoadedModel, reuse: bool, value: str, what: str) -> None:
    """Also where keys and values are taken over from it rather than computed."""
    robot = engine(model, reuse=ReuseConfig(enabled=reuse, doubt=0.0, window=0))
    robot.observe(frame(0))
    robot.decide(1)
    slot = next(
        sum(s.count for s in segments[:i]) + 1
        for segments in [robot.session.timeline.segments]
        for i, s in enumerate(segments)
        if s.kind is SegmentKind.IMAGE
    )
    getattr(robot.session.cache.layers[1], what)[:, :, slot] = BAD[value]
    robot.observe(replace(frame(0), index=1, stamp_ns=10**9))
    with pytest.raises(NotFiniteError, match=rf"{what[:-1]} of token {slot} \(image\) .*layer 1"):
        robot.decide(2)


def test_questions_beside_the_run_are_not_answered_from_it(model: LoadedModel) -> None:
    robot = eager(engine(model))
    robot.observe(frame(0))
    handle = spoil(model.network.lm_head, math.inf)
    before = robot.session.snapshot()
    for ask in (
        lambda: robot.ask("Where are you?", max_tokens=3),
        lambda: robot.ask_choice("Is it red?", ["yes", "no"]),
    ):
        with pytest.raises(NotFiniteError):
            ask()
        assert robot.session.snapshot() == before
    handle.remove()
    assert robot.decide(1).actions


def test_landmarks_are_not_scored_by_it(model: LoadedModel) -> None:
    options = LandmarkConfig(plan="rules", memory=True)
    robot = engine(model, landmarks=options)
    robot.observe(frame(0))
    robot.decide(1)
    spoil(model.network.lm_head, math.nan)
    with pytest.raises(NotFiniteError):
        robot.observe(frame(1))


def test_of_several_robots_only_the_one_that_is_concerned_fails(model: LoadedModel) -> None:
    robots = [engine(model) for _ in range(3)]
    alone = engine(model)
    for robot in (*robots, alone):
        robot.observe(frame(0))
        robot.decide(1)
    robots[1].session.cache.layers[0].values[:, :, 5] = math.nan
    assert observe_together(robots, [frame(1)] * 3) == [None] * 3
    alone.observe(frame(1))
    found = decide_together(robots, [2] * 3)
    assert isinstance(found[1], NotFiniteError)
    assert isinstance(found[0], ActionChunk) and isinstance(found[2], ActionChunk)
    assert found[0].actions == found[2].actions == alone.decide(2).actions


@pytest.mark.parametrize("mode", MODES)
def test_float16_that_overflows_is_told_apart(mode: str) -> None:
    """Large activations, as the released models have."""
    half = load("shipped:tiny", "float16")
    half.network.model.language_model.layers[1].mlp.down_proj.weight.mul_(3e4)
    robot = engine(half, decode=mode)
    robot.observe(frame(0))
    with pytest.raises(NotFiniteError, match="float16 overflows"):
        robot.decide(1)


def test_a_weight_that_breaks_after_loading_is_named(model: LoadedModel) -> None:
    robot = engine(model)
    model.network.model.language_model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    robot.observe(frame(0))
    with pytest.raises(NotFiniteError, match=r"layers\.0\.mlp\.up_proj\.weight"):
        robot.decide(1)


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.down_proj.weight", "visual.blocks.0.norm1.weight", "model.norm.weight"]
)
def test_weights_that_are_none_are_refused_when_loaded(tmp_path: Path, name: str, value: str) -> None:
    shutil.copytree(SHIPPED, tmp_path / "c")
    tensors = load_file(SHIPPED / "model.safetensors")
    tensors[name].view(-1)[-1] = BAD[value]
    save_file(tensors, tmp_path / "c" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are NaN or infinite, e\.g\. .*copy it again"):
        load(tmp_path / "c")


def test_weights_beyond_float16_are_refused_with_the_remedy(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "c")
    tensors = load_file(SHIPPED / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()  # shipped in float16
    tensors["model.norm.weight"][0] = 1e5
    save_file(tensors, tmp_path / "c" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"float16 ends at 65504: load it with dtype bfloat16"):
        load(tmp_path / "c", "float16")
    load(tmp_path / "c", "bfloat16")


def test_every_number_format_is_looked_at() -> None:
    tensors = {
        str(dtype): torch.tensor([1.0, value], dtype=dtype)
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        for value in (math.inf,)
    }
    assert not_finite(tensors.items()) == list(tensors)
    fine = {"float": torch.tensor([3e38, -3e38]), "whole": torch.tensor([7]), "empty": torch.empty(0)}
    assert not_finite(fine.items()) == [] == weights_not_finite(load("shipped:tiny").network)


# -- what leaves the engine ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [*BAD.values(), -0.1, 1.1])
def test_a_queue_has_no_such_probabilities(value: float) -> None:
    forward = Action(forward_m=0.25)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ActionChunk(1, 1, 0, (forward,), (value,))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ActionChunk(1, 1, 0, (forward,), allowed=value)
    with pytest.raises(ValueError):
        Action(forward_m=value if value < 0 or not math.isfinite(value) else math.nan)
