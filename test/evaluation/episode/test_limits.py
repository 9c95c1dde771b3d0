"""Early ends: declared, applied, and told apart from a stop."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from vln_ros.config import EvalConfig, LimitsConfig, Scalar, TinyConfig, from_flat
from vln_ros.datatypes import STOP, Action, ActionChunk
from vln_ros.engine.checkpoint.profile import Limits
from vln_ros.engine.tiny import build_tiny
from vln_ros.evaluation.episode.record import EpisodeRecord, EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.runs.run_folder import EpisodeOutcome
from vln_ros.evaluation.workers.schedule import Job
from vln_ros.evaluation.workers.worker import Worker, episode_limits
from vln_ros.evaluation.workers.worlds import build_worlds
from vln_ros.sim.splits import make_episodes

LEFT, AHEAD = Action(turn_rad=math.radians(15.0)), Action(forward_m=0.25)
EPISODES = make_episodes("val_unseen", 3, "room")
SMALL: dict[str, Scalar] = {"camera.width": 32, "camera.height": 24}


def test_options_decide_and_else_the_profile() -> None:
    profile = Limits(turns_in_place=25, actions=400, questions=120)
    assert EpisodeLimits.of(500, LimitsConfig(), profile) == EpisodeLimits(500, 400, 25, 120)
    assert EpisodeLimits.of(500, LimitsConfig(), None) == EpisodeLimits(500)
    chosen = LimitsConfig(actions=0, turns_in_place=9, questions=-1, as_stop=True)
    assert EpisodeLimits.of(500, chosen, profile) == EpisodeLimits(500, None, 9, 120, True)
    named = from_flat(EvalConfig, {"navigator.qwen.profile": "activevln-r2r"})
    assert episode_limits(named) == EpisodeLimits(500, 401, 26, 120)


def run(limits: EpisodeLimits, queues: list[tuple[Action, ...]]) -> EpisodeRecord:
    world = build_worlds(from_flat(EvalConfig, SMALL), 1)[0]
    episode = EPISODES[0]
    run = EpisodeRun(
        world,
        episode,
        start_ns=0,
        step_period_ns=500_000_000,
        limits=limits,
        recorder=EpisodeRecorder(episode_info(episode), None),
    )
    for number, queue in enumerate(queues):
        chunk = ActionChunk(number, 1, run.stamp_ns, queue)
        run.decided(chunk, 1.0)
        for _ in run.execute(chunk):
            pass
        if run.ended is not None:
            break
    return run.finish()


def test_each_limit_ends_at_its_count() -> None:
    turning: list[tuple[Action, ...]] = [(LEFT,) * 4] * 5
    record = run(EpisodeLimits(50, turns_in_place=7), turning)
    assert (record.ended, len(record.steps) - 1) == ("turned in place", 7)
    record = run(EpisodeLimits(50, actions=6), turning)
    assert (record.ended, len(record.steps) - 1) == ("action limit", 6)
    record = run(EpisodeLimits(6, actions=6), turning)
    assert (record.ended, len(record.steps) - 1) == ("step limit", 6)
    record = run(EpisodeLimits(50, questions=3), turning)
    assert (record.ended, len(record.decisions), len(record.steps) - 1) == ("question limit", 3, 12)
    assert run(EpisodeLimits(50), turning).ended == "aborted"


def test_moving_begins_the_count_anew_and_a_stop_is_a_stop() -> None:
    swaying: list[tuple[Action, ...]] = [(LEFT, LEFT, AHEAD, LEFT)] * 4
    assert run(EpisodeLimits(50, turns_in_place=4), swaying).ended == "aborted"
    assert run(EpisodeLimits(50, turns_in_place=3), swaying).ended == "turned in place"
    assert run(EpisodeLimits(2, turns_in_place=2), [(LEFT, STOP)]).ended == "stop"


def test_only_where_it_is_declared_an_early_end_counts_as_a_stop() -> None:
    import dataclasses

    near = dataclasses.replace(EPISODES[0], goal_radius_m=100.0)
    found = []
    for limits in (
        EpisodeLimits(50, turns_in_place=2),
        EpisodeLimits(50, turns_in_place=2, as_stop=True),
        EpisodeLimits(2, as_stop=True),  # the world's own limit is never a stop
    ):
        world = build_worlds(from_flat(EvalConfig, SMALL), 1)[0]
        recorder = EpisodeRecorder(episode_info(near), None)
        run = EpisodeRun(world, near, start_ns=0, step_period_ns=1, limits=limits, recorder=recorder)
        for _ in run.execute(ActionChunk(0, 1, 0, (LEFT, LEFT, LEFT))):
            pass
        metrics = run.finish().metrics
        assert metrics is not None and metrics.oracle_success
        found.append(metrics.success)
    assert found == [False, True, False]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    small = {
        "hidden": 48, "layers": 2, "heads": 3, "kv_heads": 1, "intermediate": 64, "vision_depth": 1,
        "vision_hidden": 32, "vision_heads": 2, "vision_intermediate": 48,
    }  # fmt: skip
    build_tiny(folder, from_flat(TinyConfig, small))
    return folder


def test_sessions_that_share_a_model_take_the_decisions_of_one(checkpoint: Path) -> None:
    options: dict[str, Scalar] = {
        **SMALL,
        "navigator.engine": "qwen",
        "navigator.qwen.checkpoint": str(checkpoint),
        "navigator.qwen.device": "cpu",
        "max_steps": 10,
    }
    orders = [Job(n, e, False) for n, e in enumerate(EPISODES, 1)]

    def outcomes(sessions: int) -> dict[str, EpisodeOutcome]:
        found: dict[str, EpisodeOutcome] = {}
        with Worker(from_flat(EvalConfig, {**options, "sessions": sessions})) as bench:
            assert bench.ready().checkpoint
            waiting = list(orders)
            while len(found) < len(orders):
                given, waiting = waiting[:sessions], waiting[sessions:]
                for event in bench.step(given):
                    assert isinstance(event, EpisodeOutcome)
                    found[event.result.episode_id] = event
                while sessions > 1 and waiting == [] and len(found) < len(orders):
                    for event in bench.step([]):
                        assert isinstance(event, EpisodeOutcome)
                        found[event.result.episode_id] = event
        return found

    alone, together = outcomes(1), outcomes(3)
    for episode_id, outcome in alone.items():
        other = together[episode_id]
        assert outcome.files["trajectory.jsonl"] == other.files["trajectory.jsonl"]
        assert outcome.result.metrics == other.result.metrics
        ours, theirs = outcome.result.cost, other.result.cost
        assert ours is not None and theirs is not None
        assert ours.tokens is not None and ours.tokens > 0
        assert (ours.forwards, ours.tokens) == (theirs.forwards, theirs.tokens)
        assert outcome.result.decisions >= 3
