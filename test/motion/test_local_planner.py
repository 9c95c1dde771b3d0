"""Ways around obstacles as primitives: safe, complete enough, and given up with a reason."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import PlaceConfig, from_flat
from vln_ros.datatypes import Action, ActionKind, Float64Array, Pose, StepSize, Velocity, apply_action
from vln_ros.motion.distance_grid import FloorGrid, reachable
from vln_ros.motion.local_planner import GiveUp, Headings, LocalPlan, LocalPlanner, NoWay
from vln_ros.motion.obstacles import clearance_m

CONFIG = PlaceConfig()
STEP = StepSize(0.25, math.radians(15.0))
NOTHING = np.zeros((0, 2))
FITS_M = CONFIG.robot_radius_m + CONFIG.margin_m


def wall(*corners: tuple[float, float], spacing_m: float = 0.05) -> Float64Array:
    """Points along a line of straight walls."""
    parts = []
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        n = max(2, math.ceil(math.hypot(bx - ax, by - ay) / spacing_m) + 1)
        parts.append(np.stack([np.linspace(ax, bx, n), np.linspace(ay, by, n)], 1))
    return np.concatenate(parts)


def closest_m(pose: Pose, actions: tuple[Action, ...], obstacles: Float64Array) -> float:
    """By driving in steps of a centimetre: how near the robot's middle comes to an obstacle."""
    nearest = math.inf
    for action in actions:
        for k in range(math.ceil(action.forward_m / 0.01) + 1):
            at = pose.position[:2] + min(action.forward_m, 0.01 * k) * pose.rotation[:2, 0]
            nearest = min(nearest, float(np.linalg.norm(obstacles - at, axis=1).min(initial=math.inf)))
        pose = apply_action(pose, action)
    return nearest


def drive(
    planner: LocalPlanner, pose: Pose, goal: Float64Array, obstacles: Float64Array, rounds: int = 40
) -> tuple[Pose, LocalPlan | NoWay]:
    """Four actions, planned anew, until nothing is left to do; and the last plan."""
    for _ in range(rounds):
        plan = planner.plan(pose, goal, obstacles)
        if isinstance(plan, NoWay) or not plan.actions:
            return pose, plan
        goal = plan.target
        for action in plan.actions[:4]:
            pose = apply_action(pose, action)
    return pose, plan


def test_nothing_in_the_way_is_driven_straight() -> None:
    plan = LocalPlanner(CONFIG, STEP).plan(Pose.identity(), np.array([1.0, 0.0]), NOTHING)
    assert isinstance(plan, LocalPlan)
    assert [a.kind for a in plan.actions] == [ActionKind.FORWARD] * 3, "within 0.25 m of it is there"
    assert plan.target.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(plan.path, [[0.0, 0.0], [0.25, 0.0], [0.5, 0.0], [0.75, 0.0]])


def test_a_place_behind_is_turned_to_the_short_way() -> None:
    plan = LocalPlanner(CONFIG, STEP).plan(Pose.identity(), np.array([-1.0, -0.2]), NOTHING)
    assert isinstance(plan, LocalPlan)
    kinds = [a.kind for a in plan.actions]
    assert kinds.count(ActionKind.TURN_LEFT) == 0
    assert 10 <= kinds.count(ActionKind.TURN_RIGHT) <= 13


def test_there_already_needs_no_action() -> None:
    plan = LocalPlanner(CONFIG, STEP).plan(Pose.planar(1.0, 2.0, 0.3), np.array([1.1, 2.1]), NOTHING)
    assert isinstance(plan, LocalPlan)
    assert plan.actions == ()


@pytest.mark.parametrize("gap_m", [0.7, 0.9, 1.2])
def test_goes_through_a_door(gap_m: float) -> None:
    obstacles = np.concatenate(
        [wall((1.0, -3.0), (1.0, 0.6 - gap_m / 2)), wall((1.0, 0.6 + gap_m / 2), (1.0, 3.0))]
    )
    pose, plan = drive(LocalPlanner(CONFIG, STEP), Pose.identity(), np.array([2.0, 0.0]), obstacles)
    assert isinstance(plan, LocalPlan), plan
    assert np.linalg.norm(pose.position[:2] - [2.0, 0.0]) <= CONFIG.reached_within_m


def test_does_not_go_through_a_door_that_is_too_narrow() -> None:
    obstacles = np.concatenate([wall((1.0, -4.0), (1.0, -0.2)), wall((1.0, 0.2), (1.0, 4.0))])
    plan = LocalPlanner(CONFIG, STEP).plan(Pose.identity(), np.array([2.5, 0.0]), obstacles)
    assert isinstance(plan, NoWay)
    assert plan.kind is GiveUp.NOT_REACHABLE
    assert "place.max_shift_m = 1" in str(plan)


def test_finds_out_of_a_pocket() -> None:
    obstacles = wall((-0.4, 0.6), (0.7, 0.6), (0.7, -0.6), (-0.4, -0.6))
    pose, plan = drive(LocalPlanner(CONFIG, STEP), Pose.identity(), np.array([1.8, 0.0]), obstacles)
    assert isinstance(plan, LocalPlan), plan
    assert np.linalg.norm(pose.position[:2] - [1.8, 0.0]) <= CONFIG.reached_within_m


def test_a_place_in_a_wall_becomes_the_one_on_this_side_of_it() -> None:
    obstacles = np.concatenate([wall((2.0, -2.0), (2.0, 0.8)), wall((2.0, 1.8), (2.0, 2.5))])  # a door beside
    for depth_error_m in (-0.1, 0.0, 0.1, 0.2):
        goal = np.array([2.0 + depth_error_m, 0.0])
        pose, plan = drive(LocalPlanner(CONFIG, STEP), Pose.identity(), goal, obstacles)
        assert isinstance(plan, LocalPlan), plan
        assert 1.2 < pose.position[0] < 2.0 - FITS_M
        assert abs(pose.position[1]) < 0.4


@pytest.mark.parametrize(
    ("goal", "obstacles", "kind"),
    [
        ((11.0, 0.0), NOTHING, GiveUp.TOO_FAR),
        (
            (2.0, 0.0),
            wall((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5), (0.5, 0.5)),
            GiveUp.NOT_REACHABLE,
        ),
        ((1.0, 0.0), wall((-1.2, 0.5), (0.6, 0.5), (0.6, -0.5), (-1.2, -0.5)), GiveUp.DETOUR),
    ],
)
def test_is_given_up_with_a_reason(goal: tuple[float, float], obstacles: Float64Array, kind: GiveUp) -> None:
    plan = LocalPlanner(from_flat(PlaceConfig, {"max_shift_m": 0.2}), STEP).plan(
        Pose.identity(), np.array(goal), obstacles
    )
    assert isinstance(plan, NoWay)
    assert plan.kind is kind
    assert str(plan).startswith(kind.value)
    assert any(c.isdigit() for c in plan.detail), "with figures"


def test_steps_too_long_for_where_it_stands_are_given_up() -> None:
    walls = wall((0.6, -0.6), (0.6, 0.6), (-0.6, 0.6), (-0.6, -0.6), (0.6, -0.6))
    plan = LocalPlanner(CONFIG, StepSize(1.0, math.radians(90.0))).plan(
        Pose.identity(), np.array([0.3, 0.0]), walls
    )
    assert isinstance(plan, NoWay)
    assert plan.kind is GiveUp.NO_STEPS


def test_what_is_touched_already_lets_it_out_and_not_in() -> None:
    obstacles = wall((0.2, -0.3), (0.2, 0.3))  # nearer than the robot's radius
    planner = LocalPlanner(CONFIG, STEP)
    away = planner.plan(Pose.planar(0.0, 0.0, math.pi), np.array([-1.0, 0.0]), obstacles)
    assert isinstance(away, LocalPlan)
    assert away.actions[0].kind is ActionKind.FORWARD
    pose = Pose.identity()
    around = planner.plan(pose, np.array([1.2, 0.0]), obstacles)
    assert isinstance(around, LocalPlan)
    assert closest_m(pose, around.actions, obstacles) >= 0.2 - 1e-5


@pytest.mark.parametrize(
    ("turn_deg", "count", "circle"), [(15.0, 24, 24), (30.0, 12, 12), (7.0, 51, None), (90.0, 4, 4)]
)
def test_headings_of_turns(turn_deg: float, count: int, circle: int | None) -> None:
    headings = Headings.of(math.radians(turn_deg))
    assert len(headings.every) == count
    assert headings.circle == circle
    for a in headings.every:
        for b in headings.every:
            turns = headings.turns(a, b)
            off_deg = (a + turns - b) * turn_deg
            assert off_deg == pytest.approx(360.0 * round(off_deg / 360.0)), "it ends where it should"
            if circle is not None:
                assert abs(turns) <= circle / 2


@st.composite
def clutter(draw: st.DrawFn) -> tuple[Float64Array, Pose, Float64Array]:
    """Round things in a hall, the robot somewhere between them, and a place up to four metres away."""
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    count = draw(st.integers(0, 14))
    middles = rng.uniform(-2.5, 2.5, (count, 2))
    angles = np.linspace(0.0, 2.0 * math.pi, 24, endpoint=False)
    rim = 0.15 * np.stack([np.cos(angles), np.sin(angles)], 1)
    things = (middles[:, None] + rim).reshape(-1, 2)
    hall = wall((-3.0, -3.0), (3.0, -3.0), (3.0, 3.0), (-3.0, 3.0), (-3.0, -3.0))
    obstacles = np.concatenate([things, hall])
    start, goal = rng.uniform(-2.5, 2.5, (2, 2))
    return obstacles, Pose.planar(*start, rng.uniform(-math.pi, math.pi)), goal


@settings(deadline=None, max_examples=60)
@given(clutter())
def test_no_plan_touches_anything_and_no_executor_stops_it(
    case: tuple[Float64Array, Pose, Float64Array],
) -> None:
    obstacles, pose, goal = case
    plan = LocalPlanner(CONFIG, STEP).plan(pose, goal, obstacles)
    if isinstance(plan, NoWay):
        return
    start_m = float(np.linalg.norm(obstacles - pose.position[:2], axis=1).min())
    assert closest_m(pose, plan.actions, obstacles) >= min(FITS_M, start_m) - 1e-5
    if start_m < FITS_M:
        return
    at = pose
    for action in plan.actions:
        ends = apply_action(at, action)
        if action.forward_m:
            for place in (at, ends):
                around = place.inverse().transform(np.c_[obstacles, np.zeros(len(obstacles))])[:, :2]
                free_m = clearance_m(around, Velocity(0.5), CONFIG.robot_radius_m)
                assert free_m > CONFIG.stop_distance_m, "the executor would have stopped here"
        at = ends


@settings(deadline=None, max_examples=40)
@given(clutter())
def test_every_place_that_a_wider_robot_could_reach_is_reached(
    case: tuple[Float64Array, Pose, Float64Array],
) -> None:
    """Flood fill at two thirds more than the robot's radius says which those are."""
    obstacles, pose, goal = case
    grid = FloorGrid.around(
        np.array([[-3.0, -3.0], [3.0, 3.0]]), obstacles, cell_m=0.05, margin_m=0.0, bound_m=1.0
    )
    roomy = grid.clearance_m > FITS_M + CONFIG.stop_distance_m + 0.05
    start, end = (tuple(c) for c in grid.cells(np.stack([pose.position[:2], goal])).tolist())
    if not roomy[start] or not reachable(roomy, start)[end]:
        return
    planner = LocalPlanner(from_flat(PlaceConfig, {"max_detour": 1000.0}), STEP)
    pose, plan = drive(planner, pose, goal, obstacles)
    assert isinstance(plan, LocalPlan), plan
    assert plan.actions == ()
    assert np.linalg.norm(pose.position[:2] - goal) <= CONFIG.reached_within_m
