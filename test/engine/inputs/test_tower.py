"""The vision tower of fixed shapes says what the released processor, embedding and tower say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine_models import PATCH, tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import ImageSpec
from vln_ros.engine.checkpoint.settings import PixelSpec
from vln_ros.engine.inputs.preprocess import fit, patchify
from vln_ros.engine.inputs.tower import (
    Encode,
    RecordedTower,
    VisionTower,
    encode_pictures,
    tower_of,
    window_tables,
)
from vln_ros.engine.inputs.vision import VisionEncoder, encode_images
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.partial_tower import PartialTower, TowerPart, keep_states, states_of

TOLERANCE = 1e-5
SPEC = PixelSpec(
    patch_size=PATCH,
    merge_size=2,
    temporal_patch_size=2,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    min_pixels=1,
    max_pixels=12845056,
)
SIDE = SPEC.token_side


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model("shipped:tiny", device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Even grey, noise, or black and white: what is far from the mean shows a constant that is wrong."""
    generator = np.random.default_rng(seed)
    noise: npt.NDArray[np.uint8] = generator.integers(0, 256, (height, width, 3), np.uint8)
    if seed % 3 == 1:
        return np.full_like(noise, generator.integers(0, 256))
    return noise // 128 * 255 if seed % 3 == 2 else noise


def released(network: Any, rgb: npt.NDArray[np.uint8], spec: PixelSpec = SPEC) -> Tensor:
    (image,) = encode_images(network, [patchify(rgb, spec, None, None)])
    return image.features


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative to how large the features are."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 11), st.integers(1, 11), st.integers(0, 99))
def test_any_size_of_picture_equals_the_released_forward(height: int, width: int, seed: int) -> None:
    """Whole windows, cut ones at either edge and in the corner, pictures smaller than a window."""
    network = tiny_network()
    rgb = picture(height * SIDE, width * SIDE, seed)
    (ours,) = encode_pictures(VisionTower(network.model.visual, SPEC), [rgb])
    theirs = released(network, rgb)
    assert ours.shape == theirs.shape == (height * width, 64)
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("size", [(112, 112), (480, 640), (364, 476), (252, 308), (224, 308), (384, 384)])
def test_the_shipped_policy_at_sizes_of_robots(shipped: LoadedModel, size: tuple[int, int]) -> None:
    rgb = picture(*size, seed=3)
    encoder = VisionEncoder(shipped, ImageSpec(None, None))
    image = encoder.encode_picture(rgb)
    theirs = released(shipped.network, rgb, shipped.pixels)
    assert image.features.shape == theirs.shape
    assert image.height * image.width == len(theirs)
    assert error(image.features, theirs) < TOLERANCE


@pytest.mark.parametrize("patch", [(2, 2), (4, 4), (8, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_the_folded_patch_embedding_equals_processor_and_convolution(
    patch: tuple[int, int], seed: int
) -> None:
    network = tiny_network()
    tower = VisionTower(network.model.visual, SPEC)
    rgb = picture(patch[0] * SIDE, patch[1] * SIDE, seed)
    with torch.no_grad():
        theirs = network.model.visual.patch_embed(patchify(rgb, SPEC, None, None).patches)
        tables = window_tables(network.model.visual, 2 * patch[0], 2 * patch[1])
        ours = tower.embed(torch.from_numpy(rgb)[None], tables, tower.embedding.folded())[0]
    in_windows = theirs.view(-1, 4, theirs.shape[-1])[tables.tokens].flatten(0, 1)
    assert error(ours, in_windows) < TOLERANCE


def test_pictures_of_several_sizes_are_a_batch_of_each_size() -> None:
    network = tiny_network()
    tower = VisionTower(network.model.visual, SPEC)
    sizes = [(3, 5), (4, 4), (3, 5), (1, 1), (3, 5)]
    pictures = [picture(h * SIDE, w * SIDE, seed) for seed, (h, w) in enumerate(sizes)]
    batches: list[int] = []
    tower.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    for ours, rgb in zip(encode_pictures(tower, pictures), pictures, strict=True):
        assert error(ours, released(network, rgb)) < TOLERANCE
    assert batches == [3, 1, 1]
    assert encode_pictures(tower, []) == []


def test_a_picture_does_not_see_the_others_of_its_batch() -> None:
    tower = VisionTower(tiny_network().model.visual, SPEC)
    one, other, third = (picture(3 * SIDE, 5 * SIDE, seed) for seed in (0, 2, 3))
    first = encode_pictures(tower, [one, other])[0]
    second = encode_pictures(tower, [one, third])[0]
    assert torch.equal(first, second)


class _Waits(TorchDispatchMode):
    """Everything that makes the host wait for a device, or the device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.operations += 1
        if name in {"_local_scalar_dense", "nonzero", "unique_consecutive", "is_nonzero", "equal"}:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("a tensor is read by the host")

    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
            patch.setattr(Tensor, name, read)
        yield


def test_nothing_is_waited_for_once_the_size_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network()
    tower = VisionTower(network.model.visual, SPEC)
    rgb = torch.from_numpy(picture(5 * SIDE, 7 * SIDE))[None]
    first = tower(rgb)
    with _Waits() as waits, no_reading(monkeypatch):
        second = tower(rgb)
    assert waits.operations > 20
    assert waits.found == []
    assert torch.equal(first, second)
    with _Waits() as waits:  # and the test would notice: the released forward reads lengths back
        released(network, picture(5 * SIDE, 7 * SIDE))
    assert waits.found


def test_tables_are_made_once_per_size_and_shared() -> None:
    network = tiny_network()
    tower = tower_of(network, SPEC)
    assert tower_of(network, SPEC) is tower
    assert tower_of(network, replace(SPEC, mean=(0.5, 0.5, 0.5))) is not tower
    tower = tower_of(network, SPEC)
    assert tower.tables(4, 6) is tower.tables(4, 6)
    assert tower.tables(4, 6) is not tower.tables(6, 4)


def see_whole(network: Any) -> Encode:
    return tower_of(network, SPEC)


def see_recorded(network: Any) -> Encode:
    """As a graph: what is recorded reads the very tensors that were there."""
    return RecordedTower(tower_of(network, SPEC), Accelerator("again", lambda work: work))


def see_in_parts(network: Any) -> Encode:
    """By the tower that may pass over windows; all of them are computed."""
    tower = PartialTower(network.model.visual, tower_of(network, SPEC).embedding)

    def encode(pictures: Tensor) -> Tensor:
        grid = pictures.shape[1] // SIDE, pictures.shape[2] // SIDE
        tokens = grid[0] * grid[1]
        with torch.no_grad(), keep_states(network) as noted:
            (image,) = encode_images(network, [patchify(pictures[0].numpy(), SPEC, None, None)])
        source = states_of(network, noted, image.features, grid)
        part = TowerPart(np.ones(tokens, bool), np.arange(tokens), source, tokens)
        return tower.encode(pictures[0], part).features[None]

    return encode


@pytest.mark.parametrize("see", [see_whole, see_recorded, see_in_parts])
def test_weights_that_go_on_training_are_seen(see: Callable[[Any], Encode]) -> None:
    network = Qwen2_5_VLForConditionalGeneration(tiny_network().config).eval().requires_grad_(False)
    encode = see(network)
    rgb = picture(4 * SIDE, 4 * SIDE)
    for _ in range(2):  # what is recorded is run again
        before = encode_pictures(encode, [rgb])[0]
    weights = network.model.visual.patch_embed.proj.weight
    weights.mul_(3.0)
    after = encode_pictures(encode, [rgb])[0]
    assert error(after, before) > 1e-3
    assert error(after, released(network, rgb)) < TOLERANCE
    assert error(encode_pictures(encode, [rgb])[0], released(network, rgb)) < TOLERANCE
    weights.data = weights * 0.5
    assert error(encode_pictures(encode, [rgb])[0], released(network, rgb)) < TOLERANCE


def test_in_half_precision_it_errs_no_more_than_the_released_forward(shipped: LoadedModel) -> None:
    half = load_model("shipped:tiny", device="cpu", dtype="bfloat16", attention="sdpa", quantisation="none")
    for seed in range(3):
        rgb = picture(224, 308, seed)
        exact = released(shipped.network, rgb, shipped.pixels)
        theirs = released(half.network, rgb, half.pixels).float()
        ours = VisionEncoder(half, ImageSpec(None, None)).encode_picture(rgb).features
        assert ours.dtype == torch.bfloat16

        def mean_error(features: Tensor, exact: Tensor = exact) -> float:
            return float((features - exact).abs().mean())

        assert mean_error(ours.float()) < 1.1 * mean_error(theirs)


def test_fit_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="rgb must be uint8"):
        fit(np.zeros((56, 56), np.uint8), SPEC, None, None)
