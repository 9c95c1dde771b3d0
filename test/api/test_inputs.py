"""What a caller gives is taken as it is, or refused with what to write instead."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vln_ros.api.inputs import read_choices, read_depth, read_pose, read_rgb
from vln_ros.datatypes import Pose

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
UNIT = RGB.astype(np.float32) / 255
DEPTH = np.full((12, 16), 2.5, np.float32)


def broken_file(folder: Path) -> Image.Image:
    path = folder / "picture.png"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return Image.open(path)


def broken_depth(folder: Path) -> Image.Image:
    path = folder / "depth.tiff"
    Image.fromarray(DEPTH).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    return Image.open(path)


def turned_file(folder: Path) -> Image.Image:
    path, exif = folder / "phone.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif)
    return Image.open(path)


@pytest.mark.parametrize("given", [("yes", "no"), ["yes", "no"]])
def test_choices_that_are_taken(given: Any) -> None:
    assert read_choices(given) == ("yes", "no")
    assert read_choices([]) == ()


@pytest.mark.parametrize(
    "given",
    [
        "yes",
        b"yes",
        None,
        3,
        {"yes": 1, "no": 2},
        {"yes", "no"},
        ["yes", 3],
        np.array(["a"]),
        (c for c in "ab"),
    ],
)
def test_choices_that_are_refused(given: Any) -> None:
    """What can be read only once would be empty when it is used; a set has no order."""
    with pytest.raises(ValueError, match=r"^choices = .*give a list of answers"):
        read_choices(given)


@pytest.mark.parametrize(
    "given",
    [RGB, Image.fromarray(RGB), RGB[:, ::-1][:, ::-1], np.asfortranarray(RGB), RGB.view(np.uint8).copy()],
    ids=["numpy", "pil", "strided", "fortran", "copy"],
)
def test_pictures_that_are_taken(given: Any) -> None:
    assert np.array_equal(read_rgb(given), RGB)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (UNIT, "(rgb * 255).round().astype(np.uint8)"),
        (UNIT.astype(np.float64), "(rgb * 255).round().astype(np.uint8)"),
        (UNIT.astype(np.float16), "(rgb * 255).round().astype(np.uint8)"),
        (RGB.astype(np.float32), "rgb.round().astype(np.uint8)"),
        (RGB.astype(np.int64), "astype(np.uint8)"),
        (RGB.astype(np.uint16) * 257, ">> 8"),
        ((UNIT - 0.45) / 0.22, "undo the normalisation"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (RGB > 7, "a mask is no picture"),
        (RGB.astype(complex), "uint8, 0 to 255"),
        (RGB.astype(object), "uint8, 0 to 255"),
        (RGB.astype("timedelta64[s]"), "uint8, 0 to 255"),
        (np.ma.masked_array(RGB, RGB > 200), "rgb.filled(0)"),
        (RGB[..., 0], "np.repeat(rgb[..., None], 3, axis=2)"),
        (RGB[..., :1], "np.repeat(rgb, 3, axis=2)"),
        (RGB[..., :2], "give [H, W, 3]"),
        (np.dstack([RGB, RGB[..., :1]]), "rgb[..., :3]"),
        (RGB.transpose(2, 0, 1), "transpose(1, 2, 0)"),
        (np.dstack([RGB, RGB[..., :1]]).transpose(2, 0, 1), "rgb[:3].transpose(1, 2, 0)"),
        (RGB[None], "rgb[0]"),
        (np.stack([RGB] * 5), "each of the 5 pictures"),
        (RGB[:0], "there is nothing in it"),
        (np.zeros((1, 201, 3), np.uint8), "at most 200 times"),
        (RGB.reshape(-1), "give [H, W, 3]"),
        (np.uint8(3), "numpy.uint8"),
        (RGB.tolist(), "list: give a numpy array"),
        (RGB.tobytes(), "PIL.Image.open(rgb)"),
        (torch.from_numpy(RGB.copy()), "rgb.cpu().numpy()"),
        ("picture.jpg", "PIL.Image.open(rgb)"),
        (Path("picture.jpg"), "PIL.Image.open(rgb)"),
        (None, "the camera gave no picture"),
        (Image.fromarray(RGB).convert("L"), "mode L: give rgb.convert('RGB')"),
        (Image.fromarray(RGB).convert("RGBA"), "mode RGBA: give rgb.convert('RGB')"),
        (Image.fromarray(RGB).convert("P"), "mode P: give rgb.convert('RGB')"),
        (Image.fromarray(RGB).convert("CMYK"), "mode CMYK: give rgb.convert('RGB')"),
        (Image.fromarray(RGB).convert("1"), "mode 1: give rgb.convert('RGB')"),
        (Image.fromarray(DEPTH), "mode F: give rgb.convert('RGB')"),
    ],
)
def test_pictures_that_are_refused(given: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=r"^rgb ") as caught:
        read_rgb(given)
    assert remedy in str(caught.value)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rgb cannot be read from its file"):
        read_rgb(broken_file(tmp_path))
    with pytest.raises(ValueError, match=r"EXIF orientation 6.*exif_transpose"):
        read_rgb(turned_file(tmp_path))
    with pytest.raises(ValueError, match="depth cannot be read from its file"):
        read_depth(broken_depth(tmp_path), 12, 16)


@pytest.mark.parametrize(
    "given", [DEPTH, DEPTH.astype(np.float64), DEPTH.astype(np.float16), Image.fromarray(DEPTH)]
)
def test_depths_that_are_taken(given: Any) -> None:
    depth_m = read_depth(given, 12, 16)
    assert depth_m.dtype == np.float32 and np.array_equal(depth_m, DEPTH)


def test_no_reading_is_0() -> None:
    given = DEPTH.copy()
    given[0, :4] = np.nan, np.inf, -np.inf, 0.0
    depth_m = read_depth(given, 12, 16)
    assert depth_m[0, :4].tolist() == [0.0] * 4 and np.isnan(given[0, 0])
    assert np.array_equal(depth_m[1:], DEPTH[1:])


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ((DEPTH * 1000).astype(np.uint16), "depth.astype(np.float32) / 1000"),
        ((DEPTH * 1000).astype(np.int32), "depth.astype(np.float32) / 1000"),
        (Image.fromarray((DEPTH * 1000).astype(np.uint16)), "depth.astype(np.float32) / 1000"),
        (DEPTH * 1000, "depth / 1000"),
        (-DEPTH, "give 0 where there is no reading"),
        (DEPTH[..., None], "depth[..., 0]"),
        (DEPTH[None], "depth[0]"),
        (DEPTH[:6, :8], "registered to the picture"),
        (DEPTH.T, "registered to the picture"),
        (RGB, "registered to the picture"),
        (DEPTH > 1, "floating point"),
        (np.ma.masked_array(DEPTH, DEPTH > 1), "depth.filled(0)"),
        (2.5, "float: give a numpy array"),
        (Image.fromarray(RGB), "mode RGB: give one of mode F"),
        ("depth.png", "PIL.Image.open(depth)"),
        (torch.from_numpy(DEPTH.copy()), "depth.cpu().numpy()"),
    ],
)
def test_depths_that_are_refused(given: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=r"^depth ") as caught:
        read_depth(given, 12, 16)
    assert remedy in str(caught.value)


POSE = Pose(np.array([1.0, 2.0, 0.3]), np.array([0.0, 0.0, math.sin(0.4), math.cos(0.4)]))


def test_poses_that_are_taken() -> None:
    assert read_pose(POSE) is POSE
    for matrix in (POSE.matrix, POSE.matrix.astype(np.float32), np.eye(4, dtype=int)):
        assert np.allclose(read_pose(matrix).matrix, matrix, atol=1e-6)


def changed(row: int, column: int, value: float) -> Any:
    matrix = POSE.matrix.copy()
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ((1.0, 2.0, 0.3), "Pose.planar(x_m, y_m, yaw_rad)"),
        ([1.0, 2.0, 0.3], "Pose.planar(x_m, y_m, yaw_rad)"),
        (np.array([1.0, 2.0, 0.3]), "Pose.planar(x_m, y_m, yaw_rad)"),
        (np.array([1.0, 2.0, 0.3, 0.0, 0.0, 0.0, 1.0]), "quaternion_xyzw"),
        (POSE.rotation, "[4, 4] matrix"),
        (POSE.matrix[:3], "[4, 4] matrix"),
        (POSE.matrix.tolist(), "[4, 4] matrix"),
        (POSE.matrix.astype(str), "[4, 4] matrix"),
        ({"x": 1.0}, "dict"),
        ("odom", "str"),
        (changed(0, 3, math.nan), "not finite"),
        (changed(1, 1, math.inf), "not finite"),
        (POSE.matrix * 2.0, "last row"),
        (POSE.matrix.T, "last row"),
        (Pose.planar(0.0, 0.0, 0.3).matrix * np.array([2.0, 2.0, 2.0, 1.0]), "orthonormal"),
        (changed(0, 0, 5.0), "orthonormal"),
        (np.diag([1.0, -1.0, 1.0, 1.0]), "mirror"),
        (np.diag([0.0, 0.0, 0.0, 1.0]), "orthonormal"),
    ],
)
def test_poses_that_are_refused(given: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=r"^pose ") as caught:
        read_pose(given)
    assert remedy in str(caught.value)


def test_a_transposed_matrix_is_named() -> None:
    with pytest.raises(ValueError, match="transposed"):
        read_pose(POSE.matrix.T)
