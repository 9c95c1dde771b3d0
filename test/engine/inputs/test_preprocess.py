"""Pixels equal the released image processor's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as released_smart_resize

from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.checkpoint.settings import PixelSpec, read_pixel_spec
from vln_ros.engine.inputs.preprocess import patchify, smart_resize, stack_video

SPEC = PixelSpec(
    patch_size=14,
    merge_size=2,
    temporal_patch_size=2,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    min_pixels=3136,
    max_pixels=12845056,
)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def released(rgb: np.ndarray, spec: PixelSpec) -> tuple[torch.Tensor, list[int]]:
    processor = Qwen2VLImageProcessorPil(
        patch_size=spec.patch_size,
        merge_size=spec.merge_size,
        temporal_patch_size=spec.temporal_patch_size,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
        size={"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels},
    )
    out = processor(images=[Image.fromarray(rgb)], return_tensors="pt")
    return out["pixel_values"], out["image_grid_thw"][0].tolist()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(20, 300),
    st.integers(20, 300),
    st.sampled_from([(14, 2, 2), (16, 2, 2), (14, 1, 1), (8, 3, 4)]),
    st.sampled_from([(3136, 12845056), (3136, 20000), (60000, 90000)]),
)
def test_patches_equal_the_released_processor(
    width: int, height: int, shape: tuple[int, int, int], bounds: tuple[int, int]
) -> None:
    patch, merge, temporal = shape
    spec = replace(
        SPEC,
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=temporal,
        min_pixels=bounds[0],
        max_pixels=bounds[1],
    )
    rgb = picture(width, height)
    theirs, grid = released(rgb, spec)
    ours = patchify(rgb, spec, None, None)
    assert ours.grid_thw.tolist() == [grid]
    assert ours.patches.dtype == torch.float32
    assert ours.patches.shape == theirs.shape
    assert (ours.patches - theirs).abs().max() < 1e-5


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([28, 32, 14]),
    st.integers(1, 10**5),
    st.integers(10**5, 10**7),
)
def test_smart_resize_equals_the_released_one(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> None:
    def ours() -> tuple[int, int]:
        return smart_resize(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)

    if max(height, width) / min(height, width) > 200:
        with pytest.raises(ValueError, match="200"):
            ours()
        return
    assert ours() == released_smart_resize(height, width, factor, min_pixels, max_pixels)


def test_more_pixels_than_tokens_of_known_sizes() -> None:
    for (width, height), tokens in {
        (640, 480): 391,
        (476, 364): 221,
        (336, 252): 108,
        (224, 224): 64,
    }.items():
        patches = patchify(picture(width, height), SPEC, None, None)
        assert patches.grid_h * patches.grid_w // 4 == tokens


def test_frames_of_the_profiles() -> None:
    """Tokens per 640x480 frame of each released evaluation."""
    for name, grid in {"activevln-r2r": (16, 22), "navida": (18, 22), "internvla-n1-s2": (28, 28)}.items():
        image = load_profile(name).image
        patches = patchify(picture(640, 480), SPEC, image.max_pixels, image.resize)
        assert (patches.grid_h, patches.grid_w) == grid


def test_resize_first_is_pil_then_the_processor() -> None:
    rgb = picture(640, 480)
    resized = np.asarray(Image.fromarray(rgb).resize((384, 384)))
    theirs, grid = released(resized, SPEC)
    ours = patchify(rgb, SPEC, None, (384, 384))
    assert grid == [1, 28, 28]
    assert (ours.patches - theirs).abs().max() < 1e-5


def test_one_patch_by_hand() -> None:
    """Layout without trusting anybody: the second patch of the second window, channel 1, second time."""
    rgb = picture(112, 56)
    patches = patchify(rgb, SPEC, None, None).patches
    row = patches[4 + 1].reshape(3, 2, 14, 14)
    expected = (rgb[0:14, 42:56, 1] / 255 - SPEC.mean[1]) / SPEC.std[1]
    np.testing.assert_allclose(row[1, 1], expected, atol=1e-6)
    np.testing.assert_array_equal(row[1, 0], row[1, 1])


def test_video_shares_temporal_patches() -> None:
    frames = [picture(84, 56, seed) for seed in range(3)]
    video = stack_video(frames, SPEC, None, None)
    assert video.grid_thw.tolist() == [[2, 4, 6]]
    singles = [patchify(f, SPEC, None, None).patches.reshape(24, 3, 2, 14, 14) for f in frames]
    pairs = video.patches.reshape(2, 24, 3, 2, 14, 14)
    for grid, time, frame in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)):
        assert torch.equal(pairs[grid, :, :, time], singles[frame][:, :, time])


def test_read_pixel_spec(tmp_path: Path) -> None:
    settings_file = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": list(SPEC.mean),
        "image_std": list(SPEC.std),
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "size": {"shortest_edge": 1, "longest_edge": 2},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings_file))
    assert read_pixel_spec(tmp_path) == SPEC


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((56, 56), np.uint8),
        np.zeros((56, 56, 4), np.uint8),
        np.zeros((56, 56, 3), np.float32),
        np.zeros((0, 56, 3), np.uint8),
        np.zeros((2, 800, 3), np.uint8),
    ],
)
def test_not_a_picture(rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"rgb must be uint8|empty image|at most 200"):
        patchify(rgb, SPEC, None, None)


def test_not_a_video() -> None:
    with pytest.raises(ValueError, match="at least one"):
        stack_video([], SPEC, None, None)
    with pytest.raises(ValueError, match="differ in shape"):
        stack_video([picture(56, 56), picture(56, 84)], SPEC, None, None)
