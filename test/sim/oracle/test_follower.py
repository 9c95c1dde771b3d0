"""The follower reaches goals under rules that forgive no grazing; each world has an expert of its own."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from habitat_fakes import fake_python

from vln_ros.axes import base_from_optical
from vln_ros.config import EvalConfig, FarmConfig, from_flat, with_protocol
from vln_ros.datatypes import STOP, CameraModel, Frame, Instruction, Pose, StepSize
from vln_ros.evaluation.driver import evaluate
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.geodesic import Walkable
from vln_ros.sim.embedded.world import EmbeddedWorld, Scene
from vln_ros.sim.episodes.episode import Episode, write_episodes
from vln_ros.sim.oracle.follower import EmbeddedGround, Follower, FollowerEngine
from vln_ros.sim.splits import make_episodes, make_scene_episodes

CAMERA = CameraModel.from_hfov(16, 12, 1.3)


def follow(
    world: EmbeddedWorld, episode: Episode, step: StepSize, *, sliding: bool, clearance_m: float = 0.0
) -> tuple[bool, float, int, list[Pose]]:
    """Success, SPL, collisions, and where it was."""
    world.load(episode.scene_id)
    world.place(episode.start)
    ground = EmbeddedGround(world.scene.walkable, episode.goal, sliding=sliding, clearance_m=clearance_m)
    follower = Follower(ground, step)
    length_m, collisions, poses = 0.0, 0, [world.pose]
    for _ in range(500):
        (action, *_) = follower.next_actions(world.pose.position, world.pose.yaw_rad, 4)
        if action == STOP:
            break
        motion = world.step(action)
        length_m, collisions = length_m + motion.distance_m, collisions + motion.collided
        poses.append(world.pose)
    error_m = world.geodesic_distance(world.pose.position, episode.goal)
    success = action == STOP and error_m < episode.goal_radius_m
    shortest_m = episode.geodesic_distance_m
    return success, success * shortest_m / max(length_m, shortest_m), collisions, poses


@pytest.mark.parametrize(
    ("turn_deg", "sliding"),
    [(30.0, False), pytest.param(30.0, True, marks=pytest.mark.slow), (15.0, False), (45.0, False)],
)
@pytest.mark.parametrize("kind", ["room", "small"])
def test_it_arrives_whether_it_slides_or_not(kind: str, turn_deg: float, sliding: bool) -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 1.25), sliding=sliding)
    step = StepSize(0.25, math.radians(turn_deg))
    runs = [follow(world, e, step, sliding=sliding) for e in make_episodes("val_unseen", 6, kind)]
    assert all(success for success, _, _, _ in runs)
    assert np.mean([spl for _, spl, _, _ in runs]) > 0.9
    assert sum(collisions for _, _, collisions, _ in runs) == 0


@pytest.mark.slow
@pytest.mark.parametrize("turn_deg", [30.0, 15.0])
def test_it_arrives_in_whole_flats(turn_deg: float) -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 1.25), sliding=False)
    step = StepSize(0.25, math.radians(turn_deg))
    runs = [follow(world, e, step, sliding=False) for e in make_episodes("val_unseen", 20)]
    assert np.mean([success for success, _, _, _ in runs]) >= 0.95
    assert sum(collisions for _, _, collisions, _ in runs) == 0


def test_it_keeps_clear_of_walls_where_there_is_room() -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 1.25), sliding=False)
    step = StepSize(0.25, math.radians(15.0))
    near = {}
    for clearance_m in (0.0, 0.15):
        nearness = []
        for episode in make_episodes("val_unseen", 4, "small"):
            success, _, _, poses = follow(world, episode, step, sliding=False, clearance_m=clearance_m)
            assert success
            with_clearance = world.scene.walkable.narrowed(0.1)
            nearness += [not with_clearance.contains(p.position[None, :2])[0] for p in poses]
        near[clearance_m] = np.mean(nearness)
    assert near[0.15] < near[0.0] / 2


def test_without_sliding_a_wall_is_where_it_ends() -> None:
    corridor = np.array([(-1, -1, 9, 0), (-1, 1, 9, 2), (-1, -1, 0, 2), (8, -1, 9, 2)], float)
    walkable = Walkable(corridor, 0.1)
    askew = 0.6 * np.array([math.cos(0.9), math.sin(0.9)])
    slid, hit, far_m = walkable.slide(np.array([1.0, 0.6]), askew)
    stopped, hit_too, short_m = walkable.slide(np.array([1.0, 0.6]), askew, sliding=False)
    assert hit and hit_too
    np.testing.assert_allclose([slid[1], stopped[1]], 0.9)
    assert slid[0] == pytest.approx(1.0 + askew[0])
    assert short_m < far_m and stopped[0] < slid[0]
    free = walkable.slide(np.array([1.0, 0.5]), np.array([0.25, 0.0]), sliding=False)
    np.testing.assert_allclose(free[0], [1.25, 0.5])
    assert not free[1]


def test_it_plans_anew_where_the_robot_is_not_where_it_was_going() -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 1.25), sliding=False)
    (episode,) = make_episodes("val_unseen", 1, "small")
    world.load(episode.scene_id)
    world.place(episode.start)
    step = StepSize(0.25, math.radians(30.0))
    follower = Follower(EmbeddedGround(world.scene.walkable, episode.goal, sliding=False), step)
    rng = np.random.default_rng(3)
    for _ in range(200):
        (action, *_) = follower.next_actions(world.pose.position, world.pose.yaw_rad, 3)
        if action == STOP:
            break
        world.step(action)
        if rng.random() < 0.3:  # somebody pushes it
            world.drive(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-1.0, 1.0)), 0.5)
    assert world.geodesic_distance(world.pose.position, episode.goal) < 0.25


def test_where_there_is_no_way_it_stops() -> None:
    walls = np.array([(-1, -1, 5, 0), (-1, 1, 5, 2), (-1, -1, 0, 2), (4, -1, 5, 2), (2, -1, 2.5, 2)], float)
    ground = EmbeddedGround(Walkable(walls, 0.1), np.array([3.5, 0.5, 0.0]), sliding=False)
    follower = Follower(ground, StepSize(0.25, math.radians(30.0)))
    assert follower.next_actions(np.array([1.0, 0.5, 0.0]), 0.0, 4) == [STOP]
    there = EmbeddedGround(Walkable(walls, 0.1), np.array([1.1, 0.5, 0.0]), sliding=False)
    assert Follower(there, StepSize(0.25, 0.5)).next_actions(np.array([1.0, 0.5, 0.0]), 0.0, 4) == [STOP]


def test_its_engine_says_what_it_lacks() -> None:
    closed: list[bool] = []
    (episode,) = make_episodes("val_unseen", 1, "room")
    scene = Scene(episode.scene_id, AGENT_RADIUS_M)
    engine = FollowerEngine(
        lambda e: EmbeddedGround(scene.walkable, e.goal, sliding=False),
        StepSize(0.25, math.radians(30.0)),
        3,
        lambda: closed.append(True),
    )
    with pytest.raises(RuntimeError, match="no episode"):
        engine.decide(2)
    engine.set_episode(episode)
    engine.start(Instruction(1, episode.instruction))
    with pytest.raises(RuntimeError, match="no frame"):
        engine.decide(2)
    pixels = np.zeros((12, 16, 3), np.uint8), np.ones((12, 16), np.float32)
    engine.observe(Frame(0, 5, *pixels, CAMERA, episode.start, episode.start))
    chunk = engine.decide(2)
    assert (chunk.queue, chunk.instruction, chunk.frame_stamp_ns, len(chunk.actions)) == (2, 1, 5, 3)
    engine.close()
    assert closed == [True]
    with pytest.raises(ValueError, match="at least 1"):
        FollowerEngine(lambda _: None, StepSize(0.25, 0.5), 0, closed.clear)  # type: ignore[arg-type, return-value]


@pytest.mark.slow
@pytest.mark.parametrize("goal_radius_m", [1.0, 3.0])
@pytest.mark.parametrize("protocol", ["r2r-vlnce", "rxr-vlnce"])
def test_the_expert_of_habitat_follows_habitats_ways_in_scenes_that_nobody_else_knows(
    tmp_path: Path, protocol: str, goal_radius_m: float
) -> None:
    made = make_scene_episodes("val_unseen", 900_003, "small")[:3]
    whole = write_scene(tmp_path / "made", Scene(made[0].scene_id, AGENT_RADIUS_M))
    folder = tmp_path / "scenes" / "mp3d" / "X8pQqB"
    folder.mkdir(parents=True)
    shutil.copy(whole, folder / "X8pQqB.glb")
    stage = {"render_asset": "X8pQqB.glb", "up": [0, 1, 0], "front": [0, 0, -1]}
    (folder / "X8pQqB.stage_config.json").write_text(json.dumps(stage))
    episodes = [replace(e, scene_id="mp3d/X8pQqB/X8pQqB.glb", goal_radius_m=goal_radius_m) for e in made]
    given = {
        "world": "habitat",
        "protocol": protocol,
        "dataset": str(write_episodes(tmp_path / "dataset", "val_unseen", episodes)),
        "episodes": 0,
        "navigator.engine": "expert",
        "camera.width": 32,
        "camera.height": 24,
        "habitat.python": fake_python(tmp_path),
        "habitat.scenes": str(tmp_path / "scenes"),
    }
    config = with_protocol(from_flat(EvalConfig, given))
    result = evaluate(config, FarmConfig(workers=0), tmp_path / "out", resume=False, command=["test"])
    assert not result.skipped
    assert result.summary.success.mean == 1.0
    assert result.summary.collisions.mean == 0.0
    assert {e.metrics is not None and e.metrics.steps > 3 for e in result.episodes} == {True}
