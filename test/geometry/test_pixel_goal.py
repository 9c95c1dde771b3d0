"""Places of pixel goals against rays through a room of boxes, and in the flats of the embedded world."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import BOX, CAMERA, FLOOR, WALL, Box, depth_of, frame_of, pixel_of, shown

from benchmarks.measure.frames import random_views
from vln_ros.datatypes import CameraModel, Frame, PixelGoal, PlaceGoal, PlaceSource, Pose
from vln_ros.geometry.pixel_goal import PixelGoalLocator, PixelGoalRules, PlaceRefusal, place_of_pixel
from vln_ros.sim.embedded.geodesic import Walkable

RULES = PixelGoalRules(robot_radius_m=0.25, min_height_m=0.1, max_height_m=1.4, max_range_m=10.0)


def located(frame: Frame, goal: PixelGoal, rules: PixelGoalRules = RULES) -> PlaceGoal:
    place = place_of_pixel(goal, frame, rules)
    assert isinstance(place, PlaceGoal), place
    assert place.stamp_ns == frame.stamp_ns
    return place


def from_box(place: PlaceGoal, box: Box) -> float:
    """Distance from a box, seen from above."""
    low, high = np.array(box[0])[:2], np.array(box[1])[:2]
    xy = np.array([place.x_m, place.y_m])
    return float(np.hypot(*np.maximum(np.maximum(low - xy, xy - high), 0.0)))


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-20, 20), st.floats(-20, 20), st.floats(-3.1, 3.1), st.floats(0.3, 1.5), st.floats(0, 0.7),
    st.floats(-0.2, 0.2), st.floats(-0.8, 0.8), st.integers(0, 239), st.integers(0, 319),
)  # fmt: skip
def test_a_floor_pixel_is_where_its_ray_meets_the_floor(
    x: float,
    y: float,
    yaw: float,
    height: float,
    pitch: float,
    roll: float,
    turned: float,
    row: int,
    column: int,
) -> None:
    """Whatever the pose of the base and the mounting of the camera."""
    frame = frame_of(
        FLOOR, base=Pose.planar(x, y, yaw), z_m=height, pitch_down_rad=pitch, roll_rad=roll, yaw_rad=turned
    )
    goal = PixelGoal(row, column, 7)
    seen = shown(frame, goal)
    if not 0 < depth_of(frame)[row, column] < RULES.max_range_m - 2.0:
        return
    place = located(frame, goal)
    away = np.hypot(*(seen - frame.odom_from_optical.position)[:2])
    assert place.source is PlaceSource.DEPTH
    assert place.moved_m == 0.0
    assert (place.x_m, place.y_m) == pytest.approx(tuple(seen[:2]), abs=0.02 + 0.06 * away)
    if row > 150:  # where rows are close together the window's median is that of the pixel
        assert (place.x_m, place.y_m) == pytest.approx(tuple(seen[:2]), abs=0.01 + 0.01 * away)


@pytest.mark.parametrize("height_m", [0.0, 0.05, 0.5, 1.2, 2.0])
@pytest.mark.parametrize("aside_m", [-1.5, 0.0, 0.7])
@pytest.mark.parametrize("yaw_deg", [0, 130])
def test_a_pixel_on_a_wall_is_the_free_place_before_it(
    height_m: float, aside_m: float, yaw_deg: float
) -> None:
    frame = frame_of(FLOOR, WALL, pitch_down_rad=math.radians(5))
    base = Pose.planar(5.0, -3.0, math.radians(yaw_deg))
    frame = replace(frame, odom_from_base=base, odom_from_optical=base @ frame.odom_from_optical)
    goal = pixel_of(frame, *base.transform(np.array([3.999, aside_m, height_m])))
    place = located(frame, goal)
    x, y, _ = base.inverse().transform(np.array([place.x_m, place.y_m, 0.0]))
    assert 4.0 - 0.25 - 0.12 <= x <= 4.0 - 0.25 + 0.01
    assert y == pytest.approx(aside_m, abs=0.15)
    assert place.moved_m == pytest.approx(4.0 - x, abs=0.2)


def test_a_pixel_above_the_horizon_is_the_free_place_before_what_it_shows() -> None:
    frame = frame_of(FLOOR, WALL, pitch_down_rad=0.0)
    place = located(frame, PixelGoal(50, 160, 7))
    assert place.source is PlaceSource.DEPTH
    assert 3.6 <= place.x_m <= 3.76
    above_the_wall = located(frame, PixelGoal(10, 160, 7))
    assert above_the_wall.source is PlaceSource.VIEW
    assert 3.6 <= above_the_wall.x_m <= 3.76


@pytest.mark.parametrize("row", [0, 40, 100])
def test_above_the_horizon_with_nothing_there_it_is_the_farthest_floor_seen_in_that_direction(
    row: int,
) -> None:
    frame = frame_of(FLOOR, pitch_down_rad=0.0)
    goal = PixelGoal(row, 200, 7)
    assert depth_of(frame)[row, 200] == 0.0
    place = located(frame, goal)
    assert place.source is PlaceSource.VIEW
    bearing = math.atan2(-(200 - CAMERA.cx), CAMERA.fx)
    assert math.atan2(place.y_m, place.x_m) == pytest.approx(bearing, abs=0.06)
    assert 7.0 < math.hypot(place.x_m, place.y_m) < 12.5  # the range is a depth: longer aside of the middle


def test_what_stands_in_that_direction_ends_the_way() -> None:
    """Above a box of 0.6 m there is nothing: the place is behind it only if floor is seen there."""
    frame = frame_of(FLOOR, ((2.0, -3, 0), (12.0, 3, 0.6)), pitch_down_rad=0.0)
    place = located(frame, PixelGoal(20, 160, 7))
    assert place.source is PlaceSource.VIEW
    assert place.x_m < 2.0 - 0.25 + 0.01


def test_floor_near_a_wall_moves_aside_and_not_back() -> None:
    """A pixel at the foot of a wall along the way is nearly reached, not given up half way to it."""
    wall = ((-1, 0.8, 0), (9, 1.0, 2.5))
    frame = frame_of(FLOOR, wall)
    place = located(frame, pixel_of(frame, 4.0, 0.75, 0.0))
    assert from_box(place, wall) >= 0.24
    assert math.hypot(place.x_m - 4.0, place.y_m - 0.75) < 0.35
    assert 0.1 < place.moved_m < 0.35


@pytest.mark.parametrize("height_m", [0.05, 0.3, 0.59])
def test_a_pixel_on_a_box_is_before_the_box(height_m: float) -> None:
    frame = frame_of(FLOOR, WALL, BOX)
    place = located(frame, pixel_of(frame, 2.0, 0.1, height_m))
    assert place.x_m < 2.0
    assert 0.24 <= from_box(place, BOX) < 0.45


def test_the_floor_behind_a_box_can_be_gone_to() -> None:
    frame = frame_of(FLOOR, WALL, ((2.0, -0.4, 0), (2.3, 0.4, 0.2)), z_m=1.2, pitch_down_rad=math.radians(20))
    goal = pixel_of(frame, 3.3, 0.0, 0.0)
    place = located(frame, goal)
    assert place.moved_m == 0.0
    assert place.x_m == pytest.approx(3.3, abs=0.05)


@pytest.mark.parametrize("nothing", [0.0, math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize("half", [3, 30])
def test_a_hole_in_the_floor_is_the_floor_along_the_ray(nothing: float, half: int) -> None:
    frame = frame_of(FLOOR, WALL)
    goal = pixel_of(frame, 2.0, -0.3, 0.0)
    depth = depth_of(frame).copy()
    depth[goal.row - half : goal.row + half + 1, goal.column - half : goal.column + half + 1] = nothing
    place = located(replace(frame, depth_m=depth), goal)
    assert place.source is PlaceSource.FLOOR
    assert (place.x_m, place.y_m) == pytest.approx((2.0, -0.3), abs=0.03)


@pytest.mark.parametrize("height_m", [0.45, 1.3])
def test_a_hole_in_a_wall_is_the_wall(height_m: float) -> None:
    """A dark screen, a window: the floor along the ray would lie behind it."""
    frame = frame_of(FLOOR, WALL)
    goal = pixel_of(frame, 3.999, 0.2, height_m)
    depth = depth_of(frame).copy()
    depth[goal.row - 12 : goal.row + 13, goal.column - 12 : goal.column + 13] = 0.0
    place = located(replace(frame, depth_m=depth), goal)
    assert place.source is PlaceSource.DEPTH
    assert 3.6 <= place.x_m <= 3.76


def test_beyond_range_the_way_towards_it_is_gone() -> None:
    hall = (((-1, 1.5, 0), (40, 1.7, 2.5)), ((-1, -1.7, 0), (40, -1.5, 2.5)), ((30, -5, 0), (31, 5, 2.5)))
    frame = frame_of(FLOOR, *hall, z_m=1.25, pitch_down_rad=0.0)
    goal = pixel_of(frame, 29.9, 0.0, 1.0)
    assert depth_of(frame)[goal.row, goal.column] > 20.0
    locator = PixelGoalLocator(RULES)
    place = locator.locate(goal, frame)
    assert isinstance(place, PlaceGoal)
    assert place.source is PlaceSource.VIEW
    assert 7.0 < place.x_m <= 10.01
    assert locator.figures()["pixel goals, depth: beyond range"] == 1


def test_without_depth_the_floor_counts_or_it_is_refused() -> None:
    frame = replace(frame_of(FLOOR, pitch_down_rad=0.0), depth_m=None)
    place = located(frame, pixel_of(frame, 3.0, 0.5, 0.0))
    assert place.source is PlaceSource.FLOOR
    assert (place.x_m, place.y_m) == pytest.approx((3.0, 0.5), abs=0.05)
    for row in (0, 119, 121):  # sky, horizon, floor 200 m away
        assert place_of_pixel(PixelGoal(row, 160, 7), frame, RULES) is PlaceRefusal.NO_FLOOR


def test_nothing_in_the_picture_is_refused() -> None:
    frame = frame_of(pitch_down_rad=-0.6)  # looks up, and sees nothing
    assert place_of_pixel(PixelGoal(200, 160, 7), frame, RULES) is PlaceRefusal.NO_FLOOR


def test_no_room_before_what_is_shown_is_refused() -> None:
    frame = frame_of(FLOOR, ((0.2, -5, 0), (0.4, 5, 2.5)), pitch_down_rad=0.0)
    assert place_of_pixel(PixelGoal(120, 160, 7), frame, RULES) is PlaceRefusal.NOTHING_FREE


@pytest.mark.parametrize(("row", "column"), [(240, 0), (0, 320), (999, 999)])
def test_outside_of_the_picture_is_refused(row: int, column: int) -> None:
    assert place_of_pixel(PixelGoal(row, column, 7), frame_of(FLOOR), RULES) is PlaceRefusal.OUTSIDE


def test_corners_of_the_picture_are_in_it() -> None:
    frame = frame_of(FLOOR, WALL, pitch_down_rad=0.5)
    for row in (0, 239):
        for column in (0, 319):
            located(frame, PixelGoal(row, column, 7))


def test_a_goal_of_another_frame_is_an_error() -> None:
    with pytest.raises(ValueError, match="frame 8"):
        place_of_pixel(PixelGoal(100, 100, 8), frame_of(FLOOR), RULES)


@pytest.mark.parametrize("drop_m", [0.3, 2.0])
def test_a_drop_is_no_floor(drop_m: float) -> None:
    """Stairs down: the pixel shows what lies below them, the robot stops before them."""
    frame = frame_of(((-50, -50, -1), (3, 50, 0)), ((3, -50, -9), (50, 50, -drop_m)), z_m=1.2)
    goal = pixel_of(frame, 3.0 + 3.0 * drop_m, 0.0, -drop_m)
    place = located(frame, goal)
    assert place.x_m < 3.0
    assert place.moved_m > 0.0


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_five_percent_moves_a_place_by_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = frame_of(FLOOR, WALL, z_m=1.25, camera=CameraModel.from_hfov(640, 480, math.radians(79)))
    noisy = depth_of(frame) * (1.0 + 0.05 * rng.standard_normal(depth_of(frame).shape))
    noisy[rng.random(noisy.shape) < 0.1] = 0.0
    noisy[rng.random(noisy.shape) < 0.02] = 0.3  # flying pixels
    frame = replace(frame, depth_m=noisy.astype(np.float32))
    for x, y in rng.uniform((1.8, -1.0), (3.4, 1.0), (20, 2)):
        place = located(frame, pixel_of(frame, x, y, 0.0))
        assert math.hypot(place.x_m - x, place.y_m - y) < 0.04 * math.hypot(x, y) + 0.02


def test_a_base_frame_above_the_floor() -> None:
    """base_link in the middle of the body: heights are told from there."""
    rules = replace(RULES, floor_height_m=-0.4, min_height_m=-0.3, max_height_m=1.0)
    base = Pose(np.array([1.0, 2.0, 0.4]), np.array([0.0, 0.0, 0.0, 1.0]))
    frame = frame_of(FLOOR, ((5, -50, 0), (5.2, 50, 2.5)), base=base, z_m=0.5)
    place = located(frame, pixel_of(frame, 3.0, 2.2, 0.0), rules)
    assert (place.x_m, place.y_m) == pytest.approx((3.0, 2.2), abs=0.03)
    no_depth = replace(frame, depth_m=None)
    place = located(no_depth, pixel_of(frame, 3.0, 2.2, 0.0), rules)
    assert (place.x_m, place.y_m) == pytest.approx((3.0, 2.2), abs=0.03)
    wall = located(frame, pixel_of(frame, 4.999, 2.0, 0.8), rules)
    assert 4.6 <= wall.x_m <= 4.76


def test_what_was_found_and_refused_is_counted() -> None:
    locator = PixelGoalLocator(RULES)
    assert locator.figures() == {}
    frame = frame_of(FLOOR, WALL, pitch_down_rad=math.radians(5))
    hole = depth_of(frame).copy()
    floor = pixel_of(frame, 2.5, 0.0, 0.0)
    hole[floor.row - 8 : floor.row + 9, floor.column - 8 : floor.column + 9] = 0.0
    locator.locate(floor, frame)
    locator.locate(pixel_of(frame, 3.999, 0.0, 1.0), frame)
    locator.locate(floor, replace(frame, depth_m=hole))
    locator.locate(PixelGoal(0, 0, 7), replace(frame, depth_m=None))
    locator.locate(PixelGoal(500, 0, 7), frame)
    assert locator.figures() == {
        "pixel goals": 5,
        "pixel goals by depth at the pixel": 2,
        "pixel goals by floor along the ray": 1,
        "pixel goals moved to a free place": 1,
        "pixel goals, depth: hole, measured around it": 1,
        "pixel goals, depth: no depth image": 1,
        f"pixel goals refused: {PlaceRefusal.NO_FLOOR.value}": 1,
        f"pixel goals refused: {PlaceRefusal.OUTSIDE.value}": 1,
    }
    locator.begin()
    assert locator.figures() == {}


@pytest.mark.parametrize(
    "wrong",
    [{"min_height_m": -0.1}, {"max_height_m": 0.05}, {"robot_radius_m": 0.0}, {"max_range_m": math.inf}],
)
def test_rules_that_contradict_each_other(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(RULES, **wrong)


@pytest.mark.parametrize(
    ("pitch_deg", "noise", "blocked_at_most"), [(0, 0.0, 0.08), (30, 0.0, 0.03), (30, 0.05, 0.03)]
)
def test_in_the_flats_of_the_embedded_world(pitch_deg: float, noise: float, blocked_at_most: float) -> None:
    """Floor pixels are met, and places do not lie in what stands there.

    Of what a picture does not show (a low table right below it) nothing can be known from it alone; a camera
    that looks down shows it.
    """
    camera = CameraModel.from_hfov(320, 240, math.radians(79))
    places = blocked = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for view in random_views(
            seed, 6, camera, pitch_down_rad=math.radians(pitch_deg), spread_m=0.5, spread_rad=0.3
        ):
            frame = replace(view.new, stamp_ns=7)
            true, noisy = frame, depth_of(frame) * (1.0 + noise * rng.standard_normal(depth_of(frame).shape))
            frame = replace(frame, depth_m=noisy.astype(np.float32))
            free = Walkable(view.scene.flat.obstacles, 0.02)
            for _ in range(15):
                goal = PixelGoal(int(rng.integers(240)), int(rng.integers(320)), 7)
                place = place_of_pixel(goal, frame, RULES)
                if isinstance(place, PlaceRefusal):
                    assert place is PlaceRefusal.NOTHING_FREE
                    continue
                seen = shown(true, goal)
                if place.moved_m == 0.0 and abs(seen[2]) < 0.02:
                    away = math.hypot(*(seen - frame.odom_from_optical.position)[:2])
                    error = math.hypot(place.x_m - seen[0], place.y_m - seen[1])
                    assert error < 0.01 + (0.02 + noise) * away
                places += 1
                blocked += not free.contains(np.array([[place.x_m, place.y_m]]))[0]
    assert places > 150
    assert blocked <= blocked_at_most * places
