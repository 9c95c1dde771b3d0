"""What is written in more than one file says the same: versions, dependencies, pins, images."""

from __future__ import annotations

import importlib
import json
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import vln_ros
from vln_ros.ros.launching.arguments import every_argument

ROOT = Path(__file__).parents[1]
GROUPS = {
    "requirements.txt": ("", "sim", "web"),
    "requirements-ros.txt": ("ros",),
    "requirements-msgs.txt": ("msgs",),
    "requirements-ray.txt": ("ray",),
    "requirements-rerun.txt": ("rerun",),
    "requirements-docs.txt": ("docs",),
    "requirements-dev.txt": ("dev",),
}
"""Which of the extras of pyproject.toml, "" for the dependencies, a file pins."""
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
COMMIT = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
PYTHONS = ("3.10", "3.11", "3.12")
MACHINES = ("x86_64", "aarch64")


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def yaml_of(name: str | Path) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def pyproject() -> dict[str, Any]:
    toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, Any] = toml.loads(text("pyproject.toml"))
    return found


def declared(group: str) -> list[Requirement]:
    project = pyproject()["project"]
    lines = project["optional-dependencies"][group] if group else project["dependencies"]
    return [Requirement(line) for line in lines]


def pins(file: str) -> list[Requirement]:
    return [Requirement(line) for line in text(file).splitlines() if line and not line.startswith("#")]


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml_of(".github/workflows/ci.yml")
    return found


# ------------------------------------------------------------------ dependencies


def test_every_file_of_requirements_has_its_extra() -> None:
    assert {p.name for p in ROOT.glob("requirements*.txt")} == set(GROUPS)
    extras = set(pyproject()["project"]["optional-dependencies"])
    assert extras - {"test"} == {group for groups in GROUPS.values() for group in groups if group}


@pytest.mark.parametrize("file", GROUPS)
@pytest.mark.parametrize(("machine", "python"), [*product(MACHINES, PYTHONS)])
def test_pins_are_what_the_package_declares(file: str, machine: str, python: str) -> None:
    """On each machine the same names, and each pinned version within the declared range."""
    environment = {
        "platform_machine": machine,
        "python_version": python,
        "sys_platform": "linux",
        "extra": "",
    }

    def here(requirements: list[Requirement]) -> dict[str, Requirement]:
        return {r.name.lower(): r for r in requirements if r.marker is None or r.marker.evaluate(environment)}

    wanted = here([r for group in GROUPS[file] for r in declared(group)])
    pinned = here(pins(file))
    assert set(pinned) == set(wanted)
    for name, pin in pinned.items():
        ((version),) = (s.version for s in pin.specifier)
        assert wanted[name].specifier.contains(version, prereleases=True), f"{pin} is outside {wanted[name]}"
        assert pin.extras == wanted[name].extras


def test_ros_is_pinned_exactly() -> None:
    """Unpinned message packages resolve to a later distribution."""
    for group in ("ros", "msgs"):
        assert {str(r) for r in declared(group)} == {str(r) for r in pins(f"requirements-{group}.txt")}


# ------------------------------------------------------------------ versions


def test_the_version_is_one() -> None:
    assert str(yaml_of("CITATION.cff")["version"]) == vln_ros.__version__
    assert f"<version>{vln_ros.__version__}</version>" in text("package.xml")
    assert pyproject()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "vln_ros.__version__"}


def test_python_versions_are_those_that_are_tested() -> None:
    named = re.search(r"Python (3\.\d+) to (3\.\d+)", text("README.md"))
    assert named is not None
    assert named.groups() == (PYTHONS[0], PYTHONS[-1])
    words = (c.rsplit(" ", 1)[1] for c in pyproject()["project"]["classifiers"] if ":: Python :: 3." in c)
    assert tuple(words) == PYTHONS
    for job in ("wheels", "install"):
        assert tuple(workflow()["jobs"][job]["strategy"]["matrix"]["python"]) == PYTHONS
    assert f'python_requires=">={PYTHONS[0]}"' in text("setup.py")
    assert pyproject()["tool"]["ruff"]["target-version"] == "py" + PYTHONS[0].replace(".", "")
    assert pyproject()["tool"]["mypy"]["python_version"] in PYTHONS


def test_hooks_have_the_versions_of_the_requirements() -> None:
    """Except of tools that only the hooks use: these are pinned there."""
    pinned = [line for file in GROUPS for line in text(file).splitlines() if "==" in line]
    names = {Requirement(line).name for line in pinned}
    hooks = [hook for repo in yaml_of(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    asked = {line for hook in hooks for line in hook["additional_dependencies"]}
    assert {Requirement(line).name for line in asked} >= {"ruff", "mypy", "numpy"}
    for line in asked:
        assert "==" in line
        assert line in pinned or Requirement(line).name not in names, f"{line} is another version"


# ------------------------------------------------------------------ continuous integration


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_may_only_read_and_end(path: Path) -> None:
    found = yaml_of(path)
    assert found["permissions"] == {"contents": "read"}
    assert "group" in found["concurrency"]
    for name, job in found["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        for step in job["steps"]:
            if "uses" in step:
                assert COMMIT.fullmatch(step["uses"]), f"{step['uses']}: pin it by commit"
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_what_the_workflow_runs_is_there() -> None:
    lines = [s["run"] for job in workflow()["jobs"].values() for s in job["steps"] if "run" in s]
    scripts = re.findall(r"bash (\S+)", "\n".join(lines))
    targets = re.findall(r"\bmake ([a-z-]+)", "\n".join([*lines, text(".ci/run"), text("CONTRIBUTING.md")]))
    assert {script.removeprefix("src/vln_ros/") for script in scripts} == {
        ".ci/run",
        ".ci/wheel",
        ".ci/nav2",
        ".ci/docs",
        ".ci/quantised",
    }
    assert {"check", "test", "coverage"} <= set(targets)
    for script in scripts:
        assert (ROOT / script.removeprefix("src/vln_ros/")).is_file()
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", text("Makefile"), re.MULTILINE), target


def test_one_image_of_ros() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text("Dockerfile"), re.MULTILINE)
    assert stages[0][0] == workflow()["jobs"]["colcon"]["container"]
    container = json.loads(text(".devcontainer/devcontainer.json"))
    assert container["build"]["target"] in {name for _, name in stages}
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (ROOT / ".devcontainer" / container["build"]["context"]).resolve() == ROOT


def test_the_image_gets_all_that_the_build_reads() -> None:
    """.dockerignore names what goes in: what setup.py, pyproject.toml and the Dockerfile read."""
    kept = {line.strip("!/") for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    built = {
        "vln_ros",
        "config",
        "launch",
        "scripts",
        "resource",
        "setup.py",
        "pyproject.toml",
        "package.xml",
    }
    assert kept >= {*built, "README.md", "LICENSE"}
    copied = re.findall(r"^COPY (\S+) src/", text("Dockerfile"), re.MULTILINE)
    assert {name.split("/")[0] for name in copied if name != "."} <= kept


def test_the_compose_file_is_the_split_over_two_machines() -> None:
    services = yaml_of("compose.yaml")["services"]
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text("Dockerfile"), re.MULTILINE)
    given = {
        name: dict(re.findall(r"(\w+):=(\S+)", service["command"])) for name, service in services.items()
    }
    assert {name: values["machine"] for name, values in given.items()} == {"robot": "robot", "gpu": "gpu"}
    known = {argument.name for argument in every_argument("robot")}
    for name, service in services.items():
        assert service["build"]["target"] in stages
        assert service["network_mode"] == service["ipc"] == "host", "Fast DDS"
        assert service["stop_signal"] == "SIGINT", "launch takes SIGTERM as an error"
        assert set(given[name]) <= known
    assert "devices" in services["gpu"]["deploy"]["resources"]["reservations"]
    assert "deploy" not in services["robot"]


def test_the_robots_image_has_no_model() -> None:
    (left_out,) = re.findall(r"grep -vE '(\S+)'", text("Dockerfile"))
    lines = [line for line in text("requirements.txt").splitlines() if line and not line.startswith("#")]
    gone = {Requirement(line).name for line in lines if re.match(left_out.replace("\\\\", "\\"), line)}
    assert gone == {"torch", "transformers", "tokenizers", "safetensors"}


def test_other_distributions_have_their_job_and_their_line() -> None:
    matrix = workflow()["jobs"]["distributions"]["strategy"]["matrix"]["include"]
    page = text("docs/robot/install.md")
    for entry in matrix:
        assert f"| {entry['distribution'].capitalize()} |" in page


# ------------------------------------------------------------------ for people


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.name
)
def test_issue_forms(path: Path) -> None:
    form = yaml_of(path)
    if path.name == "config.yml":
        assert form["blank_issues_enabled"] in (True, False)
        return
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_changelog_can_be_released() -> None:
    """As catkin_prepare_release and bloom do: Forthcoming becomes the version, and every entry is read."""
    pytest.importorskip("catkin_pkg", reason="needs catkin_pkg (requirements-dev.txt)")
    changelog = importlib.import_module("catkin_pkg.changelog")
    versions = importlib.import_module("catkin_pkg.package_version")
    written = text("CHANGELOG.rst")
    assert not re.search(r"(?<!`)`(?!`)", written), "code stands between two backquotes on each side: ``x``"
    label = versions.get_forthcoming_label(written)
    assert label == "Forthcoming"
    title = f"{vln_ros.__version__} (2026-01-31)"
    released = written.replace(f"{label}\n{'-' * len(label)}\n", f"{title}\n{'-' * len(title)}\n")
    read = changelog.populate_changelog_from_rst(changelog.Changelog("vln_ros"), released)
    lists = [part for part in read.get_content_of_version(vln_ros.__version__) if hasattr(part, "bullets")]
    assert sum(len(part.bullets) for part in lists) == len(re.findall(r"^- ", written, re.MULTILINE))
    assert not list(ROOT.glob("CHANGELOG.md")), "one changelog"
