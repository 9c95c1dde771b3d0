"""Habitat behind the World protocol: real processes, a geometric fake in place of habitat_sim."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from habitat_fakes import fake_python
from poses import standing

from vln_ros.axes import base_from_optical
from vln_ros.config import (
    BridgeConfig,
    ConfigError,
    EvalConfig,
    HabitatConfig,
    WorldConfig,
    from_flat,
    with_protocol,
)
from vln_ros.datatypes import STOP, Action, CameraModel, Pose
from vln_ros.protocols import World, WorldLostError
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import EmbeddedWorld, Scene
from vln_ros.sim.habitat.process import WORKER, last_words
from vln_ros.sim.habitat.world import HabitatWorld, within
from vln_ros.sim.worlds import open_world, plan_of

SCENE = scene_id(900_003, "small")
CAMERA = CameraModel.from_hfov(64, 48, math.radians(79.0))
HEIGHT_M, PITCH_RAD = 1.25, 0.2
TURN = Action(turn_rad=math.radians(15.0))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scene(root, Scene(SCENE, AGENT_RADIUS_M))
    return root


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fake_python(tmp_path_factory.mktemp("python"))


def config(python: str, scenes: Path, **values: object) -> HabitatConfig:
    given = {"python": python, "scenes": str(scenes), "radius_m": AGENT_RADIUS_M, "timeout_s": 30.0, **values}
    return from_flat(HabitatConfig, given)


def make(python: str, scenes: Path, **values: object) -> HabitatWorld:
    return HabitatWorld(CAMERA, HEIGHT_M, PITCH_RAD, config(python, scenes, **values))


def pid_of(world: HabitatWorld) -> int:
    assert world.pid is not None
    return world.pid


@pytest.fixture(scope="module")
def habitat(python: str, scenes: Path) -> Iterator[HabitatWorld]:
    world = make(python, scenes)
    yield world
    world.close()


@pytest.fixture(scope="module")
def embedded() -> EmbeddedWorld:
    world = EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, HEIGHT_M, pitch_down_rad=PITCH_RAD))
    world.load(SCENE)
    return world


def places(world: EmbeddedWorld, count: int, margin_m: float = 0.25) -> list[Pose]:
    """Somewhere in the flat with room around."""
    rng = np.random.default_rng(7)
    poses: list[Pose] = []
    while len(poses) < count:
        x, y = rng.random(2) * world.scene.flat.size_m
        around = np.array([x, y]) + margin_m * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
        if world.scene.walkable.contains(around).all():
            poses.append(Pose.planar(float(x), float(y), float(rng.uniform(-3.1, 3.1))))
    return poses


def test_the_same_pose_shows_the_same_depth_in_both_worlds(
    habitat: HabitatWorld, embedded: EmbeddedWorld
) -> None:
    world: World = habitat
    world.load(SCENE)
    for pose in places(embedded, 6):
        world.place(pose)
        stands = standing(pose.position, pose.yaw_rad, z_m=0.02)  # on the mesh, a cell above the floor
        np.testing.assert_allclose(world.pose.matrix, stands.matrix, atol=1e-5)
        optical = world.pose @ world.base_from_optical
        np.testing.assert_allclose(habitat.sensor_pose().matrix, optical.matrix, atol=1e-5)
        rgb, depth_m = world.render()
        expected_rgb, expected_m = embedded.scene.renderer.render(CAMERA, optical)
        assert rgb.dtype == np.uint8 and rgb.shape == (48, 64, 3) and depth_m.dtype == np.float32
        errors = np.abs(depth_m - expected_m)
        assert np.median(errors) < 1e-4
        assert (errors < 1e-3).mean() > 0.98
        # colours in the right order: where one is redder than blue the other is too
        ours, theirs = (i[..., 0].astype(float).ravel() - i[..., 2].ravel() for i in (expected_rgb, rgb))
        assert np.corrcoef(ours, theirs)[0, 1] > 0.8


def test_steps_turn_left_positive_and_go_forward(habitat: HabitatWorld, embedded: EmbeddedWorld) -> None:
    habitat.load(SCENE)
    habitat.place(places(embedded, 1, 0.5)[0])
    before = habitat.pose
    motion = habitat.step(TURN)
    assert not motion.collided
    assert habitat.pose.yaw_rad - before.yaw_rad == pytest.approx(math.radians(15.0), abs=1e-5)
    assert habitat.step(Action(turn_rad=-math.radians(30.0))).distance_m == 0.0
    assert habitat.pose.yaw_rad - before.yaw_rad == pytest.approx(-math.radians(15.0), abs=1e-5)
    habitat.step(TURN)
    motion = habitat.step(Action(forward_m=0.25))
    there = before.inverse() @ habitat.pose
    np.testing.assert_allclose(there.position[:2], [0.25, 0.0], atol=1e-4)
    assert there.position[2] == 0.0  # it was on the navigation mesh from the beginning
    assert 0.0 < habitat.pose.position[2] <= 0.02 + 1e-6  # which is no higher than a cell above the floor
    assert motion.distance_m == pytest.approx(float(np.linalg.norm(there.position)), abs=1e-5)
    held = habitat.pose
    assert habitat.step(STOP).distance_m == 0.0
    assert habitat.pose == held


@pytest.mark.parametrize(("cell_height_m", "floor_m"), [(0.01, 0.01), (0.02, 0.02), (0.05, 0.05), (0.0, 0.2)])
@pytest.mark.parametrize("first", [TURN, Action(turn_rad=-math.radians(30.0)), Action(forward_m=0.25)])
def test_no_first_action_lifts_the_robot(
    python: str, scenes: Path, embedded: EmbeddedWorld, cell_height_m: float, floor_m: float, first: Action
) -> None:
    world = make(python, scenes, mesh_cell_height_m=cell_height_m)
    try:
        world.load(SCENE)
        world.place(places(embedded, 1, 0.5)[0])
        before = world.pose
        assert before.position[2] == pytest.approx(floor_m, abs=1e-6)
        motion = world.step(first)
        assert motion.distance_m == pytest.approx(first.forward_m, abs=1e-5)
        assert world.pose.position[2] == before.position[2]
        world.place(before)
        assert world.drive(0.5, 0.0, 0.5).distance_m == pytest.approx(0.25, abs=1e-5)
        assert world.pose.position[2] == before.position[2]
    finally:
        world.close()


def test_a_start_beside_a_computed_mesh_is_put_onto_it(
    habitat: HabitatWorld, embedded: EmbeddedWorld
) -> None:
    habitat.load(SCENE)
    told = places(embedded, 1)[0].position.copy()
    moved_m = 0.0
    while moved_m < 0.1:  # until it is that far in the wall
        told[0] += 0.01
        habitat.place(standing(told, 0.0))
        first = habitat.pose
        moved_m = float(np.linalg.norm(first.position[:2] - told[:2]))
    assert moved_m < 0.12
    habitat.step(TURN)
    np.testing.assert_array_equal(habitat.pose.position, first.position)


def test_on_a_mesh_that_came_with_its_scene_it_stands_where_the_episode_says(
    python: str, scenes: Path, embedded: EmbeddedWorld, tmp_path: Path
) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    (tmp_path / "scenes" / SCENE).with_suffix(".navmesh").write_bytes(b"")  # the fake makes one for it
    begin = places(embedded, 1, 0.5)[0]
    shipped = make(python, tmp_path / "scenes")
    computed = make(python, tmp_path / "scenes", recompute_navmesh=True)
    try:
        for world in (shipped, computed):
            world.load(SCENE)
            world.place(begin)
        assert (shipped.shipped_navmesh, computed.shipped_navmesh) == (True, False)
        assert shipped.pose.position[2] == 0.0
        assert computed.pose.position[2] == pytest.approx(0.02, abs=1e-6)
        # as habitat-lab: whatever comes first puts the agent onto the mesh of its time
        assert shipped.step(TURN).distance_m == pytest.approx(0.2, abs=1e-6)
    finally:
        shipped.close()
        computed.close()


def test_the_picture_after_a_step_is_of_the_new_place(habitat: HabitatWorld, embedded: EmbeddedWorld) -> None:
    habitat.load(SCENE)
    habitat.place(places(embedded, 1)[0])
    first = habitat.render()[1]
    habitat.step(TURN)
    after = habitat.render()[1]
    optical = habitat.pose @ habitat.base_from_optical
    expected = embedded.scene.renderer.render(CAMERA, optical)[1]
    assert np.median(np.abs(after - expected)) < 1e-4 < np.median(np.abs(after - first))
    again = habitat.pose
    habitat.place(again)
    np.testing.assert_array_equal(habitat.render()[1], after)


@pytest.mark.parametrize(
    ("v", "w", "t"), [(0.4, 0.8, 0.5), (0.4, 0.0, 0.5), (-0.3, 0.5, 0.4), (0.0, 1.0, 3.0)]
)
def test_drive_follows_the_arc(
    habitat: HabitatWorld, embedded: EmbeddedWorld, v: float, w: float, t: float
) -> None:
    habitat.load(SCENE)
    start = places(embedded, 1, 0.5)[0]
    embedded.place(start)
    habitat.place(standing(start.position, start.yaw_rad, z_m=0.08))  # on the navigation mesh
    for world in (habitat, embedded):
        motion = world.drive(v, w, t)
        assert not motion.collided
        assert motion.distance_m == pytest.approx(abs(v) * t, rel=1e-3)
    np.testing.assert_allclose(habitat.pose.position[:2], embedded.pose.position[:2], atol=1e-4)
    assert math.remainder(habitat.pose.yaw_rad - embedded.pose.yaw_rad, 2 * math.pi) == pytest.approx(
        0, abs=1e-4
    )
    assert habitat.drive(0.0, 0.0, 1.0).distance_m == 0.0
    with pytest.raises(ValueError, match="cannot drive"):
        habitat.drive(math.nan, 0.0, 1.0)


@pytest.mark.parametrize("sliding", [True, False])
def test_running_into_a_wall(python: str, scenes: Path, embedded: EmbeddedWorld, sliding: bool) -> None:
    world = make(python, scenes, sliding=sliding)
    try:
        world.load(SCENE)
        world.place(places(embedded, 1)[0])
        motions = [world.step(Action(forward_m=0.25)) for _ in range(60)]
        assert motions[-1].collided
        assert motions[-1].distance_m < 0.2
        moved_on_contact = [m.distance_m > 1e-3 for m in motions if m.collided]
        assert any(moved_on_contact[1:]) == sliding
        held = world.drive(0.5, 0.0, 0.5)
        assert held.collided
    finally:
        world.close()


def test_geodesic_distances_agree_within_two_percent(habitat: HabitatWorld, embedded: EmbeddedWorld) -> None:
    habitat.load(SCENE)
    ends = places(embedded, 16)
    ours, theirs = [], []
    for a, b in zip(ends[:8], ends[8:], strict=True):
        ours.append(embedded.geodesic_distance(a.position, b.position))
        theirs.append(habitat.geodesic_distance(a.position, b.position))
    np.testing.assert_allclose(theirs, ours, rtol=0.02)
    assert max(ours) > 1.2 * np.linalg.norm(ends[0].position - ends[1].position) or max(ours) > 3.0
    assert habitat.geodesic_distance(ends[0].position, np.array([500.0, 0.0, 0.0])) == math.inf


def test_free_space_is_where_one_can_stand(habitat: HabitatWorld, embedded: EmbeddedWorld) -> None:
    habitat.load(SCENE)
    habitat.place(places(embedded, 1)[0])
    space = habitat.free_space(0.05)
    rows, columns = np.nonzero(np.ones_like(space.free))
    x = space.origin[0] + (columns + 0.5) * 0.05
    y = space.origin[1] - (rows + 0.5) * 0.05
    expected = embedded.scene.walkable.contains(np.stack([x, y], 1)).reshape(space.free.shape)
    assert (expected == space.free).mean() > 0.93  # ours is a square robot, Habitat's a round one
    plan = plan_of(habitat)
    assert plan is not None and plan.image.shape[:2] == space.free.shape
    assert plan_of(embedded) is not None


def test_start_far_from_the_floor_is_refused(habitat: HabitatWorld) -> None:
    habitat.load(SCENE)
    with pytest.raises(ValueError, match=r"cannot stand at .*nowhere near"):
        habitat.place(Pose.planar(99.0, 0.0, 0.0))
    with pytest.raises(RuntimeError, match="place"):
        habitat.render()
    with pytest.raises(ValueError, match="upright"):
        habitat.place(Pose(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])))


def test_depth_outside_the_protocols_range_is_no_reading(
    python: str, scenes: Path, embedded: EmbeddedWorld
) -> None:
    world = make(python, scenes, depth_min_m=1.0, depth_max_m=2.0)
    try:
        world.load(SCENE)
        for pose in places(embedded, 3):
            world.place(pose)
            depth_m = world.render()[1]
            assert ((depth_m == 0.0) | ((depth_m >= 1.0) & (depth_m <= 2.0))).all()
    finally:
        world.close()


def test_missing_and_broken_scenes(python: str, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    root.mkdir()
    whole = (scenes / SCENE).read_bytes()
    (root / "cut.glb").write_bytes(whole[: len(whole) // 2])
    (root / "text.glb").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (root / "lying.glb").write_bytes(whole)  # y up without a stage config: no floor where z is up
    world = make(python, root)
    try:
        with pytest.raises(ValueError, match=r"no scene 'cot\.glb'.*cut\.glb"):
            world.load("cot.glb")
        with pytest.raises(ValueError, match=r"cut\.glb is truncated"):
            world.load("cut.glb")
        with pytest.raises(ValueError, match=r"text\.glb is no GLB"):
            world.load("text.glb")
        world.load("lying.glb")
        with pytest.raises(ValueError, match=r"cannot stand at .*stage_config\.json"):
            world.place(Pose.planar(50.0, 1.0, 0.0))
        stage = {"render_asset": "lying.glb", "up": [0, 1, 0], "front": [0, 0, -1]}
        (root / "upright.stage_config.json").write_text(json.dumps(stage))
        (root / "upright.glb").write_bytes(whole)
        world.load("upright.glb")
        assert not world.shipped_navmesh
    finally:
        world.close()
    with pytest.raises(ValueError, match="is no folder"):
        make(python, tmp_path / "nowhere").load(SCENE)


def test_death_is_reported_and_the_next_episode_goes_on(
    scenes: Path, embedded: EmbeddedWorld, tmp_path: Path
) -> None:
    python = fake_python(tmp_path, FAKE_HABITAT_DIES="step", FAKE_HABITAT_ONCE=str(tmp_path / "once"))
    world = make(python, scenes)
    try:
        world.load(SCENE)
        world.place(places(embedded, 1)[0])
        world.step(TURN)
        world.step(TURN)
        with pytest.raises(WorldLostError, match=r"SIGKILL(?s:.*)the driver fell over(?s:.*)small_900003"):
            world.step(TURN)
        assert world.pid is None
        with pytest.raises(WorldLostError, match="load"):
            world.geodesic_distance(np.zeros(3), np.zeros(3))
        world.load(SCENE)
        assert world.restarts == 1
        world.place(places(embedded, 1)[0])
        for _ in range(4):
            world.step(TURN)
        pid = pid_of(world)
        os.kill(pid, signal.SIGSTOP)
    finally:
        pid = pid_of(world)
        os.kill(pid, signal.SIGCONT)
        world.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_does_not_answer_is_ended(python: str, scenes: Path) -> None:
    world = make(python, scenes, timeout_s=30.0)
    world.load(SCENE)
    world.timeout_s = 0.2
    pid = pid_of(world)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorldLostError, match="did not answer"):
        world.geodesic_distance(np.zeros(3), np.zeros(3))
    assert not Path(f"/proc/{pid}").exists()
    world.close()


def test_the_gpu_that_is_not_there_ends_the_process_and_is_said(python: str, scenes: Path) -> None:
    world = make(python, scenes, gpu=0)
    with pytest.raises(WorldLostError, match=r"status 1(?s:.*)unable to find CUDA device"):
        world.load(SCENE)
    world.close()


def test_the_oldest_interface_works_too(scenes: Path, embedded: EmbeddedWorld, tmp_path: Path) -> None:
    world = make(fake_python(tmp_path, FAKE_HABITAT="0.1.7"), scenes)
    try:
        assert "camera_spec" not in world.interpreter.features
        world.load(SCENE)
        world.place(places(embedded, 1)[0])
        expected = embedded.scene.renderer.render(CAMERA, world.pose @ world.base_from_optical)[1]
        assert np.median(np.abs(world.render()[1] - expected)) < 1e-4
    finally:
        world.close()


def test_a_python_without_habitat_is_refused_with_a_remedy(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)cannot use Habitat: ModuleNotFoundError.*conda install"):
        make(sys.executable, scenes)
    with pytest.raises(ConfigError, match="cannot be started"):
        make("/nowhere/python", scenes)
    with pytest.raises(ConfigError, match="not a Python that Habitat runs in"):
        make("/bin/false", scenes)
    with pytest.raises(ConfigError, match=r"habitat\.python is empty"):
        make("", scenes)


def test_the_worker_does_not_inherit_what_is_ours(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONPATH"):
        monkeypatch.setenv(name, "/ours")
    monkeypatch.setenv("MAGNUM_LOG", "quiet")
    make(fake_python(tmp_path), scenes).close()
    passed = (tmp_path / "environment").read_text()
    assert "/ours" not in passed
    assert "MAGNUM_LOG=quiet" in passed


def test_the_worker_is_python_3_8_and_knows_nothing_of_us() -> None:
    tree = ast.parse(WORKER.read_text("utf-8"), feature_version=(3, 8))
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {
        (n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
    }
    assert names - set(sys.stdlib_module_names) == {"habitat_sim", "numpy"}


def test_protocols_decide_and_do_not_lend_their_name() -> None:
    rxr = with_protocol(from_flat(BridgeConfig, {"protocol": "rxr-vlnce"}))
    assert (rxr.step.turn_deg, rxr.camera.height_m, rxr.habitat.sliding) == (30.0, 0.88, False)
    assert with_protocol(rxr) == rxr
    assert with_protocol(BridgeConfig()) == BridgeConfig()
    evaluated = with_protocol(from_flat(EvalConfig, {"protocol": "rxr-vlnce"}))
    assert (evaluated.navigator.step.turn_deg, evaluated.max_steps) == (30.0, 500)
    with pytest.raises(ConfigError, match=r"camera.hfov_deg = 100.0: protocol 'r2r-vlnce' says 90.0"):
        with_protocol(from_flat(BridgeConfig, {"protocol": "r2r-vlnce", "camera.hfov_deg": 100.0}))


def test_open_world_opens_what_is_named(python: str, scenes: Path) -> None:
    assert isinstance(open_world(WorldConfig()), EmbeddedWorld)
    given = {
        "world": "habitat",
        "protocol": "streamvln",
        "habitat.python": python,
        "habitat.scenes": str(scenes),
    }
    world = open_world(with_protocol(from_flat(BridgeConfig, given)))
    assert isinstance(world, HabitatWorld)
    assert world.camera == CameraModel.from_hfov(640, 480, math.radians(79.0))
    world.close()
    world.close()


CHATTER = """\
PluginManager::Manager: duplicate static plugin StbImageImporter, ignoring
WARNING: Logging before InitGoogleLogging() is written to STDERR
I1130 07:43:31.123456 411 SceneGraph.h:93] Created DrawableGroup:
W1130 07:43:31.123456 411 Simulator.cpp:138] No navmesh
[07:43:31:123456]:[Metadata] AttributesManagersBase.h(296)::createFromJson : Proceeding
[07:43:31:123456]:[Warning]:[Metadata] SceneDatasetAttributesManager.cpp(107)::add : default
Renderer: llvmpipe (LLVM 15.0.7, 256 bits) by Mesa
OpenGL version: 4.5 (Core Profile) Mesa 23.2.1
Using optional features:
    GL_ARB_vertex_array_object
Using driver workarounds:
    no-forward-compatible-core-context

"""


@pytest.mark.parametrize(
    "said",
    [
        "Platform::WindowlessEglApplication::tryCreateContext(): unable to find CUDA device 0",
        "WindowlessContext: Unable to create windowless context",
        "[07:43:31:123456]:[Error]:[Assets] ResourceManager.cpp(8)::loadRenderAsset : no mesh",
        "E1130 07:43:31.123456 411 PathFinder.cpp:606] Could not build navmesh",
        "F1130 07:43:31.123456 411 Check.cpp:4] Check failed",
        "ESP_CHECK failed: No Stage Attributes exists for requested scene",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "Traceback (most recent call last):",
        '  File "habitat_worker.py", line 4, in load',
        "    self.sim = h.Simulator(configuration)",
        "RuntimeError: CUDA error: out of memory",
        "Segmentation fault (core dumped)",
    ],
)
def test_last_words_are_errors_whatever_is_said_around_them(said: str) -> None:
    assert last_words(CHATTER + said + "\n" + CHATTER * 4) == [said]
    assert last_words(CHATTER) == []


def test_depth_limits_take_what_is_no_number_too() -> None:
    depth_m = np.array([[0.0, 0.5, 0.4999, 5.0, 5.0001, np.nan, np.inf, -np.inf, -1.0, 2.0]], np.float32)
    kept = depth_m.copy()
    expected = np.array([[0.0, 0.5, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]], np.float32)
    np.testing.assert_array_equal(within(depth_m, 0.5, 5.0), expected)
    np.testing.assert_array_equal(depth_m, kept)
    np.testing.assert_array_equal(
        within(depth_m, 0.0, 5.0)[0, [1, 2, 4, 5, 6, 7]], [0.5, np.float32(0.4999), 0, 0, 0, 0]
    )


def test_pictures_of_one_moment_stay_what_they_were(habitat: HabitatWorld, embedded: EmbeddedWorld) -> None:
    habitat.load(SCENE)
    habitat.place(places(embedded, 1)[0])
    rgb, depth_m = habitat.render()
    kept = rgb.copy(), depth_m.copy()
    for _ in range(3):
        habitat.step(TURN)
        assert (habitat.render()[0] != rgb).any()
    np.testing.assert_array_equal(rgb, kept[0])
    np.testing.assert_array_equal(depth_m, kept[1])
    assert rgb.flags.c_contiguous and depth_m.flags.c_contiguous


def test_a_world_without_cameras_needs_no_gpu(python: str, scenes: Path, embedded: EmbeddedWorld) -> None:
    asked = HabitatWorld(CAMERA, 1.0, 0.0, config(python, scenes, gpu=0), cameras=False)
    try:
        asked.load(SCENE)
        a, b = (p.position for p in places(embedded, 2))
        length_m, corner = asked.way(a, b)
        assert length_m == pytest.approx(embedded.geodesic_distance(a, b), rel=0.02)
        assert np.linalg.norm(corner - a) <= length_m + 1e-6
        ends, touching, distances_m, nearness_m = asked.try_steps(
            np.stack([a, a]), a + np.array([(0.25, 0.0, 0.0), (9.0, 0.0, 0.0)]), b, 0.0
        )
        assert touching.tolist() == [False, True]
        np.testing.assert_allclose(ends[0, :2], a[:2] + np.array([0.25, 0.0]), atol=1e-5)
        assert np.isfinite(distances_m).all() and not nearness_m.any()
    finally:
        asked.close()
