"""The launch files under ROS's own launch, where it is installed (it is not on PyPI)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("launch_ros", reason="needs ROS's launch and launch_ros, which come from apt only")

from vln_ros.cli.graph import graph_environment
from vln_ros.sim.episodes import write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
FILES = sorted(p.name for p in (ROOT / "launch").glob("*.launch.py"))
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *given = sys.argv[1:]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path), launch_arguments=[tuple(g.split(":=", 1)) for g in given])]))
sys.exit(service.run())
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As colcon installs the package, by links."""
    prefix = tmp_path_factory.mktemp("install")
    index = prefix / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "vln_ros").touch()
    (prefix / "lib").mkdir()
    (prefix / "lib/vln_ros").symlink_to(ROOT / "scripts")
    share = prefix / "share/vln_ros"
    share.mkdir()
    for folder in ("config", "launch"):
        (share / folder).symlink_to(ROOT / folder)
    return prefix


def launched(prefix: Path, name: str, *arguments: str) -> tuple[int, str]:
    environment = graph_environment()
    environment["AMENT_PREFIX_PATH"] = f"{prefix}:{environment['AMENT_PREFIX_PATH']}"
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment["ROS_LOG_DIR"] = str(prefix / "log")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(prefix / "share/vln_ros/launch" / name), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", FILES)
def test_launch_itself_reads_every_argument(name: str) -> None:
    from launch.launch_context import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(ROOT / "launch" / name))
    description = source.get_launch_description(LaunchContext())
    arguments = {a.name: a for a in description.get_launch_arguments()}
    assert arguments
    for argument in arguments.values():
        assert argument.description


def test_a_simulated_run_from_its_beginning_to_its_end(prefix: Path, tmp_path: Path) -> None:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    shortest = min(every, key=lambda e: e.geodesic_distance_m)
    episodes = write_episodes(tmp_path, "val_unseen", [shortest])
    parameters = tmp_path / "bridge.yaml"
    parameters.write_text(
        "/**/sim_bridge:\n  ros__parameters:\n    camera.width: 64\n    camera.height: 48\n    video: false\n"
    )
    status, text = launched(
        prefix, "sim.launch.py", f"episodes:={episodes}", "engine:=expert", "mode:=lockstep",
        f"bridge_params_file:={parameters}", f"run_folder:={tmp_path / 'run'}", "namespace:=left",
    )  # fmt: skip
    assert status == 0, text
    assert '"success": true' in (tmp_path / "run/episodes.jsonl").read_text("utf-8")
    assert "[sim_bridge-1]: process has finished cleanly" in text


def test_a_wrong_choice_and_a_wrong_parameter_file_are_said(prefix: Path, tmp_path: Path) -> None:
    status, text = launched(prefix, "robot.launch.py", "camera:=polaroid")
    assert status != 0
    assert "polaroid" in text
    parameters = tmp_path / "mine.yaml"
    parameters.write_text("/**/navigator:\n  ros__parameters:\n    engin: paced\n")
    status, text = launched(
        prefix, "robot.launch.py", "machine:=gpu", "inspect:=false", f"params_file:={parameters}"
    )
    assert "did you mean 'engine'" in text
