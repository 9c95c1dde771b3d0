"""Checks where a command is to write before it begins, so that a typing mistake does not cost a run.

The functions are types of arguments: ``parser.add_argument("--out", type=output_folder)``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import time
from pathlib import Path

from vln_ros.config import ConfigError

_LEAST_BYTES = 1 << 20


def output_folder(text: str) -> Path:
    """A folder that is there or can be made, and written to. Raises ArgumentTypeError."""
    return _looked_at(text, folder=True)


def output_file(text: str) -> Path:
    """A file that can be written, and replaced. Raises ArgumentTypeError."""
    return _looked_at(text, folder=False)


def add_json(parser: argparse._ActionsContainer, what: str = "figures") -> None:
    """``--json``, the same at every command that has figures."""
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help=f"also write the {what} to this file (JSON)"
    )


def run_folder(out: Path | None, command: str, *, resume: bool = False) -> Path:
    """``out``, or else runs/COMMAND-DATE. Raises ConfigError: it cannot be written, or holds a run."""
    path = out or Path("runs") / time.strftime(f"{command}-%Y%m%d-%H%M%S")
    try:
        _looked_at(str(path), folder=True)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(str(error)) from None
    if not resume and holds_a_run(path):
        raise ConfigError(f"{path} holds a run already; resume it, remove it or choose another folder")
    return path


def check_model(checkpoint: str, profile: str) -> None:
    """There is such a profile, and something that may be such a checkpoint; cheap, without loading either.

    A hub name is taken as it is: whether the hub has it only the download says.

    Raises:
        ConfigError: the message names what is wrong.
    """
    from vln_ros.engine.checkpoint.lookup import check_checkpoint
    from vln_ros.engine.checkpoint.profile import load_profile

    load_profile(profile)
    if not checkpoint:
        raise ConfigError("--checkpoint is missing: a folder, a hub name (owner/name), or shipped:tiny")
    check_checkpoint(checkpoint)


def holds_a_run(folder: Path) -> bool:
    """At least one episode of it has been finished. What ended before that is in nobody's way."""
    log = folder / "episodes.jsonl"
    return log.is_file() and log.stat().st_size > 0


def _looked_at(text: str, *, folder: bool) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a place to write to")
    path = Path(text).expanduser()
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # says what exists() passes over: a name that is too long
        there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if there == path and not folder and not path.is_dir():
            if not os.access(path, os.W_OK):
                raise argparse.ArgumentTypeError(f"{path} cannot be written: no permission, or read-only")
            there = path.absolute().parent
        elif not there.is_dir():
            what = (
                "a link to nothing" if there.is_symlink() and not there.exists() else "a file, not a folder"
            )
            raise argparse.ArgumentTypeError(f"{there} is {what}")
        elif there == path and not folder:
            raise argparse.ArgumentTypeError(f"{path} is a folder: name a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise argparse.ArgumentTypeError(f"{there} cannot be written: no permission, or read-only")
        disk = shutil.disk_usage(there)
        if disk.free < _LEAST_BYTES < disk.total:
            raise argparse.ArgumentTypeError(f"{there} is on a full disk: make room or choose another place")
    except (OSError, ValueError) as error:  # no permission to look; a name that is too long or holds a nought
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise argparse.ArgumentTypeError(f"{path}: {problem}") from error
    return path
