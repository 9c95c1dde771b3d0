"""The map beside a video's pictures: what is on it, and where."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from vln_ros.datatypes import Float64Array, Pose
from vln_ros.evaluation.episode.maps import map_placement, write_map
from vln_ros.evaluation.episode.record import END_FRAMES, EpisodeInfo, EpisodeRecord, EpisodeRecorder, Step
from vln_ros.evaluation.episode.top_view import TopView
from vln_ros.evaluation.episode.video import FRAME_HEIGHT, VideoWriter

SIDE_PX = 400
TRAIL, GOAL, ROBOT = (43, 125, 233), (26, 143, 75), (28, 36, 48)
START_COLOUR = (43, 125, 233)


class Plan:
    """50 px per metre, the world's origin 1 m inside the lower left corner; the left half is darker."""

    def __init__(self, width_m: float, height_m: float) -> None:
        self._height_px = round(50 * height_m)
        self.image = np.full((self._height_px, round(50 * width_m), 3), 230, np.uint8)
        self.image[:, : round(25 * width_m)] = 180

    def to_pixel(self, xy: Float64Array) -> Float64Array:
        return np.stack([(xy[..., 0] + 1.0) * 50.0, self._height_px - (xy[..., 1] + 1.0) * 50.0], axis=-1)


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> Float64Array:
    """Row and column of the middle of a colour."""
    found = np.argwhere((np.abs(picture.astype(int) - colour) < 12).all(axis=2))
    assert len(found), colour
    return np.asarray(found.mean(axis=0))


@pytest.mark.parametrize("plan", [None, Plan(10.0, 8.0), Plan(60.0, 60.0), Plan(4.0, 14.0)])
def test_robot_goal_and_way_are_where_they_are(plan: Plan | None) -> None:
    """On a grid, on a plan that is shown whole, on a part of one."""
    view = TopView(plan, SIDE_PX, (np.array([2.0, 6.0, 0.0]), 0.5), np.array([[0.0, 0.0], [2.0, 6.0]]))
    for k in range(11):
        view.go(0.2 * k, 0.1 * k, 0.4)
    picture = view.picture()
    assert picture.shape == (SIDE_PX, SIDE_PX, 3) and picture.dtype == np.uint8
    goal, robot, way = (where(picture, c) for c in (GOAL, ROBOT, TRAIL))
    # Rows grow downwards; the way of (2, 1) metres, and that of (2, 6) to the goal, give the scale.
    away = (goal - robot) * [-1.0, 1.0]
    scale = away[0] / 5.0
    assert scale > SIDE_PX / 25.0
    assert abs(away[1]) < 0.2 * scale
    assert (robot - way)[1] / scale == pytest.approx(1.0, abs=0.25)
    assert (way - robot)[0] / scale == pytest.approx(0.5, abs=0.25)


def test_it_grows_where_the_robot_leaves_it_and_shows_the_whole_way() -> None:
    view, seen = TopView(Plan(5.0, 5.0), SIDE_PX, None, None), []
    for k in range(400):
        view.go(0.1 * k, 0.0, 0.0)
        picture = view.picture()
        robot = where(picture, ROBOT)
        assert 4 < robot[1] < SIDE_PX - 4 and 4 < robot[0] < SIDE_PX - 4, k
        seen.append(picture)
    columns = np.flatnonzero((np.abs(seen[-1].astype(int) - TRAIL) < 12).all(axis=2).any(axis=0))
    assert len(columns) > SIDE_PX / 2 and (np.diff(columns) == 1).all(), "a way without a hole"
    grown = sum((a[0] != b[0]).any() for a, b in pairwise(seen))
    assert grown < 20, "it is not drawn anew for every step"


def test_the_heading_shows() -> None:
    looks = []
    for yaw_rad in (0.0, np.pi / 2, np.pi, -np.pi / 2):
        view = TopView(None, SIDE_PX, None, None)
        view.go(0.0, 0.0, yaw_rad)
        looks.append(where(view.picture(), ROBOT))
    east, north, west, south = looks
    assert east[1] < west[1] and north[0] > south[0], "the dart's mass is behind its point"


def test_an_empty_map_is_one() -> None:
    assert TopView(None, SIDE_PX, None, None).picture().shape == (SIDE_PX, SIDE_PX, 3)


def recorder_of(path: Path) -> EpisodeRecorder:
    info = EpisodeInfo(
        episode_id="1", scene_id="flat", instruction="Go.", goal=np.array([3.0, 2.0]), goal_radius_m=1.0
    )
    recorder = EpisodeRecorder(info, VideoWriter(path, 4.0))
    recorder.show_plan(Plan(8.0, 8.0))
    return recorder


def test_a_video_has_the_map_and_notes_which_pose_each_frame_shows(tmp_path: Path) -> None:
    recorder = recorder_of(tmp_path / "video.mp4")
    rgb = np.full((48, 64, 3), 128, np.uint8)
    for k in range(7):
        recorder.step(Step.discrete(k * 10**8, Pose.planar(0.5 * k, 0.0, 0.0), None, False))
        if k % 3 == 0:
            recorder.frame(rgb, None, k * 10**8, None)
    recorder.step(Step.discrete(7 * 10**8, Pose.planar(3.5, 0.0, 0.0), None, False))
    record = recorder.finish("stop", 1.0, None)
    assert record.filmed == (0, 3, 6) + (7,) * END_FRAMES
    assert record.video_frames == len(record.filmed)
    with av.open(str(tmp_path / "video.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    columns = [where(frame[:, -FRAME_HEIGHT:], ROBOT)[1] for frame in frames]
    assert np.diff(columns[:4]) == pytest.approx(
        [1.5 * FRAME_HEIGHT / 8] * 2 + [0.5 * FRAME_HEIGHT / 8], abs=4
    )


def record_of(points: list[tuple[float, float]]) -> EpisodeRecord:
    info = EpisodeInfo(
        episode_id="1", scene_id="flat", instruction="Go.", goal=np.array([3.0, 2.0]), goal_radius_m=1.0
    )
    steps = tuple(
        Step.discrete(k * 10**9, Pose.planar(x, y, 0.3), None, False) for k, (x, y) in enumerate(points)
    )
    return EpisodeRecord(
        info=info, steps=steps, decisions=(), ended="stop", wall_s=1.0, metrics=None, video_frames=0
    )


@pytest.mark.parametrize("plan", [None, Plan(12.0, 12.0), Plan(40.0, 12.0), Plan(12.0, 40.0)])
@pytest.mark.parametrize("points", [[(0.5, 0.5), (2.0, 1.0)], [(0.0, 0.0), (0.1, 9.0)], [(5.0, 4.0)] * 2])
def test_a_map_says_where_its_metres_are(
    tmp_path: Path, plan: Plan | None, points: list[tuple[float, float]]
) -> None:
    from PIL import Image

    write_map(record_of(points), plan, tmp_path / "map.png")
    placement = map_placement(tmp_path / "map.png")
    assert placement is not None
    with Image.open(tmp_path / "map.png") as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    goal, end = placement.shares(np.array([(3.0, 2.0), points[-1]])) * [width, height]
    for (column, row), colour in ((goal, GOAL), (end, ROBOT)):
        around = picture[round(row) - 2 : round(row) + 3, round(column) - 2 : round(column) + 3]
        assert (np.abs(around - colour) < 12).all(axis=2).mean() > 0.5, (colour, around[2, 2])


def test_other_pictures_say_nothing(tmp_path: Path) -> None:
    from PIL import Image, PngImagePlugin

    assert map_placement(tmp_path / "missing.png") is None
    (tmp_path / "text.png").write_bytes(b"png")
    assert map_placement(tmp_path / "text.png") is None
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert map_placement(tmp_path / "plain.png") is None
    for number, text in enumerate(("", "nonsense", "[[1, 2], [3, 4]]", "[[1, 2, NaN], [3, 4, 5]]", "null")):
        said = PngImagePlugin.PngInfo()
        said.add_text("vln_ros map", text)
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png", pnginfo=said)
        assert map_placement(tmp_path / f"{number}.png") is None, text
