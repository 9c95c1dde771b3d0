"""Messages for tests: vln_msgs, and those of test/interfaces; installed, or built once for all of them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_BUILD = ROOT / "interfaces/build.py"
_SOURCES = {
    "vln_msgs": ROOT / "interfaces/vln_msgs",
    "tf2_msgs": ROOT / "test/interfaces/tf2_msgs",
    "nav2_msgs": ROOT / "test/interfaces/nav2_msgs",
}


def prefix(package: str = "vln_msgs") -> Path | None:
    """Where it is; None where it is on the way of every process already."""
    # Not importlib.util's: that finds what another test has loaded, which no process of this one would.
    if PathFinder.find_spec(package) is not None:
        return None
    if importlib.util.find_spec("ament_package") is None or shutil.which("cmake") is None:
        pytest.skip(f"needs {package}, or what builds it (requirements-msgs.txt, cmake)")
    digest = hashlib.sha256(sys.version.encode())
    source = _SOURCES[package]
    read = [p for p in source.rglob("*") if p.is_file() and p.suffix != ".md"]
    for path in (*sorted(read), _BUILD, _BUILD.with_name("wheels.cmake")):
        digest.update(path.read_bytes())
    found = ROOT / "build" / f"{package}-{digest.hexdigest()[:16]}"
    if not found.is_dir():
        found.parent.mkdir(exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{package}-", dir=found.parent))
        command = [sys.executable, str(_BUILD), str(fresh), "--package", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        try:
            fresh.rename(found)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return found


def packages(built: Path) -> Path:
    """Where Python finds the package below its prefix."""
    (found,) = {path.parent for path in built.glob("**/*_msgs/__init__.py")}
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
        library = f"lib{packages(built).name}__rosidl_{kind}.so"
        ctypes.CDLL(str(built / "lib" / library), ctypes.RTLD_GLOBAL)


@contextmanager
def loaded_here(package: str) -> Iterator[Path | None]:
    """The package in this process, and afterwards none any more: other tests look whether it is there."""
    with pytest.MonkeyPatch.context() as patch:
        found = prefix(package)
        load_here(found, patch)
        yield found
        if found is not None:
            for name in [n for n in sys.modules if n.split(".")[0] == package]:
                del sys.modules[name]
