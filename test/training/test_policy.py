"""The training forward against the engine, the labels, and a run that is broken off and resumed."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from training_models import SMALL

from vln_ros.config import ConfigError, TrainConfig, from_flat
from vln_ros.datatypes import ActionChunk, ActionKind, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import Profile, load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.sim.embedded.flat import generate_flat, scene_id
from vln_ros.sim.embedded.furniture import ROOM_FURNITURE
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.oracle.expert import Expert
from vln_ros.sim.splits import SPLIT_STEP, make_scene_episodes
from vln_ros.training.batch import IGNORED, Collator, Conversation, collate
from vln_ros.training.curves import read_curve
from vln_ros.training.demonstrations import (
    Decision,
    Rules,
    Task,
    demonstrate,
    robot_camera,
    split_episode,
)
from vln_ros.training.labels import (
    AIM_CLASSES,
    CATEGORY_CLASSES,
    TokenLabeller,
    doors_ahead,
    named_items,
)
from vln_ros.training.objective import forward
from vln_ros.training.rollout import Rollout, follow, to_mend, training_world
from vln_ros.training.trainer import Trainer, export
from vln_ros.training.vision import encode_frames

F, L, R, S = ActionKind.FORWARD, ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT, ActionKind.STOP
MODEL = {**SMALL, "model.vision_depth": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(folder, from_flat(TrainConfig, MODEL).model)
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def rules(profile: Profile, grid: tuple[int, int], *, keep: bool) -> Rules:
    camera, extrinsics = robot_camera(64, 48)
    return Rules(
        camera=camera,
        extrinsics=extrinsics,
        grid=grid,
        queue=profile.max_phrases,
        max_turns=4,
        keep_frames=keep,
        stop_within_m=0.7,
        clearance_m=0.0,
    )


def profiled(keep: bool, size: tuple[int, int] = (112, 112)) -> Profile:
    profile = load_profile("tiny")
    context = replace(profile.context, unasked_frames="keep" if keep else "drop")
    return replace(profile, context=context, image=replace(profile.image, resize=size))


def frame(index: int, view: np.ndarray) -> Frame:
    camera, _ = robot_camera(view.shape[1], view.shape[0])
    return Frame(index, index, view, None, camera, Pose.identity(), Pose.identity())


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", [(112, 112), (140, 112)])
def test_the_training_forward_is_the_engines(model: LoadedModel, keep: bool, size: tuple[int, int]) -> None:
    profile = profiled(keep, size)
    collator = Collator(model, profile)
    assert collator.grid == (size[1] // 28, size[0] // 28)
    shared = rules(profile, collator.grid, keep=keep)
    runs = [demonstrate(Task("room", n, 0.2, n), shared) for n in (0, 7)]
    assert len({sum(len(d.views) for d in r.decisions) for r in runs} | {0}) > 1
    with torch.no_grad():
        batch = collate([collator.write(r) for r in runs])
        hidden = forward(model.network, batch, collator.grid).hidden
    engine = QwenEngine(model, profile, temperature=0.0, seed=0)
    for row, run in enumerate(runs):
        engine.start(Instruction(row, run.instruction))
        asked = 0
        states = []
        for number, decision in enumerate(run.decisions):
            for view in decision.views:
                engine.context.observe(frame(asked, view.rgb))
                asked += 1
            states.append(engine.session.push(engine.context.question()))
            if number < len(run.decisions) - 1:
                engine.context.answered(collator.words.tokens(decision.executed), len(decision.executed))
        stream = torch.cat(states)
        last = collator.words.tokens(run.decisions[-1].executed)
        length = stream.shape[0]
        assert engine.session.timeline.tokens == length
        ids = [i for s in engine.session.timeline.segments for i in s.ids]
        assert batch.ids[row, : length + len(last)].tolist() == [*ids, *last]
        torch.testing.assert_close(hidden[row, :length], stream, atol=2e-4, rtol=1e-3)
        # Where the engine answers is where the trainer teaches the answer.
        assert int(batch.labels[row, length - 1]) != IGNORED
        assert row * batch.ids.shape[1] + length - 1 in batch.asked.tolist()


@pytest.mark.parametrize("grid", [(4, 4), (4, 5), (6, 8), (3, 2)])
def test_frames_together_are_encoded_as_one_by_one(model: LoadedModel, grid: tuple[int, int]) -> None:
    half = torch.randn(3, grid[0] * grid[1] * 4, 3, 1, 14 * 14, generator=torch.Generator().manual_seed(1))
    patches = half.expand(-1, -1, -1, 2, -1).reshape(3, -1, 3 * 2 * 14 * 14)
    grids = torch.tensor([[1, grid[0] * 2, grid[1] * 2]] * 3)
    with torch.no_grad():
        released = model.network.model.get_image_features(patches.flatten(0, 1), grids).pooler_output
        ours = encode_frames(model.network.model.visual, patches, grid)
    torch.testing.assert_close(ours, torch.stack(list(released)), atol=1e-4, rtol=1e-4)


def decision(executed: tuple[ActionKind, ...], expert: tuple[ActionKind, ...]) -> Decision:
    return Decision(
        views=(),
        executed=executed,
        expert=expert,
        costs=np.zeros((len(executed), 4)),
        bearing=0,
        distance=0,
        doors=0,
    )


def test_labels_answer_what_was_really_said(model: LoadedModel) -> None:
    collator = Collator(model, profiled(False))
    end = model.tokens.im_end

    def taught(executed: tuple[ActionKind, ...], expert: tuple[ActionKind, ...]) -> list[str]:
        labels = collator.words.labels(decision(executed, expert))
        assert len(labels) == len(collator.words.tokens(executed)) + 1
        return [
            "-" if k == IGNORED else "END" if k == end else str(model.tokenizer.decode([k])) for k in labels
        ]

    assert "".join(taught((F, L, R, F), (F, L, R, F))) == "forward, left, right, forwardEND"
    assert "".join(taught((F, S), (F, S))) == "forward, stopEND"
    # The second action was not the expert's: the word for it is taught, the rest goes on from what was done.
    assert "".join(taught((F, L, F, F), (F, R, F, F))) == "forward, right, forward, forwardEND"
    assert "".join(taught((S,), (L,))) == "leftEND"
    # A queue that broke off by itself does not teach to break off.
    assert taught((F, F), (F, F))[-1] == "-"


def test_the_expert_comments_every_moment_of_a_run() -> None:
    shared = rules(profiled(False), (4, 4), keep=False)
    run = demonstrate(Task("room", 3, 0.0, 0), replace(shared, max_turns=100))
    assert all(d.executed == d.expert for d in run.decisions)
    assert run.decisions[-1].executed[-1] is S
    executed = ((L, L, L, L), (F, S))
    own = demonstrate(Task("room", 3, 0.0, 0, executed=executed), shared)
    assert tuple(d.executed for d in own.decisions) == executed
    assert all(len(d.expert) == len(d.executed) for d in own.decisions)
    again = demonstrate(Task("room", 3, 0.0, 0, executed=executed), shared)
    for a, b in zip(own.decisions, again.decisions, strict=True):
        assert (a.expert, a.bearing, a.distance) == (b.expert, b.bearing, b.distance)
        np.testing.assert_array_equal(a.views[-1].rgb, b.views[-1].rgb)
    # Where what was done ends without a stop, the expert goes on.
    mended = demonstrate(Task("room", 3, 0.0, 0, executed=executed[:1]), replace(shared, max_turns=100))
    assert mended.decisions[0].executed == executed[0]
    assert all(d.executed == d.expert for d in mended.decisions[1:])
    assert mended.decisions[-1].executed[-1] is S
    # It also ends a queue that breaks off, and begins one of which nothing is known.
    finished = demonstrate(Task("room", 3, 0.0, 0, executed=((L, L), ())), shared)
    assert [len(d.executed) for d in finished.decisions[:2]] == [4, 4]
    assert finished.decisions[0].executed[:2] == (L, L)
    assert finished.decisions[0].executed[2:] == finished.decisions[0].expert[2:]
    assert finished.decisions[1].executed == finished.decisions[1].expert
    # Four turns of 15 degrees: the way goes on 60 degrees further to the right.
    first, second = own.decisions
    assert (first.bearing - second.bearing) % 24 == 4


def test_only_a_stop_at_the_wrong_place_is_left_out() -> None:
    def left(
        executed: tuple[tuple[ActionKind, ...], ...], success: bool
    ) -> tuple[tuple[ActionKind, ...], ...]:
        return to_mend(Rollout(executed, success, float(success), 0.4))

    assert left(((F, F, F, F), (L, S)), False) == ((F, F, F, F), (L,))
    assert left(((F, F, F, F), (S,)), False) == ((F, F, F, F), ())
    assert left(((F, F, F, F), (L, S)), True) == ((F, F, F, F), (L, S))
    assert left(((F, F, F, F),), False) == ((F, F, F, F),)
    assert left((), False) == ()


def test_tokens_are_named_after_what_rays_hit() -> None:
    """Against the renderer's own mesh: a reference that knows the triangles, not the depth."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = Scene(scene_id(12, "small"), 0.18)
    mesh = scene.mesh
    rays = EmbreeScene(robust=True)
    corners = mesh.triangles.reshape(-1, 3).astype(np.float32)
    held = TriangleMesh(rays, corners, np.arange(len(corners), dtype=np.int32).reshape(-1, 3))
    owner = np.full(len(mesh.triangles), -1)
    for part in mesh.parts:
        if part.item is not None:
            owner[part.first : part.last] = part.item
    rng = np.random.default_rng(0)
    angles = rng.uniform(-np.pi, np.pi, 4000)
    slopes = rng.uniform(-0.9, 0.5, 4000)
    directions = np.stack([np.cos(angles), np.sin(angles), slopes], 1).astype(np.float32)
    room = scene.flat.rooms[0].inner
    place = scene.walkable.nearest(np.array([(room[0] + room[2]) / 2, (room[1] + room[3]) / 2]))
    origins = np.tile(np.array([*place, 1.25], np.float32), (4000, 1))
    hits = rays.run(origins, directions, output=1)
    assert held is not None
    points = origins + directions * hits["tfar"][:, None]
    target = next(iter(scene.flat.referents))
    named = named_items(scene.flat, f"stop at the {scene.flat.referents[target]}")
    assert named.target == target
    shown = TokenLabeller(scene.flat, named, (4, 4)).surfaces(points.astype(np.float64))
    truth = owner[hits["primID"]]
    assert (truth >= 0).sum() > 200
    # Near the edge between a thing and what it stands on the two may differ.
    assert (np.where(shown >= 0, shown, -1) == truth).mean() > 0.98


def test_tokens_say_how_deep_and_where_in_the_picture() -> None:
    """Against the depth image and the whole view, pixel by pixel."""
    scene = Scene(scene_id(12, "room"), 0.18)
    camera, extrinsics = robot_camera(96, 96)
    target = next(iter(scene.flat.referents))
    labeller = TokenLabeller(
        scene.flat, named_items(scene.flat, f"at the {scene.flat.referents[target]}"), (4, 4)
    )
    things = 0
    for heading in range(8):
        center = np.array(scene.flat.rooms[0].inner).reshape(2, 2).mean(0)
        place = scene.walkable.nearest(center)
        optical = Pose.planar(float(place[0]), float(place[1]), heading * np.pi / 4) @ extrinsics
        _, depth = scene.renderer.render(camera, optical)
        labels = labeller.label(depth, camera, optical, None)
        assert not labels.onward.any()
        v, u = np.mgrid[0:96, 0:96]
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones((96, 96))], -1)
        owner = labeller.surfaces(
            optical.transform((rays * depth[..., None]).reshape(-1, 3).astype(np.float64))
        ).reshape(96, 96)
        bounds = np.array([0.6, 0.9, 1.3, 1.8, 2.5, 3.5, 5.0])
        for token in range(16):
            row, column = divmod(token, 4)
            part = np.s_[row * 24 : row * 24 + 24, column * 24 : column * 24 + 24]
            low, high = np.quantile(depth[part], [0.4, 0.6])
            assert np.searchsorted(bounds, low) <= labels.depth[token] <= np.searchsorted(bounds, high)
            items, counts = np.unique(owner[part][owner[part] >= 0], return_counts=True)
            if labels.category[token] < 4:
                assert labels.aim[token] == 4 * column + 2
            elif len(items) == 1 and counts[0] > 100:
                middle = (owner == items[0]).nonzero()[1].mean() / 96 * AIM_CLASSES
                assert abs(labels.aim[token] + 0.5 - middle) < 1.0
                things += 1
    assert things > 10


def test_tokens_say_what_lies_behind_the_next_door() -> None:
    """Against a reference that asks, pixel by pixel, where the line to the camera crosses a wall."""
    scene = Scene(scene_id(3, "small"), 0.18)
    flat = scene.flat
    camera, extrinsics = robot_camera(96, 96)
    target = next(iter(flat.referents))
    labeller = TokenLabeller(flat, named_items(flat, f"at the {flat.referents[target]}"), (4, 4))
    rooms = list(ROOM_FURNITURE)
    seen = 0
    for number, door in enumerate(flat.doors):
        for heading in range(8):
            middle = np.array(flat.rooms[door.rooms[0]].inner).reshape(2, 2).mean(0)
            place = scene.walkable.nearest(middle)
            optical = Pose.planar(float(place[0]), float(place[1]), heading * np.pi / 4) @ extrinsics
            _, depth = scene.renderer.render(camera, optical)
            labels = labeller.label(depth, camera, optical, number)
            v, u = np.mgrid[0:96, 0:96]
            rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones((96, 96))], -1)
            points = optical.transform((rays * depth[..., None]).reshape(-1, 3).astype(np.float64)).reshape(
                96, 96, 3
            )
            x0, y0, x1, y1 = door.gap
            along = np.linspace(0.0, 1.0, 200)[:, None, None, None]
            line = optical.position + along * (points - optical.position)
            crosses = (line[..., 0] > x0) & (line[..., 0] < x1) & (line[..., 1] > y0) & (line[..., 1] < y1)
            through: npt.NDArray[np.bool_] = np.any(crosses, axis=0)
            for token in range(16):
                row, column = divmod(token, 4)
                part = np.s_[row * 24 : row * 24 + 24, column * 24 : column * 24 + 24]
                share = through[part].mean()
                if not 0.03 < share < 0.13:
                    assert labels.onward[token] == (share > 0.08)
                    seen += int(labels.onward[token])
                ground = points[part].reshape(-1, 3)
                names = [flat.rooms[k].name for p in ground if (k := flat.room_at(p[:2])) is not None]
                most, count = Counter(names).most_common(1)[0]
                assert labels.room[token] == rooms.index(most) or count < 400
    assert seen > 5


def test_doors_are_counted_along_the_way() -> None:
    """In an episode through several rooms, from every place on the expert's way."""
    flats = 0
    for number in range(6):
        episode = split_episode("train", "flat", number)
        flat = generate_flat(episode.scene_id)
        corners = episode.reference_path[:, :2]
        passed = [doors_ahead(flat, corners[k:]) for k in range(len(corners) - 1)]
        assert all(passed[0][-len(p) :] == p for p in passed if p)
        fine = np.concatenate(
            [a + np.linspace(0, 1, 500)[:, None] * (b - a) for a, b in itertools.pairwise(corners)]
        )
        rooms = [k for k, _ in itertools.groupby(flat.room_at(p) for p in fine)]
        pairs = [set(flat.doors[d].rooms) for d in passed[0]]
        assert pairs == [set(pair) for pair in itertools.pairwise(rooms)]
        flats += len(pairs) > 1
    assert flats > 2


def test_an_instruction_about_nothing_there_is_refused() -> None:
    flat = generate_flat(scene_id(12, "room"))
    with pytest.raises(ValueError, match="ends with no item"):
        named_items(flat, "stop at the unicorn")
    assert len({f.category for f in flat.furniture}) < CATEGORY_CLASSES


class Teacher:
    """The expert as an engine that is asked queue by queue."""

    def __init__(self, goal: np.ndarray, scene: object) -> None:
        self._expert = Expert(scene.walkable, goal, SPLIT_STEP)  # type: ignore[attr-defined]

    def start(self, instruction: Instruction) -> None:
        self._instruction = instruction

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    def decide(self, queue: int) -> ActionChunk:
        actions, _ = self._expert.rollout(self._frame.odom_from_base, 4)
        return ActionChunk(queue, self._instruction.number, self._frame.stamp_ns, tuple(actions))

    def close(self) -> None: ...


@pytest.mark.parametrize("every_frame", [True, False])
def test_following_the_expert_succeeds(every_frame: bool) -> None:
    shared = rules(profiled(False), (4, 4), keep=False)
    world = training_world(shared)
    episode = split_episode("train", "room", 2)
    world.load(episode.scene_id)
    run = follow(
        Teacher(episode.goal, world.scene), world, episode, 0, max_actions=100, every_frame=every_frame
    )
    assert run.success and run.spl > 0.85 and run.nearest_m < 0.3
    solved = make_scene_episodes("train", 0, "room")[2]
    assert (solved.instruction, solved.geodesic_distance_m) == (
        episode.instruction,
        episode.geodesic_distance_m,
    )
    assert solved.actions is not None
    assert [k for queue in run.executed for k in queue] == list(solved.actions)


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        **MODEL,
        "workers": 0,
        "steps": 4,
        "batch": 2,
        "micro_batch": 1,
        "pool": 3,
        "fresh": 2,
        "render_width": 56,
        "render_height": 42,
        "max_turns": 2,
        "small_from": 1.0,
        "flat_from": 1.0,
        "dagger_from": 0.5,
        "dagger_every": 2,
        "validate_every": 100,
        "validate_episodes": 1,
        "save_every": 2,
    }
    return from_flat(TrainConfig, values | changes)


@pytest.mark.slow
def test_forwards_side_by_side_learn_the_same(tmp_path: Path) -> None:
    def trained(name: str, threads: int) -> list[torch.Tensor]:
        changes = {"threads": threads, "batch": 3, "steps": 2, "dagger_from": 1.0}
        trainer = Trainer(tmp_path / name, config(**changes), resume=False)
        before = torch.get_num_threads()
        trainer.run()
        assert torch.get_num_threads() == before
        return list(trainer.network.parameters())

    one, two, again = trained("one", 1), trained("two", 2), trained("again", 2)
    for a, b, c in zip(one, two, again, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(b, c)


def test_products_in_bfloat16_point_the_same_way_down(tmp_path: Path) -> None:
    gradients = {}
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(tmp_path / precision, config(precision=precision), resume=False)
        drawn = [trainer.collator.write(demonstrate(Task("room", 3, 0.2, 0), trainer.rules))]
        with ThreadPoolExecutor(1) as threads:
            trainer.step(drawn, threads)
        grads = [p.grad for p in trainer.network.parameters()]
        assert all(g.dtype is torch.float32 for g in grads)
        gradients[precision] = torch.cat([g.flatten() for g in grads])
    assert not torch.equal(*gradients.values())
    full, half = gradients.values()
    assert torch.cosine_similarity(full, half, 0) > 0.999


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(tmp_path / "whole", config(dagger_share=1.0), resume=False)
    whole.run()
    broken = Trainer(tmp_path / "broken", config(dagger_share=1.0), resume=False)
    step = broken.step
    calls = 0

    def fail_at_fourth(drawn: list[Conversation], threads: ThreadPoolExecutor) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return step(drawn, threads)

    monkeypatch.setattr(broken, "step", fail_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Trainer(tmp_path / "broken", config(dagger_share=1.0), resume=True)
    assert resumed.progress.step == 2
    resumed.run()
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.progress.pool == resumed.progress.pool
    assert any(task.policy == 2 and task.executed for task in resumed.progress.pool)
    kept = {int(folder.name) for folder in (tmp_path / "broken/own").iterdir()}
    assert kept == {2}
    validation = next(read_curve(tmp_path / "whole/validation.csv"))
    assert validation["kind"] == "room" and float(validation["action"]) > 0.0
    assert (tmp_path / "broken/curves.png").exists()
    # What is written is a checkpoint that the engine loads.
    written = load_model(
        str(tmp_path / "broken/last"), device="cpu", dtype="float32", attention="sdpa", quantisation="none"
    )
    for a, b in zip(resumed.network.parameters(), written.network.parameters(), strict=True):
        assert torch.equal(a.detach().half().float(), b)


_KILLED = """
import multiprocessing, os, signal, sys
from pathlib import Path
from vln_ros.training.demonstrations import Rules, Task, robot_camera
from vln_ros.training.loader import Source, Loader

if __name__ == "__main__":
    camera, extrinsics = robot_camera(64, 48)
    rules = Rules(
        camera=camera, extrinsics=extrinsics, grid=(4, 4), queue=4, max_turns=2, keep_frames=False,
        stop_within_m=0.5, clearance_m=0.0,
    )
    source = Source(rules, Path("none"), "tiny")
    loader = Loader(source, 1)
    loader.order(Task("room", 0, 0.0, 0)).result()
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_do_not_outlive_a_training_that_is_killed(tmp_path: Path) -> None:
    template = tmp_path / "killed.py"
    template.write_text(_KILLED)
    with subprocess.Popen(
        [sys.executable, str(template)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None and killed.stdin is not None
        worker = int(killed.stdout.readline())
        lives = os.pidfd_open(worker)
        killed.stdin.write("x")
        killed.stdin.flush()
        ready, _, _ = select.select([lives], [], [], 20.0)
        os.close(lives)
        if not ready:
            os.kill(worker, signal.SIGKILL)
        assert ready


def test_another_seed_begins_in_other_scenes(tmp_path: Path) -> None:
    """So that a run from another one's weights does not teach them the same again."""
    drawn = {}
    for seed in (0, 1, 25):
        trainer = Trainer(tmp_path / str(seed), config(seed=seed), resume=False)
        drawn[seed] = [trainer.next_task().number for _ in range(3)]
    assert drawn[0] == [0, 1, 2]
    assert drawn[1][0] == 25_000 and drawn[25][0] < 250_000
    # What validations ask about lies at the other end of the split.
    assert all(number + 200_000 < 500_000 for numbers in drawn.values() for number in numbers)


def test_kinds_are_drawn_as_often_as_they_weigh(tmp_path: Path) -> None:
    changes = {"small_from": 0.0, "flat_from": 0.0, "small_weight": 3.0, "flat_weight": 0.0}
    trainer = Trainer(tmp_path / "run", config(**changes), resume=False)
    drawn = [trainer.next_task().kind for _ in range(400)]
    assert "flat" not in drawn
    assert 0.65 < drawn.count("small") / len(drawn) < 0.85


def test_folders_are_not_overwritten_and_models_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        Trainer(tmp_path / "new", config(), resume=True)
    trainer = Trainer(tmp_path / "run", config(), resume=False)
    trainer.save()
    with pytest.raises(ConfigError, match="not empty"):
        Trainer(tmp_path / "run", config(), resume=False)
    with pytest.raises(ConfigError, match=r"another model\.seed"):
        Trainer(tmp_path / "run", config(**{"model.seed": 1}), resume=True)
    with pytest.raises(ConfigError, match="strategy append"):
        Trainer(tmp_path / "other", config(profile="qwen-zero-shot"), resume=False)


def test_a_run_can_begin_with_the_weights_of_another(model: LoadedModel, tmp_path: Path) -> None:
    build_tiny(tmp_path / "first", from_flat(TrainConfig, MODEL).model)
    export(model, tmp_path / "first", tmp_path / "given")
    trainer = Trainer(tmp_path / "run", config(start_from=str(tmp_path / "given")), resume=False)
    for a, b in zip(model.network.parameters(), trainer.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)  # float16 in the file


def test_an_exported_checkpoint_replaces_the_one_before(model: LoadedModel, tmp_path: Path) -> None:
    start = tmp_path / "start"
    build_tiny(start, from_flat(TrainConfig, MODEL).model)
    for _ in range(2):
        export(model, start, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in start.iterdir()}


class _Runs:
    """What a pickle can hold: a call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return exec, (f"open({str(self._path)!r}, 'w')", "")


def test_a_state_that_holds_a_program_is_not_run(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run", config(), resume=False)
    trainer.save()
    assert Trainer(tmp_path / "run", config(), resume=True).progress.step == 0
    for content in ({"config": _Runs(tmp_path / "ran")}, {"pool": [_Runs(tmp_path / "ran")]}):
        torch.save(content, tmp_path / "run" / "state.pt")
        with pytest.raises(ConfigError, match="cannot be read"):
            Trainer(tmp_path / "run", config(), resume=True)
        assert not (tmp_path / "ran").exists()
    (tmp_path / "run" / "state.pt").write_bytes(b"half")
    with pytest.raises(ConfigError, match="cannot be read"):
        Trainer(tmp_path / "run", config(), resume=True)
