"""The engine decides as it does with the released forwards, whatever its stream goes through."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import build_small

from benchmarks.measure.released import RELEASED
from vln_ros.config import StreamConfig
from vln_ros.datatypes import ActionChunk, CameraModel, Executed, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import ContextSpec, ImageSpec, Profile, load_profile
from vln_ros.engine.inputs.vision import FIXED_SHAPES, Forwards
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.layers import decoder
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.segments import Text
from vln_ros.engine.warm_up import rehearse
from vln_ros.sim.splits import make_episodes
from vln_ros.training.baselines import MAX_ACTIONS, Policy, run_all

TOLERANCE = 1e-4
SIZES = [(56, 56), (84, 112)]
PROFILES = {
    "append, frames dropped": ("tiny", None),
    "append, frames kept": ("tiny", ContextSpec("append", unasked_frames="keep")),
    "history with a penalty": ("navida", None),
}


def load(folder: str, dtype: str = "float32") -> LoadedModel:
    torch.set_num_threads(1)
    model = load_model(folder, device="cpu", dtype=dtype, attention="sdpa", quantisation="none")
    assert decoder.runs_on_slots(model.network)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(build_small(tmp_path_factory.mktemp("tiny") / "checkpoint")))


def profile_of(name: str, spec: ContextSpec | None) -> Profile:
    profile = replace(load_profile(name), image=ImageSpec(None, None))
    return profile if spec is None else replace(profile, context=spec)


def robot(
    model: LoadedModel,
    profile: Profile,
    accelerator: Accelerator | None = None,
    forwards: Forwards = FIXED_SHAPES,
    **stream: Any,
) -> QwenEngine:
    engine = QwenEngine(
        model, profile, temperature=0.0, seed=0, stream=StreamConfig(min_allowed=0.0, **stream),
        accelerator=accelerator, forwards=forwards,
    )  # fmt: skip
    engine.start(Instruction(1, "go to the red chair"))
    return engine


def frame(index: int, size: tuple[int, int]) -> Frame:
    height, width = size
    rgb = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.1 * (index % 5), 0.3 * (index % 7))
    camera = CameraModel.from_hfov(width, height, 1.2)
    return Frame(index, (index + 1) * 10**8, rgb, None, camera, pose, pose)


def timeline(seed: int, length: int) -> list[tuple[str, int]]:
    """Frames of two sizes, decisions, answers cut short, questions, other instructions."""
    chance = random.Random(seed)
    events = ["frame", "frame", "frame", "decide", "decide", "decide", "cut", "ask", "choice", "ahead"]
    return [("frame", 0)] + [
        ("instruction" if chance.random() < 0.05 else chance.choice(events), chance.randrange(100))
        for _ in range(length)
    ]


@dataclass
class Run:
    """What one engine said, event by event."""

    engine: QwenEngine
    said: list[object]
    numbers: list[float]

    def play(self, events: Sequence[tuple[str, int]]) -> None:
        newest, asked, number = -1, -1, 1
        done: list[Executed] = []
        chunk: ActionChunk | None = None
        for index, (event, detail) in enumerate(events):
            if event == "frame" or newest < 0 or (event == "decide" and asked == newest):
                newest = index
                self.engine.observe(frame(index, SIZES[detail % 2]))
            elif event == "decide":
                asked = newest
                chunk = self.engine.decide(index)
                self._note(chunk)
            elif event == "cut" and chunk is not None:  # the robot did only the beginning of it
                actions = chunk.actions[: detail % (len(chunk.actions) + 1)]
                done += [Executed(stamp_ns=(newest + 1) * 10**8 + 1, action=a) for a in actions]
                chunk = None
                self.engine.executed(done)
            elif event == "ask":
                self.said.append(self.engine.ask("What do you see?", max_tokens=3))
            elif event == "choice":
                self.numbers += self.engine.ask_choice("Is the goal in view?", ["yes", "no", "left"])
            elif event == "ahead":
                self.engine.work_ahead()
            elif event == "instruction":
                number, newest, asked, chunk, done = number + 1, -1, -1, None, []
                self.engine.start(Instruction(number, f"walk past the blue sofa, then {detail} steps"))

    def _note(self, chunk: ActionChunk) -> None:
        self.said += [chunk.actions, chunk.unconstrained, chunk.held]
        self.numbers += [*chunk.probabilities, chunk.allowed or 0.0]


def compare(model: LoadedModel, name: str, seed: int, length: int, **stream: Any) -> Run:
    profile, events = profile_of(*PROFILES[name]), timeline(seed, length)
    ours = Run(robot(model, profile, **stream), [], [])
    released = Run(robot(model, profile, forwards=RELEASED, **stream), [], [])
    for run in (ours, released):
        run.play(events)
    assert ours.said == released.said
    assert ours.numbers == pytest.approx(released.numbers, abs=TOLERANCE)
    assert ours.engine.forwards == released.engine.forwards
    return ours


def test_each_engine_runs_the_forwards_that_it_was_given(model: LoadedModel) -> None:
    """The other one's never: both are here, in one process and on one network."""
    run: list[str] = []
    parts: dict[str, Any] = {
        "tower": model.network.model.visual,
        "decoder": model.network.model.language_model,
    }
    hooks = [part.register_forward_hook(lambda *_, n=name: run.append(n)) for name, part in parts.items()]
    engines = [robot(model, profile_of("tiny", None), forwards=f) for f in (FIXED_SHAPES, RELEASED)]
    found = []
    for engine in engines:
        run.clear()
        engine.observe(frame(0, SIZES[0]))
        engine.decide(0)
        engine.session.fork().push([Text((5, 6))])
        found.append(list(run))
    for hook in hooks:
        hook.remove()
    ours, released = found
    assert ours == []
    assert released.count("tower") == 1 and released.count("decoder") == engines[1].forwards + 1


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("decode", ["tree", "tokens"])
@pytest.mark.parametrize("seed", range(3))
def test_queues_are_those_of_the_released_forwards(
    model: LoadedModel, name: str, decode: str, seed: int
) -> None:
    """The budget is small, so that turns are evicted all the time."""
    run = compare(model, name, seed, 40, decode=decode, token_budget=200, recent_turns=2, tree_nodes=24)
    assert len(run.numbers) > 20


def test_the_timelines_have_all_kinds_of_events_and_evict(model: LoadedModel) -> None:
    events = {event for seed in range(3) for event, _ in timeline(seed, 40)}
    assert events >= {"frame", "decide", "cut", "ask", "choice", "ahead", "instruction"}
    run = compare(model, "append, frames kept", 1, 60, token_budget=200, recent_turns=2)
    assert run.engine.report().evicted > 0


@pytest.mark.parametrize("name", PROFILES)
def test_what_was_recorded_says_what_is_said_without(model: LoadedModel, name: str) -> None:
    accelerator = Accelerator("again", lambda work: work)
    profile, events = profile_of(*PROFILES[name]), timeline(5, 60)
    budget: dict[str, Any] = {"token_budget": 200, "recent_turns": 2}
    runs = [Run(robot(model, profile, accelerator=a, **budget), [], []) for a in (None, accelerator)]
    for run in runs:
        run.play(events)
    plain, recorded = runs
    assert recorded.said == plain.said
    assert recorded.numbers == pytest.approx(plain.numbers, abs=TOLERANCE)
    assert accelerator.recorded > 3 and accelerator.reason is None
    assert "shapes" in str(dict(recorded.engine.vitals())["accelerate"])


def test_a_rehearsal_records_and_leaves_no_trace(model: LoadedModel) -> None:
    accelerator = Accelerator("again", lambda work: work)
    profile = replace(load_profile("tiny"), image=ImageSpec(SIZES[0], None))
    rehearsed, fresh = robot(model, profile, accelerator=accelerator), robot(model, profile)
    rehearse(rehearsed)
    known = accelerator.recorded
    assert known > 1, "the picture and the decision"
    runs = [Run(engine, [], []) for engine in (rehearsed, fresh)]
    for run in runs:
        run.engine.start(Instruction(1, "go to the red chair"))
        run.play([("frame", 0), ("decide", 0)] * 6)
    assert runs[0].said == runs[1].said
    assert runs[0].numbers == pytest.approx(runs[1].numbers, abs=TOLERANCE)
    assert accelerator.recorded == known, "nothing is recorded while somebody waits"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(250))
def test_queues_over_many_timelines(model: LoadedModel, seed: int) -> None:
    name = list(PROFILES)[seed % len(PROFILES)]
    budget = (200, 400, 24576)[seed // len(PROFILES) % 3]
    compare(model, name, 1000 + seed, 40, token_budget=budget, recent_turns=1 + seed % 4)


class SideBySide:
    """Two engines that see the same. The first one drives. Implements :class:`vln_ros.protocols.Engine`."""

    def __init__(self, *engines: QwenEngine) -> None:
        self._engines = engines
        self.decided: list[tuple[ActionChunk, ...]] = []

    def start(self, instruction: Instruction) -> None:
        for engine in self._engines:
            engine.start(instruction)

    def observe(self, frame: Frame) -> None:
        for engine in self._engines:
            engine.observe(frame)

    def decide(self, queue: int) -> ActionChunk:
        self.decided.append(tuple(engine.decide(queue) for engine in self._engines))
        return self.decided[-1][0]

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


@pytest.mark.slow
def test_queues_of_the_shipped_policy_in_bfloat16() -> None:
    """60 of 60, where it drives: what it was trained for has clear answers."""
    model, profile = load("shipped:tiny", "bfloat16"), load_profile("tiny")
    both = SideBySide(robot(model, profile, forwards=RELEASED), robot(model, profile))
    episodes = make_episodes("val_unseen", 14, "room")
    run_all(Policy("both", both, episodes, looks=True), MAX_ACTIONS["room"], (160, 120))
    assert len(both.decided) >= 60
    for released, ours in both.decided[:60]:
        assert ours.actions == released.actions
