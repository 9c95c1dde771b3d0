"""Tokens left out: the rest is the model with them masked; without places to trust nothing changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_models import eager
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError, LandmarkConfig, PruneConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import decide_together, observe_together
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import ContextSpec, load_profile
from vln_ros.engine.inputs import prompt
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Pixels, one_shot
from vln_ros.engine.stream.plug import Cost
from vln_ros.engine.stream.timeline import SegmentKind
from vln_ros.engine.tiny import build_tiny
from vln_ros.geometry.correspondence import TokenGrid
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.memory.voxels import Shown, lay_out

SIZE = (140, 112)
GRID = TokenGrid(4, 5)
CAMERA = CameraModel.from_hfov(*SIZE, 1.2)
OPTICAL = Pose(np.zeros(3), np.array([-0.5, 0.5, -0.5, 0.5]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def frame(index, sideways_m=None, depth=True):
    """In front of a wall 2 m away with a box before it, moving to the side; pictures are noise."""
    rgb = np.random.default_rng(index).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    y = 0.2 * index if sideways_m is None else sideways_m
    base = Pose.planar(0.0, y, 0.0)
    u = (np.arange(SIZE[0]) - CAMERA.cx) / CAMERA.fx
    box = np.abs(-u * 1.2 + y - 0.6) < 0.2
    depth_m = np.where(box, 1.2, 2.0)[None].repeat(SIZE[1], 0).astype(np.float32)
    return Frame(index, index * 10**8, rgb, depth_m if depth else None, CAMERA, base, base @ OPTICAL)


def profile(name="tiny", **context):
    base = load_profile(name)
    if name == "tiny":
        base = replace(base, context=replace(base.context, unasked_frames="keep"))
    spec = ContextSpec(**context) if context else base.context
    return replace(base, image=replace(base.image, resize=SIZE), context=spec)


def windowed():
    own = profile(
        strategy="window_reset",
        unasked_frames="drop",
        reset_steps=1,
        history_frames=3,
        history_choice="uniform_round",
    )
    return replace(own, first_turn="{history} Instruction: {instruction}\n{image}")


PROFILES = {"append": profile(), "window_reset": windowed(), "history": profile("navida")}


def engine(model, context="append", stream=None, **prune):
    options = replace(stream or StreamConfig(decode="tokens"), prune=PruneConfig(**{"window": 0, **prune}))
    robot = eager(QwenEngine(model, PROFILES[context], temperature=0.0, seed=0, stream=options))
    robot.start(Instruction(1, "go to the red chair"))
    return robot


def surface(one):
    return lay_out(one, GRID, epoch=0, voxel_m=0.5, max_depth_m=10.0, depth_tolerance=0.05)


def spoken(robot, chunk):
    words = {p.actions: p.text for p in robot.profile.vocabulary}
    return robot.profile.separator.join(words[(a,)] for a in chunk.actions)


def conversation(model, own, turns, frames):
    """Ids and pictures of a whole conversation, and how many tokens that is."""
    items, ids, count = [], [], 0
    pictures = iter(frames)
    for piece in prompt.render(own, "go to the red chair", turns):
        if isinstance(piece, str):
            ids += model.tokenizer(piece, add_special_tokens=False).input_ids
            continue
        patches = patchify(next(pictures).rgb, model.pixels, own.image.max_pixels, own.image.resize)
        items += [(*ids, model.tokens.vision_start)]
        items += [Pixels(patches.patches, 1, patches.grid_h, patches.grid_w)]
        ids = [model.tokens.vision_end]
        count += GRID.count
    items.append(tuple(ids))
    return items, count + sum(len(i) for i in items if not isinstance(i, Pixels))


def image_starts(items):
    starts, at = [], 0
    for item in items:
        if isinstance(item, Pixels):
            starts.append(at)
            at += GRID.count
        else:
            at += len(item)
    return starts


def drop_slowly(alive, surfaces, period, share):
    """Voxel pruning of the past frames, token by token; the newest stays whole."""
    last = {}
    for i, one in enumerate(surfaces):
        for k in range(GRID.count):
            if alive[i][k] and one.voxel[k] >= 0:
                last[(i // period, int(one.voxel[k]))] = (i, k)
    for i, one in enumerate(surfaces[:-1]):
        for k in range(GRID.count):
            if alive[i][k] and one.voxel[k] >= 0:
                alive[i][k] = last[(i // period, int(one.voxel[k]))] == (i, k)
        if sum(alive[i]) < share * GRID.count:
            alive[i] = [False] * GRID.count


def skip_slowly(alive, surfaces, since_whole, refresh, share):
    """Which tokens of the newest frame show a voxel that no token in the stream shows."""
    *earlier, new = surfaces
    if since_whole >= refresh:
        return [True] * GRID.count
    ratio = []
    for k in range(GRID.count):
        seen = [
            one.depth_m[j] / new.depth_m[k]
            for i, one in enumerate(earlier)
            for j in range(GRID.count)
            if alive[i][j] and one.voxel[j] == new.voxel[k] >= 0
        ]
        ratio.append(min(seen, default=math.inf))
    mask = [r > 1.5 for r in ratio]
    while sum(mask) < share * GRID.count:
        left = [k for k, there in enumerate(mask) if not there]
        mask[max(left, key=lambda k: (ratio[k], -k))] = True
    return mask


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("strategy", ["voxels", "seen"])
def test_a_pruned_stream_is_the_one_shot_with_those_tokens_masked(model, strategy, prefill):
    """Every turn sees what was left when it came; what was chosen equals the slow choice."""
    stream = StreamConfig(decode="tokens", token_budget=100000, recent_turns=100)
    options = {"voxel_m": 0.5, "period_frames": 4, "least_share": 0.25, "refresh_frames": 3}
    robot = QwenEngine(
        model,
        profile(),
        temperature=0.0,
        seed=0,
        stream=replace(stream, prune=PruneConfig(strategy=strategy, **options)),
    )
    robot = eager(robot) if prefill else robot
    robot.start(Instruction(1, "go to the red chair"))
    frames, turns, ends = [], [], []
    alive, seen_by = [], []
    since_whole = 0
    for index in range(8):
        if strategy == "voxels" and frames:
            drop_slowly(alive, [surface(f) for f in frames], 4, 0.25)
        frames.append(frame(index))
        if strategy == "seen":
            mask = skip_slowly(alive, [surface(f) for f in frames], since_whole, 3, 0.25)
            since_whole = 0 if all(mask) else since_whole + 1
            alive.append(mask)
        else:
            alive.append([True] * GRID.count)
        seen_by.append([list(mask) for mask in alive])
        robot.observe(frames[-1])
        chunk = robot.decide(index)
        items, count = conversation(model, profile(), [*turns, prompt.Turn()], frames)
        ends.append(count)
        turns.append(prompt.Turn(reply=spoken(robot, chunk)))
    held = robot.pruning.shown(robot.session)
    left = {one.surface.frame: one.cells.tolist() for one in held}
    assert left == {i: [k for k, a in enumerate(mask) if a] for i, mask in enumerate(alive) if any(mask)}
    report = robot.report().pruning
    gone = sum(not a for mask in alive for a in mask)
    assert 20 < gone == report.left_out + report.dropped
    assert (report.left_out > 0) == (strategy == "seen")
    assert report.tokens == 8 * GRID.count and report.refused == {} and report.overhead_ms > 0
    if strategy == "seen":
        assert report.refreshed > 0
    else:
        assert report.frames_dropped > 0

    starts = image_starts(items)
    mask = torch.ones(count, count, dtype=torch.bool).tril()
    for row in range(count):
        turn = next(i for i, end in enumerate(ends) if row < end)
        for i, there in enumerate(seen_by[turn]):
            for k, a in enumerate(there):
                if not a and row != starts[i] + k:
                    mask[row, starts[i] + k] = False
    present = torch.ones(count, dtype=torch.bool)
    for i, there in enumerate(alive):
        present[starts[i] : starts[i] + GRID.count] = torch.tensor(there)
    # The last token again behind all of it: its scores tell whether the whole cache is right.
    last = items[-1][-1]
    probe = torch.zeros(count + 1, count + 1, dtype=torch.bool)
    probe[:count, :count] = mask
    probe[count, :count] = present
    probe[count, count] = True
    expected = one_shot(model.network, [*items, (last,)], probe)
    assert torch.equal(robot.session.timeline.positions(), expected.positions[:, :-1][:, present])
    score = robot.session.ask_choice([last], [[t] for t in range(60)])
    assert (score - expected.logits[-1].log_softmax(-1)[:60]).abs().max() <= 1e-4


@pytest.mark.parametrize("strategy", ["voxels", "seen"])
def test_history_is_shown_without_what_other_frames_show(model, strategy):
    robot = engine(model, "history", strategy=strategy, voxel_m=0.5, period_frames=100, least_share=0.05)
    plain = engine(model, "history")
    frames = [frame(i) for i in range(6)]
    for one in frames:
        for each in (robot, plain):
            each.observe(one)
    robot.decide(0), plain.decide(0)
    held = {one.surface.frame: set(one.cells.tolist()) for one in robot.pruning.shown(robot.session)}
    surfaces = [surface(f) for f in frames]
    for i, one in enumerate(surfaces):
        for k in range(GRID.count):
            others = surfaces[i + 1 :] if strategy == "voxels" else surfaces[:i]
            elsewhere = any((o.voxel == one.voxel[k]).any() for o in others)
            if strategy == "voxels" and i < len(frames) - 1 and elsewhere:
                assert k not in held.get(i, ())
            if strategy == "seen" and not elsewhere:
                assert k in held[i]
    assert held[5] == set(range(GRID.count)) or strategy == "seen"
    assert robot.session.timeline.tokens < plain.session.timeline.tokens
    missing = plain.session.timeline.tokens - robot.session.timeline.tokens
    report = robot.report().pruning
    assert report.dropped + report.left_out <= missing  # markers go with whole frames


@pytest.mark.parametrize("strategy", ["voxels", "seen"])
def test_a_window_begins_with_thinned_frames(model, strategy):
    robot = engine(model, "window_reset", strategy=strategy, voxel_m=0.5, period_frames=1000)
    for index in range(6):
        robot.observe(frame(index))
        robot.decide(index)
        held = {one.surface.frame: len(one.cells) for one in robot.pruning.shown(robot.session)}
        shown = PROFILES["window_reset"].context.choose_history(index)
        assert set(held) <= {*shown, index} and held[index] <= GRID.count
        if index > 2:  # begun anew with every frame, always with the first and the last ones before it
            assert sum(held.values()) < GRID.count * (len(shown) + 1)
            assert all(
                n == GRID.count for i, n in held.items() if i == (index if strategy == "voxels" else 0)
            )


def refuse(frames, how):
    """The same stream, spoilt."""
    spoilt = []
    for i, one in enumerate(frames):
        if how == "no depth":
            one = replace(one, depth_m=None)
        elif how == "holes":
            one = replace(one, depth_m=np.zeros_like(one.depth_m))
        elif how == "millimetres":
            one = replace(one, depth_m=one.depth_m * np.float32(1000))
        elif how == "kilometres":
            one = replace(one, depth_m=one.depth_m * np.float32(0.001))
        elif how == "not a number":
            one = replace(one, depth_m=np.full_like(one.depth_m, np.nan))
        elif how == "jumps":
            moved = Pose.planar(50.0 * i, 0.0, 0.0)
            one = replace(one, odom_from_base=moved, odom_from_optical=moved @ OPTICAL)
        elif how == "clock":
            one = replace(one, stamp_ns=10**12 - one.stamp_ns)
        spoilt.append(one)
    return spoilt


REASONS = {
    "no depth": FallbackReason.NO_DEPTH,
    "holes": FallbackReason.BAD_DEPTH,
    "millimetres": FallbackReason.BAD_DEPTH,
    "kilometres": FallbackReason.BAD_DEPTH,
    "not a number": FallbackReason.BAD_DEPTH,
    "jumps": FallbackReason.POSE_JUMP,
    "clock": FallbackReason.CLOCK,
}


@settings(max_examples=12, deadline=None)
@given(
    how=st.sampled_from(sorted(REASONS)),
    context=st.sampled_from(sorted(PROFILES)),
    strategy=st.sampled_from(["voxels", "seen"]),
    asked=st.lists(st.booleans(), min_size=3, max_size=5),
    first=st.integers(0, 1000),
)
def test_without_places_to_trust_the_answers_are_those_of_full_compute(
    model, how, context, strategy, asked, first
):
    frames = refuse([frame(first + i, sideways_m=0.2 * i) for i in range(len(asked))], how)
    # Voxels so small that no two tokens of one frame share one: that needs no earlier frame.
    robot = engine(model, context, strategy=strategy, voxel_m=0.01)
    plain = engine(model, context)
    for i, (one, ask) in enumerate(zip(frames, asked, strict=True)):
        robot.observe(one)
        plain.observe(one)
        if ask:
            assert robot.decide(i) == plain.decide(i)
    report = robot.report().pruning
    expected = len(frames) - (how in ("jumps", "clock"))
    assert report.refused == {REASONS[how]: expected}
    assert report.left_out == report.dropped == 0
    assert plain.report().pruning is None and plain.figures() == {}
    assert robot.figures()[f"pruning refused: {REASONS[how].value}"] == expected


def test_places_before_a_jump_are_not_compared_with_those_after_it(model):
    robot = engine(model, strategy="seen", voxel_m=0.5, refresh_frames=100)
    for index in range(3):
        robot.observe(frame(index, sideways_m=0.0))
    tokens = robot.session.timeline.tokens
    lost = Pose.planar(9.0, 0.0, 0.0)
    robot.observe(replace(frame(3, sideways_m=0.0), odom_from_base=lost, odom_from_optical=lost @ OPTICAL))
    assert robot.session.timeline.tokens == tokens + GRID.count + 2  # whole, with its markers
    robot.observe(
        replace(
            frame(4), odom_from_base=lost, odom_from_optical=lost @ OPTICAL, depth_m=frame(3, 0.0).depth_m
        )
    )
    report = robot.report().pruning
    assert report.refused == {FallbackReason.POSE_JUMP: 1}
    assert robot.session.timeline.tokens < tokens + 2 * (GRID.count + 2)  # after it they are again


def test_depths_that_contradict_the_poses_are_refused(model):
    """The odometry says sideways, the pictures say ahead."""
    robot = engine(model, strategy="voxels")
    for index in range(4):
        one = frame(index)
        robot.observe(replace(one, depth_m=np.full_like(one.depth_m, 4.0 - 0.6 * index)))
    assert robot.report().pruning.refused == {FallbackReason.DEPTHS_DISAGREE: 3}


def test_what_is_evicted_counts_as_new_again(model):
    """Only what the stream really holds counts as seen."""
    robot = engine(
        model,
        stream=StreamConfig(decode="tokens", token_budget=100, recent_turns=2, keyframe_distance_m=100.0),
        strategy="seen",
        voxel_m=0.5,
        refresh_frames=1000,
        max_age_frames=1000,
    )
    for index in range(12):
        robot.observe(frame(index, sideways_m=0.01 * index))
        held = np.concatenate([one.voxel for one in robot.pruning.shown(robot.session)])
        assert set(surface(frame(index, sideways_m=0.01 * index)).voxel) <= set(held)
        robot.decide(index)
    assert robot.report().evicted > 3 and robot.report().pruning.left_out > 60


@pytest.mark.parametrize("strategy", ["voxels", "seen"])
def test_it_switches_itself_off_where_fewer_tokens_save_nothing_and_says_so(model, caplog, strategy):
    robot = engine(model, strategy=strategy, voxel_m=0.5, window=3)
    on_cached = robot.pruning.on_cached
    robot.pruning.on_cached = lambda chunk, cache, _: on_cached(chunk, cache, Cost(0.1, 0.0))
    for index in range(20):
        robot.observe(frame(index, sideways_m=0.1 * index))
        robot.decide(index)
        if robot.report().pruning.auto_offs:
            break
    report = robot.report().pruning
    assert report.saved_ms == pytest.approx(0.0, abs=1e-3) and report.overhead_ms > 0
    assert "pruning loses time here: switched off" in caplog.text
    assert robot.figures()["pruning: auto-offs"] == 1
    gone = report.left_out + report.dropped
    for index in range(20, 24):
        robot.observe(frame(index, sideways_m=0.1 * index))
        robot.decide(index)
        *_, newest = (s for s in robot.session.timeline.segments if s.kind is SegmentKind.IMAGE)
        assert newest.count == GRID.count
    report = robot.report().pruning
    assert report.left_out + report.dropped == gone
    assert report.refused[FallbackReason.SWITCHED_OFF] == 5  # with the frame before which it did so
    robot.start(Instruction(2, "go to the lamp"))
    assert robot.report().pruning.auto_offs == 0
    robot.observe(frame(30))
    assert FallbackReason.SWITCHED_OFF not in robot.report().pruning.refused


@pytest.mark.parametrize("strategy", ["voxels", "seen"])
def test_it_stays_on_where_tokens_cost_time(model, strategy):
    robot = engine(model, strategy=strategy, voxel_m=0.5, window=3, refresh_frames=100)
    on_cached = robot.pruning.on_cached

    def cost_time(chunk, cache, _):
        n, before = len(chunk.embeddings), chunk.before.tokens
        on_cached(chunk, cache, Cost(n * (1.0 + 0.01 * (before + n / 2)), 0.0))

    robot.pruning.on_cached = cost_time
    for index in range(20):
        robot.observe(frame(index, sideways_m=0.1 * index))
        robot.decide(index)
    report = robot.report().pruning
    assert report.auto_offs == 0 and report.left_out + report.dropped > 0
    assert report.saved_ms > report.overhead_ms


def test_forwards_that_robots_share_are_not_judged(model):
    robots = [engine(model, strategy="seen", voxel_m=0.5, window=1) for _ in range(2)]
    for index in range(6):
        assert observe_together(robots, [frame(index)] * 2) == [None, None]
        decide_together(robots, [index] * 2)
    for robot in robots:
        report = robot.report().pruning
        assert (report.auto_offs, report.saved_ms) == (0, 0.0) and report.left_out > 0


def test_a_new_instruction_begins_anew(model):
    robot = engine(model, strategy="seen", voxel_m=0.5)
    for index in range(3):
        robot.observe(frame(index))
    assert robot.report().pruning.left_out > 0
    robot.start(Instruction(2, "go"))
    robot.observe(frame(0))
    report = robot.report().pruning
    assert (report.frames, report.left_out, report.refused) == (1, 0, {})


def test_options_that_do_not_go_together_are_refused(model):
    own = profile(strategy="delayed_batch", recent_frames=3, important_frames=0, important_score=0.6)
    for options in (
        {"prune": PruneConfig(strategy="voxels")},
        {"landmarks": LandmarkConfig(plan="rules", memory=True)},
    ):
        with pytest.raises(ConfigError, match="delayed_batch"):
            QwenEngine(model, own, temperature=0.0, seed=0, stream=StreamConfig(**options))


def test_shown_tokens_are_numbered_within_their_picture(model):
    robot = engine(model, strategy="seen", voxel_m=0.5, refresh_frames=100)
    robot.observe(frame(0))
    robot.observe(frame(1))
    whole, part = robot.pruning.shown(robot.session)
    assert whole.cells.tolist() == list(range(GRID.count)) and 0 < len(part.cells) < GRID.count
    robot.decide(0)
    robot.session.reindex()  # positions move, cells do not
    assert [s.cells.tolist() for s in robot.pruning.shown(robot.session)] == [
        whole.cells.tolist(),
        part.cells.tolist(),
    ]
    assert isinstance(part, Shown) and part.surface.frame == 1
