"""Lenses against OpenCV's own functions, and against their own inverse."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vln_ros.datatypes import CameraModel
from vln_ros.geometry.lens import distort, pixel_directions, reach, undistort, undistortion
from vln_ros.lenses import Lens, LensModel

CAMERA = CameraModel(96, 64, 60.0, 61.5, 47.0, 32.5)
BROWN, FISHEYE = LensModel.BROWN, LensModel.EQUIDISTANT
LENSES = {
    "realsense": Lens(CAMERA, BROWN, (-0.055, 0.065, 0.0006, -0.0004, -0.021)),
    "webcam": Lens(CAMERA, BROWN, (-0.32, 0.11, 0.001, -0.0004, 0.0)),
    "four coefficients": Lens(CAMERA, BROWN, (0.12, -0.05, 0.002, 0.001)),
    "pincushion": Lens(CAMERA, BROWN, (0.2, 0.05, 0.0, 0.0, 0.01)),
    "kinect": Lens(CAMERA, BROWN, (0.4, -2.6, 0.0006, -0.0002, 1.5, 0.28, -2.4, 1.4)),
    "thin prism": Lens(CAMERA, BROWN, (-0.1, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.01, -0.002, 0.004, 0.001)),
    "fisheye": Lens(CAMERA, FISHEYE, (-0.02, 0.01, -0.004, 0.0006)),
    "fisheye without coefficients": Lens(CAMERA, FISHEYE),
}
K = np.array([[CAMERA.fx, 0.0, CAMERA.cx], [0.0, CAMERA.fy, CAMERA.cy], [0.0, 0.0, 1.0]])


def padded(lens: Lens) -> np.ndarray:
    length = 12 if lens.model is BROWN else 4
    return np.array([*lens.coefficients, *[0.0] * length][:length])


def opencv_maps(lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    size = (CAMERA.width, CAMERA.height)
    make = cv2.initUndistortRectifyMap if lens.model is BROWN else cv2.fisheye.initUndistortRectifyMap
    u, v = make(K, padded(lens), np.eye(3), K, size, cv2.CV_32FC1)
    return u, v


@pytest.mark.parametrize("name", LENSES)
def test_a_lens_bends_as_opencvs(name: str) -> None:
    lens = LENSES[name]
    directions = np.random.default_rng(0).uniform(-0.7, 0.7, (200, 2))
    points = np.concatenate([directions, np.ones((200, 1))], 1)[:, None]
    project = cv2.projectPoints if lens.model is BROWN else cv2.fisheye.projectPoints
    if lens.model is BROWN:
        expected, _ = project(points, np.zeros(3), np.zeros(3), K, padded(lens))
    else:
        expected, _ = project(points, np.zeros((3, 1)), np.zeros((3, 1)), K, padded(lens))
    bent = distort(lens, directions)
    found = bent * [CAMERA.fx, CAMERA.fy] + [CAMERA.cx, CAMERA.cy]
    assert np.allclose(found, expected[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", LENSES)
def test_straight_of_bent_is_where_it_came_from(name: str) -> None:
    lens = LENSES[name]
    radii = np.linspace(0.0, min(reach(lens), 3.0) * 0.97, 40)
    angles = np.linspace(0.0, 6.0, 40)
    directions = np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1)
    found = undistort(lens, distort(lens, directions))
    there = np.isfinite(found).all(-1)
    assert np.allclose(found[there], directions[there], atol=1e-5)
    assert np.asarray(there)[radii < 0.8 * min(reach(lens), 1.5)].all()


@pytest.mark.parametrize("name", LENSES)
def test_the_pixels_of_a_camera_look_where_its_lens_says(name: str) -> None:
    lens = LENSES[name]
    directions = pixel_directions(lens)
    there = np.isfinite(directions).all(-1)
    back = distort(lens, directions[there]) * [CAMERA.fx, CAMERA.fy] + [CAMERA.cx, CAMERA.cy]
    v, u = np.nonzero(there)
    assert np.allclose(back, np.stack([u, v], -1), atol=1e-4)
    assert np.asarray(there)[16:48, 24:72].all()


@pytest.mark.parametrize("name", LENSES)
def test_an_undistorted_picture_is_opencvs(name: str) -> None:
    lens = LENSES[name]
    rgb = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    u, v = opencv_maps(lens)
    expected = cv2.remap(rgb, u, v, cv2.INTER_LINEAR)
    found = undistortion(lens).color(rgb)
    inside = (np.rint(u) >= 0) & (np.rint(u) < 96) & (np.rint(v) >= 0) & (np.rint(v) < 64)
    directions = np.indices((64, 96)).transpose(1, 2, 0)[..., ::-1] - [CAMERA.cx, CAMERA.cy]
    within = np.hypot(directions[..., 0] / CAMERA.fx, directions[..., 1] / CAMERA.fy) < reach(lens)
    assert np.array_equal(found[inside & within], expected[inside & within])
    assert not found[~(inside & within)].any()


def test_depth_is_moved_and_not_mixed() -> None:
    lens = LENSES["webcam"]
    depth_m = np.where(np.indices((64, 96))[1] < 48, 1.0, 3.0).astype(np.float32)
    depth_m[10:20, 10:20] = 0.0
    found = undistortion(lens).depth(depth_m)
    assert found.dtype == np.float32
    assert set(np.unique(found)) == {0.0, 1.0, 3.0}
    u, v = opencv_maps(lens)
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    inside = (column >= 0) & (column < 96) & (row >= 0) & (row < 64)
    assert np.array_equal(found[inside], depth_m[row[inside], column[inside]])


def test_beyond_where_a_polynomial_folds_there_is_nothing() -> None:
    wide = Lens(CameraModel(96, 64, 30.0, 30.0, 47.5, 31.5), BROWN, (-0.3, 0.0))
    edge = reach(wide)
    assert edge == pytest.approx(np.sqrt(1.0 / 0.9), abs=2e-3)  # where r - 0.3 r^3 turns
    found = undistortion(wide).color(np.full((64, 96, 3), 255, np.uint8))
    u, v = np.meshgrid(np.arange(96), np.arange(64))
    radius = np.hypot((u - 47.5) / 30.0, (v - 31.5) / 30.0)
    assert not found[radius > edge + 0.01].any()
    assert found[radius < edge - 0.1].any()


def test_an_ideal_lens_changes_nothing() -> None:
    ideal = Lens(CAMERA, BROWN, (0.0,) * 5)
    assert ideal.is_ideal
    assert not Lens(CAMERA, FISHEYE).is_ideal
    rgb = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    assert np.array_equal(undistortion(ideal).color(rgb), rgb)
    assert np.array_equal(pixel_directions(ideal)[0, 0], [-CAMERA.cx / CAMERA.fx, -CAMERA.cy / CAMERA.fy])


@pytest.mark.parametrize("model", LensModel)
def test_coefficients_that_are_none_are_refused(model: LensModel) -> None:
    with pytest.raises(ValueError, match="coefficients"):
        Lens(CAMERA, model, (0.1, float("nan")))
    with pytest.raises(ValueError, match="coefficients"):
        Lens(CAMERA, model, (0.0,) * 14)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of a camera"):
        undistortion(LENSES["webcam"]).color(np.zeros((64, 95, 3), np.uint8))
