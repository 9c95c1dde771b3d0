"""What `make` says and would do, without doing it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split()

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Without what a `make test` around the tests hands on.
    environment = {
        n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "TORCH")
    }
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_help_names_every_target(arguments: tuple[str, ...]) -> None:
    done = make(*arguments)
    assert done.returncode == 0 and not done.stderr
    shown = re.findall(r"^  ([a-z-]+) +(\S.*)$", done.stdout, re.MULTILINE)
    assert [name for name, _ in shown] == TARGETS and len(TARGETS) > 8
    assert "TORCH=cpu" in done.stdout and "PYTHON=" in done.stdout


def test_every_target_is_one() -> None:
    assert set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) == set(TARGETS)


def test_setup_says_how_far_it_is(tmp_path: Path) -> None:
    said = make("-n", "setup", f"VENV={tmp_path / 'venv'}")
    assert said.returncode == 0, said.stderr
    steps = re.findall(r'echo "\[(\d)/(\d)\] ', said.stdout)
    assert [int(at) for at, _ in steps] == [*range(1, len(steps) + 1)] and len(steps) > 2
    assert {int(of) for _, of in steps} == {len(steps)}
    assert "--quiet" not in said.stdout and "-q " not in said.stdout


@pytest.mark.parametrize(("torch", "index"), [("", False), ("default", False), ("cpu", True)])
def test_torch_without_cuda(tmp_path: Path, torch: str, index: bool) -> None:
    """The index is for torch alone: everything else comes from where it always does."""
    said = make("-n", "setup", f"VENV={tmp_path / 'venv'}", *([f"TORCH={torch}"] if torch else []))
    lines = [" ".join(line.split()) for line in said.stdout.replace("\\\n", " ").splitlines()]
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 3
    assert [("--index-url" in line) for line in installs] == [index, False, False]
    assert "requirements" in installs[1] and "^torch==" in installs[0]
    assert len(re.findall(r"^torch==", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)) == 1


@pytest.mark.parametrize("torch", ["gpu", "CPU", "cu121"])
def test_another_torch(tmp_path: Path, torch: str) -> None:
    done = make("setup", f"VENV={tmp_path / 'venv'}", f"TORCH={torch}")
    assert done.returncode != 0 and f"TORCH = {torch}: choose default or cpu" in done.stderr
    assert not (tmp_path / "venv").exists()
