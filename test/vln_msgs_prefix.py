"""vln_msgs for tests: the installed package, or one that is built once for all of them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SOURCES = ROOT / "interfaces"


def prefix() -> Path | None:
    """Where it is; None where it is on the way of every process already."""
    if importlib.util.find_spec("vln_msgs") is not None:
        return None
    if importlib.util.find_spec("ament_package") is None or shutil.which("cmake") is None:
        pytest.skip("needs vln_msgs, or what builds it (requirements-msgs.txt, cmake)")
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(p for p in _SOURCES.rglob("*") if p.is_file() and p.suffix != ".md"):
        digest.update(path.read_bytes())
    found = ROOT / "build" / f"vln_msgs-{digest.hexdigest()[:16]}"
    if not found.is_dir():
        found.parent.mkdir(exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="vln_msgs-", dir=found.parent))
        command = [sys.executable, str(_SOURCES / "build.py"), str(fresh)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        try:
            fresh.rename(found)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return found


def packages(built: Path) -> Path:
    """Where Python finds it below a prefix."""
    (found,) = {path.parent for path in built.glob("**/vln_msgs/__init__.py")}
    return found


def sourced(built: Path | None, environment: dict[str, str], libraries: bool = True) -> dict[str, str]:
    """An environment in which the prefix is sourced; ``libraries``: or only half."""
    if built is None:
        return environment

    def before(name: str, value: Path) -> str:
        return os.pathsep.join([str(value), *filter(None, [environment.get(name)])])

    found = {
        **environment,
        "AMENT_PREFIX_PATH": before("AMENT_PREFIX_PATH", built),
        "PYTHONPATH": before("PYTHONPATH", packages(built).parent),
    }
    if libraries:
        found["LD_LIBRARY_PATH"] = before("LD_LIBRARY_PATH", built / "lib")
    return found


def load_here(built: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this process, which was started before: the loader reads LD_LIBRARY_PATH only then."""
    if built is None:
        return
    monkeypatch.syspath_prepend(str(packages(built).parent))
    kinds = (
        "generator_c",
        "typesupport_fastrtps_c",
        "typesupport_introspection_c",
        "typesupport_c",
        "generator_py",
    )
    for kind in kinds:
        ctypes.CDLL(str(built / "lib" / f"libvln_msgs__rosidl_{kind}.so"), ctypes.RTLD_GLOBAL)
