"""The package as a robot's workspace builds it (colcon) and as pip does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vln_ros

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would check out of the package, in a workspace of its own."""
    target = tmp_path_factory.mktemp("workspace") / "src" / "vln_ros"
    target.mkdir(parents=True)
    for name in ("vln_ros", "scripts", "config", "launch", "resource"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "package.xml", "pyproject.toml", "setup.cfg", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target / name)
    return target


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_data(folder: Path) -> set[str]:
    """Every file of the package that is not Python, relative to it."""
    return {
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in {".py", ".pyc"}
    }


def modules(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*.py")}


def check_installed(site: Path, tmp_path: Path) -> None:
    """The installed tree is whole and works without the source beside it."""
    installed = site / "vln_ros"
    assert modules(installed) == modules(ROOT / "vln_ros")
    assert package_data(installed) == package_data(ROOT / "vln_ros")
    assert "profiles/tiny.yaml" in package_data(installed)
    assert {"ros/fastdds.xml", "ros/fastdds_localhost.xml"} <= package_data(installed)
    code = (
        "import vln_ros; from vln_ros.engine.profile import load_profile; "
        "load_profile('tiny'); print(vln_ros.__file__)"
    )
    output = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site))
    assert Path(output.strip()).is_relative_to(site)
    version = run([sys.executable, "-m", "vln_ros", "--version"], tmp_path, PYTHONPATH=str(site))
    assert version.strip() == vln_ros.__version__


def test_colcon_builds_and_installs_what_ros_looks_for(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("colcon_core", reason="needs colcon (requirements-dev.txt)")
    workspace = source.parents[1]
    run(
        [sys.executable, "-m", "colcon", "build", "--merge-install", "--event-handlers", "console_direct+"],
        workspace,
    )
    install = workspace / "install"
    assert (install / "share/ament_index/resource_index/packages/vln_ros").is_file()
    assert (install / "share/vln_ros/package.xml").read_text("utf-8") == (ROOT / "package.xml").read_text(
        "utf-8"
    )
    for node in ("navigator", "executor", "sim_bridge"):  # what `ros2 run vln_ros NODE` starts
        script = install / "lib/vln_ros" / node
        assert os.access(script, os.X_OK), f"{script} is not executable"
        assert f"vln_ros.nodes.{node}" in script.read_text("utf-8")
        assert script.read_text("utf-8").startswith("#!")
    for folder in ("config", "launch"):
        shipped = {p.name for p in (ROOT / folder).glob("*") if p.is_file()}
        found = {p.name for p in (install / "share/vln_ros" / folder).glob("*")}
        assert shipped == found
    sites = [p.parent for p in (install / "lib").glob("python*/site-packages/vln_ros")]
    assert len(sites) == 1
    check_installed(sites[0], tmp_path)
    assert run([str(install / "bin/vln_ros"), "--version"], tmp_path, PYTHONPATH=str(sites[0])).strip() == (
        vln_ros.__version__
    )


def test_an_installed_node_starts(source: Path, tmp_path: Path) -> None:
    """The stub of the executable, run as ros2 run does: it must get as far as its parameters."""
    pytest.importorskip("rclpy", reason="needs ROS")
    target = tmp_path / "target"
    (target / "scripts").mkdir(parents=True)
    shutil.copytree(source / "vln_ros", target / "vln_ros")
    command = [sys.executable, str(source / "scripts/navigator"), "--ros-args", "-p", "engine:=magic"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "engine = 'magic'" in done.stderr


def test_pip_installs_the_data_files(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(target), str(source)],
        tmp_path,
    )  # fmt: skip
    check_installed(target, tmp_path)
    assert (target / "share/vln_ros/package.xml").is_file()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_requirements_can_be_installed_on_a_robots_computer(machine: str, python: str) -> None:
    """What has no wheel for aarch64 is marked, and everything else is asked for once and with one version."""
    environment = {"platform_machine": machine, "python_version": python, "sys_platform": "linux"}
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [r.name for r in asked if r.marker is None or r.marker.evaluate(environment)]
    assert len(here) == len(set(here))
    assert ("embreex" in here) == (machine == "x86_64")
    assert set(here) | {"embreex"} == {r.name for r in asked}
