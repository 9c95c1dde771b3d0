"""The ways to run one policy: the stream does what full recompute does, and the figures are theirs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_models import SMALL

from benchmarks.policy.ablations import Ablation, RecomputeEngine, TimedEngine, ablations, compare, table
from vln_ros.config import ConfigError, StreamConfig, TrainConfig, from_flat
from vln_ros.datatypes import ActionChunk, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.splits import make_episodes
from vln_ros.training.batch import ActionWords
from vln_ros.training.demonstrations import robot_camera
from vln_ros.training.rollout import follow

MODEL = {"model.seed": 13, **SMALL}
NAMES = [w.name for w in ablations(load_profile("tiny"))]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder / "none", from_flat(TrainConfig, MODEL).model)
    build_tiny(folder / "wide", from_flat(TrainConfig, {**MODEL, "model.hidden": 192}).model)

    def load(quantisation: str) -> LoadedModel:
        name = "none" if quantisation == "none" else "wide"  # four bits want a multiple of 64
        return load_model(
            str(folder / name), device="cpu", dtype="float32", attention="sdpa", quantisation=quantisation
        )

    return load


@pytest.fixture(scope="module")
def model(load: Callable[[str], LoadedModel]) -> LoadedModel:
    return load("none")


class Listener:
    """Another engine, and what it answers."""

    def __init__(self, engine: TimedEngine) -> None:
        self.engine = engine
        self.chunks: list[ActionChunk] = []
        self.start, self.observe, self.close = engine.start, engine.observe, engine.close

    def decide(self, queue: int) -> ActionChunk:
        self.chunks.append(self.engine.decide(queue))
        return self.chunks[-1]


@pytest.mark.parametrize("unasked", ["drop", "keep"])
def test_computing_everything_anew_changes_nothing_but_the_cost(model: LoadedModel, unasked: str) -> None:
    profile = load_profile("tiny")
    profile = replace(profile, context=replace(profile.context, unasked_frames=unasked))
    world = EmbeddedWorld(*robot_camera(64, 48))
    unheld = StreamConfig(min_allowed=0.0)
    inner = [QwenEngine(model, profile, temperature=0.0, seed=0, stream=unheld) for _ in range(2)]
    words = ActionWords(ChatTemplate(model, profile), profile, model.tokens.im_end)
    stream, anew = Listener(TimedEngine(inner[0])), Listener(RecomputeEngine(inner[1], words))
    for number, episode in enumerate(make_episodes("val_seen", 3, "room")):
        for engine in (stream, anew):
            follow(engine, world, episode, number, max_actions=16, every_frame=True)
    world.close()
    assert [c.actions for c in stream.chunks] == [c.actions for c in anew.chunks]
    a, b = (np.concatenate([c.probabilities for c in e.chunks]) for e in (stream, anew))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(stream.engine.seconds) == len(anew.engine.seconds) == len(stream.chunks) > 3
    assert anew.engine.tokens > 1.2 * stream.engine.tokens


@pytest.mark.parametrize("name", NAMES)
def test_every_way_decides(load: Callable[[str], LoadedModel], model: LoadedModel, name: str) -> None:
    ablation: Ablation = next(w for w in ablations(load_profile("tiny")) if w.name == name)
    if ablation.quantisation != "none":
        model = load(ablation.quantisation)
    engine = QwenEngine(model, ablation.profile, temperature=0.0, seed=0, stream=ablation.stream)
    world = EmbeddedWorld(*robot_camera(64, 48))
    episode = make_episodes("val_seen", 1, "room")[0]
    engine.start(Instruction(1, episode.instruction))
    run = follow(engine, world, episode, 1, max_actions=20, every_frame=True)
    if name != "stream, free text":  # random weights say nothing that can be read
        assert run.executed
        assert max(len(q) for q in run.executed) <= int(name[0] if name[0].isdigit() else 4)


def test_the_table_holds_every_way_against_the_first(load: Callable[[str], LoadedModel]) -> None:
    rows = list(compare(load, load_profile("tiny"), "room", 2, 0, ["stream"]))
    assert [r.name for r in rows] == ["full recompute", "stream"]
    assert rows[1].same == 1.0 and rows[1].gain.mean == 0.0
    assert rows[0].decisions == rows[1].decisions
    assert rows[0].tokens >= rows[1].tokens > 0
    assert table(rows).count("| room |") == 2


def test_another_reference_can_be_named_and_unknown_ways_are(load: Callable[[str], LoadedModel]) -> None:
    profile = load_profile("tiny")
    rows = list(compare(load, profile, "room", 1, 0, ["1 action per decision"], against="stream"))
    assert [r.name for r in rows] == ["stream", "1 action per decision"]
    with pytest.raises(ConfigError, match=r"unknown ways \['swim'\]; there are .*'stream'"):
        next(compare(load, profile, "room", 1, 0, ["swim"]))


def test_another_context_has_no_reference() -> None:
    with pytest.raises(ValueError, match="not append"):
        ablations(load_profile("navida"))
