"""Reuse in the engine: exact where it must be, refused where it should be, under every strategy."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from engine_models import VISION_END, VISION_START, eager, tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.axes import base_from_optical
from vln_ros.config import ConfigError, LandmarkConfig, PruneConfig, ReuseConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import ContextSpec, load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.segments import Image, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.sparse import Sources
from vln_ros.engine.tiny import build_tiny
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.reuse.accounting import Reusing
from vln_ros.reuse.frame_plan import FramePlan, Label
from vln_ros.reuse.overlay import COLOURS, paint
from vln_ros.sim.embedded.flat import scene_id
from vln_ros.sim.embedded.world import EmbeddedWorld

ALL = ReuseConfig(
    enabled=True,
    budget=0.25,
    tower=False,
    max_relevance=1e6,
    max_relevance_change=1e6,
    max_age=1000,
    refresh_every=1000,
    doubt=0.0,
    min_agreement=0.0,
    max_drift=3.0,
    window=0,
)
"""Takes over whatever depth and pose allow, token by token, but for a quarter."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=3, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


@cache
def walk(count=8, turn_rad=0.1):
    """Frames of a robot that turns on the spot."""
    extrinsics = base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=0.1)
    world = EmbeddedWorld(CameraModel.from_hfov(112, 112, math.radians(79)), extrinsics)
    world.load(scene_id(0))
    x0, y0, x1, y1 = world.scene.flat.rooms[0].inner
    start = world.scene.walkable.nearest(np.array([(x0 + x1) / 2, (y0 + y1) / 2]))
    frames = []
    for index in range(count):
        pose = Pose.planar(*start, turn_rad * index)
        world.place(pose)
        rgb, depth_m = world.render()
        frames.append(Frame(index, index * 10**8, rgb, depth_m, world.camera, pose, pose @ extrinsics))
    return tuple(frames)


def with_context(spec, side=112):
    profile = load_profile("tiny")
    if spec.history_frames:
        turn = "{history} Instruction: {instruction}\n{image}"
        profile = replace(profile, first_turn=turn)
        profile = replace(profile, next_turn=turn) if spec.strategy == "history" else profile
    return replace(profile, image=replace(profile.image, resize=(side, side)), context=spec)


def engine(model, profile=None, reuse=ALL, **stream):
    own = profile or with_context(STRATEGIES["append, drop"])
    robot = QwenEngine(model, own, temperature=0.0, seed=0, stream=StreamConfig(**stream), reuse=reuse)
    return eager(robot)


def run(robot, frames, number=1, ask_every=1):
    robot.start(Instruction(number, "go to the red chair"))
    chunks = []
    for index, frame in enumerate(frames):
        robot.observe(frame)
        if index % ask_every == ask_every - 1:
            chunks.append(robot.decide(100 + index))
    return chunks


def said(chunks):
    return [(c.actions, c.probabilities) for c in chunks]


# -- the sparse forward --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=12, max_size=12), st.integers(0, 99))
def test_a_frame_in_its_own_slots_is_exact_at_any_reuse_in_any_layers(layers, seed):
    """Rolled back and pushed again with its own keys behind the stream taken over, from any layer on."""
    session = Session(tiny_network(), block_tokens=16)
    session.push([Text(words(5, seed))])
    features = torch.randn(12, 64, generator=torch.Generator().manual_seed(seed))
    pieces = [Text((VISION_START,)), Image(features, 3, 4), Text((VISION_END,))]
    before = session.snapshot()
    full = session.push(pieces)
    question = session.logits(session.push([Text(words(3, 1))]))
    session.rollback(before)
    base = before.tokens
    sources = [-1, *(base + 1 + i if d >= 0 else -1 for i, d in enumerate(layers)), -1]
    depth = torch.tensor([0, *(max(d, 0) for d in layers), 0])
    states = session.push(pieces, Sources(torch.tensor(sources), depth))
    computed = ~states.isnan().any(1)
    assert computed.tolist() == [s < 0 or d == 3 for s, d in zip(sources, depth.tolist(), strict=True)]
    assert (states[computed] - full[computed]).abs().max() <= 1e-5
    assert (session.logits(session.push([Text(words(3, 1))])) - question).abs().max() <= 1e-4


def test_keys_handed_on_a_hundred_times_in_bfloat16_do_not_drift():
    def error(keep):
        network = tiny_network()
        session = Session(network, block_tokens=16, keep_original_keys=keep)
        session.push([Text(words(6, 0))])
        cache = session.cache
        for layer in cache.layers:
            for name in ("keys", "values"):
                setattr(layer, name, getattr(layer, name).bfloat16())
            layer.original_keys = layer.keys.clone() if keep else None
        first = cache.layers[0].keys[:, :, 2].float()
        slot, position = 2, cache.positions[:, 2]
        for _ in range(100):
            target = torch.tensor([cache.length])
            cache.copy_rotated(torch.tensor([slot]), target, (cache.positions[:, slot] + 7)[:, None])
            slot = int(target)
        moved = cache.layers[0].keys[:, :, slot].float()
        delta = (cache.positions[:, slot] - position)[:, None]
        exact = cache.rotated(first[:, :, None], delta)[:, :, 0]
        return float((moved - exact).norm() / exact.norm())

    assert error(keep=True) <= 0.005
    assert error(keep=False) > 0.01


def test_slots_that_were_written_over_are_not_taken_for_what_they_were():
    session = Session(tiny_network(), block_tokens=16)
    session.push([Text(words(4, 0))])
    before = session.snapshot()
    session.push([Text(words(6, 1))])
    serials = session.cache.serials[4:].clone()
    session.rollback(before)
    assert session.cache.find(serials).tolist() == [4, 5, 6, 7, 8, 9]  # behind the stream
    session.push([Text(words(2, 2))])
    assert session.cache.find(serials).tolist() == [-1, -1, 6, 7, 8, 9]
    session.push([Text(words(40, 3))])  # the buffers grow
    assert session.cache.find(serials).tolist() == [-1] * 6
    kept = session.cache.serials[20:].clone()
    session.evict(torch.arange(3, 9))
    assert session.cache.find(kept)[:5].tolist() == [14, 15, 16, 17, 18]
    with pytest.raises(ValueError, match="hold a token"):
        session.push([Text(words(2, 4))], Sources(torch.tensor([900, -1])))


# -- every bad input: full compute, exactly, and a reason -------------------------------------------


def shifted(frame, optical):
    return replace(frame, odom_from_optical=optical, odom_from_base=optical)


def halved(frame):
    rgb, depth_m = frame.rgb[::2, ::2].copy(), frame.depth_m[::2, ::2].copy()
    return replace(frame, rgb=rgb, depth_m=depth_m, camera=frame.camera.resized(56, 56))


FAULTS = {
    "no depth": (lambda f: replace(f, depth_m=None), FallbackReason.NO_DEPTH),
    "only holes": (lambda f: replace(f, depth_m=np.zeros_like(f.depth_m)), FallbackReason.NO_DEPTH),
    "not a number": (lambda f: replace(f, depth_m=np.full_like(f.depth_m, np.nan)), FallbackReason.NO_DEPTH),
    "millimetres": (lambda f: replace(f, depth_m=f.depth_m * np.float32(1000)), FallbackReason.BAD_DEPTH),
    "kilometres": (lambda f: replace(f, depth_m=f.depth_m * np.float32(0.001)), FallbackReason.BAD_DEPTH),
    "other scale in every frame": (
        lambda f: replace(f, depth_m=f.depth_m * np.float32(1.2**f.index)),
        FallbackReason.DEPTHS_DISAGREE,
    ),
    "pose jumps": (
        lambda f: shifted(f, Pose.planar(5.0 * f.index, 0.0, 0.0) @ f.odom_from_optical),
        FallbackReason.POSE_JUMP,
    ),
    "not a second view": (
        lambda f: replace(f, camera=CameraModel(112, 112, 60.0 + f.index, 60.0, 55.5, 55.5)),
        FallbackReason.CAMERA_CHANGED,
    ),
    "pose drifts": (
        lambda f: shifted(f, Pose.planar(0.3 * f.index, 0.0, 0.0) @ f.odom_from_optical),
        FallbackReason.DEPTHS_DISAGREE,
    ),
    "resolution changes": (lambda f: halved(f) if f.index % 2 else f, FallbackReason.CAMERA_CHANGED),
    "clock": (lambda f: replace(f, stamp_ns=10**9 - f.stamp_ns), FallbackReason.CLOCK),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_gives_full_compute_exactly_and_its_reason(model, fault):
    spoil, reason = FAULTS[fault]
    frames = [spoil(f) for f in walk()[:5]]
    robot = engine(model)
    assert said(run(robot, frames)) == said(run(engine(model, reuse=ReuseConfig()), frames))
    stats = robot.reuse_stats()
    assert stats.reuse == 0.0
    assert stats.refused[reason.value] == 5 - (
        reason not in (FallbackReason.NO_DEPTH, FallbackReason.BAD_DEPTH)
    )


def held_to_full_compute(robot):
    """Every forward of which nothing is taken over must be, to the last bit, that of a plain session.

    Returns:
        For each picture that was pushed, why nothing was taken over, or None.
    """
    session, reasons = robot.session, []
    extend = session._extend

    def both(pieces, tree, sources=None):
        assert sources is None
        twin = session.fork()  # a plain session with the same past, whatever that was
        assert twin.plugs == ()
        expected = twin._extend(pieces, tree)
        robot.reuse.last_plans = {}
        states = extend(pieces, tree)
        plans = robot.reuse.last_plans.values()
        if all((plan.slot < 0).all() for plan in plans):
            assert torch.equal(states, expected)
        for plan in plans:
            assert plan.reason is None or (plan.slot < 0).all()
            reasons.append(plan.reason)
        return states

    session._extend = both
    return reasons


def late(frames):
    return [frames[0], *(shifted(f, p.odom_from_optical) for p, f in pairwise(frames))]


def holed(frames):
    spots = np.random.default_rng(0).random(frames[0].depth_m.shape) < 0.6
    return [replace(f, depth_m=np.where(spots, np.float32(0.0), f.depth_m)) for f in frames]


PASTS = {
    "as it is": list,
    "late": late,
    "holes": holed,
    "plays again": lambda frames: [*frames[:3], *frames[:3]],
}


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(PASTS)),
    st.lists(st.sampled_from([None, None, *sorted(FAULTS)]), min_size=6, max_size=6),
    st.sampled_from([0.85, 0.0]),
)
def test_what_is_refused_is_computed_as_without_reuse_whatever_came_before(model, past, faults, agreement):
    robot = engine(model, reuse=replace(ALL, min_agreement=agreement))
    reasons = held_to_full_compute(robot)
    robot.start(Instruction(1, "go"))
    seen = []
    for frame, fault in zip(PASTS[past](list(walk()[:6])), faults, strict=True):
        robot.observe(frame if fault is None else FAULTS[fault][0](frame))
        seen.append(reasons[-1])
        robot.decide(1)
        if fault in ("no depth", "only holes", "not a number", "millimetres", "kilometres"):
            moved = (FallbackReason.CLOCK, FallbackReason.CAMERA_CHANGED, FallbackReason.POSE_JUMP)
            assert seen[-1] in (FAULTS[fault][1], *moved)
    assert seen[0] is not None
    refused = robot.reuse_stats().refused
    assert sum(refused.values()) == sum(reason is not None for reason in seen)
    if past == "plays again":
        assert FallbackReason.CLOCK.value in refused or seen[3] is not None


def test_resolution_that_changes_is_another_camera(model):
    frames = list(walk()[:4])
    frames[2] = halved(frames[2])
    robot = engine(model)
    reasons = []
    robot.start(Instruction(1, "go"))
    for frame in frames:
        robot.observe(frame)
        reasons += [p.reason for p in robot.reuse.last_plans.values()]
        robot.decide(1)
    assert reasons == [
        FallbackReason.FIRST_FRAME,
        None,
        FallbackReason.CAMERA_CHANGED,
        FallbackReason.CAMERA_CHANGED,
    ]


def test_the_labels_of_the_newest_frame_are_shown_in_their_grid(model):
    robot = engine(model)
    assert robot.reuse_labels() is None
    frames = walk()[:3]
    run(robot, frames)
    labels = robot.reuse_labels()
    (plan,) = robot.reuse.last_plans.values()
    rows, columns = labels.shape
    assert columns / rows == pytest.approx(frames[-1].camera.width / frames[-1].camera.height, rel=0.3)
    assert labels.ravel().tolist() == plan.label.tolist()
    assert Label.REUSED in labels
    assert engine(model, reuse=ReuseConfig()).reuse_labels() is None


def test_a_picture_that_lacks_tokens_is_computed_whole_and_has_no_labels(model):
    robot = engine(model, prune=PruneConfig(strategy="seen", voxel_m=0.3, least_share=0.1, window=0))
    robot.start(Instruction(1, "go"))
    lacking = 0
    for frame in walk():
        robot.observe(frame)
        (plan,) = robot.reuse.last_plans.values()
        labels = robot.reuse_labels()
        if plan.reason is FallbackReason.PRUNED:
            lacking += 1
            assert labels is None and len(plan.slot) < 16
        else:
            assert labels.shape == (4, 4)
        robot.decide(1)
    assert 0 < lacking == robot.reuse_stats().refused[FallbackReason.PRUNED.value]


def test_tokens_are_painted_by_what_became_of_them():
    assert list(COLOURS) == [label.name.lower() for label in Label]
    rgb = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    labels = np.array([[0, 1, 2], [2, 0, 1]])
    painted, before = paint(rgb, labels).astype(float), rgb.astype(float)
    for y in range(31):
        for x in range(47):
            colour = np.array(list(COLOURS.values())[labels[y * 2 // 31, x * 3 // 47]])
            moved = np.abs(painted[y, x] - before[y, x])
            assert (np.abs(painted[y, x] - colour) <= np.abs(before[y, x] - colour) + 0.5).all()
            assert (moved >= 0.3 * np.abs(colour - before[y, x]) - 0.5).all()


def test_a_new_instruction_starts_from_nothing(model):
    robot, plain = engine(model), engine(model, reuse=ReuseConfig())
    run(robot, walk()[:3])
    assert robot.reuse_stats().reuse > 0.1
    robot.start(Instruction(2, "leave the room"))
    plain.start(Instruction(2, "leave the room"))
    for each in (robot, plain):
        each.observe(walk()[3])
    assert said([robot.decide(1)]) == said([plain.decide(1)])
    assert robot.reuse_stats().refused == {FallbackReason.INSTRUCTION_CHANGED.value: 1}


def test_poses_that_are_late_are_refused(model):
    """The robot looks left and right; the odometry says so one frame late."""
    frames = [replace(walk(2, 0.35)[i % 2], index=i, stamp_ns=i) for i in range(6)]
    own = with_context(STRATEGIES["append, drop"], side=224)
    strict = replace(ALL, min_agreement=ReuseConfig().min_agreement)
    good, bad = engine(model, own, reuse=strict), engine(model, own, reuse=strict)
    reasons = held_to_full_compute(bad)
    run(good, frames)
    run(bad, late(frames))
    assert reasons.count(FallbackReason.DEPTHS_DISAGREE) == 2
    assert good.reuse_stats().refused == {FallbackReason.FIRST_FRAME.value: 1}
    assert good.reuse_stats().reuse > 0.2
    # From then on each picture has a source that was as late as itself.
    assert bad.reuse_stats().refused[FallbackReason.DEPTHS_DISAGREE.value] == 2


# -- strategies -----------------------------------------------------------------------------------


STRATEGIES = {
    "append, drop": ContextSpec(strategy="append", unasked_frames="drop"),
    "append, keep": ContextSpec(strategy="append", unasked_frames="keep"),
    "window_reset": ContextSpec(
        strategy="window_reset",
        unasked_frames="drop",
        reset_steps=6,
        history_frames=3,
        history_choice="uniform_round",
    ),
    "history": ContextSpec(
        strategy="history", history_frames=4, history_choice="uniform_floor", history_empty="none"
    ),
    "delayed_batch": ContextSpec(
        strategy="delayed_batch", recent_frames=3, important_frames=3, important_score=0.6
    ),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("ask_every", [1, 3])
def test_every_strategy_runs_with_reuse(model, name, ask_every):
    own = with_context(STRATEGIES[name])
    robot = engine(model, own)
    chunks = run(robot, walk(), ask_every=ask_every)
    assert len(chunks) == 8 // ask_every
    stats = robot.reuse_stats()
    assert isinstance(robot, Reusing)
    if name == "delayed_batch":  # two frames share a token there: nothing to compare
        assert (stats.frames, stats.reuse) == (0, 0.0)
    else:
        assert 0.1 < stats.reuse < 1.0
    session = robot.session
    n = session.timeline.tokens
    assert torch.equal(session.cache.positions[:, :n], session.timeline.positions())
    refused = replace(ALL, refresh_every=1)  # everything looked at, nothing taken: nothing changes
    if name in ("append, drop", "append, keep"):
        expected = said(run(engine(model, own, reuse=ReuseConfig()), walk(), ask_every=ask_every))
        assert said(run(engine(model, own, reuse=refused), walk(), ask_every=ask_every)) == expected


def test_an_unasked_frame_is_replaced_from_behind_the_stream(model):
    """Dropped frames leave their keys behind the end; an identical successor is then exact."""
    still = [replace(walk()[0], index=i, stamp_ns=i) for i in range(4)]
    robot = engine(model)
    plain = engine(model, reuse=ReuseConfig())
    for each in (robot, plain):
        each.start(Instruction(1, "go"))
        for frame in still:
            each.observe(frame)
    a, b = robot.decide(1), plain.decide(1)
    assert a.actions == b.actions
    assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    stats = robot.reuse_stats()
    assert stats.reuse == pytest.approx(0.75 * 3 / 4)
    assert stats.repeated == 3


def test_limits_are_kept(model):
    base = replace(ALL, min_depth_m=0.0)
    tokens = 16

    def reused(config):
        robot = engine(model, reuse=config)
        robot.start(Instruction(1, "go"))
        taken = []
        for frame in walk():
            robot.observe(frame)
            (plan,) = robot.reuse.last_plans.values()
            taken.append(int((plan.slot >= 0).sum()))
            assert ((plan.label == Label.REUSED) == (plan.slot >= 0)).all()
            robot.decide(1)
        return taken, robot

    free, _ = reused(base)
    assert max(free) == tokens * 3 // 4
    assert max(reused(replace(base, budget=0.75))[0]) == tokens // 4
    assert reused(replace(base, budget=1.0))[0] == [0] * 8
    assert reused(replace(base, max_relevance=0.0))[0][1:] == [0] * 7
    refreshed, robot = reused(replace(base, refresh_every=3))
    assert [i for i, n in enumerate(refreshed) if n == 0] == [0, 3, 6]
    assert robot.reuse_stats().refreshes == 2
    assert reused(replace(base, doubt=1.0))[0][1:] == [0] * 7
    aged, _ = reused(replace(base, max_age=1))
    assert sum(aged) < sum(free)
    layered, robot = reused(replace(base, layer_budget=True, entropy_weight=1.0))
    assert max(layered[2:]) > 0
    assert robot.reuse_stats().reuse < 0.75


def test_frames_that_show_a_landmark_of_the_instruction_are_refreshed_more(model, monkeypatch):
    """The frame of the last decision is scored; where it is the source, the gate is stricter."""
    watch = LandmarkConfig(plan="rules", memory=True)
    gate = replace(ALL, max_relevance=1.15, landmark_gain=0.15)

    def taken(score, config):
        robot = engine(model, reuse=config, landmarks=watch)
        monkeypatch.setattr(robot.landmarks, "look", lambda: (0.0, score))
        counts = []
        robot.start(Instruction(1, "go to the red chair"))
        for frame in walk():
            robot.observe(frame)
            (plan,) = robot.reuse.last_plans.values()
            counts.append(int((plan.slot >= 0).sum()))
            robot.decide(1)
        return counts

    unseen = taken(0.0, gate)
    assert unseen == taken(1.0, replace(gate, landmark_gain=0.0))
    assert 0 < sum(taken(1.0, gate)) < sum(unseen)
    assert sum(taken(1.0, gate)) < sum(taken(0.3, gate)) <= sum(unseen)
    assert sum(taken(1.0, replace(gate, landmark_gain=1e6))) == 0


def test_it_switches_itself_off_and_says_so(model, caplog):
    robot = engine(model, reuse=replace(ALL, window=3))
    clock = iter(range(10**6))
    robot.session._now_s = lambda: float(next(clock))  # planning takes as long as computing
    run(robot, walk())
    assert robot.reuse_stats().auto_offs == 1
    assert "switched off" in caplog.text
    assert robot.reuse_stats().refused[FallbackReason.SWITCHED_OFF.value] >= 3
    vitals, stats = dict(robot.vitals()), robot.reuse_stats()
    assert vitals["reuse: auto-offs"] == 1
    assert vitals["reuse [%]"] == 100.0 * stats.reuse
    assert vitals["reuse: overhead [ms]"] == stats.overhead_ms > 0.0
    assert vitals["reuse: saved [ms]"] == stats.saved_ms
    assert vitals["reuse: refreshes"] == stats.refreshes
    assert vitals["reuse refused: first frame"] == 1
    robot.start(Instruction(2, "go"))
    assert robot.reuse_stats().auto_offs == 0


def test_robots_together_compute_everything(model):
    robots = [engine(model) for _ in range(2)]
    for robot in robots:
        robot.start(Instruction(1, "go"))
    for frame in walk()[:3]:
        assert observe_together(robots, [frame, frame]) == [None, None]
        decide_together(robots, [1, 1])
    assert all(r.session.timeline.tokens == robots[0].session.timeline.tokens for r in robots)
    robots[0].observe(walk()[3])  # and alone again it finds what was computed together
    (plan,) = robots[0].reuse.last_plans.values()
    assert plan.reason is None
    assert (plan.slot >= 0).any()


def test_it_needs_an_attention_that_takes_a_mask(model, monkeypatch):
    monkeypatch.setattr(model.network.config.text_config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ConfigError, match=r"reuse\.enabled"):
        engine(model, decode="tokens")


def test_a_plan_of_nothing_says_why():
    plan = FramePlan.whole(3, FallbackReason.NO_DEPTH)
    assert (plan.slot == -1).all()
    assert plan.reason is FallbackReason.NO_DEPTH
