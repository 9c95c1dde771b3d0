"""Registered depth against a loop over pixels, and against rays cast from where the colour camera is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.geometry.lens import pixel_directions
from vln_ros.geometry.registration import SAME_SURFACE, register_depth
from vln_ros.lenses import Lens, LensModel

DepthM = npt.NDArray[np.float32]
COLOR = CameraModel.from_hfov(64, 48, math.radians(79.0))


def optical(right_m: float, down_m: float, ahead_m: float, *angles_deg: float) -> Pose:
    """color_from_depth of a depth camera beside the colour camera, turned a little."""
    roll, pitch, yaw = (math.radians(a) for a in (*angles_deg, 0.0, 0.0, 0.0)[:3])
    here = base_from_optical(0.0, 0.0, 0.0)
    return here.inverse() @ base_from_optical(ahead_m, -right_m, -down_m, roll, pitch, yaw)


def slowly(depth_m: DepthM, lens: Lens, color: CameraModel, color_from_depth: Pose) -> DepthM:
    """One reading after the other."""
    directions = pixel_directions(lens)
    height, width = depth_m.shape
    matrix = color_from_depth.matrix
    places: dict[tuple[int, int], tuple[float, float, float]] = {}
    for row in range(height):
        for column in range(width):
            z = float(depth_m[row, column])
            ray = directions[row, column]
            if z > 0.0 and np.isfinite(ray).all():
                x, y, there = (matrix @ [ray[0] * z, ray[1] * z, z, 1.0])[:3]
                if there > 0.02:
                    u, v = color.fx * x / there + color.cx, color.fy * y / there + color.cy
                    places[row, column] = u, v, there
    out = np.full((color.height, color.width), np.inf, np.float32)

    def edge(here: tuple[int, int], step: tuple[int, int], axis: int, sign: int, half: float) -> float:
        mine, beside = places[here][axis], (here[0] + step[0] * sign, here[1] + step[1] * sign)
        if beside in places:
            a, b = float(depth_m[here]), float(depth_m[beside])
            if abs(a - b) <= SAME_SURFACE * min(a, b) and (places[beside][axis] - mine) * sign > 0:
                return (places[beside][axis] + mine) / 2.0
        return mine + sign * half

    for here, (_, _, there) in places.items():
        size = float(depth_m[here]) / there / 2.0
        half_u, half_v = size * color.fx / lens.camera.fx, size * color.fy / lens.camera.fy
        columns = [edge(here, (0, 1), 0, sign, half_u) for sign in (-1, 1)]
        rows = [edge(here, (1, 0), 1, sign, half_v) for sign in (-1, 1)]
        for v in range(max(0, math.ceil(rows[0])), min(color.height, math.ceil(rows[1]))):
            for u in range(max(0, math.ceil(columns[0])), min(color.width, math.ceil(columns[1]))):
                out[v, u] = min(out[v, u], there)
    out[np.isinf(out)] = 0.0
    return out


def scene(width: int, height: int) -> DepthM:
    """A slanted wall, a post before it, holes."""
    rng = np.random.default_rng(width)
    depth_m = np.add.outer(np.linspace(0.0, 0.4, height), np.linspace(2.0, 3.0, width))
    depth_m[:, width // 3 : width // 2] = 1.0
    depth_m[rng.random(depth_m.shape) < 0.05] = 0.0
    return depth_m.astype(np.float32)


SENSORS = {
    "beside": (Lens(CameraModel.from_hfov(64, 48, 1.4)), optical(0.05, 0.0, 0.0)),
    "above, larger, wider": (Lens(CameraModel.from_hfov(106, 60, 1.7)), optical(0.0, -0.03, 0.01)),
    "half the size, same place": (Lens(CameraModel.from_hfov(32, 24, math.radians(79.0))), Pose.identity()),
    "turned": (Lens(CameraModel.from_hfov(48, 40, 1.2)), optical(-0.02, 0.01, 0.0, 1.0, 6.0, -3.0)),
    "distorted": (
        Lens(CameraModel.from_hfov(64, 48, 1.4), LensModel.BROWN, (-0.25, 0.06, 0.001, 0.0)),
        optical(0.03, 0.0, 0.0),
    ),
    "fisheye": (
        Lens(CameraModel(64, 48, 28.0, 28.0, 31.5, 23.5), LensModel.EQUIDISTANT),
        optical(0, 0, 0.02),
    ),
}


@pytest.mark.parametrize("name", SENSORS)
def test_as_the_loop_over_pixels(name: str) -> None:
    lens, pose = SENSORS[name]
    depth_m = scene(lens.camera.width, lens.camera.height)
    found, expected = register_depth(depth_m, lens, COLOR, pose), slowly(depth_m, lens, COLOR, pose)
    assert found.dtype == np.float32
    assert found.shape == (48, 64)
    # A middle that lies on the edge of a patch may fall to either side: single precision decides.
    assert (np.abs(found - expected) < 1e-4).mean() > 0.995
    assert (found > 0.0).mean() > 0.2


def test_the_same_camera_is_left_as_it_is() -> None:
    depth_m = scene(64, 48)
    assert np.array_equal(register_depth(depth_m, Lens(COLOR), COLOR, Pose.identity()), depth_m)


@pytest.mark.parametrize("size", [(16, 12), (32, 24), (128, 96), (100, 75)])
def test_another_resolution_leaves_a_wall_closed(size: tuple[int, int]) -> None:
    lens = Lens(CameraModel.from_hfov(*size, math.radians(79.0)))
    wall = np.full(size[::-1], 2.0, np.float32)
    assert np.array_equal(
        register_depth(wall, lens, COLOR, Pose.identity()), np.full((48, 64), 2.0, np.float32)
    )


def test_a_hole_stays_one_and_grows_no_reading() -> None:
    lens = Lens(CameraModel.from_hfov(32, 24, math.radians(79.0)))
    wall = np.full((24, 32), 2.0, np.float32)
    wall[10:14, 10:20] = 0.0
    found = register_depth(wall, lens, COLOR, Pose.identity())
    assert not found[20:28, 20:40].any()
    found[20:28, 20:40] = 2.0
    assert (found == 2.0).all()


def test_beside_a_post_there_is_a_shadow_and_the_nearer_wins() -> None:
    """Between post and wall the depth camera, on the right, has seen nothing of what colour sees."""
    lens = Lens(COLOR)
    depth_m = np.full((48, 64), 3.0, np.float32)
    depth_m[:, 30:34] = 1.0
    found = register_depth(depth_m, lens, COLOR, optical(0.1, 0.0, 0.0))
    shift = COLOR.fx * 0.1 * (1.0 / 1.0 - 1.0 / 3.0)
    row = found[24]
    assert (row == 1.0).sum() == 4
    assert row[np.flatnonzero(row == 1.0)[-1] + 1] == 3.0, "on its right it covers the wall"
    hidden = (row[: np.flatnonzero(row == 1.0)[-1] + 8] == 0.0) | (row[:0] == 0.0).any()
    assert abs(int(hidden.sum()) - round(shift)) <= 1


@pytest.mark.parametrize("kind", ["none", "nan", "behind", "beside"])
def test_what_is_not_in_view_leaves_no_reading(kind: str) -> None:
    depth_m = np.full((24, 32), {"none": 0.0, "nan": math.nan}.get(kind, 1.0), np.float32)
    pose = {"behind": optical(0.0, 0.0, -5.0), "beside": optical(50.0, 0.0, 0.0)}.get(kind, Pose.identity())
    lens = Lens(CameraModel.from_hfov(32, 24, 1.0))
    assert not register_depth(depth_m, lens, COLOR, pose).any()


def test_depth_of_another_size_than_its_calibration_is_refused() -> None:
    with pytest.raises(ValueError, match="its camera has"):
        register_depth(np.ones((24, 32), np.float32), Lens(COLOR), COLOR, Pose.identity())
