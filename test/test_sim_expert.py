"""The expert reaches every goal, nearly as short as can be, and its engine answers like a model's."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tqdm import tqdm

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose, StepSize
from vln_ros.protocols import Engine
from vln_ros.sim.embedded import EmbeddedWorld
from vln_ros.sim.expert import Expert, ExpertEngine
from vln_ros.sim.guide import EpisodeGuide
from vln_ros.sim.splits import SPLIT_STEP, make_episodes

CAMERA = CameraModel.from_hfov(16, 12, 1.3)


def follow(world, episode, step=SPLIT_STEP):
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


def test_it_succeeds_on_unseen_flats():
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    for kind, count in (("flat", 10), ("small", 4), ("room", 4)):
        results = [follow(world, e) for e in make_episodes("val_unseen", count, kind)]
        assert all(s for s, _ in results), kind
        assert np.mean([spl for _, spl in results]) >= 0.95, kind


@pytest.mark.slow
def test_it_succeeds_on_unseen_episodes():
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    results = [follow(world, e) for e in tqdm(make_episodes("val_unseen", 60))]
    assert all(s for s, _ in results)
    assert np.mean([spl for _, spl in results]) >= 0.95


@pytest.mark.parametrize("step", [StepSize(0.25, math.radians(30)), StepSize(0.1, math.radians(10))])
def test_other_step_sizes(step):
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 1.25))
    for e in make_episodes("val_unseen", 3):
        success, spl = follow(world, e, step)
        assert success
        assert spl > 0.9


def frame_at(pose, index=0):
    rgb = np.zeros((12, 16, 3), np.uint8)
    return Frame(index, 10**9 * index + 5, rgb, None, CAMERA, pose, pose)


@pytest.mark.parametrize("per_decision", [1, 4])
def test_engine_in_a_loop_does_what_the_episode_file_says(per_decision):
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


def test_engine_finds_its_way_from_a_pose_that_drifted_into_a_wall():
    episode = make_episodes("val_unseen", 1)[0]
    engine = ExpertEngine(SPLIT_STEP, 3, episode)
    engine.start(Instruction(0, "go"))
    engine.observe(frame_at(Pose.planar(-0.02, 1.0, 2.0)))
    assert len(engine.decide(0).actions) == 3


def test_engine_says_what_is_missing():
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


def test_the_guide_knows_the_episode_by_its_words_and_where_words_do_not_tell_by_its_start():
    first, other = make_episodes("val_unseen", 2)
    halfway = Pose(first.reference_path[len(first.reference_path) // 2], first.start.orientation)
    again = replace(first, episode_id="another lap")
    elsewhere = replace(other, instruction=first.instruction)

    def begins_at(pose, *episodes):
        guide = EpisodeGuide(episodes, SPLIT_STEP, 1)
        guide.start(Instruction(1, first.instruction))
        guide.observe(frame_at(pose))
        return guide.decide(1)

    assert begins_at(halfway, first, other).actions == begins_at(halfway, first, again).actions
    assert begins_at(other.start, first, elsewhere).actions[0].kind == other.actions[0]
    with pytest.raises(ValueError, match="none of the expert's 2 episodes"):
        begins_at(halfway, first, elsewhere)
