"""What must be computed of a frame, member by member; no walk has more than four sizes of forwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.axes import base_from_optical
from vln_ros.config import ReuseConfig
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.geometry.correspondence import IntArray, TokenGrid
from vln_ros.geometry.fallback_reason import FallbackReason
from vln_ros.reuse.budget import buckets
from vln_ros.reuse.frame_plan import FramePlan, FramePlanner, Label

WIDTH, HEIGHT = 644, 476
GRID = TokenGrid(17, 23)
CAMERA = CameraModel.from_hfov(WIDTH, HEIGHT, math.radians(79.0))
EXTRINSICS = base_from_optical(0.0, 0.0, 1.25)
CONFIG = ReuseConfig(enabled=True, doubt=0.0, refresh_every=1000, max_age=1000)


def windows(grid: TokenGrid) -> IntArray:
    row, column = np.divmod(np.arange(grid.count), grid.columns)
    return np.asarray(row // 4 * -(-grid.columns // 4) + column // 4)


WINDOW = windows(GRID)


@cache
def texture() -> Any:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (64, 64, 3))
    return coarse.repeat(4, 0).repeat(4, 1).astype(np.float64)


def view(
    index: int = 0,
    yaw_deg: float = 0.0,
    ahead_m: float = 0.0,
    box: tuple[float, float, float, float, float] | None = None,
) -> Frame:
    """A textured cylinder of 4 m radius about the start, in closed form; with a plate before it.

    Args:
        box: left, top, right, bottom as shares of the picture, and the depth, of a plate that stands there.
    """
    pose = Pose.planar(ahead_m, 0.0, math.radians(yaw_deg))
    optical = pose @ EXTRINSICS
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    ways = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], -1)
    ways = ways @ optical.rotation.T
    a = ways[..., 0] ** 2 + ways[..., 1] ** 2
    b = ahead_m * ways[..., 0]
    depth = (-b + np.sqrt(b * b - a * (ahead_m**2 - 16.0))) / a
    hit = optical.position + ways * depth[..., None]
    angle = np.arctan2(hit[..., 1], hit[..., 0])
    along = (angle / (2 * math.pi) * 1536).astype(int) % 256
    rgb = texture()[(hit[..., 2] * 40).astype(int) % 256, along]
    depth_m = depth.astype(np.float32)
    if box is not None:
        left, top, right, bottom = (
            round(share * side) for share, side in zip(box, (WIDTH, HEIGHT) * 2, strict=False)
        )
        depth_m[top:bottom, left:right] = box[4]
        rgb[top:bottom, left:right] = 90.0
    return Frame(index, index * 10**8, rgb.astype(np.uint8), depth_m, CAMERA, pose, optical)


@dataclass
class Stream:
    """A planner with a cache that holds everything, or what a test leaves in it."""

    config: ReuseConfig = CONFIG
    windows: Callable[[TokenGrid], IntArray] | None = windows
    planner: FramePlanner = field(init=False)
    gone: set[int] = field(default_factory=set)
    written: int = 0
    image_id: int = 0

    def __post_init__(self) -> None:
        self.planner = FramePlanner(self.config, 4, lambda _: 0.0, self.windows)
        self.planner.begin()

    def find(self, serials: IntArray) -> IntArray:
        return np.where(np.isin(serials, list(self.gone)), -1, serials)

    def plan(self, frame: Frame) -> FramePlan:
        self.image_id += 1
        plan = self.planner.before_vision(self.image_id, frame, GRID, frame.rgb, self.find)
        again = self.planner.before_vision(self.image_id, frame, GRID, frame.rgb, self.find)
        assert np.array_equal(plan.computed, again.computed)  # a try that failed changes nothing
        self.planner.on_frame(self.image_id)
        return plan

    def show(self, frame: Frame) -> FramePlan:
        """Planned, seen, and in the cache."""
        planned = self.plan(frame)
        plan = self.planner.plan(self.image_id, GRID.count, self.find)
        assert np.array_equal(plan.slot < 0, plan.computed)
        assert np.array_equal(plan.computed, planned.computed)
        serials = np.arange(1, GRID.count + 1) + self.written
        self.written += GRID.count
        self.planner.on_cached(self.image_id, serials, plan)
        return plan


def computed_windows(plan: FramePlan) -> set[int]:
    """All of each, or nothing."""
    chosen = set(WINDOW[plan.computed].tolist())
    assert np.array_equal(plan.computed, np.isin(WINDOW, list(chosen)))
    return chosen


def windows_at(columns: slice, rows: slice = slice(None)) -> set[int]:
    return set(WINDOW.reshape(GRID.rows, GRID.columns)[rows, columns].ravel().tolist())


def test_a_frame_seen_again_is_computed_by_the_budget_and_the_first_whole() -> None:
    for budget, share in ((0.25, 0.25), (0.3, 0.5), (0.5, 0.5), (0.75, 0.75)):
        stream = Stream(replace(CONFIG, budget=budget))
        first = stream.show(view(0))
        assert first.reason is FallbackReason.FIRST_FRAME and first.computed.all()
        plan = stream.show(view(1))
        assert plan.reason is None
        assert plan.bucket == math.ceil(share * GRID.count)
        assert plan.bucket - 16 < plan.computed.sum() <= plan.bucket
        computed_windows(plan)
    stream = Stream(replace(CONFIG, budget=1.0))
    stream.show(view(0))
    assert stream.show(view(1)).reason is FallbackReason.ALL_COMPUTED


@pytest.mark.parametrize(("yaw_deg", "columns"), [(12.0, slice(0, 2)), (-12.0, slice(21, 23))])
def test_new_at_the_edge_when_turning(yaw_deg: float, columns: slice) -> None:
    stream = Stream(replace(CONFIG, budget=0.25))
    stream.show(view(0))
    plan = stream.show(view(1, yaw_deg))
    assert plan.reason is None
    assert windows_at(columns) <= computed_windows(plan)
    assert (plan.label.reshape(17, 23)[:, columns] == Label.NEW).all()


def test_what_a_thing_that_left_had_hidden() -> None:
    stream = Stream(replace(CONFIG, budget=0.25, min_agreement=0.5))
    stream.show(view(0, box=(0.3, 0.3, 0.6, 0.7, 1.0)))
    plan = stream.show(view(1))
    hidden = windows_at(slice(8, 12), slice(6, 11))
    assert hidden <= computed_windows(plan)


def test_a_door_that_opened_shows_what_was_not_there() -> None:
    """The door was nearer than what is seen through it now."""
    stream = Stream(replace(CONFIG, budget=0.25, min_agreement=0.5))
    stream.show(view(0, box=(0.4, 0.2, 0.6, 1.0, 3.0)))
    plan = stream.show(view(1, ahead_m=0.1))
    assert windows_at(slice(11, 13), slice(5, 16)) <= computed_windows(plan)


def test_a_thing_that_came() -> None:
    stream = Stream(replace(CONFIG, budget=0.25, min_agreement=0.5))
    stream.show(view(0))
    plan = stream.show(view(1, box=(0.7, 0.2, 0.8, 0.9, 1.5)))
    assert windows_at(slice(17, 18), slice(5, 14)) <= computed_windows(plan)


def test_a_hole_of_the_depth_image() -> None:
    stream = Stream(replace(CONFIG, budget=0.25))
    stream.show(view(0))
    frame = view(1)
    assert frame.depth_m is not None
    frame.depth_m[56:140, 56:140] = 0.0
    assert windows_at(slice(2, 5), slice(2, 5)) <= computed_windows(stream.show(frame))
    source = view(2)
    assert source.depth_m is not None
    source.depth_m[56:140, 56:140] = np.nan
    stream.show(source)
    assert windows_at(slice(2, 5), slice(2, 5)) <= computed_windows(stream.show(view(3)))


def test_what_was_handed_on_often_enough() -> None:
    stream = Stream(replace(CONFIG, budget=0.25, max_age=3))
    stream.show(view(0))
    age = np.zeros(GRID.count, int)
    for index in range(1, 12):
        plan = stream.show(view(index))
        assert plan.computed[age >= 3].all()
        age = np.where(plan.computed, 0, age + 1)
    assert age.max() <= 3


def test_what_was_handed_on_comes_before_what_is_as_unlike() -> None:
    """A still scene: half of the windows now, the other half next, so that nothing grows old."""
    stream = Stream()
    stream.show(view(0))
    one, other = (computed_windows(stream.show(view(i))) for i in (1, 2))
    assert len(one & other) <= 2


def test_what_the_action_looked_at() -> None:
    stream = Stream(replace(CONFIG, budget=0.25))
    stream.show(view(0))
    relevance = np.full(GRID.count, 0.5)
    token = 8 * GRID.columns + 10
    relevance[token] = 9.0
    stream.planner.on_attention(stream.image_id, relevance, np.zeros(4))
    plan = stream.show(view(1))
    assert WINDOW[token] in computed_windows(plan)
    assert plan.label[token] == Label.REFRESHED
    # It changed between two decisions, though it is low again.
    stream.planner.on_attention(stream.image_id, np.full(GRID.count, 0.5), np.zeros(4))
    changed = np.full(GRID.count, 0.5)
    elsewhere = int(np.flatnonzero(~plan.computed)[0])
    changed[elsewhere] = 3.0
    stream.planner.on_attention(stream.image_id, changed, np.zeros(4))
    assert WINDOW[elsewhere] in computed_windows(stream.show(view(2)))


def test_what_is_gone_from_the_cache() -> None:
    stream = Stream(replace(CONFIG, budget=0.25))
    stream.show(view(0))
    stream.gone = {5 * GRID.columns + 20 + 1}
    plan = stream.show(view(1))
    assert WINDOW[5 * GRID.columns + 20] in computed_windows(plan)
    stream.gone = set(range(1, stream.written + 1))
    assert stream.show(view(2)).reason is FallbackReason.NOT_CACHED


def test_what_goes_between_the_plan_and_the_prefill_is_computed_from_what_there_is() -> None:
    stream = Stream()
    stream.show(view(0))
    planned = stream.plan(view(1))
    token = int(np.flatnonzero(~planned.computed)[0])
    stream.gone = {int(planned.token[token]) + 1}
    plan = stream.planner.plan(stream.image_id, GRID.count, stream.find)
    assert plan.slot[token] == -1 and not plan.computed[token]
    assert plan.label[token] == Label.REFRESHED


def test_too_much_is_new_for_any_bucket_but_the_last() -> None:
    stream = Stream(replace(CONFIG, min_agreement=0.0))
    stream.show(view(0))
    assert stream.show(view(1, 65.0)).reason is FallbackReason.ALL_COMPUTED


def test_doubt_and_time_make_one_frame_whole() -> None:
    stream = Stream(replace(CONFIG, doubt=0.5, refresh_every=4))
    reasons = [stream.show(view(i)).reason for i in range(6)]
    assert reasons == [FallbackReason.FIRST_FRAME, None, None, None, FallbackReason.REFRESH, None]
    for probability, held, reason in (
        (0.49, False, FallbackReason.DOUBT),
        (0.5, False, None),
        (0.9, True, FallbackReason.DOUBT),
    ):
        stream.planner.on_answer(probability, held)
        assert stream.show(view(stream.image_id)).reason is reason
        assert stream.show(view(stream.image_id)).reason is None


def test_a_frame_is_whole_where_that_is_wanted() -> None:
    stream = Stream()
    stream.show(view(0))
    stream.planner.want_whole()
    assert stream.show(view(1)).reason is FallbackReason.REFRESH
    assert stream.show(view(2)).reason is None


def test_frames_that_nobody_prefills_do_not_add_up() -> None:
    """They are planned against the newest one that is cached; after some, whole."""
    stream = Stream()
    stream.show(view(0))
    plans = [stream.plan(view(i)) for i in range(1, 30)]
    assert [p.reason for p in plans[:4]] == [None] * 4
    assert all(set(p.source[p.source >= 0]) == {1} for p in plans[:4])
    assert {p.reason for p in plans[4:]} == {FallbackReason.NOT_CACHED}
    assert len(stream.planner.known()) <= 9
    # Those with a plan can still be prefilled by it.
    again = stream.planner.plan(2, GRID.count, stream.find)
    assert np.array_equal(again.computed, plans[0].computed) and (again.slot[~again.computed] >= 0).all()


def test_pictures_that_are_not_where_the_poses_say_are_refused() -> None:
    """The scene is at one distance from a camera that only turns: depth says nothing."""
    stream = Stream()
    stream.show(view(0))
    turned = view(1, 3.7)
    still = view(0)
    late = replace(turned, odom_from_optical=still.odom_from_optical, odom_from_base=still.odom_from_base)
    assert stream.show(late).reason is FallbackReason.PICTURES_DISAGREE
    stream = Stream()
    stream.show(view(0))
    assert stream.show(turned).reason is None


def test_single_tokens_are_chosen_where_the_tower_sees_all() -> None:
    stream = Stream(replace(CONFIG, tower=False), windows=None)
    stream.show(view(0))
    plan = stream.show(view(1, 3.0))
    assert plan.computed.sum() == plan.bucket == 196
    assert set(WINDOW[plan.computed]) & set(WINDOW[~plan.computed])


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20.0, 20.0), st.floats(-0.2, 0.3), st.booleans()), min_size=5, max_size=9),
    st.sampled_from([0.25, 0.5, 0.75]),
)
def test_no_walk_has_more_than_four_sizes(walk: list[tuple[float, float, bool]], budget: float) -> None:
    stream = Stream(ReuseConfig(enabled=True, budget=budget, refresh_every=6, min_agreement=0.3))
    yaw_deg = ahead_m = 0.0
    sizes = set()
    for index, (turn_deg, step_m, sure) in enumerate(walk):
        yaw_deg, ahead_m = yaw_deg + turn_deg, min(max(ahead_m + step_m, -1.5), 1.5)
        plan = stream.show(view(index, yaw_deg, ahead_m))
        stream.planner.on_answer(0.9 if sure else 0.2, False)
        sizes.add(plan.bucket)
        assert plan.computed.sum() <= plan.bucket
        known = plan.source >= 0
        assert plan.computed[~known].all() or plan.reason is not None
    assert sizes <= set(buckets(GRID.count)) and len(sizes) <= 4
