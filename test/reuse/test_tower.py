"""The tower passes over what is taken over, through the engine: what it computes, and what it hands on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import eager
from torch import Tensor

from vln_ros.axes import base_from_optical
from vln_ros.config import ConfigError, PruneConfig, ReuseConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import ContextSpec, Profile, load_profile
from vln_ros.engine.inputs.preprocess import cut, fit
from vln_ros.engine.inputs.tower import encode_pictures, tower_of
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.partial_tower import PartialTower
from vln_ros.engine.stream.plug import Plug
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.tiny import build_tiny
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.sim.embedded.flat import scene_id
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.training.vision import encode_frames

SIZE = (280, 224)
"""10 x 8 tokens: windows of 4 x 4, and narrow ones at the right."""
HALF = ReuseConfig(enabled=True, doubt=0.0, window=0, min_agreement=0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=3, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


@cache
def walk(count: int = 7) -> tuple[Frame, ...]:
    """A robot that turns and drives."""
    extrinsics = base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=0.1)
    world = EmbeddedWorld(CameraModel.from_hfov(*SIZE, math.radians(79)), extrinsics)
    world.load(scene_id(0))
    x0, y0, x1, y1 = world.scene.flat.rooms[0].inner
    x, y = world.scene.walkable.nearest(np.array([(x0 + x1) / 2, (y0 + y1) / 2]))
    frames = []
    for index in range(count):
        pose = Pose.planar(float(x), float(y), 0.1 * index) @ Pose.planar(0.05 * index, 0.0, 0.0)
        world.place(pose)
        rgb, depth_m = world.render()
        frames.append(Frame(index, index * 10**8, rgb, depth_m, world.camera, pose, pose @ extrinsics))
    return tuple(frames)


def profile(spec: ContextSpec | None = None) -> Profile:
    own = load_profile("tiny")
    return replace(own, image=replace(own.image, resize=SIZE), context=spec or own.context)


def engine(
    model: LoadedModel, reuse: ReuseConfig = HALF, own: Profile | None = None, **stream: Any
) -> QwenEngine:
    config = StreamConfig(**stream)
    return eager(QwenEngine(model, own or profile(), temperature=0.0, seed=0, stream=config, reuse=reuse))


class Seen(Plug):
    """What became of each frame."""

    def __init__(self, robot: QwenEngine) -> None:
        self.images: list[Image] = []
        robot.session.plugs = (*robot.session.plugs, self)

    def on_frame(self, frame: Frame, image: Image) -> None:
        self.images.append(image)


def run(robot: QwenEngine, frames: tuple[Frame, ...]) -> Iterator[tuple[Image, Any]]:
    seen = Seen(robot)
    robot.start(Instruction(1, "go to the red chair"))
    for index, frame in enumerate(frames):
        robot.observe(frame)
        yield seen.images[-1], robot.decide(index + 1)


def plan_of(robot: QwenEngine) -> Any:
    assert robot.reuse is not None
    (plan,) = robot.reuse.last_plans.values()
    return plan


def exact(model: LoadedModel, frame: Frame) -> Tensor:
    (features,) = encode_pictures(
        tower_of(model.network, model.pixels), [fit(frame.rgb, model.pixels, None, SIZE)]
    )
    return features


def half_patches(model: LoadedModel, frame: Frame) -> Tensor:
    patches = cut(fit(frame.rgb, model.pixels, None, SIZE), model.pixels).patches
    return patches.view(len(patches), 3, 2, -1)[:, :, 0].flatten(1)


def test_features_of_a_walk_are_those_that_the_trainer_computes(model: LoadedModel) -> None:
    """With the origins that the plans name, handed on from frame to frame."""
    robot = engine(model)
    tokens = 80
    made: list[Tensor] = []
    own: list[Tensor] = []
    origins: list[Any] = []
    ids: dict[int, int] = {}
    for number, (image, _) in enumerate(run(robot, walk())):
        plan = plan_of(robot)
        assert image.image_id is not None
        ids[image.image_id] = number
        mine = np.arange(tokens) + number * tokens
        root = mine.copy()
        for token in np.flatnonzero(~plan.computed):
            root[token] = origins[ids[int(plan.source[token])]][plan.token[token]]
        made.append(image.features)
        own.append(torch.from_numpy(root == mine))
        origins.append(root)
    patches = torch.stack([half_patches(model, frame) for frame in walk()])
    visual = model.network.model.visual
    with torch.no_grad():
        expected = encode_frames(visual, patches, (8, 10), torch.from_numpy(np.concatenate(origins)))
        all_own = encode_frames(visual, patches, (8, 10))
    for features, there, right, whole in zip(made, own, expected, all_own, strict=True):
        torch.testing.assert_close(features[there], right[there], atol=1e-4, rtol=1e-4)
        if not there.all():
            assert (right[there] - whole[there]).abs().max() > 1e-3  # it is another one than the exact one
    assert sum(int(not o.all()) for o in own) >= 5


def test_the_decoder_computes_the_same_tokens_and_says_so(model: LoadedModel) -> None:
    robot = engine(model)
    for image, _ in run(robot, walk()):
        plan = plan_of(robot)
        assert np.array_equal(plan.slot < 0, plan.computed)
        assert image.features.isfinite().all()
    stats = robot.reuse_stats()
    assert stats is not None
    assert stats.passed_over == pytest.approx(stats.reuse)
    assert 0.3 < stats.reuse <= 0.5
    assert stats.stale == 0 and stats.refused["first frame"] == 1
    assert set(stats.refused) <= {"first frame", "all of it must be computed"}
    vitals = dict(robot.vitals())
    assert vitals["reuse: tower passed over [%]"] == 100.0 * stats.passed_over
    assert vitals["reuse: net [ms]"] == pytest.approx(stats.saved_ms - stats.overhead_ms)


@pytest.mark.parametrize(
    "changes", [{"budget": 1.0}, {"refresh_every": 1}, {"doubt": 1.0}, {"max_relevance": 0.0}]
)
def test_what_is_computed_whole_is_full_compute_bit_for_bit(
    model: LoadedModel, changes: dict[str, Any]
) -> None:
    """At budget 1 nothing else happens than without reuse; nor where time, doubt or the gate ask for all."""
    robot, plain = engine(model, replace(HALF, **changes)), engine(model, ReuseConfig())
    for (image, chunk), (expected, same) in zip(run(robot, walk()), run(plain, walk()), strict=True):
        assert torch.equal(image.features, expected.features)
        assert (chunk.actions, chunk.probabilities) == (same.actions, same.probabilities)
    stats = robot.reuse_stats()
    assert stats is not None and stats.reuse == stats.passed_over == 0.0


def test_a_frame_equal_to_the_one_before_is_not_seen_again_if_all_of_that_was(model: LoadedModel) -> None:
    frames = [walk()[0], walk()[1], walk()[1], walk()[1], walk()[1]]
    still = tuple(replace(f, index=i, stamp_ns=i) for i, f in enumerate(frames))
    images = [image for image, _ in run(engine(model, replace(HALF, refresh_every=4)), still)]
    assert images[2].features is not images[1].features  # part of it was older
    assert images[4].features is not images[3].features
    assert torch.equal(images[4].features, exact(model, walk()[1]))
    robot = engine(model)
    first = tuple(replace(walk()[0], index=i, stamp_ns=i) for i in range(3))
    images = [image for image, _ in run(robot, first)]
    assert images[0].features is images[1].features is images[2].features
    stats = robot.reuse_stats()
    assert stats is not None and stats.repeated == 2 and stats.reuse > 0.3 and stats.passed_over == 0.0


def test_a_tower_that_runs_out_of_memory_is_asked_again(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot, plain = engine(model), engine(model)
    expected = [chunk.actions for _, chunk in run(plain, walk())]
    encode = PartialTower.encode
    failed: list[bool] = []

    def fail(*args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return encode(*args)

    monkeypatch.setattr(PartialTower, "encode", fail)
    assert [chunk.actions for _, chunk in run(robot, walk())][:1] == expected[:1]
    assert failed and robot.given_up()


def test_where_features_are_needed_again_the_tower_sees_all(model: LoadedModel) -> None:
    history = ContextSpec(
        strategy="history", history_frames=4, history_choice="uniform_floor", history_empty="none"
    )
    shown = "{history} Instruction: {instruction}\n{image}"
    own = replace(profile(history), first_turn=shown, next_turn=shown)
    plain = engine(model, ReuseConfig(), own)
    robot = engine(model, HALF, own)
    for (image, _), (expected, _) in zip(run(robot, walk()), run(plain, walk()), strict=True):
        assert torch.equal(image.features, expected.features)
    stats = robot.reuse_stats()
    assert stats is not None and stats.passed_over == 0.0 < stats.reuse
    pruned = engine(model, HALF, prune=PruneConfig(strategy="voxels", window=0))
    for image, _ in run(pruned, walk()):
        assert image.image_id is not None
    stats = pruned.reuse_stats()
    assert stats is not None and stats.passed_over == 0.0


@pytest.mark.parametrize("unasked", ["keep", "drop"])
@pytest.mark.parametrize("on_arrival", [True, False])
def test_frames_that_nobody_asks_about(model: LoadedModel, unasked: str, on_arrival: bool) -> None:
    spec = ContextSpec(strategy="append", unasked_frames=unasked)
    robot = engine(model, HALF, profile(spec), prefill_on_arrival=on_arrival)
    robot.start(Instruction(1, "go to the red chair"))
    for index, frame in enumerate(walk()):
        robot.observe(frame)
        robot.work_ahead()
        if index % 3 == 2:
            robot.decide(index)
    stats = robot.reuse_stats()
    assert stats is not None
    assert stats.stale == 0 and stats.reuse > 0.0


def test_it_switches_itself_off_and_every_picture_that_has_no_features_keeps_its_plan(
    model: LoadedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = engine(model, replace(HALF, window=3))
    ticks = iter(range(10**6))
    # Planning takes as long as computing.
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    images = [image for image, _ in run(robot, walk())]
    stats = robot.reuse_stats()
    assert stats is not None and stats.auto_offs == 1
    assert "switched off" in caplog.text
    assert stats.refused[FallbackReason.SWITCHED_OFF.value] >= 1
    assert stats.stale == 0
    assert torch.equal(images[-1].features, exact(model, walk()[-1]))


def test_robots_that_share_their_forwards_see_all_of_each_frame(model: LoadedModel) -> None:
    robots = [
        QwenEngine(model, profile(), temperature=0.0, seed=0, stream=StreamConfig(), reuse=HALF)
        for _ in range(2)
    ]
    seen = [Seen(robot) for robot in robots]
    for robot in robots:
        robot.start(Instruction(1, "go"))
    for frame in walk()[:4]:
        assert observe_together(robots, [frame, frame]) == [None, None]
        decide_together(robots, [1, 1])
        for each in seen:
            assert torch.equal(each.images[-1].features, exact(model, frame))
    robots[0].observe(walk()[4])  # planned before anybody knows that it will be alone
    robots[0].decide(2)
    assert plan_of(robots[0]).reason is FallbackReason.SHARED
    robots[0].observe(walk()[5])
    robots[0].decide(3)
    assert plan_of(robots[0]).reason is None


def test_a_budget_per_layer_needs_the_whole_tower(model: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"reuse\.tower"):
        engine(model, replace(HALF, layer_budget=True))
    engine(model, replace(HALF, layer_budget=True, tower=False))
