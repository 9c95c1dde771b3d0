"""Weights quantised when they are loaded: the decoder's and no others; what they say is computed."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vln_ros.config import ProfilingConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together
from vln_ros.engine.checkpoint.files import CheckpointError
from vln_ros.engine.checkpoint.model import QUANTISATIONS, LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.finite import weights_not_finite
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.profiling import spans
from vln_ros.profiling.report import WEIGHTS

LIBRARIES = {"torchao": "torchao", "bitsandbytes": "bitsandbytes"}
WAYS = [name for name in QUANTISATIONS if name != "none"]
TORCHAO = [name for name in WAYS if name.startswith("torchao")]
IDS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    build_tiny(
        folder, TinyConfig(hidden=128, heads=4, kv_heads=2, layers=2, intermediate=256, vision_depth=2)
    )
    return folder


def load(folder: Path, quantisation: str, dtype: str = "float32") -> LoadedModel:
    if quantisation != "none":
        pytest.importorskip(LIBRARIES[quantisation.split("-")[0]], reason="optional")
    return load_model(str(folder), device="cpu", dtype=dtype, attention="sdpa", quantisation=quantisation)


def logits(model: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.network(input_ids=IDS).logits
    return found


def frame(robot: int, index: int) -> Frame:
    rgb = np.random.default_rng([robot, index]).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, index * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


@pytest.mark.parametrize("quantisation", WAYS)
def test_the_decoder_is_quantised_and_nothing_else(checkpoint: Path, quantisation: str) -> None:
    plain, model = load(checkpoint, "none"), load(checkpoint, quantisation)
    there: dict[str, Any] = dict(plain.network.named_parameters())
    small = []
    for name, module in model.network.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight
        same = type(weight) is nn.Parameter and torch.equal(weight, there[f"{name}.weight"])
        if not same:
            small.append(name)
    decoder = [
        name
        for name, module in plain.network.named_modules()
        if isinstance(module, nn.Linear) and ".language_model.layers." in name
    ]
    assert small == decoder and len(decoder) == 2 * 7


@pytest.mark.parametrize(
    ("quantisation", "error"),
    [("torchao-int8", 0.02), ("torchao-fp8", 0.15), ("torchao-int4", 0.3),
     ("bitsandbytes-8bit", 0.08), ("bitsandbytes-4bit", 0.3)],
)  # fmt: skip
def test_quantised_weights_change_the_scores_a_little(
    checkpoint: Path, quantisation: str, error: float
) -> None:
    expected, got = logits(load(checkpoint, "none")), logits(load(checkpoint, quantisation))
    assert 1e-4 < float((got - expected).norm() / expected.norm()) < error


@pytest.mark.parametrize("quantisation", TORCHAO)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_computed_is_what_the_quantised_weights_say(
    checkpoint: Path, quantisation: str, dtype: str
) -> None:
    plain, model = load(checkpoint, "none", dtype), load(checkpoint, quantisation, dtype)
    twin = copy.deepcopy(plain.network)
    for name, module in model.network.named_modules():
        if isinstance(module, nn.Linear) and type(module.weight) is not nn.Parameter:
            weight: Any = module.weight
            twin.get_submodule(name).weight.copy_(weight.dequantize())  # type: ignore[operator, union-attr]
    with torch.no_grad():
        expected = twin(input_ids=IDS).logits
    got = logits(model)
    assert got.dtype is plain.dtype
    limit = 1e-4 if dtype == "float32" else 0.05
    assert float((got - expected).float().norm() / expected.float().norm()) <= limit


@pytest.mark.parametrize("quantisation", WAYS)
def test_robots_on_quantised_weights_decide_together_as_they_would_alone(
    checkpoint: Path, quantisation: str
) -> None:
    model = load(checkpoint, quantisation)

    def robots() -> list[QwenEngine]:
        made = []
        for i in range(3):
            options = StreamConfig(min_allowed=0.0, decode="tokens" if i else "tree")
            made.append(QwenEngine(model, load_profile("tiny"), temperature=0.0, seed=0, stream=options))
            made[-1].start(Instruction(i, f"go to chair {i}"))
        return made

    together, alone = robots(), robots()
    for index in range(3):
        frames = [frame(i, index) for i in range(3)]
        assert observe_together(together, frames) == [None] * 3
        chunks = decide_together(together, [index] * 3)
        for robot, seen, chunk in zip(alone, frames, chunks, strict=True):
            robot.observe(seen)
            expected = robot.decide(index)
            assert not isinstance(chunk, Exception)
            assert chunk.actions == expected.actions
            # This library computes in half precision: with four bits where the processor can, with eight
            # looking for outliers in the columns of all rows of a batch.
            limit = 0.01 if quantisation.startswith("bitsandbytes") else 1e-4
            assert chunk.probabilities == pytest.approx(expected.probabilities, abs=limit)


@pytest.mark.parametrize("quantisation", TORCHAO)
def test_a_scale_that_is_no_number_is_found_by_name(checkpoint: Path, quantisation: str) -> None:
    network = load(checkpoint, quantisation).network
    assert weights_not_finite(network) == []
    weight: Any = network.get_submodule("model.language_model.layers.1.mlp.up_proj").weight
    weight.scale.view(-1)[0] = torch.nan
    (found,) = weights_not_finite(network)
    assert found == "model.language_model.layers.1.mlp.up_proj.weight.scale"


@pytest.mark.parametrize("quantisation", ["torchao-int8", "torchao-fp8"])
def test_the_profiler_sees_the_bytes_that_there_are(checkpoint: Path, quantisation: str) -> None:
    def weights(quantisation: str) -> float:
        recorder = spans.start(ProfilingConfig(level="spans"))
        assert recorder is not None
        try:
            load(checkpoint, quantisation)
        finally:
            spans.stop()
        return recorder.gauges[WEIGHTS][1]

    plain, small = weights("none"), weights(quantisation)
    decoder = 4 * 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)  # float32
    scales = 4 * 2 * (2 * 128 + 2 * 64 + 2 * 256 + 128)
    assert plain - small == pytest.approx(decoder * 3 / 4 - scales, rel=0.01)


def test_a_width_that_four_bits_cannot_group_is_refused_in_a_sentence(tmp_path: Path) -> None:
    logging.disable(logging.CRITICAL)
    try:
        build_tiny(tmp_path / "odd", TinyConfig(hidden=48, heads=3, kv_heads=1, layers=1, vision_depth=1))
        with pytest.raises(CheckpointError, match="quantisation = 'torchao-int4' does not work") as caught:
            load(tmp_path / "odd", "torchao-int4")
    finally:
        logging.disable(logging.NOTSET)
    assert "\n" not in str(caught.value) and "choose another one, or none" in str(caught.value)
