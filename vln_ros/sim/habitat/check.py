"""Checks the axes, images and steps of an installed Habitat against the embedded world, in one flat."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vln_ros.axes import base_from_optical
from vln_ros.config import HabitatConfig
from vln_ros.datatypes import Action, CameraModel, Float64Array, Pose, StepSize, wrap_angle
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.render import Float32Array
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.habitat.world import HabitatWorld
from vln_ros.sim.oracle.expert import Expert

SCENE = scene_id(900_003, "small")
CAMERA = CameraModel.from_hfov(320, 240, math.radians(79.0))
HEIGHT_M, PITCH_DOWN_RAD = 1.25, math.radians(10.0)
TURN = Action(turn_rad=math.radians(15.0))
FORWARD = Action(forward_m=0.25)
LIFT_M = 0.03
"""So far above the floor may the base stand; a camera at another height sees another scene."""
_VIEWS, _WAYS, _WAYS_LOOKED_AT, _LOCKSTEP_ACTIONS = 5, 12, 60, 12
_WALKS, _WALK_ACTIONS, _WALK_TOLERANCE_M = 3, 40, 0.01


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and the figure that it was judged by."""

    name: str
    passed: bool
    text: str


def check_habitat(config: HabitatConfig, folder: Path) -> Iterator[Check]:
    """The checks one by one, each as soon as it is done.

    Args:
        config: interpreter and GPU; its scenes and agent are replaced by the test's own.
        folder: to write the scene to.

    Raises:
        ConfigError: the interpreter cannot run Habitat at all.
        WorldLostError: its process ended; the message says what it said.
        ValueError: it cannot load the scene.
    """
    extrinsics = base_from_optical(0.0, 0.0, HEIGHT_M, pitch_down_rad=PITCH_DOWN_RAD)
    ours = EmbeddedWorld(CAMERA, extrinsics)
    ours.load(SCENE)
    write_scene(folder, ours.scene)
    theirs = HabitatWorld(
        CAMERA,
        HEIGHT_M,
        PITCH_DOWN_RAD,
        replace(config, scenes=str(folder), radius_m=AGENT_RADIUS_M, sliding=True, depth_max_m=1000.0),
    )
    try:
        i = theirs.interpreter
        features = ", ".join(i.features) or "none"
        yield Check(
            "interpreter", True, f"Python {i.python}, habitat_sim {i.habitat_sim}, features: {features}"
        )
        begun_s = time.monotonic()
        theirs.load(SCENE)
        yield Check("scene", True, f"a flat of this package, loaded in {time.monotonic() - begun_s:.1f} s")
        poses = places(ours, _VIEWS)
        yield _axes(theirs, poses)
        yield _turns(theirs, poses[0])
        yield _floor(ours, theirs, poses)
        yield _walk(ours, theirs, poses)
        yield from _pictures(ours, theirs, poses)
        yield _collision(theirs, poses[0])
        yield _navmesh(ours, theirs)
        yield _lockstep(theirs, poses[0])
    finally:
        theirs.close()


def places(world: EmbeddedWorld, count: int, room_m: float = 0.5) -> list[Pose]:
    """Places in the flat with some room around them."""
    rng = np.random.default_rng(7)
    around = room_m * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (0, 1), (-1, 0), (0, -1)])
    poses: list[Pose] = []
    while len(poses) < count:
        place = rng.random(2) * world.scene.flat.size_m
        if world.scene.walkable.contains(place + around).all():
            poses.append(Pose.planar(float(place[0]), float(place[1]), float(rng.uniform(-math.pi, math.pi))))
    return poses


def _axes(theirs: HabitatWorld, poses: list[Pose]) -> Check:
    worst = 0.0
    for pose in poses:
        theirs.place(pose)
        optical = theirs.pose @ theirs.base_from_optical
        x, y = (float(v) for v in pose.position[:2])
        stands = Pose.planar(x, y, pose.yaw_rad, z_m=float(theirs.pose.position[2]))
        worst = max(
            worst,
            float(np.abs(theirs.pose.matrix - stands.matrix).max()),
            float(np.abs(theirs.sensor_pose().matrix - optical.matrix).max()),
        )
    return Check("axes", worst < 1e-4, f"body and camera are where they were put, to {worst:.1e}")


def _turns(theirs: HabitatWorld, pose: Pose) -> Check:
    theirs.place(pose)
    theirs.step(TURN)
    turned = math.degrees(wrap_angle(theirs.pose.yaw_rad - pose.yaw_rad))
    before = theirs.pose
    theirs.step(FORWARD)
    moved = (before.inverse() @ theirs.pose).position
    good = abs(turned - 15.0) < 0.01 and abs(moved[0] - 0.25) < 0.005 and abs(moved[1]) < 0.005
    return Check(
        "turn direction", good, f"left: {turned:+.2f} deg; then forward ({moved[0]:.3f}, {moved[1]:.3f}) m"
    )


def _floor(ours: EmbeddedWorld, theirs: HabitatWorld, poses: list[Pose]) -> Check:
    """How high base and camera are, by what they say and by what they see."""
    lifts, heights = [], []
    for pose in poses:
        theirs.place(pose)
        lifts.append(float(theirs.pose.position[2]))
        for action in (TURN, FORWARD):
            theirs.step(action)
            lifts.append(float(theirs.pose.position[2]))
            optical = theirs.pose @ theirs.base_from_optical
            depth_m = theirs.render()[1]
            floor = np.abs(_points(ours.scene.renderer.render(CAMERA, optical)[1], optical)[..., 2]) < 1e-3
            seen = _points(depth_m, Pose(np.zeros(3), optical.orientation))
            if floor.any():
                heights.append(-float(np.median(seen[floor][:, 2])))
    lift = max(lifts, key=abs)
    height = max(heights, key=lambda h: abs(h - HEIGHT_M), default=math.nan)
    return Check(
        "floor height",
        abs(lift) <= LIFT_M and abs(height - HEIGHT_M) <= LIFT_M,
        f"the base stands at {lift:+.3f} m, the camera sees the floor from {height:.3f} m ({HEIGHT_M:g})",
    )


def _walk(ours: EmbeddedWorld, theirs: HabitatWorld, poses: list[Pose]) -> Check:
    """The same actions in both worlds, compared in three dimensions from the first one on."""
    steps, worst_m, drift_m, first_m = 0, 0.0, 0.0, 0.0
    for start, goal in itertools.pairwise(poses[: _WALKS + 1]):
        expert = Expert(ours.scene.walkable, goal.position, StepSize(FORWARD.forward_m, TURN.turn_rad))
        ours.place(start)
        theirs.place(start)
        begin = theirs.pose.position
        for number in range(_WALK_ACTIONS):
            action = expert.next_action(ours.pose)
            if action.stop:
                break
            expected, motion = ours.step(action), theirs.step(action)
            if expected.collided or motion.collided:
                break  # walls are round for one and square for the other
            steps += 1
            worst_m = max(worst_m, abs(motion.distance_m - expected.distance_m))
            first_m = max(first_m, motion.distance_m if number == 0 else 0.0)
            travelled = (theirs.pose.position - begin) - (ours.pose.position - start.position)
            drift_m = max(drift_m, float(np.linalg.norm(travelled)))
    good = steps > 2 * _WALKS and max(worst_m, drift_m) < _WALK_TOLERANCE_M
    return Check(
        "walk",
        good,
        f"{steps} actions in both worlds: lengths differ by up to {worst_m:.3f} m, places by {drift_m:.3f}; "
        f"a first action, a turn or 0.25 m, moves it by up to {first_m:.3f} m",
    )


def _pictures(ours: EmbeddedWorld, theirs: HabitatWorld, poses: list[Pose]) -> Iterator[Check]:
    errors, heights, redness = [], [], []
    for pose in poses:
        theirs.place(pose)
        theirs.step(TURN)
        theirs.step(FORWARD)
        rgb, depth_m = theirs.render()
        optical = theirs.pose @ theirs.base_from_optical
        expected_rgb, expected_m = ours.scene.renderer.render(CAMERA, optical)
        errors.append(np.abs(depth_m - expected_m).ravel())
        floor = np.abs(_points(expected_m, optical)[..., 2]) < 1e-3
        heights.append(np.abs(_points(depth_m, optical)[floor][:, 2]))
        redness.append([i[..., 0].astype(float).ravel() - i[..., 2].ravel() for i in (rgb, expected_rgb)])
    error, height = np.concatenate(errors), np.concatenate(heights)
    close = float((error < 0.01).mean())
    yield Check(
        "depth",
        float(np.median(error)) < 2e-3 and close > 0.97,
        f"median error {np.median(error) * 1e3:.3f} mm; {close:.1%} of pixels within 10 mm of ray casting",
    )
    middle, far = float(np.median(height)), float(np.quantile(height, 0.95))
    yield Check(
        "intrinsics",
        middle < 2e-3,
        f"floor pixels back-projected: {middle * 1e3:.3f} mm from the floor (median), {far * 1e3:.3f} (95 %)",
    )
    likeness = float(np.corrcoef(*np.concatenate(redness, axis=1))[0, 1])
    yield Check("colour order", likeness > 0.5, f"red minus blue correlates by {likeness:.2f} with ours")


def _points(depth_m: Float32Array, optical: Pose) -> Float64Array:
    """``[H, W, 3]`` what each pixel shows, in the world."""
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], -1)
    return optical.transform(rays * depth_m[..., None])


def _collision(theirs: HabitatWorld, pose: Pose) -> Check:
    theirs.place(pose)
    motions = [theirs.drive(0.5, 0.0, 0.5) for _ in range(60)]
    inside = theirs.free_space(0.05).free.any()
    hit = any(m.collided for m in motions)
    return Check(
        "collision", hit and bool(inside), "a wall stops it" if hit else "nothing stopped it in 15 m"
    )


def _navmesh(ours: EmbeddedWorld, theirs: HabitatWorld) -> Check:
    ends = [p.position for p in places(ours, 2 * _WAYS_LOOKED_AT, room_m=0.2)]
    pairs = list(zip(ends[:_WAYS_LOOKED_AT], ends[_WAYS_LOOKED_AT:], strict=True))
    expected = [ours.geodesic_distance(a, b) for a, b in pairs]
    # The ways that bend most: a straight one says nothing of the mesh.
    bends = [way_m / float(np.linalg.norm(a - b)) for way_m, (a, b) in zip(expected, pairs, strict=True)]
    chosen = np.argsort(bends)[-_WAYS:]
    ratios = np.array([theirs.geodesic_distance(*pairs[i]) / expected[i] for i in chosen])
    off = np.abs(ratios - 1.0)
    nowhere = theirs.geodesic_distance(ends[0], ends[0] + np.array([500.0, 0.0, 0.0]))
    return Check(
        "navigation mesh",
        bool(np.median(off) < 0.02 and off.max() < 0.05 and math.isinf(nowhere)),
        f"geodesic distances are off by {np.median(off):.2%} (median), {off.max():.2%} (worst); "
        f"the ways are up to {max(bends):.1f}x as long as straight",
    )


def _lockstep(theirs: HabitatWorld, pose: Pose) -> Check:
    runs = []
    for _ in range(2):
        theirs.place(pose)
        theirs.render()
        begun_s = time.monotonic()
        trace = []
        for number in range(_LOCKSTEP_ACTIONS):
            theirs.step(FORWARD if number % 3 == 2 else TURN)
            trace.append((theirs.pose.matrix, *theirs.render()))
        rate = _LOCKSTEP_ACTIONS / (time.monotonic() - begun_s)
        runs.append(trace)
    same = all(np.array_equal(a, b) for x, y in zip(*runs, strict=True) for a, b in zip(x, y, strict=True))
    text = "two runs are identical" if same else "two runs differ"
    return Check("lockstep", same, f"{text}; {rate:.0f} steps/s at {CAMERA.width}x{CAMERA.height}")
