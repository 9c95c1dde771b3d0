"""Finds the folder that a checkpoint's name means, or the nearest name that there is. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from vln_ros.config import ConfigError, nearest
from vln_ros.engine.checkpoint.profile import list_profiles, load_profile

_SHIPPED = "shipped:"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONFIGS = ("config.json", "adapter_config.json")
"""One of them is in every checkpoint's folder."""


class CheckpointError(ConfigError):
    """The checkpoint cannot be loaded as asked; the message says why and what would help."""


def find_local(checkpoint: str) -> Path | None:
    """The folder of a checkpoint on this machine; None: a name that the hub may know.

    Raises:
        CheckpointError: it is neither; the message names the nearest one that there is.
    """
    if not checkpoint:
        raise CheckpointError("checkpoint is empty: name a folder, a hub name (owner/name) or shipped:tiny")
    if checkpoint.startswith(_SHIPPED):
        path = _shipped_root() / checkpoint.removeprefix(_SHIPPED)
        if not path.is_dir():
            raise CheckpointError(
                f"checkpoint {checkpoint!r}: the package ships {', '.join(_shipped())} only; `vln_ros train "
                "FOLDER --config NAME` makes others, to be named as FOLDER/best"
                f"{_meant(checkpoint, _shipped())}"
            )
        return path
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"checkpoint {checkpoint!r} is a file; give the directory that holds config.json"
        )
    if _HUB_NAME.fullmatch(checkpoint):
        return None
    raise CheckpointError(
        f"checkpoint {checkpoint!r}: no such directory; give an existing directory or a hub name "
        f"(owner/name). `vln_ros tiny OUT` makes a small one{_meant(checkpoint, _known_beside(path))}"
    )


def check_checkpoint(checkpoint: str) -> None:
    """Something that may be such a checkpoint is there. Whether the hub has it, only the download says.

    Raises:
        CheckpointError: as :func:`find_local`, or the folder is none of a checkpoint.
    """
    folder = find_local(checkpoint)
    if folder is not None and not any((folder / name).exists() for name in _CONFIGS):
        raise CheckpointError(f"checkpoint {checkpoint!r}: the folder holds no config.json")


def published_like(checkpoint: str) -> str:
    """``; did you mean X?`` of the checkpoints that the shipped profiles were made for, or nothing."""
    return _meant(checkpoint, [name for name in _published() if name != checkpoint])


def _meant(checkpoint: str, known: list[str]) -> str:
    shipped = f"{_SHIPPED}{checkpoint.lower().strip('/')}"
    near = shipped if shipped in known else nearest(checkpoint, known)
    return f"; did you mean {near!r}?" if near else ""


def _known_beside(path: Path) -> list[str]:
    """What may be meant by a folder that is not there."""
    return [*_shipped(), *_published(), *_folders_in(path.parent)]


def _folders_in(parent: Path) -> Iterator[str]:
    try:
        yield from (str(p) for p in parent.iterdir() if any((p / name).is_file() for name in _CONFIGS))
    except OSError:  # no such folder, or no permission to look: then nothing is meant in it
        return


def _published() -> list[str]:
    names = (load_profile(profile).checkpoint for profile in list_profiles())
    return sorted(name for name in names if not name.startswith(_SHIPPED))


def _shipped_root() -> Path:
    return Path(str(resources.files("vln_ros"))) / "checkpoints"


def _shipped() -> list[str]:
    root = _shipped_root()
    return sorted(f"{_SHIPPED}{p.name}" for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
