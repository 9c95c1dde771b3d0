"""What a plug is told of the life of a frame; its plans do to the stream what they say and no more."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import VISION_END, VISION_START, eager, tiny_network, words
from torch import Tensor

from vln_ros.config import PruneConfig, ReuseConfig, StreamConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.batch import push_batch
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ContextSpec, load_profile
from vln_ros.engine.decode.decode import Push
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.partial_tower import TowerStates
from vln_ros.engine.stream.plug import Cost, NewFrame, Plan, Plug, VisionPlan
from vln_ros.engine.stream.segments import Image, Piece, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.sparse import Sources
from vln_ros.engine.stream.timeline import Segment
from vln_ros.engine.stream.tree import NO_TREE, TokenTree

TREE = TokenTree.build([20, 21, 22, 23], [-1, 0, 0, -1])
PICTURE: list[Piece] = [
    Text((*words(3, 7), VISION_START)),
    Image(torch.randn(6, 64, generator=torch.Generator().manual_seed(0)), 2, 3, image_id=5),
    Text((VISION_END, *words(4, 8))),
]


class Recorder(Plug):
    """Notes what it is told, and plans what it is made to."""

    def __init__(self, plan: Callable[[Prefill], Plan | None] | None = None, timed: bool = False) -> None:
        self.calls: list[Any] = []
        self.queries: list[Tensor] = []
        self.make, self.timed, self.keeps = plan, timed, False

    def begin(self) -> None:
        self.calls.append("begin")

    def before_vision(self, new: NewFrame, cache: SlotCache) -> VisionPlan | None:
        assert new.picture.shape == (new.rows * 28, new.columns * 28, 3)
        self.calls.append(("before_vision", new.frame.index, new.image_id))
        return VisionPlan() if self.keeps else None

    def after_vision(self, image_id: int, states: TowerStates | None, vision_s: float | None) -> None:
        assert (states is not None) == self.keeps
        self.calls.append(("after_vision", image_id, vision_s is not None))

    def on_frame(self, frame: Frame, image: Image) -> None:
        self.calls.append(("on_frame", frame.index, image.image_id))

    def on_answer(self, probability: float, held: bool) -> None:
        assert 0.0 < probability <= 1.0
        self.calls.append(("on_answer", held))

    def plan(self, prefill: Prefill, cache: SlotCache) -> Plan | None:
        self.calls.append(("plan", len(prefill.embeddings), prefill.last))
        return None if self.make is None else self.make(prefill)

    def on_cached(self, prefill: Prefill, cache: SlotCache, cost: Cost | None) -> None:
        assert torch.equal(cache.positions[:, prefill.before.tokens :], prefill.positions)
        self.calls.append(("on_cached", tuple(s.image_id for s in prefill.segments), cost is not None))

    def on_attention(self, prefill: Prefill, cache: SlotCache, queries: Sequence[Tensor]) -> None:
        self.calls.append(("on_attention", prefill.last))
        self.queries.append(torch.stack(list(queries)))


def session(*plugs: Plug) -> Session:
    made = Session(tiny_network(), block_tokens=16, plugs=plugs)
    made.push([Text(words(5, 0))])
    return made


def content(session: Session) -> list[Tensor]:
    return [t[:, :, : session.cache.length].clone() for x in session.cache.layers for t in x.buffers()]


def same(a: Session, b: Session) -> None:
    assert all(torch.equal(x, y) for x, y in zip(content(a), content(b), strict=True))
    assert torch.equal(a.timeline.positions(), b.timeline.positions())
    assert a.work == b.work


@pytest.mark.parametrize("tree", [NO_TREE, TREE])
@pytest.mark.parametrize("timed", [True, False])
def test_a_plug_that_only_looks_on_changes_no_bit_and_hears_everything_in_order(
    tree: TokenTree, timed: bool
) -> None:
    plug = Recorder(lambda _: Plan(attention=True), timed)
    watched, plain = session(plug), session()
    plug.calls.clear()
    plug.queries.clear()
    states = watched.push_tree(PICTURE, tree)
    expected = plain.push_tree(PICTURE, tree)
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))
    same(watched, plain)
    assert plug.calls == [
        ("plan", 15 + len(tree), 14),
        ("on_cached", (None, 5, None), timed),
        ("on_attention", 14),
    ]
    (queries,) = plug.queries
    assert queries.shape == (3, 64)


def test_the_queries_are_those_of_the_last_token_whatever_is_computed_of_the_others() -> None:
    """With a tree behind it, and with tokens before it that take over their own keys and values."""

    def queries(tree: TokenTree, sources: Sources | None = None) -> Tensor:
        plug = Recorder()
        one = session(plug)
        before = one.snapshot()
        one.push(PICTURE)
        one.rollback(before)
        plug.make = lambda prefill: Plan(sources, attention=True)
        one.push_tree(PICTURE, tree)
        return plug.queries[-1]

    whole = queries(NO_TREE)
    assert (queries(TREE) - whole).abs().max() <= 1e-5
    slots = torch.full((15,), -1)
    slots[4:10] = torch.arange(4, 10) + 5
    for layers in (None, torch.tensor([0] * 4 + [0, 1, 2, 3, 1, 0] + [0] * 5)):
        assert (queries(NO_TREE, Sources(slots, layers)) - whole).abs().max() <= 1e-5


def test_the_first_plan_holds_and_all_are_told_what_came_of_it() -> None:
    slots = torch.full((15,), -1)
    slots[4:10] = 2
    plan = Plan(Sources(slots), attention=True)
    first, second = Recorder(), Recorder(lambda _: Plan())
    third = Recorder(lambda prefill: plan if len(prefill.embeddings) == 15 else None)
    one, plain = session(first, second, third), session()
    one.push(PICTURE)
    plain.push(PICTURE)
    same(one, plain)
    assert not first.queries and not third.queries
    one = session(first, third)
    first.calls.clear()
    states = one.push(PICTURE)
    assert states.isnan().any(1).tolist() == (slots >= 0).tolist()
    assert one.work.tokens == plain.work.tokens - 6
    assert [c[0] for c in first.calls] == ["plan", "on_cached", "on_attention"]


def test_sources_that_are_given_need_no_plan() -> None:
    plug = Recorder()
    one = session(plug)
    plug.calls.clear()
    one.push([Text(words(3, 1))], Sources(torch.tensor([0, 1, -1])))
    assert [c[0] for c in plug.calls] == ["on_cached"]


def test_forwards_that_sessions_share_are_planned_by_nobody_and_have_no_cost() -> None:
    plugs = [Recorder(timed=True), Recorder(timed=True)]
    sessions = [session(p) for p in plugs]
    for plug in plugs:
        plug.calls.clear()
    results = push_batch(sessions, [Push(PICTURE, NO_TREE)] * 2)
    assert all(isinstance(result, torch.Tensor) for result in results)
    assert [p.calls for p in plugs] == [[("on_cached", (None, 5, None), False)]] * 2


@pytest.mark.parametrize("where", ["plan", "on_cached"])
def test_a_plug_that_fails_leaves_the_stream_as_it_was(where: str) -> None:
    plug = Recorder()
    one, plain = session(plug), session()

    def fail(*_: object) -> None:
        raise MemoryError("no memory (simulated)")

    setattr(plug, where, fail)
    with pytest.raises(MemoryError):
        one.push(PICTURE)
    assert one.timeline.tokens == 5 and all(
        torch.equal(a[:, :, :5], b[:, :, :5]) for a, b in zip(content(one), content(plain), strict=True)
    )
    one.plugs = ()
    one.push(PICTURE)
    plain.push(PICTURE)
    assert all(torch.equal(a, b) for a, b in zip(content(one), content(plain), strict=True))


def test_a_fork_has_no_plugs() -> None:
    plug = Recorder()
    one = session(plug).fork()
    plug.calls.clear()
    one.push([Text(words(3, 1))])
    assert plug.calls == []


# -- through the engine -------------------------------------------------------------------------------


def frame(index: int) -> Frame:
    rgb = np.random.default_rng(index // 2).integers(0, 256, (56, 56, 3), dtype=np.uint8)  # each twice
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    depth_m = np.full((56, 56), 2.0, np.float32)
    return Frame(index, index * 10**8, rgb, depth_m, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


SHOWS_HISTORY = "{history} Instruction: {instruction}\n{image}"
CONTEXTS = {
    "append, drop": ContextSpec(strategy="append", unasked_frames="drop"),
    "append, keep": ContextSpec(strategy="append", unasked_frames="keep"),
    "window_reset": ContextSpec(
        strategy="window_reset",
        unasked_frames="drop",
        reset_steps=3,
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


def engine(model: LoadedModel, name: str, **options: Any) -> QwenEngine:
    own, spec = load_profile("tiny"), CONTEXTS[name]
    if spec.history_frames:
        own = replace(own, first_turn=SHOWS_HISTORY)
        own = replace(own, next_turn=SHOWS_HISTORY) if spec.strategy == "history" else own
    own = replace(own, image=replace(own.image, resize=(56, 56)), context=spec)
    return eager(QwenEngine(model, own, temperature=0.0, seed=0, **options))


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("keeps", [True, False])
def test_each_frame_is_told_of_once_before_any_of_its_tokens_and_keeps_its_id(
    model: LoadedModel, name: str, keeps: bool
) -> None:
    robot, plug = engine(model, name), Recorder(timed=True)
    plug.keeps = keeps
    robot.session.plugs = (plug,)
    robot.start(Instruction(1, "go to the red chair"))
    assert plug.calls[0] == "begin"
    for index in range(7):
        robot.observe(frame(index))
        if index % 2:
            robot.decide(index)
    told = [call for call in plug.calls if call[0] == "on_frame"]
    if name == "delayed_batch":  # it looks at no frame by itself
        assert told == []
        return
    assert [index for _, index, _ in told] == list(range(7))
    asked = [call for call in plug.calls if call[0] == "before_vision"]
    assert [("on_frame", *call[1:]) for call in asked] == told
    seen = [call for call in plug.calls if call[0] == "after_vision"]
    # Each picture is shown twice: the second time the tower is spared, and there is no time to tell.
    assert [timed for *_, timed in seen] == [True, False, True, False, True, False, True]
    order = [call[0] for call in plug.calls if call[0] in ("before_vision", "after_vision", "on_frame")]
    assert order == ["before_vision", "after_vision", "on_frame"] * 7
    assert [call for call in plug.calls if call[0] == "on_answer"] == [("on_answer", False)] * 3
    ids = [image_id for *_, image_id in told]
    assert len(set(ids)) == 7  # also where two look alike
    known = set()
    for call in plug.calls[1:]:
        if call[0] == "on_frame":
            known.add(call[2])
        elif call[0] == "on_cached":
            assert {i for i in call[1] if i is not None} <= known
    assert {s.image_id for s in robot.session.timeline.segments if s.grid is not None} <= set(ids)


def test_what_is_off_is_not_there(model: LoadedModel) -> None:
    robot = engine(model, "append, drop")
    assert robot.session.plugs == () and robot.reuse is None and robot.pruning is None
    assert {f.name for f in fields(Image)} == {"features", "height", "width", "block", "cells", "image_id"}
    assert {f.name for f in fields(Segment)} == {
        "kind", "ids", "positions", "start", "block", "grid", "first_grid", "image_id",
    }  # fmt: skip
    on = engine(
        model,
        "append, drop",
        stream=StreamConfig(prune=PruneConfig(strategy="seen")),
        reuse=ReuseConfig(enabled=True),
    )
    assert on.session.plugs == (on.reuse, on.pruning)
