"""Files and pictures for people and for other simulators; the benchmark."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh

from benchmarks.suites import world as bench_world
from vln_ros.axes import habitat_from_ros_points
from vln_ros.cli import scenes
from vln_ros.config import ConfigError
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, generate_flat, scene_id
from vln_ros.sim.embedded.furniture import COLORS
from vln_ros.sim.embedded.plan import draw_plan, free_space_of_flat
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import read_episodes
from vln_ros.sim.splits import begin_scene, make_scene_episodes


def command(module: Any, *arguments: object) -> int | None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    status: int | None = module.run(parser.parse_args([str(a) for a in arguments]))
    return status


def test_scenes_are_written_complete(tmp_path: Path) -> None:
    assert command(scenes, "--out", tmp_path, "--kind", "small", "--seeds", 900_003, "--episodes", 2) == 0
    name = scene_id(900_003, "small")
    folder = (tmp_path / name).parent
    assert {p.name.removeprefix("small_900003") for p in folder.iterdir()} == {
        ".glb", ".stage_config.json", ".names.json", ".plan.png", ".views.png",
    }  # fmt: skip
    scene = Scene(name, AGENT_RADIUS_M)
    loaded = trimesh.load_scene(tmp_path / name)
    corners = habitat_from_ros_points(scene.mesh.triangles.reshape(-1, 3))
    np.testing.assert_allclose(loaded.bounds, [corners.min(0), corners.max(0)], atol=1e-5)
    assert sum(len(g.faces) for g in loaded.geometry.values()) == len(scene.mesh.triangles)
    stage = json.loads((folder / "small_900003.stage_config.json").read_text())
    assert stage["render_asset"] == "small_900003.glb"
    names = json.loads((folder / "small_900003.names.json").read_text())
    assert [f["name"] for f in names["furniture"]] == [f.name for f in scene.flat.furniture]
    views = cv2.imread(str(folder / "small_900003.views.png"))
    assert views is not None and views.shape == (960, 1280, 3)
    episodes = read_episodes(tmp_path / "episodes" / "val_unseen" / "val_unseen.json.gz")
    assert len(episodes) == 2
    assert {e.scene_id for e in episodes} == {name}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--count", 0), ConfigError),
        (("--episodes", 0), ConfigError),
        (("--split", "nope"), ConfigError),
        (("--kind", "nope"), SystemExit),  # a choice
        (("--seeds", 3), ConfigError),
    ],
)
def test_scenes_rejects(tmp_path: Path, arguments: tuple[object, ...], error: type[BaseException]) -> None:
    with pytest.raises(error):
        command(scenes, "--out", tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_plan_shows_things_where_they_are() -> None:
    flat = generate_flat(scene_id(6))
    plan = draw_plan(flat)
    for item in flat.furniture:
        x0, y0, x1, y1 = item.footprint
        # Near the four corners of the footprint: no label there, and the front bar is inset.
        spots = np.array([(x, y) for x in (x0 + 0.08, x1 - 0.08) for y in (y0 + 0.08, y1 - 0.08)])
        column, row = plan.to_pixel(spots).round().astype(int).T
        shown = plan.image[row, column].astype(int)
        assert (np.abs(shown - COLORS[item.color]).sum(1) < 12).sum() >= 2, item
    corner = plan.to_pixel(np.array([0.0, flat.size_m[1], 7.0]))
    np.testing.assert_allclose(corner, 0.3 / plan.metres_per_pixel - 0.5)
    lower = plan.to_pixel(np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert lower[0, 1] > corner[1]
    np.testing.assert_allclose(lower[1] - lower[0], [1.0 / plan.metres_per_pixel, 0.0])
    with pytest.raises(ValueError, match="metres_per_pixel"):
        draw_plan(flat, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "kind"), [(900_003, "small"), (900_000, "room"), (900_007, "flat")])
def test_free_space_is_where_a_robot_can_stand_over_the_area_of_the_plan(seed: int, kind: str) -> None:
    scene = Scene(scene_id(seed, kind), AGENT_RADIUS_M)
    space, plan = free_space_of_flat(scene.flat, scene.walkable, 0.05), draw_plan(scene.flat)
    assert np.allclose(space.origin, plan.origin)
    beyond = np.array(space.free.shape) * 0.05 - np.array(plan.image.shape[:2]) * plan.metres_per_pixel
    assert (beyond > -1e-9).all() and (beyond < 0.05).all()
    places = np.random.default_rng(1).uniform((-0.3, -0.3), np.array(scene.flat.size_m) + 0.3, (400, 2))
    cells = ((places - space.origin) * (1, -1) // 0.05).astype(int)
    middles = space.origin + (cells + 0.5) * 0.05 * (1, -1)
    assert np.array_equal(space.free[cells[:, 1], cells[:, 0]], scene.walkable.contains(middles))
    assert 0.2 < space.free.mean() < 0.8


def test_episodes_are_begun_as_they_are_made_and_of_the_split_alone() -> None:
    scene = Scene(scene_id(900_003, "room"), AGENT_RADIUS_M)
    made, begun = make_scene_episodes("val_unseen", 900_003, "room"), begin_scene("val_unseen", scene)
    assert [(e.episode_id, e.instruction, e.start) for e in begun] == [
        (e.episode_id, e.instruction, e.start) for e in made
    ]
    with pytest.raises(ConfigError, match="seed 3 is not in val_unseen, which has 900000 to 999999"):
        begin_scene("val_unseen", Scene(scene_id(3, "room"), AGENT_RADIUS_M))


def test_bench_writes_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert command(bench_world, "--frames", 1, "--json", path) == 0
    timings = json.loads(path.read_text())
    assert {"RGB-D frame 320x240", "RGB-D frame 640x480", "geodesic distance"} <= set(timings)
    assert all(0 < t["median_ms"] <= t["p95_ms"] for t in timings.values())
    assert "median ms" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--frames"):
        command(bench_world, "--frames", 0)
