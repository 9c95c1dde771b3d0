"""From a place to queues: what is known of obstacles, when the model is asked again, what is given up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from vln_ros.axes import base_from_optical
from vln_ros.config import PlaceConfig, from_flat
from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    ActionKind,
    CameraModel,
    Frame,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
    StepSize,
    apply_action,
)
from vln_ros.motion.place_drive import PlaceDrive
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.splits import make_episodes

STEP = StepSize(0.25, math.radians(15.0))
CAMERA = CameraModel.from_hfov(160, 120, math.radians(79.0))
EXTRINSICS = base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=math.radians(30.0))
FORWARD = STEP.action(ActionKind.FORWARD)


def frame(stamp: int, pose: Pose, depth_m: np.ndarray | None = None) -> Frame:
    rgb = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    return Frame(stamp, stamp, rgb, depth_m, CAMERA, pose, pose @ EXTRINSICS)


def answer(x_m: float, y_m: float, *, queue: int = 2, stamp: int = 1) -> ActionChunk:
    place = PlaceGoal(x_m, y_m, stamp, PlaceSource.DEPTH)
    return ActionChunk(queue, 3, stamp, (), pixel_goal=PixelGoal(60, 80, stamp), place=place)


def drive_at(pose: Pose | None = None, **options: float) -> PlaceDrive:
    drive = PlaceDrive(from_flat(PlaceConfig, options), STEP)
    drive.begin()
    drive.observe(frame(1, pose or Pose.identity()))
    return drive


def moved(pose: Pose, chunk: ActionChunk) -> Pose:
    for action in chunk.actions:
        pose = apply_action(pose, action)
    return pose


def test_an_answer_that_is_no_place_is_handed_back_and_ends_the_drive() -> None:
    drive = drive_at()
    drive.take(answer(2.0, 0.0))
    for other in (
        ActionChunk(3, 3, 1, (FORWARD,)),
        ActionChunk(3, 3, 1, (STOP,)),
        ActionChunk(3, 3, 1, (), held="the model wants something else"),
    ):
        assert drive.take(other) is other
        assert drive.place is None
        assert drive.go_on(4) is None


def test_the_first_queue_is_the_answer_and_the_others_only_go_on() -> None:
    drive, pose = drive_at(), Pose.identity()
    first = drive.take(answer(3.0, 0.0))
    assert first.actions == (FORWARD,) * 4
    assert (first.queue, first.instruction, first.frame_stamp_ns) == (2, 3, 1)
    assert first.pixel_goal == PixelGoal(60, 80, 1)
    assert first.place == answer(3.0, 0.0).place
    assert not first.goes_on
    pose = moved(pose, first)
    drive.observe(frame(2, pose))
    second = drive.go_on(3)
    assert second is not None
    assert second.goes_on
    assert (second.queue, second.instruction, second.frame_stamp_ns) == (3, 3, 2)
    assert second.place == first.place


def test_the_model_is_asked_again_when_it_is_reached() -> None:
    drive, pose = drive_at(max_actions=0), Pose.identity()
    chunk: ActionChunk | None = drive.take(answer(3.0, 1.0))
    for stamp in range(2, 20):
        if chunk is None:
            break
        pose = moved(pose, chunk)
        drive.observe(frame(stamp, pose))
        chunk = drive.go_on(stamp + 1)
    assert chunk is None
    assert np.linalg.norm(pose.position[:2] - [3.0, 1.0]) <= PlaceConfig().reached_within_m
    assert drive.figures()["places reached"] == 1
    assert drive.place is None


@pytest.mark.parametrize(("most", "count"), [(8, 8), (6, 6), (3, 3), (1, 1)])
def test_the_model_is_asked_again_after_so_many_actions(most: int, count: int) -> None:
    drive, pose = drive_at(max_actions=most), Pose.identity()
    chunk: ActionChunk | None = drive.take(answer(6.0, 0.0))
    driven, stamp = 0, 1
    while chunk is not None:
        driven, stamp = driven + len(chunk.actions), stamp + 1
        pose = moved(pose, chunk)
        drive.observe(frame(stamp, pose))
        chunk = drive.go_on(stamp + 1)
    assert driven == count
    assert drive.figures()["places left for max_actions"] == 1


def test_a_place_at_the_end_of_the_actions_is_reached_and_not_left() -> None:
    drive, pose = drive_at(max_actions=4), Pose.identity()
    drive.observe(frame(2, moved(pose, drive.take(answer(1.2, 0.0)))))
    assert drive.go_on(3) is None
    assert drive.figures()["places reached"] == 1


@pytest.mark.parametrize(
    ("place", "words"),
    [((30.0, 0.0), "too far away"), ((0.1, 0.0), "already"), ((2.0, 0.0), "can be reached")],
)
def test_what_cannot_be_driven_to_is_held_with_a_reason(place: tuple[float, float], words: str) -> None:
    drive = drive_at(max_shift_m=0.3)
    angle = np.linspace(0.0, 2.0 * math.pi, 200)
    drive.hear(0.6 * np.stack([np.cos(angle), np.sin(angle)], 1))  # a fence around the robot
    held = drive.take(answer(*place))
    assert held.is_hold
    assert held.held is not None
    assert words in held.held
    assert held.pixel_goal is not None, "what the model said is kept"
    assert drive.go_on(3) is None
    assert sum(n for name, n in drive.figures().items() if name.startswith("places")) == 2


def test_where_the_profile_says_so_something_else_is_done_and_said() -> None:
    turn = STEP.action(ActionKind.TURN_LEFT)
    drive = PlaceDrive(PlaceConfig(), STEP, turn)
    drive.begin()
    drive.observe(frame(1, Pose.identity()))
    for place, words in (((30.0, 0.0), "too far away"), ((0.1, 0.0), "already")):
        chunk = drive.take(answer(*place))
        assert chunk.actions == (turn,)
        assert words in (chunk.unconstrained or "")
        assert chunk.place is None
        assert chunk.pixel_goal is not None
        assert not chunk.goes_on
        assert drive.go_on(3) is None


def test_what_the_executor_tells_is_driven_around() -> None:
    drive, pose = drive_at(max_actions=0), Pose.identity()
    y = np.linspace(-0.6, 0.6, 25)
    wall = np.stack([np.full(25, 1.0), y], 1)
    drive.hear(wall)
    chunk: ActionChunk | None = drive.take(answer(2.0, 0.0))
    nearest, stamp = math.inf, 1
    while chunk is not None:
        for action in chunk.actions:
            pose, stamp = apply_action(pose, action), stamp + 1
            nearest = min(nearest, float(np.linalg.norm(wall - pose.position[:2], axis=1).min()))
        drive.observe(frame(stamp, pose))
        chunk = drive.go_on(stamp)
    assert nearest >= PlaceConfig().robot_radius_m
    assert np.linalg.norm(pose.position[:2] - [2.0, 0.0]) <= PlaceConfig().reached_within_m


@pytest.mark.parametrize(("goal_m", "kept"), [(3.0, False), (2.5, True)])
def test_what_comes_between_ends_the_drive_or_brings_the_place_nearer(goal_m: float, kept: bool) -> None:
    drive = drive_at()
    pose = moved(Pose.identity(), drive.take(answer(goal_m, 0.0)))
    y = np.linspace(-4.0, 4.0, 161)
    drive.hear(np.stack([np.full(161, 2.0), y], 1))  # no place within a metre of (3, 0) is left before it
    drive.observe(frame(2, pose))
    chunk = drive.go_on(3)
    assert (chunk is not None) == kept
    assert drive.figures().get("places given up: no place near it can be reached", 0) == (not kept)
    if chunk is not None:
        assert moved(pose, chunk).position[0] <= 2.0 - PlaceConfig().robot_radius_m


@pytest.mark.parametrize(
    "after",
    [frame(2, Pose.planar(3.0, 0.0, 0.0)), frame(2, Pose.planar(0.0, 0.0, 3.0)), frame(0, Pose.identity())],
)
def test_after_a_jump_of_pose_or_clock_nothing_is_known(after: Frame) -> None:
    drive = drive_at()
    drive.hear(np.array([[1.0, 0.0]]))
    drive.take(answer(3.0, 0.0))
    drive.observe(after)
    assert drive.place is None
    assert drive.go_on(3) is None
    assert drive.figures()["places lost by a jump"] == 1
    chunk = drive.take(answer(*(after.odom_from_base @ Pose.planar(2.0, 0.0, 0.0)).position[:2]))
    assert chunk.actions == (FORWARD,) * 4, "the obstacle of before is forgotten"


def test_a_new_run_begins_from_nothing() -> None:
    drive = drive_at()
    drive.take(answer(3.0, 0.0))
    drive.begin()
    assert drive.place is None
    assert drive.figures() == {}
    with pytest.raises(RuntimeError, match="no frame"):
        drive.take(answer(3.0, 0.0))


def test_with_actions_left_the_queue_begins_with_them_and_is_planned_from_their_end() -> None:
    drive, pose = drive_at(max_actions=0), Pose.identity()
    first = drive.take(answer(3.0, 2.0))
    ahead = first.actions[-2:]
    for action in first.actions[:-2]:
        pose = apply_action(pose, action)
    halfway = pose @ Pose.planar(0.1, 0.0, 0.05)  # the third is under way
    drive.observe(frame(2, halfway))
    second = drive.go_on(3, ahead)
    assert second is not None
    assert second.actions[:2] == ahead
    standing = drive_at(moved(Pose.identity(), first), max_actions=0)
    assert second.actions[2:] == standing.take(answer(3.0, 2.0)).actions


def test_a_depth_image_in_a_wrong_unit_teaches_nothing() -> None:
    drive = drive_at()
    millimetres = np.full((CAMERA.height, CAMERA.width), 0.001, np.float32)
    drive.observe(frame(2, Pose.identity(), millimetres))
    assert drive.take(answer(2.0, 0.0, stamp=2)).actions == (FORWARD,) * 4


def test_places_in_flats_are_reached_by_what_depth_shows() -> None:
    """From the middle of unseen flats to places that the camera sees; nothing is touched."""
    world = EmbeddedWorld(CAMERA, EXTRINSICS)
    config = from_flat(PlaceConfig, {"max_actions": 0, "robot_radius_m": 0.255, "stop_distance_m": 0.1})
    for episode in make_episodes("val_unseen", 3, "flat"):
        world.load(episode.scene_id)
        roomy = world.scene.walkable.narrowed(0.12)
        start = roomy.nearest(episode.start.position)
        leg = roomy.path(start, roomy.nearest(episode.goal))[1] - start
        length_m = min(2.0, float(np.linalg.norm(leg)))
        world.place(Pose.planar(*start, math.atan2(leg[1], leg[0])))
        drive = PlaceDrive(config, STEP)
        drive.begin()
        drive.observe(replace(frame(1, world.pose), depth_m=world.render()[1]))
        goal, stamp = start + length_m * leg / np.linalg.norm(leg), 1
        chunk: ActionChunk | None = drive.take(answer(float(goal[0]), float(goal[1])))
        while chunk is not None and stamp < 60:
            assert chunk.actions, chunk.held
            for action in chunk.actions:
                assert not world.step(action).collided
                stamp += 1
                drive.observe(replace(frame(stamp, world.pose), depth_m=world.render()[1]))
            chunk = drive.go_on(stamp)
        assert length_m > 0.5, "next to nothing to drive"
        assert np.linalg.norm(world.pose.position[:2] - goal) <= config.reached_within_m


def test_every_action_of_a_queue_is_the_robots_own_step() -> None:
    drive = drive_at()
    chunk = drive.take(answer(-1.0, -2.0))
    own = {STEP.action(kind) for kind in (ActionKind.FORWARD, ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT)}
    assert set(chunk.actions) <= own
    assert Action(turn_rad=-STEP.turn_rad) in chunk.actions
