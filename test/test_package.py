"""The package as a robot's workspace builds it (colcon) and as pip does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vln_ros
from vln_ros.config import NODES
from vln_ros.ros.terminal.interpreter import CHECK

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
        "import vln_ros; from vln_ros.engine.checkpoint.profile import load_profile; "
        "load_profile('tiny'); print(vln_ros.__file__)"
    )
    output = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site))
    assert Path(output.strip()).is_relative_to(site)
    version = run([sys.executable, "-m", "vln_ros", "--version"], tmp_path, PYTHONPATH=str(site))
    assert version.strip() == vln_ros.__version__


@pytest.fixture(scope="module", params=[[], ["--symlink-install"], ["--merge-install"]], ids="_".join)
def install(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where colcon has installed the package: in a workspace whose path has a space in it, as some have."""
    pytest.importorskip("colcon_core", reason="needs colcon (requirements-dev.txt)")
    workspace = tmp_path_factory.mktemp("my workspace")
    shutil.copytree(source, workspace / "src/vln_ros")
    command = [sys.executable, "-m", "colcon", "build", *request.param, "--event-handlers", "console_direct+"]
    run(command, workspace)
    merged = "--merge-install" in request.param
    return workspace / "install" if merged else workspace / "install/vln_ros"


def sourced(install: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a terminal that has sourced the workspace, and in which no venv is activated."""
    workspace = next(p for p in install.parents if (p / "src").is_dir())
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "COLCON_TRACE": ""}
    kept = {k: v for k, v in os.environ.items() if k.startswith(("ROS_", "FASTRTPS", "OMP"))}
    return subprocess.run(
        ["bash", "-c", f". install/setup.bash && {code}"],
        cwd=workspace, env={**bare, **kept, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """A folder with a python3 like the system's: it runs, and has nothing that the nodes need."""
    folder = tmp_path / "system"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return folder


def test_colcon_installs_what_ros_looks_for(install: Path, tmp_path: Path) -> None:
    assert (install / "share/ament_index/resource_index/packages/vln_ros").is_file()
    assert (install / "share/vln_ros/package.xml").read_text("utf-8") == (ROOT / "package.xml").read_text(
        "utf-8"
    )
    for node in NODES:  # what `ros2 run vln_ros NODE` starts
        script = install / "lib/vln_ros" / node
        assert os.access(script, os.X_OK), f"{script} is not executable"
        assert f"node={node}" in script.read_text("utf-8")
        assert script.read_text("utf-8").startswith("#!")
    for folder in ("config", "launch"):
        of_us, shared = ROOT / folder, install / "share/vln_ros" / folder
        shipped = {
            p.relative_to(of_us) for p in of_us.rglob("*") if p.is_file() and "__pycache__" not in p.parts
        }
        assert {p.relative_to(shared) for p in shared.rglob("*") if p.is_file()} == shipped
    if not (install / "lib/vln_ros/executor").is_symlink():
        sites = [p.parent for p in (install / "lib").glob("python*/site-packages/vln_ros")]
        assert len(sites) == 1
        check_installed(sites[0], tmp_path)
    done = sourced(install, "vln_ros --version")
    assert done.stdout.strip() == vln_ros.__version__, done.stderr


def test_installed_nodes_run_under_the_python_of_the_build(install: Path, other_python: Path) -> None:
    """In the README's terminal: the workspace is sourced, no venv is activated, python3 is the system's."""
    pytest.importorskip("rclpy", reason="needs ROS")
    each = "; ".join(f'echo {node}; "{install}/lib/vln_ros/{node}" {CHECK}' for node in NODES)
    done = sourced(install, f"which python3; {each}", PATH=f"{other_python}:/usr/bin:/bin")
    expected = [line for node in NODES for line in (node, sys.executable)]
    assert done.stdout.splitlines() == [str(other_python / "python3"), *expected], done.stderr


def test_an_installed_node_starts_beside_another_python(install: Path, other_python: Path) -> None:
    """As `ros2 run` starts it; it must get as far as its parameters."""
    pytest.importorskip("rclpy", reason="needs ROS")
    start = f'"{install}/lib/vln_ros/navigator" --ros-args -p engine:=magic'
    path = f"{other_python}:/usr/bin:/bin"
    done = sourced(install, start, PATH=path)
    assert done.returncode == 2
    assert "engine = 'magic'" in done.stderr
    done = sourced(install, start, PATH=path, VLN_ROS_PYTHON=str(other_python / "python3"))
    assert done.returncode == 2, "that one has nothing of what the node needs"
    assert "pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
    done = sourced(install, start, VLN_ROS_PYTHON="/nowhere/python")
    assert done.returncode == 127
    assert "cannot run VLN_ROS_PYTHON=/nowhere/python" in done.stderr


def test_a_package_built_without_torch_says_so(install: Path, other_python: Path) -> None:
    """As after `colcon build` by the system's colcon: the command and the nodes have its Python."""
    command = install / "bin/vln_ros"
    text = command.read_text("utf-8")
    try:
        command.write_text(f"#!{other_python}/python3\n" + text.split("\n", 1)[1], "utf-8")
        each = "; ".join(
            f'echo >&2 "== {node}"; "{install}/lib/vln_ros/{node}"; echo {node} $?' for node in NODES
        )
        done = sourced(install, each)
        assert done.stdout.splitlines() == [f"{node} 2" for node in NODES], done.stderr
        _, *said = re.split(r"^== \w+$", done.stderr, flags=re.MULTILINE)
        assert len(said) == len(NODES)
        for words in said:
            assert "not installed for" in words
            assert "colcon build" in words
    finally:
        command.write_text(text, "utf-8")


def test_colcon_test_runs_the_tests(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("colcon_core", reason="needs colcon (requirements-dev.txt)")
    workspace = tmp_path / "workspace"
    shutil.copytree(source, workspace / "src/vln_ros")
    (workspace / "src/vln_ros/test").mkdir()
    for name in ("conftest.py", "test_config.py"):
        shutil.copy(ROOT / "test" / name, workspace / "src/vln_ros/test" / name)
    run([sys.executable, "-m", "colcon", "build"], workspace)
    run([sys.executable, "-m", "colcon", "test", "--return-code-on-test-failure"], workspace)
    results = run([sys.executable, "-m", "colcon", "test-result", "--all"], workspace)
    counts = re.search(r"Summary: (\d+) tests, 0 errors, 0 failures", results)
    assert counts is not None, results
    assert int(counts.group(1)) > 30


@pytest.mark.parametrize(
    "absent", ["pytest_timeout", "xdist", "hypothesis", "pytest_timeout xdist hypothesis"]
)
def test_the_tests_run_with_the_pytest_that_rosdep_installs(absent: str, tmp_path: Path) -> None:
    """It brings no plugin; and a sourced terminal brings ROS's, which new ones cannot load."""
    site = tmp_path / "site"
    broken = site / "launch_testing"
    (broken / "pytest").mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken / "pytest/__init__.py").touch()
    (broken / "pytest/hooks.py").write_text(
        "def pytest_pycollect_makemodule(path, parent):\n    raise OSError\n"
    )
    (site / "launch_testing-3.4.3.dist-info").mkdir()
    (site / "launch_testing-3.4.3.dist-info/METADATA").write_text("Name: launch_testing\nVersion: 3.4.3\n")
    (site / "launch_testing-3.4.3.dist-info/entry_points.txt").write_text(
        "[pytest11]\nlaunch_testing = launch_testing.pytest.hooks\n"
    )
    code = """
import importlib.util, sys
absent = sys.argv[1].split()
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in absent else find(name, package)
import pytest
names = {"pytest_timeout": "timeout", "hypothesis": "hypothesispytest"}
without = [word for name in absent for word in ("-p", f"no:{names.get(name, name)}")]
sys.exit(pytest.main([*without, "test/test_config.py", "test/test_axes.py"]))
"""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    output = run([sys.executable, "-c", code, absent], ROOT, PYTHONPATH=path)
    assert re.search(r"\d\d passed", output), output
    assert ("skipped" in output) == ("hypothesis" in absent), "tests of properties, and no other"


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
