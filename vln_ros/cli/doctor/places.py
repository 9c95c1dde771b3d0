"""Checks the places that programs write to: home, temporary files, shared memory, terminal."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from vln_ros.cli.doctor.findings import Finding
from vln_ros.ros.settings import SHARED_MEMORY, why_not_writable

LEAST_SHARED_MEMORY_MB = 64
LEAST_TEMPORARY_MB = 64


def look_at_places() -> list[Finding]:
    """Every one of them."""
    return [
        shared_memory(SHARED_MEMORY),
        temporary_files(),
        home(),
        current_folder(),
        terminal(sys.stdout),
    ]


def shared_memory(path: Path) -> Finding:
    """Where processes of one machine share memory and locks."""
    name = "shared memory"
    users = "nodes, evaluation with workers, Habitat and training need it"
    if not path.exists():
        return Finding(name, "warn", f"no {path}", f"{users}: mount it, sudo mount -t tmpfs tmpfs {path}")
    if (why := why_not_writable(path)) is not None:
        remedy = f"{users}: remove what nobody uses there, or mount it anew so that it can be written"
        return Finding(name, "warn", f"cannot be written ({why})", remedy)
    free_mb = shutil.disk_usage(path).free / 2**20
    if free_mb < LEAST_SHARED_MEMORY_MB:
        remedy = f"{users}: in a container, start it with --shm-size=1g or --ipc=host"
        return Finding(name, "warn", f"{free_mb:.0f} MB free in {path}", remedy)
    return Finding(name, "ok", f"{free_mb:.0f} MB free in {path}")


def temporary_files() -> Finding:
    """The folder that Python chooses, and the one that the user has named."""
    name = "temporary files"
    remedy = "export TMPDIR=FOLDER, one that can be written and has room"
    named = os.environ.get("TMPDIR", "")
    why = why_not_writable(Path(named)) if named and Path(named).is_dir() else "no folder"
    try:
        used = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding(name, "fail", str(error.strerror or error), remedy)
    if named and why is not None:
        return Finding(name, "warn", f"TMPDIR={named} cannot be used ({why}); {used} is", remedy)
    if (why := why_not_writable(used)) is not None:
        return Finding(name, "fail", f"{used} cannot be written ({why})", remedy)
    free_mb = shutil.disk_usage(used).free / 2**20
    if free_mb < LEAST_TEMPORARY_MB:
        return Finding(name, "warn", f"{free_mb:.0f} MB free in {used}", remedy)
    return Finding(name, "ok", f"{free_mb / 1024.0:.1f} GB free in {used}")


def home() -> Finding:
    """Where checkpoints from the hub are kept, unless HF_HOME names another place."""
    name = "home"
    remedy = (
        "checkpoints from the hub are kept there: export HOME, or HF_HOME=FOLDER, one that can be written"
    )
    folder = os.environ.get("HF_HOME") or os.environ.get("HOME")
    if not folder:
        return Finding(name, "warn", "HOME is not set", remedy)
    if (why := why_not_writable(Path(folder))) is not None:
        return Finding(name, "warn", f"{folder} cannot be written ({why})", remedy)
    return Finding(name, "ok", f"{folder} can be written")


def current_folder() -> Finding:
    """Where a run is kept, unless it is told another place."""
    name = "current folder"
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        return Finding(name, "warn", "it was removed", "cd to one that is there")
    if (why := why_not_writable(folder)) is not None:
        remedy = "runs are kept there: cd to another one, or give --out FOLDER"
        return Finding(name, "warn", f"{folder} cannot be written ({why})", remedy)
    return Finding(name, "ok", f"{folder} can be written")


def terminal(output: TextIO | None) -> Finding:
    """Whether it takes every sign."""
    name = "terminal"
    if output is None:
        return Finding(name, "warn", "standard output is closed", "nobody hears what a command says")
    try:
        encoding = codecs.lookup(output.encoding).name
    except (LookupError, TypeError):
        encoding = str(output.encoding)
    if encoding != "utf-8":
        source = next(
            (v for v in ("PYTHONIOENCODING", "LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(v)), ""
        )
        text = (
            f"it takes {encoding} ({source or 'no locale is set'}): other signs come as \\u2013 or the like"
        )
        return Finding(name, "warn", text, "unset PYTHONIOENCODING; export LC_ALL=C.UTF-8")
    return Finding(name, "ok", encoding)
