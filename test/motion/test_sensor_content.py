"""Sensors that come and say nothing: the robot stands, says why, and no good sensor is taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poses import standing

from vln_ros.axes import base_from_optical
from vln_ros.config import ExecutorConfig, SafetyConfig
from vln_ros.config.executor import ObstacleSensors
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Float64Array, Pose, RangeScan, Velocity
from vln_ros.motion.executor import Executor, ExecutorState, Output
from vln_ros.motion.safety import Fault
from vln_ros.motion.sensor_content import DepthJudge, Stillness, judge_scan, looks_ahead, scan_obstacles
from vln_ros.sim.embedded.flat import scene_id
from vln_ros.sim.embedded.world import EmbeddedWorld

SAFETY = SafetyConfig()
CAMERA = CameraModel.from_hfov(160, 120, math.radians(79.0))
EXTRINSICS = base_from_optical(0.1, 0.0, 0.5)
SHAPE = (CAMERA.height, CAMERA.width)
WALL_M = 3.0
AHEAD = Action(forward_m=9.0)


def filled(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def judged(depth_m: np.ndarray, extrinsics: Pose = EXTRINSICS, safety: SafetyConfig = SAFETY) -> Fault | None:
    return DepthJudge().judge(np.asarray(depth_m, np.float32), CAMERA, extrinsics, safety)


def scattered(share: float, value: float = 2.0, elsewhere: float = 0.0) -> np.ndarray:
    chosen = np.random.default_rng(1).random(SHAPE) < share
    return np.where(chosen, np.float32(value), np.float32(elsewhere))


# -------------------------------------------------------------------------------------- one image


@pytest.mark.parametrize(
    ("depth_m", "fault"),
    [
        (filled(0.0), Fault.DEPTH_BLIND),
        (scattered(0.02), Fault.DEPTH_BLIND),
        (scattered(0.05, 2.0), Fault.DEPTH_BLIND),
        (scattered(0.05, 2.0, 65.535), Fault.DEPTH_UNIT),  # saturated
        (filled(65.535), Fault.DEPTH_UNIT),
        (filled(800.0), Fault.DEPTH_UNIT),  # millimetres taken for metres
        (filled(2000.0), Fault.DEPTH_UNIT),
        (filled(250.0), Fault.DEPTH_UNIT),  # centimetres
        (filled(25.0), Fault.DEPTH_UNIT),  # tenths of millimetres in 16UC1: 2.5 m become 25 m
        (filled(0.001), Fault.DEPTH_UNIT),  # metres taken for millimetres
        (filled(0.008), Fault.DEPTH_UNIT),
        (scattered(0.6, 0.003), Fault.DEPTH_UNIT),
        (filled(0.12), Fault.DEPTH_COVERED),
        (scattered(0.9, 0.08), Fault.DEPTH_COVERED),
        (scattered(0.3, 0.12), Fault.DEPTH_BLIND),  # a hand before the lens: mostly no reading
        (filled(0.3), None),
        (filled(2.0), None),
        (filled(15.0), None),
        (scattered(0.3), None),
        (scattered(0.3, 2.0, 65.535), None),  # a camera that says 65535 where it has no reading
    ],
)
def test_what_an_image_says(depth_m: np.ndarray, fault: Fault | None) -> None:
    assert judged(depth_m) is fault


def test_only_what_looks_at_the_way_counts() -> None:
    lanes = np.kron(looks_ahead(CAMERA, EXTRINSICS, SAFETY.robot_radius_m, (0.1, 1.4)), np.ones((2, 2)))
    assert 0.1 < (lanes > 0).mean() < 0.9
    assert judged(np.where(lanes > 0, 0.0, 2.0)) is Fault.DEPTH_BLIND
    assert judged(np.where(lanes > 0, 2.0, 0.0)) is None
    for lane in (1, 2, 3):  # each part of the way must be seen
        assert judged(np.where(lanes == lane, 0.0, 2.0)) is Fault.DEPTH_BLIND
        assert judged(np.where(lanes == lane, 0.1, 2.0)) is Fault.DEPTH_COVERED
    left_half = np.arange(CAMERA.width) < CAMERA.width // 2
    assert judged(np.where(left_half, 0.0, filled(2.0))) is Fault.DEPTH_BLIND
    assert judged(np.where(~left_half, 0.0, filled(2.0))) is Fault.DEPTH_BLIND


@pytest.mark.parametrize(
    ("yaw_deg", "fault"), [(0, None), (20, None), *((yaw, Fault.DEPTH_ASIDE) for yaw in (90, -90, 180))]
)
def test_a_camera_that_looks_elsewhere(yaw_deg: int, fault: Fault | None) -> None:
    extrinsics = base_from_optical(0.0, 0.0, 0.5, 0.0, 0.0, math.radians(yaw_deg))
    assert judged(filled(2.0), extrinsics) is fault


@pytest.mark.parametrize("height_m", [0.2, 0.5, 0.88, 1.25])
@pytest.mark.parametrize("pitch_down_deg", [-15, 0, 15, 30])
@pytest.mark.parametrize("roll_deg", [0, 90, 180])
def test_a_hall_without_walls_within_range_is_no_fault(
    height_m: float, pitch_down_deg: int, roll_deg: int
) -> None:
    """Only the floor is seen, up to 6 m."""
    extrinsics = base_from_optical(0.1, 0.0, height_m, math.radians(roll_deg), math.radians(pitch_down_deg))
    depth_m = hall(extrinsics, 6.0)
    assert judged(depth_m, extrinsics) is None


def hall(extrinsics: Pose, range_m: float) -> np.ndarray:
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(SHAPE)], -1)
    down = -(rays @ extrinsics.rotation.T)[..., 2]
    depth_m = np.where(down > 1e-6, extrinsics.position[2] / np.maximum(down, 1e-6), np.inf)
    return np.where(depth_m < range_m, depth_m, 0.0).astype(np.float32)


@settings(deadline=None, max_examples=200)
@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.16, 19.0),
    st.sampled_from([0.0, 0.02, 0.1, 40.0, 3000.0]),
)
def test_more_readings_are_never_worse(share: float, more: float, value: float, elsewhere: float) -> None:
    few, many = sorted((share, more))
    if judged(scattered(few, value, elsewhere)) is None:
        assert judged(scattered(many, value, elsewhere)) is None
    assert (judged(scattered(1.0, value, elsewhere))) is None
    assert judged(scattered(0.0, value, elsewhere)) is not None


def test_the_share_is_a_parameter() -> None:
    strict = replace(SAFETY, min_readings=0.6)
    assert judged(scattered(0.5), safety=strict) is Fault.DEPTH_BLIND
    assert judged(scattered(0.7), safety=strict) is None
    none = replace(SAFETY, min_readings=0.0)
    assert judged(filled(0.0), safety=none) is Fault.DEPTH_BLIND  # nothing at all is never enough


def test_the_embedded_world_has_no_false_faults() -> None:
    """Wherever a robot can stand, its nose at a cupboard too."""
    rng = np.random.default_rng(0)
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 1.25), cached_scenes=1)
    for seed in (0, 5):
        world.load(scene_id(seed))
        for _ in range(40):
            place = rng.random(2) * world.scene.flat.size_m
            try:
                world.place(standing(place, rng.uniform(-3.0, 3.0)))
            except ValueError:
                continue
            assert judged(world.render()[1], base_from_optical(0.0, 0.0, 1.25)) is None


# --------------------------------------------------------------------------------------- one scan


def around(ranges_m: float | np.ndarray, rays: int = 360) -> RangeScan:
    angles: Float64Array = -math.pi + 2.0 * math.pi / 360 * np.arange(rays, dtype=np.float64)
    wide: Float64Array = np.broadcast_to(np.asarray(ranges_m, np.float64), (rays,)).copy()
    return RangeScan(angles, wide)


def in_front(value: float, elsewhere: float, half_rad: float = 0.6) -> RangeScan:
    scan = around(elsewhere)
    return RangeScan(scan.angles_rad, np.where(np.abs(scan.angles_rad) < half_rad, value, elsewhere))


def sided(left: float, right: float) -> RangeScan:
    scan = around(left)
    return RangeScan(scan.angles_rad, np.where(scan.angles_rad < 0.0, right, left))


NAN, INF = math.nan, math.inf
BACKWARDS = Pose.planar(0.0, 0.0, math.pi)
UPSIDE_DOWN = Pose(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("scan", "extrinsics", "fault"),
    [
        (around(INF), Pose.identity(), None),  # open space
        (around(3.0), Pose.identity(), None),
        (around(-INF), Pose.identity(), None),  # an obstacle, not a blind sensor
        (around(NAN), Pose.identity(), Fault.SCAN_BLIND),
        (around(3.0, rays=0), Pose.identity(), Fault.SCAN_BLIND),
        (in_front(NAN, 3.0), Pose.identity(), Fault.SCAN_BLIND),
        (in_front(NAN, INF), Pose.identity(), Fault.SCAN_BLIND),
        (in_front(3.0, NAN), Pose.identity(), None),
        (sided(NAN, 3.0), Pose.identity(), Fault.SCAN_BLIND),
        (sided(3.0, NAN), Pose.identity(), Fault.SCAN_BLIND),
        (sided(INF, -INF), Pose.identity(), None),
        (in_front(NAN, 3.0), BACKWARDS, None),
        (in_front(3.0, NAN), BACKWARDS, Fault.SCAN_BLIND),
        (RangeScan(np.linspace(-0.5, 0.5, 51), np.full(51, 3.0)), Pose.identity(), None),
        (RangeScan(np.linspace(0.5, -0.5, 51), np.full(51, 3.0)), Pose.identity(), None),  # clockwise
        (RangeScan(np.linspace(-0.5, 0.5, 51), np.full(51, 3.0)), BACKWARDS, Fault.SCAN_ASIDE),
        (RangeScan(np.linspace(0.5, 2.5, 51), np.full(51, 3.0)), Pose.identity(), Fault.SCAN_ASIDE),
        (RangeScan(np.linspace(0.0, 2.5, 51), np.full(51, 3.0)), Pose.identity(), Fault.SCAN_ASIDE),  # half
        (RangeScan(np.linspace(0.0, 2.5, 51), np.full(51, 3.0)), UPSIDE_DOWN, Fault.SCAN_ASIDE),
        (RangeScan(np.linspace(1.0, 5.3, 90), np.full(90, 3.0)), Pose.identity(), Fault.SCAN_ASIDE),  # a gap
        (RangeScan(np.linspace(0.0, 2.0 * math.pi, 360), np.full(360, 3.0)), Pose.identity(), None),
    ],
)  # fmt: skip
def test_what_a_scan_says(scan: RangeScan, extrinsics: Pose, fault: Fault | None) -> None:
    assert judge_scan(scan, extrinsics, SAFETY) is fault


@pytest.mark.parametrize(
    "extrinsics", [Pose.identity(), UPSIDE_DOWN, Pose.planar(0.1, 0.05, 0.3), Pose.planar(0.4, 0.0, 0.0)]
)
def test_what_is_too_near_is_at_the_robots_edge(extrinsics: Pose) -> None:
    points = scan_obstacles(in_front(-INF, NAN), extrinsics, 0.25)
    in_base = extrinsics.transform(np.concatenate([points, np.zeros((len(points), 1))], 1))
    distance_m = np.hypot(in_base[:, 0], in_base[:, 1])
    expected_m = 0.41 if extrinsics.position[0] == 0.4 else 0.25  # a scanner on a boom sees it at itself
    assert distance_m == pytest.approx(np.full(len(points), expected_m), abs=0.01)
    assert len(points) > 60


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("offset_m", [-0.15, 0.0, 0.2])
def test_what_is_too_near_stops_a_fast_robot_at_once(delay_s: float, offset_m: float) -> None:
    robot = Driven("scan")
    robot.executor.config = replace(robot.config, delay_s=delay_s)
    robot.sets_off()
    robot.now_s += 0.05
    stamp_ns = round(robot.now_s * 1e9)
    robot.executor.odometry(stamp_ns, Pose.planar(robot.x_m, 0.0, 0.0), robot.now_s)
    robot.executor.heartbeat(stamp_ns, robot.now_s)
    robot.executor.scan(stamp_ns, in_front(-INF, 3.0, 0.3), Pose.planar(offset_m, 0.0, 0.0), robot.now_s)
    output = robot.executor.update(robot.now_s)
    assert (output.velocity, output.faults) == (Velocity(), (Fault.OBSTACLE,))


# ---------------------------------------------------------------------------- content that stands


def test_a_standing_robot_may_see_the_same_for_ever() -> None:
    still = Stillness()
    for i in range(1000):
        still.came(b"same", True, Pose.planar(0.01 * (i % 3), 0.0, 0.01), i * 0.1)
    assert still.lasts_s(100.0) == 0.0


@pytest.mark.parametrize(
    "step", [Pose.planar(0.02, 0.0, 0.0), Pose.planar(0.0, 0.0, 0.02), Pose.planar(0.0, -0.02, 0.0)]
)
def test_a_moving_robot_may_not(step: Pose) -> None:
    still, pose = Stillness(), Pose.identity()
    for i in range(20):
        still.came(b"same", True, pose, i * 0.1)
        pose = pose @ step
    assert 1.3 < still.lasts_s(1.9) < 1.9
    still.came(b"new", True, pose, 2.0)
    assert still.lasts_s(2.0) == 0.0


@pytest.mark.parametrize(("content", "must_change"), [(b"same", False), (b"", True)])
def test_what_need_not_change_is_not_asked(content: bytes, must_change: bool) -> None:
    still = Stillness()
    for i in range(20):
        still.came(content, must_change, Pose.planar(0.1 * i, 0.0, 0.0), i * 0.1)
    assert still.lasts_s(2.0) == 0.0


# ------------------------------------------------------------------------------------ while driving


class Driven:
    """A robot that drives towards a wall, and its depth camera or scanner."""

    def __init__(self, obstacles: ObstacleSensors = "depth") -> None:
        self.config = replace(ExecutorConfig(), delay_s=0.0, safety=replace(SAFETY, obstacles=obstacles))
        self.executor = Executor(self.config)
        self.scans = obstacles == "scan"
        self.x_m, self.now_s, self.queue = 0.0, 0.0, 0
        self.turned_rad = 0.0

    def true(self) -> np.ndarray | RangeScan:
        if not self.scans:
            return filled(max(0.0, WALL_M - 0.1 - self.x_m))
        angles = np.linspace(-1.3, 1.3, 201)
        return RangeScan(angles, (WALL_M - self.x_m) / np.cos(angles))

    def offer(self, *actions: Action) -> None:
        self.queue += 1
        stamp_ns = round(self.now_s * 1e9)
        self.executor.offer(ActionChunk(self.queue, 1, stamp_ns, actions))

    def period(self, shown: np.ndarray | RangeScan | None = None) -> Output:
        self.now_s += 1.0 / self.config.rate_hz
        stamp_ns = round(self.now_s * 1e9)
        pose = Pose.planar(self.x_m, 0.0, self.turned_rad)
        self.executor.odometry(stamp_ns, pose, self.now_s)
        self.executor.heartbeat(stamp_ns, self.now_s)
        shown = self.true() if shown is None else shown
        if isinstance(shown, RangeScan):
            self.executor.scan(stamp_ns, shown, Pose.identity(), self.now_s)
        else:
            self.executor.depth(stamp_ns, shown, CAMERA, EXTRINSICS, self.now_s)
        output = self.executor.update(self.now_s)
        self.x_m += output.velocity.linear_m_s / self.config.rate_hz
        self.turned_rad += output.velocity.angular_rad_s / self.config.rate_hz
        return output

    def sets_off(self) -> None:
        self.period()
        self.offer(AHEAD)
        for _ in range(8):
            assert self.period().state is ExecutorState.MOVING


BAD: dict[str, tuple[ObstacleSensors, Callable[[], np.ndarray | RangeScan], Fault]] = {
    "zeros": ("depth", lambda: filled(0.0), Fault.DEPTH_BLIND),
    "few readings": ("depth", lambda: scattered(0.03), Fault.DEPTH_BLIND),
    "millimetres": ("depth", lambda: filled(2500.0), Fault.DEPTH_UNIT),
    "metres": ("depth", lambda: filled(0.0025), Fault.DEPTH_UNIT),
    "covered": ("depth", lambda: filled(0.1), Fault.DEPTH_COVERED),
    "NaN": ("scan", lambda: around(NAN), Fault.SCAN_BLIND),
    "no ranges": ("scan", lambda: around(1.0, rays=0), Fault.SCAN_BLIND),
    "NaN ahead": ("scan", lambda: in_front(NAN, 2.0), Fault.SCAN_BLIND),
    "half": ("scan", lambda: RangeScan(np.linspace(0.3, 3.0, 90), np.full(90, 2.0)), Fault.SCAN_ASIDE),
    "too near": ("scan", lambda: in_front(-INF, 2.0), Fault.OBSTACLE),
}


@pytest.mark.parametrize("name", BAD)
def test_it_stands_at_once_says_why_and_goes_on_when_it_sees_again(name: str) -> None:
    obstacles, bad, fault = BAD[name]
    robot = Driven(obstacles)
    robot.sets_off()
    output = robot.period(bad())
    assert (output.velocity, output.faults) == (Velocity(), (fault,))
    assert robot.executor.queue.current is None
    robot.offer(AHEAD)
    if fault is not Fault.OBSTACLE:
        assert robot.period(bad()).faults == (fault,)
        assert robot.executor.queue.current is None  # nothing is taken while it lasts
    assert robot.executor.stops[fault] == 1
    robot.period()
    robot.offer(AHEAD)
    robot.period()
    assert robot.period().velocity.linear_m_s > 0.0


@pytest.mark.parametrize("obstacles", ["depth", "scan"])
def test_content_that_stands_still_stops_a_moving_robot(obstacles: ObstacleSensors) -> None:
    fault = Fault.DEPTH_STILL if obstacles == "depth" else Fault.SCAN_STILL
    robot = Driven(obstacles)
    robot.sets_off()
    frozen, begun_s = robot.true(), robot.now_s
    while (output := robot.period(frozen)).state is ExecutorState.MOVING:
        assert robot.now_s < begun_s + 2.0
    assert output.faults == (fault,)
    moving_s = 0.05 / 0.4  # until the robot has left the place
    assert robot.now_s - begun_s < SAFETY.obstacle_timeout_s + moving_s + 0.1
    for _ in range(40):  # it stands, and the content still does not count
        assert robot.period(frozen).faults == (fault,)
    robot.period()
    robot.offer(AHEAD)
    robot.period()
    assert robot.period().velocity.linear_m_s > 0.0


def test_a_robot_that_stands_for_long_sets_off_all_the_same() -> None:
    robot = Driven()
    for _ in range(200):
        robot.period()
    robot.sets_off()
    for _ in range(20):
        assert robot.period().state is ExecutorState.MOVING


def test_the_floor_of_a_hall_looks_the_same_from_everywhere() -> None:
    robot = Driven()
    seen = hall(EXTRINSICS, 6.0)
    robot.period(seen)
    robot.offer(AHEAD)
    for _ in range(60):
        assert robot.period(seen).state is ExecutorState.MOVING


def test_a_free_scan_looks_the_same_from_everywhere() -> None:
    robot = Driven("scan")
    robot.period(around(INF))
    robot.offer(AHEAD)
    for _ in range(60):
        assert robot.period(around(INF)).state is ExecutorState.MOVING


def test_a_stream_that_ends_is_missing_and_not_standing_still() -> None:
    robot = Driven()
    robot.sets_off()
    for _ in range(40):
        robot.now_s += 0.05
        stamp_ns = round(robot.now_s * 1e9)
        robot.x_m += 0.02
        robot.executor.odometry(stamp_ns, Pose.planar(robot.x_m, 0.0, 0.0), robot.now_s)
        robot.executor.heartbeat(stamp_ns, robot.now_s)
        output = robot.executor.update(robot.now_s)
    assert output.faults == (Fault.NO_DEPTH,)


def test_right_before_a_wall_a_camera_may_be_blind_and_the_robot_turns_away() -> None:
    """No depth camera measures a wall at its lens; the wall is remembered, and nothing drives into it."""
    robot = Driven()
    robot.sets_off()
    while (output := robot.period()).state is ExecutorState.MOVING:
        pass
    assert output.faults == (Fault.OBSTACLE,)
    robot.offer(Action(turn_rad=0.3))
    assert robot.period(filled(0.0)).velocity.angular_rad_s > 0.0
    robot.offer(AHEAD)
    for _ in range(20):
        assert robot.period(filled(0.0)).velocity.linear_m_s == 0.0


def test_a_camera_that_loses_the_wall_when_it_comes_near_stops_at_once_and_turns_away() -> None:
    """It measures from 0.4 m on: what has come between since, nobody sees."""
    robot = Driven()
    robot.sets_off()
    for _ in range(400):
        distance_m = WALL_M - 0.1 - robot.x_m
        output = robot.period(filled(distance_m if distance_m > 0.4 else 0.0))
        if distance_m <= 0.4 or output.state is not ExecutorState.MOVING:
            break
    assert (output.velocity, output.faults) == (Velocity(), (Fault.DEPTH_BLIND,))
    assert 0.37 < distance_m <= 0.4
    stood_m = robot.x_m
    for _ in range(3):
        robot.offer(AHEAD)
        for _ in range(5):
            assert robot.period(filled(0.0)).velocity == Velocity()
    assert robot.x_m == stood_m
    robot.period(filled(0.0))  # it stands now
    robot.offer(Action(turn_rad=0.3))
    assert robot.period(filled(0.0)).velocity.angular_rad_s > 0.0


def test_a_camera_that_fails_with_the_wall_far_away_stops_it() -> None:
    robot = Driven()
    robot.sets_off()
    while WALL_M - 0.1 - robot.x_m > 0.6:
        robot.period()
    assert robot.period(filled(0.0)).faults == (Fault.DEPTH_BLIND,)


def test_what_cannot_be_read_stops_it_until_a_good_one_comes() -> None:
    robot = Driven()
    for fault in (Fault.BAD_DEPTH, Fault.NO_CALIBRATION):
        robot.period()
        robot.offer(AHEAD)
        robot.period()
        robot.executor.bad_depth(fault)
        output = robot.executor.check(robot.now_s)
        assert output is not None
        assert (output.velocity, output.faults) == (Velocity(), (fault,))
        assert robot.period().state is ExecutorState.IDLE
    scanned = Driven("scan")
    scanned.sets_off()
    scanned.executor.bad_scan()
    output = scanned.executor.check(scanned.now_s)
    assert output is not None
    assert output.faults == (Fault.BAD_SCAN,)
    assert scanned.period().state is ExecutorState.IDLE


# ------------------------------------------------------------------- every content in every situation

BEHIND = Action(turn_rad=1.5)
HALF = np.where(np.arange(CAMERA.width) < CAMERA.width // 2, np.float32(0.0), np.float32(2.0))
CONTENTS: dict[str, tuple[np.ndarray | RangeScan | Fault, Fault]] = {
    "no reading": (filled(0.0), Fault.DEPTH_BLIND),
    "NaN": (filled(NAN), Fault.DEPTH_BLIND),
    "few readings": (scattered(0.03), Fault.DEPTH_BLIND),
    "one half": (np.tile(HALF, (CAMERA.height, 1)), Fault.DEPTH_BLIND),
    "one reading": (np.pad(filled(2.0)[:1, :1], ((60, 59), (80, 79))), Fault.DEPTH_BLIND),
    "covered": (filled(0.1), Fault.DEPTH_COVERED),
    "nearer than any": (filled(0.149), Fault.DEPTH_COVERED),
    "millimetres": (filled(2500.0), Fault.DEPTH_UNIT),
    "metres": (filled(0.0025), Fault.DEPTH_UNIT),
    "unreadable": (Fault.BAD_DEPTH, Fault.BAD_DEPTH),
    "no calibration": (Fault.NO_CALIBRATION, Fault.NO_CALIBRATION),
    "scan NaN": (around(NAN), Fault.SCAN_BLIND),
    "scan of nothing": (around(1.0, rays=0), Fault.SCAN_BLIND),
    "scan NaN ahead": (in_front(NAN, 2.0), Fault.SCAN_BLIND),
    "scan of the left": (RangeScan(np.linspace(0.3, 3.0, 90), np.full(90, 2.0)), Fault.SCAN_ASIDE),
    "scan unreadable": (Fault.BAD_SCAN, Fault.BAD_SCAN),
}
MAY_TURN = {Fault.DEPTH_BLIND, Fault.DEPTH_COVERED}
"""Where something is remembered right ahead."""
FREE = around(INF)
ENDS = {Fault.BAD_DEPTH: Fault.NO_DEPTH, Fault.NO_CALIBRATION: Fault.NO_DEPTH, Fault.BAD_SCAN: Fault.NO_SCAN}
"""What cannot be read has not come, after a while."""


class Watched(Driven):
    """Sees with both, and is checked whenever something has come, as by the node."""

    def __init__(self, near: bool) -> None:
        super().__init__("both")
        self.near = near

    def sees(self, content: np.ndarray | RangeScan | Fault | None = None) -> Output | None:
        """What it hears in this period, and what it is told at once."""
        self.now_s += 1.0 / self.config.rate_hz
        stamp_ns, core = round(self.now_s * 1e9), self.executor
        core.odometry(stamp_ns, Pose.planar(self.x_m, 0.0, self.turned_rad), self.now_s)
        core.heartbeat(stamp_ns, self.now_s)
        if not isinstance(content, RangeScan) and content is not Fault.BAD_SCAN:
            wall_m = 0.45 + 0.001 * (round(self.now_s * self.config.rate_hz) % 7)
            core.scan(stamp_ns, in_front(wall_m, INF) if self.near else FREE, Pose.identity(), self.now_s)
        if content is Fault.BAD_SCAN:
            core.bad_scan()
        elif isinstance(content, Fault):
            core.bad_depth(content)
        elif isinstance(content, RangeScan):
            core.scan(stamp_ns, content, Pose.identity(), self.now_s)
        if content is None or isinstance(content, RangeScan) or content is Fault.BAD_SCAN:
            noise_m = np.float32(0.001 * (round(self.now_s * self.config.rate_hz) % 7))
            core.depth(stamp_ns, filled(3.0) + noise_m, CAMERA, EXTRINSICS, self.now_s)
        elif not isinstance(content, Fault):
            core.depth(stamp_ns, content, CAMERA, EXTRINSICS, self.now_s)
        return core.check(self.now_s)

    def drives(self) -> Output:
        output = self.executor.update(self.now_s)
        self.x_m += output.velocity.linear_m_s / self.config.rate_hz
        self.turned_rad += output.velocity.angular_rad_s / self.config.rate_hz
        return output


SITUATIONS: dict[str, tuple[tuple[Action, ...], int]] = {
    "standing": ((), 3),
    "setting off": ((AHEAD,), 1),
    "driving": ((AHEAD,), 12),
    "turning": ((BEHIND,), 8),
    "setting out to turn": ((BEHIND,), 1),
    "driving, then turning": ((Action(forward_m=0.04), BEHIND), 4),
    "its queue just over": ((Action(forward_m=0.04),), 12),
}


@pytest.mark.parametrize("near", [False, True], ids=["in the open", "near a wall"])
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("content", CONTENTS)
def test_whatever_cannot_be_judged_stops_it_wherever_it_is(content: str, situation: str, near: bool) -> None:
    shown, fault = CONTENTS[content]
    actions, periods = SITUATIONS[situation]
    robot = Watched(near)
    robot.sees()
    robot.drives()
    if actions:
        robot.offer(*actions)
    for _ in range(periods):
        robot.sees()
        before = robot.drives().velocity
    drove = before.linear_m_s != 0.0
    turns = near and not drove and fault in MAY_TURN
    at_once = robot.sees(shown)
    if not turns:
        assert at_once is not None
        assert (at_once.velocity, at_once.faults) == (Velocity(), (fault,))
    x_m, yaw_rad = robot.x_m, robot.turned_rad
    for i in range(16):  # it does not go on, whatever queue comes
        if i % 5 == 3:
            robot.offer(AHEAD)
        output = robot.drives()
        assert output.velocity.linear_m_s == output.velocity.lateral_m_s == 0.0
        assert set(output.faults) <= {fault, ENDS.get(fault)}
        robot.sees(shown)
    assert robot.x_m == x_m
    if not turns:
        assert robot.turned_rad == yaw_rad
    assert robot.executor.stops[fault] > 0  # by name, at the latest when it would have driven
    robot.near = False  # a good one comes, and the way is free
    robot.sees()
    robot.drives()
    robot.offer(AHEAD)
    for _ in range(3):
        robot.sees()
        output = robot.drives()
    assert output.velocity.linear_m_s > 0.0


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([None, None, *CONTENTS]), st.sampled_from([None, AHEAD, BEHIND]), st.booleans()
        ),
        min_size=10,
        max_size=40,
    )
)
def test_it_never_drives_on_content_that_cannot_be_judged(
    steps: list[tuple[str | None, Action | None, bool]],
) -> None:
    robot = Watched(near=False)
    for content, action, near in steps:
        robot.near = near
        shown, fault = CONTENTS[content] if content else (None, None)
        robot.sees(shown)
        if action is not None:
            robot.offer(action)
        velocity = robot.drives().velocity
        if fault is not None:
            assert velocity.linear_m_s == velocity.lateral_m_s == 0.0
            assert velocity == Velocity() or fault in MAY_TURN


def test_a_blind_camera_lets_it_turn_only_while_something_is_remembered_ahead() -> None:
    robot = Driven()
    robot.sets_off()
    while robot.period().state is ExecutorState.MOVING:
        pass
    robot.offer(Action(turn_rad=3.0))
    for _ in range(200):
        output = robot.period(filled(0.0))
        if output.faults:
            break
    assert output.faults == (Fault.DEPTH_BLIND,)
    assert 0.3 < robot.turned_rad < 2.0


def test_a_covered_camera_that_turns_remembers_nothing_of_the_cover_and_is_not_one_that_stands_still() -> (
    None
):
    robot = Watched(near=True)
    for _ in range(3):
        robot.sees()
        robot.drives()
    robot.offer(BEHIND)
    for _ in range(40):
        robot.sees(filled(0.1))
        output = robot.drives()
        assert output.faults == ()
    assert robot.turned_rad > 1.0
    before = robot.executor.obstacles.around(Pose.planar(robot.x_m, 0.0, robot.turned_rad))
    assert np.hypot(*before.T).min() > 0.4  # the wall of the scan, and no hand at the lens


def test_a_camera_that_says_nothing_is_not_one_that_stands_still() -> None:
    for content, fault in ((filled(0.0), Fault.DEPTH_BLIND), (around(NAN), Fault.SCAN_BLIND)):
        robot = Watched(near=False)
        robot.sees()
        robot.drives()
        robot.offer(AHEAD)
        for _ in range(12):
            robot.sees()
            robot.drives()
        robot.x_m += 0.2  # it coasts
        for _ in range(40):
            robot.sees(content)
            assert robot.drives().faults == (fault,)
