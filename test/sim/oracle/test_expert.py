"""The expert reaches every goal, nearly as short as can be, and its engine answers like a model's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from poses import standing
from tqdm import tqdm

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import ActionChunk, ActionKind, CameraModel, Frame, Instruction, Pose, StepSize
from vln_ros.protocols import Engine
from vln_ros.sim.embedded.geodesic import Walkable
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.expert import Expert, ExpertEngine
from vln_ros.sim.oracle.policy import OraclePolicy
from vln_ros.sim.splits import SPLIT_STEP, make_episodes

CAMERA = CameraModel.from_hfov(16, 12, 1.3)


def follow(world: EmbeddedWorld, episode: Episode, step: StepSize = SPLIT_STEP) -> tuple[bool, float]:
    """Success and SPL of one episode by stepping the world."""
    world.load(episode.scene_id)
    world.place(episode.start)
    expert = Expert(world.scene.walkable, episode.goal, step)
    length, stopped = 0.0, False
    for _ in range(500):
        action = expert.next_action(world.pose)
        if action.stop:
            stopped = True
            break
        length += world.step(action).distance_m
    success = stopped and world.geodesic_distance(world.pose.position, episode.goal) < episode.goal_radius_m
    return success, success * episode.geodesic_distance_m / max(length, episode.geodesic_distance_m)


def test_it_succeeds_on_unseen_flats() -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    for kind, count in (("flat", 10), ("small", 4), ("room", 4)):
        results = [follow(world, e) for e in make_episodes("val_unseen", count, kind)]
        assert all(s for s, _ in results), kind
        assert np.mean([spl for _, spl in results]) >= 0.95, kind


@pytest.mark.slow
def test_it_succeeds_on_unseen_episodes() -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    results = [follow(world, e) for e in tqdm(make_episodes("val_unseen", 60))]
    assert all(s for s, _ in results)
    assert np.mean([spl for _, spl in results]) >= 0.95


@pytest.mark.parametrize("step", [StepSize(0.25, math.radians(30)), StepSize(0.1, math.radians(10))])
def test_other_step_sizes(step: StepSize) -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    for e in make_episodes("val_unseen", 3):
        success, spl = follow(world, e, step)
        assert success
        assert spl > 0.9


def frame_at(pose: Pose, index: int = 0) -> Frame:
    rgb = np.zeros((12, 16, 3), np.uint8)
    return Frame(index, 10**9 * index + 5, rgb, None, CAMERA, pose, pose)


@pytest.mark.parametrize("per_decision", [1, 4])
def test_engine_in_a_loop_does_what_the_episode_file_says(per_decision: int) -> None:
    episode = make_episodes("val_unseen", 2)[1]
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    world.load(episode.scene_id)
    world.place(episode.start)
    engine: Engine = ExpertEngine(SPLIT_STEP, per_decision, episode)
    engine.start(Instruction(7, episode.instruction))
    done = []
    for queue in range(200):
        engine.observe(frame_at(world.pose, queue))
        chunk = engine.decide(queue)
        assert 1 <= len(chunk.actions) <= per_decision
        assert (chunk.queue, chunk.instruction, chunk.frame_stamp_ns) == (queue, 7, 10**9 * queue + 5)
        for action in chunk.actions:
            world.step(action)
            done.append(action.kind)
        if chunk.actions[-1].stop:
            break
    assert tuple(done) == episode.actions


def test_engine_finds_its_way_from_a_pose_that_drifted_into_a_wall() -> None:
    episode = make_episodes("val_unseen", 1)[0]
    engine = ExpertEngine(SPLIT_STEP, 3, episode)
    engine.start(Instruction(0, "go"))
    engine.observe(frame_at(Pose.planar(-0.02, 1.0, 2.0)))
    assert len(engine.decide(0).actions) == 3


def test_engine_says_what_is_missing() -> None:
    episode = make_episodes("val_unseen", 1)[0]
    engine = ExpertEngine(SPLIT_STEP, 1)
    with pytest.raises(RuntimeError, match="set_episode"):
        engine.decide(0)
    engine.set_episode(episode)
    with pytest.raises(RuntimeError, match="no instruction or no frame"):
        engine.decide(0)
    engine.start(Instruction(0, "go"))
    engine.observe(frame_at(episode.start))
    engine.start(Instruction(1, "go on"))
    with pytest.raises(RuntimeError, match="no instruction or no frame"):
        engine.decide(0)  # a new instruction forgets the stream
    with pytest.raises(ValueError, match="actions_per_decision"):
        ExpertEngine(SPLIT_STEP, 0)


def test_the_guide_knows_the_episode_by_its_words_and_where_words_do_not_tell_by_its_start() -> None:
    first, other = make_episodes("val_unseen", 2)
    halfway = Pose(first.reference_path[len(first.reference_path) // 2], first.start.orientation)
    again = replace(first, episode_id="another lap")
    elsewhere = replace(other, instruction=first.instruction)

    def begins_at(pose: Pose, *episodes: Episode) -> ActionChunk:
        oracle = OraclePolicy(episodes, SPLIT_STEP, 1)
        oracle.start(Instruction(1, first.instruction))
        oracle.observe(frame_at(pose))
        return oracle.decide(1)

    assert begins_at(halfway, first, other).actions == begins_at(halfway, first, again).actions
    assert other.actions is not None
    assert begins_at(other.start, first, elsewhere).actions[0].kind == other.actions[0]
    with pytest.raises(ValueError, match="none of the expert's 2 episodes"):
        begins_at(halfway, first, elsewhere)


def touches(world: EmbeddedWorld, episode: Episode, expert: Expert, limit: int = 400) -> tuple[bool, int]:
    """Whether the expert stops, and how many of its forward steps on the way there touch something."""
    count, whole_m = 0, SPLIT_STEP.forward_m - 1e-6
    for _ in range(limit):
        action = expert.next_action(world.pose)
        if action.stop:
            return True, count
        done = world.step(action)
        count += action.kind is ActionKind.FORWARD and done.distance_m < whole_m
    return False, count


def test_with_clearance_it_grazes_no_corners_and_still_arrives() -> None:
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    grazed = {0.0: 0, 0.12: 0}
    for episode in make_episodes("val_unseen", 20, "small"):
        world.load(episode.scene_id)
        for clearance_m in grazed:
            world.place(episode.start)
            expert = Expert(world.scene.walkable, episode.goal, SPLIT_STEP, 0.5, clearance_m)
            arrived, count = touches(world, episode, expert)
            grazed[clearance_m] += count
            assert arrived
            assert world.geodesic_distance(world.pose.position, episode.goal) < 0.5
    assert grazed[0.12] < grazed[0.0] / 4


def test_with_clearance_it_arrives_from_anywhere() -> None:
    """Also from hard by a wall, and from where nothing wide leads on."""
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    rng = np.random.default_rng(5)
    for episode in make_episodes("val_unseen", 12, "small"):
        world.load(episode.scene_id)
        walkable = world.scene.walkable
        for _ in range(4):
            corner = walkable.nodes[rng.integers(len(walkable.nodes))]
            world.place(standing(walkable.nearest(corner + rng.normal(0, 0.05, 2)), rng.uniform(-3, 3)))
            if math.isfinite(world.geodesic_distance(world.pose.position, episode.goal)):
                expert = Expert(walkable, episode.goal, SPLIT_STEP, 0.5, 0.12)
                arrived, _ = touches(world, episode, expert)
                assert arrived, (episode.episode_id, world.pose)
                assert world.geodesic_distance(world.pose.position, episode.goal) < 0.5


def test_where_nothing_wide_leads_to_the_goal_it_takes_the_narrow_way() -> None:
    box = [(-1, -1, 5, 0), (-1, 2, 5, 3), (-1, -1, 0, 3), (4, -1, 5, 3)]  # 4 m by 2 m, a wall across it
    gap = [(1.9, 0, 2.1, 0.8), (1.9, 1.2, 2.1, 2)]  # with a gap of 0.4 m
    walkable = Walkable(np.array(box + gap, float), 0.18)
    start, goal = np.array([1.0, 1.0]), np.array([3.0, 1.0])
    assert not math.isfinite(walkable.narrowed(0.12).distance(start, goal))
    expert = Expert(walkable, goal, SPLIT_STEP, clearance_m=0.12)
    actions, poses = expert.rollout(standing(start, 0.0), 20)
    assert actions[-1].stop
    assert np.linalg.norm(poses[-1].position[:2] - goal) < 0.2
    np.testing.assert_allclose(expert.way(start)[-1], goal)


@pytest.mark.parametrize(("clearance_m", "stops"), [(0.0, False), (0.15, True)])
def test_who_keeps_a_distance_from_furniture_stops_as_much_sooner(clearance_m: float, stops: bool) -> None:
    """Where the executor keeps it, the way's last bit would never be driven."""
    episode = make_episodes("val_unseen", 1, "room")[0]
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    world.load(episode.scene_id)
    path = Expert(world.scene.walkable, episode.goal, SPLIT_STEP).way(episode.start.position)
    before = path[-1] - 0.2 * (path[-1] - path[-2]) / np.linalg.norm(path[-1] - path[-2])
    pose = standing(before, 0.0)
    engine = ExpertEngine(SPLIT_STEP, 4, episode, clearance_m=clearance_m)
    engine.start(Instruction(1, episode.instruction))
    rgb = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    engine.observe(Frame(0, 1, rgb, None, CAMERA, pose, pose @ base_from_optical(0, 0, 1.25)))
    assert engine.decide(1).actions[0].stop == stops
