"""The baselines of the small policy, and that validation runs are the pipeline's runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_models import SMALL

from vln_ros.config import NavigatorConfig, TrainConfig, from_flat
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.engines import build_loop
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.metrics import summarise
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.sim.oracle.policy import OraclePolicy
from vln_ros.sim.splits import SPLIT_STEP, make_episodes
from vln_ros.training.baselines import (
    BlindEngine,
    Policy,
    RandomEngine,
    Verdict,
    metrics_of,
    misled,
    run_all,
    table,
)
from vln_ros.training.demonstrations import Rules, robot_camera
from vln_ros.training.rollout import follow, training_world


def test_the_expert_reaches_what_chance_does_not() -> None:
    episodes = make_episodes("val_unseen", 6, "room")
    expert = Policy("expert", OraclePolicy(episodes, SPLIT_STEP, 4), episodes, False)
    metrics = metrics_of(run_all(expert, 80))
    assert all(m.success for m in metrics)
    chance = [
        metrics_of(run_all(Policy("random", RandomEngine((1, 1, 1, 1), seed), episodes, False), 80))
        for seed in (3, 3)
    ]
    assert chance[0] == chance[1]
    assert sum(m.success for m in chance[0]) <= 2
    shown = table([Verdict("room", "expert", summarise(metrics))])
    assert "| room | expert | 100.0% (61%-100%) |" in shown


def test_every_episode_is_told_another_one_and_nothing_else_changes() -> None:
    episodes = make_episodes("val_unseen", 7, "room")
    told = misled(episodes, 5)
    assert sorted(e.instruction for e in told) == sorted(e.instruction for e in episodes)
    number = {e.episode_id: k for k, e in enumerate(episodes)}
    given = [e.instruction for e in episodes]
    for k, e in enumerate(told):
        sources = [j for j, text in enumerate(given) if text == e.instruction]
        assert sources != [k]
        assert replace(e, instruction=given[number[e.episode_id]]).scene_id == episodes[k].scene_id
        assert e.start == episodes[k].start


def test_the_blind_see_black() -> None:
    shown: list[Frame] = []

    class Eye:
        def start(self, instruction: Instruction) -> None: ...
        def observe(self, frame: Frame) -> None:
            shown.append(frame)

        def decide(self, queue: int) -> ActionChunk:
            return ActionChunk(queue, 0, 0, ())

        def close(self) -> None: ...

    episodes = make_episodes("val_unseen", 1, "room")
    run_all(Policy("blind", BlindEngine(Eye()), episodes, False), 80)
    assert shown and not any(f.rgb.any() for f in shown)


@pytest.mark.parametrize("unasked", ["drop", "keep"])
def test_a_validation_run_is_the_pipelines(tmp_path: Path, unasked: str) -> None:
    torch.set_num_threads(1)
    build_tiny(tmp_path / "tiny", from_flat(TrainConfig, SMALL).model)
    model = load_model(
        str(tmp_path / "tiny"), device="cpu", dtype="float32", attention="sdpa", quantisation="none"
    )
    profile = load_profile("tiny")
    profile = replace(profile, context=replace(profile.context, unasked_frames=unasked))
    camera, extrinsics = robot_camera(160, 120)
    world = training_world(
        Rules(
            camera=camera,
            extrinsics=extrinsics,
            grid=(4, 4),
            queue=4,
            max_turns=10,
            keep_frames=unasked == "keep",
            stop_within_m=0.7,
            clearance_m=0.0,
            least_executed=4,
            finds_sources=False,
        )
    )
    lengths = []
    for seed in range(8):
        # Hot sampling: a random checkpoint's greedy answer would hardly depend on what it is shown.
        engines = [QwenEngine(model, profile, temperature=8.0, seed=seed) for _ in range(2)]
        episode = make_episodes("val_seen", 8, "room")[seed]
        mine = follow(engines[0], world, episode, 1, max_actions=24, every_frame=unasked == "keep")
        run = EpisodeRun(
            world,
            episode,
            start_ns=0,
            step_period_ns=500_000_000,
            limits=EpisodeLimits(24),
            recorder=EpisodeRecorder(episode_info(episode), None),
        )
        run_lockstep(run, build_loop(engines[1], NavigatorConfig()), 1)
        record = run.finish()
        theirs = [s.action.kind for s in record.steps if s.action is not None]
        kinds = [k for queue in mine.executed for k in queue]
        assert kinds[: len(theirs)] == theirs and len(kinds) - len(theirs) < 4
        assert record.metrics is not None
        assert (mine.success, mine.nearest_m < 1.0) == (
            record.metrics.success,
            record.metrics.oracle_success,
        )
        np.testing.assert_allclose(mine.spl, record.metrics.spl, atol=1e-9)
        lengths.append(len(theirs))
    assert max(lengths) > 4  # more than one decision
