"""What is taught at a place: the expert's word, and what the others would cost."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_models import SMALL

from vln_ros.config import TrainConfig, from_flat
from vln_ros.datatypes import ActionKind, Pose, wrap_angle
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.tiny import build_tiny
from vln_ros.sim.embedded.world import move
from vln_ros.sim.oracle.expert import Expert
from vln_ros.sim.splits import GOAL_RADIUS_M, SPLIT_STEP
from vln_ros.training.batch import IGNORED, Collator, collate
from vln_ros.training.cost_to_go import CostToGo, CostToGoOracle, after
from vln_ros.training.demonstrations import (
    Rules,
    Task,
    demonstrate,
    robot_camera,
    shared_scenes,
    split_episode,
)
from vln_ros.training.objective import Heads, Weights, forward, losses

F, L, R, S = ActionKind.FORWARD, ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT, ActionKind.STOP
WITHIN_M = 0.5


def oracle(number: int, kind: str = "small") -> tuple[CostToGoOracle, Expert, Pose]:
    """With the expert that it asks, and the start of a train episode."""
    episode = split_episode("train", kind, number)
    expert = Expert(shared_scenes().get(episode.scene_id).walkable, episode.goal, SPLIT_STEP, WITHIN_M, 0.12)
    return CostToGoOracle(expert, SPLIT_STEP, WITHIN_M, GOAL_RADIUS_M), expert, episode.start


def facing(expert: Expert, pose: Pose, bearing_rad: float) -> Pose:
    """The same place with the way at this bearing."""
    way = expert.way(pose.position)
    ahead = way[1] - way[0]
    yaw = wrap_angle(math.atan2(ahead[1], ahead[0]) - bearing_rad)
    return Pose.planar(float(pose.position[0]), float(pose.position[1]), yaw)


def dearer(cost_to_go: CostToGo, kind: ActionKind) -> float:
    """By how many actions than the best."""
    return float(cost_to_go.costs[kind.value] - cost_to_go.costs.min())


@pytest.mark.parametrize("kind", ["room", "small"])
def test_who_follows_it_arrives_after_about_as_many_actions_as_it_says(kind: str) -> None:
    errors = []
    for number in range(10, 34, 2):
        asked, expert, pose = oracle(number, kind)
        said, turning, count = asked.effort(pose, 0), 0, 0
        while (best := asked.cost_to_go(pose, turning).kind) is not S:
            assert count < 150
            pose, _ = move(expert.walkable, pose, SPLIT_STEP.action(best))
            turning, count = after(best, turning), count + 1
        assert expert.distance_m(pose.position) < WITHIN_M
        errors.append(count - said)
    assert abs(np.mean(errors)) < 4.0 and np.std(errors) < 5.0


def test_headings_that_are_nearly_right_cost_nearly_nothing() -> None:
    asked, expert, start = oracle(3)
    ahead = asked.cost_to_go(facing(expert, start, 0.0), 0)
    assert ahead.kind is F and min(dearer(ahead, k) for k in (L, R, S)) > 0.9
    for side, toward, away in ((1.0, L, R), (-1.0, R, L)):
        half = asked.cost_to_go(facing(expert, start, side * math.radians(12.0)), 0)
        assert max(dearer(half, F), dearer(half, toward)) < 0.7 and dearer(half, away) > 1.5
        aside = facing(expert, start, side * math.radians(70.0))
        across = asked.cost_to_go(aside, 0)
        assert across.kind is toward and dearer(across, away) > 1.9
        touching = move(expert.walkable, aside, SPLIT_STEP.action(F))[1].collided
        assert dearer(across, F) > (2.0 if touching else 0.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 8), st.integers(-11, 12), st.sampled_from([-1, 0, 1]))
def test_it_goes_on_with_a_turn_only_where_nothing_was_to_be_seen(
    number: int, bearing: int, turning: int
) -> None:
    asked, expert, start = oracle(number)
    pose = facing(expert, start, math.radians(15.0 * bearing))
    cost_to_go = asked.cost_to_go(pose, turning)
    assert cost_to_go.costs[cost_to_go.kind.value] == cost_to_go.costs.min()
    plain = expert.next_action(pose).kind
    if turning == 0 or abs(bearing) < 5 or plain not in (L, R):
        assert cost_to_go.kind is plain
    elif abs(bearing) > 9:
        assert cost_to_go.kind is (L if turning > 0 else R)
    # Turn by turn it ends up ahead, and never wavers.
    said: list[ActionKind] = []
    while (kind := asked.cost_to_go(pose, turning).kind) in (L, R) and len(said) < 30:
        said.append(kind)
        pose, _ = move(expert.walkable, pose, SPLIT_STEP.action(kind))
        turning = after(kind, turning)
    assert len(set(said[:-2])) <= 1 and len(said) < 24


def test_a_stop_is_cheap_at_the_goal_and_nowhere_else() -> None:
    asked, expert, pose = oracle(5)
    turning, met = 0, set()
    while True:
        cost_to_go, away_m = asked.cost_to_go(pose, turning), expert.distance_m(pose.position)
        if cost_to_go.kind is S:
            break
        if away_m >= GOAL_RADIUS_M:
            assert dearer(cost_to_go, S) > 9.99
        else:
            assert dearer(cost_to_go, S) == pytest.approx(1.0)
        met.add(away_m < GOAL_RADIUS_M)
        pose, _ = move(expert.walkable, pose, SPLIT_STEP.action(cost_to_go.kind))
        turning = after(cost_to_go.kind, turning)
    assert met == {False, True} and away_m < WITHIN_M
    assert min(dearer(cost_to_go, k) for k in (F, L, R)) == pytest.approx(2.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(folder, from_flat(TrainConfig, {**SMALL, "model.vision_depth": 2}).model)
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def test_words_are_taught_by_what_they_cost(model: LoadedModel) -> None:
    """Against a slow reference: word after word, in Python."""
    collator = Collator(model, load_profile("tiny"))
    camera, extrinsics = robot_camera(64, 48)
    rules = Rules(
        camera=camera,
        extrinsics=extrinsics,
        grid=collator.grid,
        queue=4,
        max_turns=6,
        keep_frames=False,
        stop_within_m=WITHIN_M,
        clearance_m=0.12,
        least_executed=4,
        finds_sources=False,
    )
    runs = [demonstrate(Task("small", n, 0.3, n), rules) for n in (0, 7)]
    batch = collate([collator.write(r)[0] for r in runs])
    words = {k: f"{k.name.removeprefix('TURN_').lower()}" for k in ActionKind}
    tokenize = model.tokenizer.encode
    with torch.no_grad():
        states = forward(model.network, batch, collator.grid, model.pixels)
        scores = model.network.lm_head(states.hidden).log_softmax(-1)
        heads = Heads(model.network.lm_head.in_features)
        for temperature in (0.01, 0.5, 2.0):
            found = losses(model.network, heads, batch, states, Weights(0.0, 0.0, 0.0, temperature)).action
            total, count = 0.0, 0
            choices = set(batch.choices.places.tolist())
            for row in range(2):
                for k in range(batch.ids.shape[1]):
                    if batch.labels[row, k] != IGNORED and row * batch.ids.shape[1] + k not in choices:
                        total -= float(scores[row, k, batch.labels[row, k]])
            asked = iter(batch.asked.tolist())
            for run in runs:
                for decision in run.decisions:
                    row, place = divmod(next(asked), batch.ids.shape[1])
                    count += 1
                    for n, costs in enumerate(decision.costs):
                        said = [words[k] for k in decision.executed[:n]]
                        before = tokenize(", ".join(said)) if n else []
                        shares = np.exp((costs.min() - costs) / temperature)
                        shares /= shares.sum()
                        for kind in ActionKind:
                            ids = tokenize(", ".join([*said, words[kind]]))
                            comma = len(ids) - len(before) - 1
                            p = shares[kind.value]
                            got = float(scores[row, place + len(before) + comma, ids[-1]])
                            total += p * (math.log(p) - got) if p > 0.0 else 0.0
            assert float(found) == pytest.approx(total / count, rel=1e-4)
            assert decision.costs.shape == (len(decision.executed), 4)
