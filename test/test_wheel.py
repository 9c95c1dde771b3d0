"""The wheel in an empty environment: it runs away from its checkout, with what it declares."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vln_ros

ROOT = Path(__file__).parents[1]
SOURCES = ("vln_ros", "scripts", "config", "launch", "resource")
FILES = ("pyproject.toml", "setup.py", "package.xml", "README.md", "LICENSE")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(command: list[str | Path], cwd: Path, status: int = 0) -> str:
    """What it prints, in a terminal that knows neither this checkout nor ROS."""
    kept = {k: v for k, v in os.environ.items() if k in {"PATH", "LANG", "OMP_NUM_THREADS", "TMPDIR"}}
    done = subprocess.run(
        command, cwd=cwd, env={**kept, "HOME": str(cwd)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pip", reason="needs pip")
    place = tmp_path_factory.mktemp("build")
    source = place / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    build: list[str | Path] = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", place]
    run([sys.executable, "-m", "pip", "wheel", "--quiet", *build, source], place)
    (built,) = place.glob("*.whl")
    return built


def declared(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(archive.read(name).decode())
    return [Requirement(line) for line in fields.get_all("Requires-Dist", [])]


def needed(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def closure(requirements: list[Requirement], extras: set[str]) -> dict[str, metadata.Distribution]:
    """What pip would install, as it is installed here.

    Raises:
        PackageNotFoundError: something is not here, or not in a version that is asked for.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [(r, extras) for r in requirements]
    seen = set()
    while waiting:
        requirement, of = waiting.pop()
        if not needed(requirement, of) or str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = metadata.distribution(requirement.name)
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            raise metadata.PackageNotFoundError(f"{requirement}: here is {distribution.version}")
        found[requirement.name.lower()] = distribution
        waiting += [(Requirement(line), requirement.extras) for line in distribution.requires or []]
    return found


def environment(place: Path, wheel: Path, extras: set[str]) -> Path:
    """Scripts of a new environment that holds the wheel and what it declares, and nothing else.

    The dependencies are not downloaded anew: they are links into the environment of the tests.
    """
    run([sys.executable, "-m", "venv", "--without-pip", place], place.parent)
    python = place / "bin/python"
    install: list[str | Path] = ["--quiet", "--no-deps", "--no-index", "--no-compile", wheel]
    run([sys.executable, "-m", "pip", "--python", python, "install", *install], place)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place).strip())
    try:
        distributions = closure(declared(wheel), extras).values()
    except metadata.PackageNotFoundError as missing:
        pytest.skip(f"not installed here: {missing}")
    for distribution in distributions:
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__", "bin"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return place / "bin"


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("base") / "venv", wheel, set())


def test_it_is_this_version_and_comes_from_the_wheel(scripts: Path, tmp_path: Path) -> None:
    assert run([scripts / "vln_ros", "--version"], tmp_path).strip() == vln_ros.__version__
    where = run([scripts / "python", "-c", "import vln_ros; print(vln_ros.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(scripts.parent)


def test_it_plans(scripts: Path, tmp_path: Path) -> None:
    run([scripts / "vln_ros", "plan", "--checkpoint", "7B", "--device", "orin", "--json", "p.json"], tmp_path)
    assert json.loads((tmp_path / "p.json").read_text("utf-8"))


def test_without_ros_and_world_the_shipped_checkpoint_decides(scripts: Path, tmp_path: Path) -> None:
    """The engine loads; the doctor misses ROS and the world, and names the extras that bring them."""
    command: list[str | Path] = [
        scripts / "vln_ros",
        "doctor",
        "--checkpoint",
        "shipped:tiny",
        "--json",
        "found.json",
    ]
    run(command, tmp_path, status=1)
    found = {f["name"]: f for f in json.loads((tmp_path / "found.json").read_text("utf-8"))}
    assert found["checkpoint"]["verdict"] == "ok", found["checkpoint"]
    assert [name for name, f in found.items() if f["verdict"] == "fail"] == ["rclpy"]
    assert "vln_ros[ros]" in found["rclpy"]["remedy"]
    assert found["embedded world"]["verdict"] == "warn"
    assert "vln_ros[sim]" in found["embedded world"]["remedy"]


def test_every_command_explains_itself(scripts: Path, tmp_path: Path) -> None:
    """None imports at its start what only an extra brings."""
    code = """
from vln_ros.cli import COMMANDS, build_parser
build_parser()
for name in COMMANDS:
    build_parser(name).format_help()
"""
    run([scripts / "python", "-c", code], tmp_path)


def test_with_the_world_it_makes_scenes(wheel: Path, tmp_path: Path) -> None:
    scripts = environment(tmp_path / "venv", wheel, {"sim"})
    run([scripts / "vln_ros", "scenes", "--kind", "room", "--count", "1", "--out", "scenes"], tmp_path)
    assert list((tmp_path / "scenes").rglob("*.glb"))


def test_what_is_not_declared_is_not_there(scripts: Path, tmp_path: Path) -> None:
    """The environment of these tests is as empty as it claims."""
    code = "import importlib.util as u; print([m for m in ('rclpy', 'shapely', 'pytest') if u.find_spec(m)])"
    assert run([scripts / "python", "-c", code], tmp_path).strip() == "[]"
