"""The oracle of pixels: what of the way a picture shows, and the words for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import ActionKind, CameraModel, Float64Array, Frame, Instruction, Pose, StepSize
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.expert import Expert
from vln_ros.sim.oracle.pixel_oracle import (
    PixelOracle,
    Point,
    Stop,
    Turn,
    Way,
    corners_of,
    next_stretch,
    turns_of,
)
from vln_ros.sim.splits import SPLIT_STEP, make_episodes

CAMERA = CameraModel.from_hfov(160, 120, math.radians(79.0))
DOWN = base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=math.radians(30.0))
LEVEL = base_from_optical(0.0, 0.0, 1.25)
TURN_RAD = math.radians(15.0)


def floor_frame(pose: Pose = Pose.identity(), extrinsics: Pose = DOWN, wall_m: float | None = None) -> Frame:  # noqa: B008
    """A floor without end, and a wall across the x axis at ``wall_m``."""
    optical = pose @ extrinsics
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], -1)
    x, _, z = np.moveaxis(rays @ optical.rotation.T, -1, 0)
    with np.errstate(divide="ignore"):
        depth = np.where(z < -1e-6, -optical.position[2] / z, np.inf)
        if wall_m is not None:
            depth = np.minimum(depth, np.where(x > 1e-6, (wall_m - optical.position[0]) / x, np.inf))
    depth_m = np.where(depth < 30.0, depth, 0.0).astype(np.float32)
    rgb = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    return Frame(0, 1, rgb, depth_m, CAMERA, pose, optical)


def straight(*corners: tuple[float, float]) -> Way:
    """A way with these corners, from wherever."""

    def way(place: Float64Array) -> Float64Array:
        return np.array([place, *((x, y, 0.0) for x, y in corners)])

    return way


def look(frame: Frame, way: Way) -> Stop | Turn | Point:
    return next_stretch(frame, way, stop_within_m=0.4, turn_rad=TURN_RAD)


def floor_at(point: Point, frame: Frame) -> Float64Array:
    assert frame.depth_m is not None
    z = float(frame.depth_m[point.row, point.column])
    c = frame.camera
    return frame.odom_from_optical.transform(
        np.array([(point.column - c.cx) / c.fx * z, (point.row - c.cy) / c.fy * z, z])
    )


@pytest.mark.parametrize("extrinsics", [DOWN, LEVEL])
def test_points_at_the_farthest_place_of_the_way_that_is_seen(extrinsics: Pose) -> None:
    frame = floor_frame(extrinsics=extrinsics)
    sight = look(frame, straight((9.0, 0.5)))
    assert isinstance(sight, Point)
    assert sight.ahead_m == pytest.approx(5.0)
    np.testing.assert_allclose(floor_at(sight, frame)[:2], [4.99, 0.28], atol=0.25)


def test_does_not_point_through_a_wall() -> None:
    frame = floor_frame(wall_m=3.0)
    sight = look(frame, straight((9.0, 0.0)))
    assert isinstance(sight, Point)
    assert floor_at(sight, frame)[0] == pytest.approx(3.0, abs=0.15)
    assert sight.ahead_m <= 3.25


def test_does_not_point_at_what_lies_behind_a_long_way_round() -> None:
    """The way goes off to the left and comes back: its end is in view, but is not the next stretch."""
    frame = floor_frame()
    sight = look(frame, straight((0.6, 1.6), (2.0, 2.4), (1.8, 0.0)))
    assert not isinstance(sight, Point) or floor_at(sight, frame)[1] > 0.3


@pytest.mark.parametrize("yaw_deg", [180.0, 90.0, -90.0, 120.0, -70.0])
def test_turns_to_a_way_that_is_not_in_the_picture(yaw_deg: float) -> None:
    sight = look(floor_frame(Pose.planar(0.0, 0.0, math.radians(yaw_deg))), straight((5.0, 0.0)))
    assert isinstance(sight, Turn)
    assert abs(sight.angle_rad) == pytest.approx(math.radians(abs(yaw_deg)), abs=0.01)
    if yaw_deg != 180.0:
        assert math.copysign(1.0, sight.angle_rad) == -math.copysign(1.0, yaw_deg)


@pytest.mark.parametrize(("angle_deg", "turns"), [(10.0, 1), (-10.0, -1), (44.0, 3), (-46.0, -3), (170.0, 4)])
def test_no_more_turns_than_one_answer_has(angle_deg: float, turns: int) -> None:
    assert turns_of(math.radians(angle_deg), TURN_RAD, 4) == turns


def test_a_way_that_bends_before_the_floor_comes_into_view_is_begun_straight_on() -> None:
    frame = floor_frame(extrinsics=LEVEL)  # sees no floor nearer than two metres
    sight = look(frame, straight((0.8, 0.0), (0.8, 3.0)))
    assert isinstance(sight, Point)
    assert sight.row > 0.9 * CAMERA.height
    assert abs(sight.column - CAMERA.cx) < 0.1 * CAMERA.width


def test_stops_at_the_goal_and_where_nothing_leads_to_it() -> None:
    def none(_: Float64Array) -> Float64Array:
        raise ValueError("no way")

    assert look(floor_frame(), straight((0.3, 0.1))) == Stop()
    assert look(floor_frame(), none) == Stop()
    assert not isinstance(look(floor_frame(), straight((0.0, 0.5), (0.3, 0.5))), Stop), (
        "on foot it is farther"
    )


def test_without_depth_it_does_not_point() -> None:
    frame = floor_frame()
    blind = Frame(0, 1, frame.rgb, None, CAMERA, frame.odom_from_base, frame.odom_from_optical)
    with pytest.raises(ValueError, match="needs depth"):
        look(blind, straight((5.0, 0.0)))


def test_bends_make_a_way() -> None:
    """As Habitat tells them: the length from a place, and the first bend."""
    corners = [np.array(c) for c in ((1.0, 0.0, 0.0), (1.0, 2.0, 0.0), (8.0, 2.0, 0.0), (9.0, 9.0, 0.0))]

    def bends(place: Float64Array) -> tuple[float, Float64Array]:
        k = next((i for i, c in enumerate(corners) if np.allclose(c, place)), -1)
        return (0.0, corners[-1]) if k == 3 else (7.0 - k, corners[k + 1])

    way = corners_of(bends)(np.zeros(3))
    np.testing.assert_allclose(way, [np.zeros(3), *corners[:3]], err_msg="five metres are enough")
    with pytest.raises(ValueError, match="no way"):
        corners_of(lambda place: (math.inf, place))(np.zeros(3))


def oracle_of(episode: Episode, *, arrows: bool = False, noise_px: float = 0.0, seed: int = 0) -> PixelOracle:
    world = EmbeddedWorld(CAMERA, DOWN)
    world.load(episode.scene_id)
    expert = Expert(world.scene.walkable, episode.goal, SPLIT_STEP, clearance_m=0.1)

    def way(place: Float64Array) -> Float64Array:
        return np.pad(expert.way(place[:2]), ((0, 0), (0, 1)))

    oracle = PixelOracle(
        [episode], lambda _: way, (lambda _: lambda pose, n: expert.rollout(pose, n)[0]) if arrows else None,
        SPLIT_STEP.turn_rad, pixel_noise_px=noise_px, seed=seed, close=lambda: None,
    )  # fmt: skip
    oracle.start(Instruction(1, episode.instruction))
    return oracle


def test_says_what_internvla_n1_says() -> None:
    (episode,) = make_episodes("val_unseen", 1, "room")
    world = EmbeddedWorld(CAMERA, DOWN)
    world.load(episode.scene_id)
    world.place(episode.start)
    said: set[str] = set()
    oracle, exact, missing = oracle_of(episode), oracle_of(episode), oracle_of(episode, noise_px=8.0, seed=3)
    for stamp in range(24):
        world.place(Pose.planar(*world.pose.position[:2], episode.start.yaw_rad + stamp * TURN_RAD))
        frame = Frame(stamp, stamp, *world.render(), CAMERA, world.pose, world.pose @ DOWN)
        first = oracle.answer(frame, looked_down=False)
        said.add(first)
        if first != "↓":
            assert first == "STOP" or set(first) in ({"←"}, {"→"})
            assert len(first) <= 4
            continue
        row, column = (int(n) for n in oracle.answer(frame, looked_down=True).split())
        assert 0 <= row < CAMERA.height
        assert 0 <= column < CAMERA.width
        assert exact.answer(frame, looked_down=True) == f"{row} {column}"
        missed = missing.answer(frame, looked_down=True)
        assert missed == missing.answer(frame, looked_down=True), "the same frame, the same error"
    assert "↓" in said
    assert said - {"↓"}, "it also turns"


def test_through_arrows_it_is_the_expert() -> None:
    (episode,) = make_episodes("val_unseen", 1, "room")
    frame = floor_frame(episode.start)
    said = oracle_of(episode, arrows=True).answer(frame, looked_down=False)
    assert 1 <= len(said) <= 4
    assert set(said) <= set("↑←→")
    step = StepSize(SPLIT_STEP.forward_m, SPLIT_STEP.turn_rad)
    assert step.action(ActionKind.FORWARD).forward_m == 0.25


def test_does_not_know_an_episode_that_it_was_not_told() -> None:
    (episode,) = make_episodes("val_unseen", 1, "room")
    oracle = oracle_of(episode)
    oracle.start(Instruction(2, "dance"))
    with pytest.raises(ValueError, match="'dance'"):
        oracle.answer(floor_frame(episode.start), looked_down=False)
