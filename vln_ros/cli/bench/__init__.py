"""``vln_ros bench``: measures this machine. Most benches lie beside the package, in ``benchmarks/suites``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import vln_ros
from vln_ros.config import ConfigError

INSTALLED = ("all", "link", "nodes", "page", "roofline")
"""Those that are in the package, for robots and machines that have only that."""


def checkout() -> Path | None:
    """The repository that this package is imported from; None where it is installed."""
    root = Path(vln_ros.__file__).resolve().parents[1]
    return root if (root / "benchmarks" / "suites").is_dir() else None


def is_here(name: str) -> bool:
    """A bench can be run without fetching anything."""
    return name in INSTALLED or checkout() is not None


def bench_module(name: str) -> ModuleType:
    """A bench, or ``all`` or ``page``.

    Raises:
        ConfigError: it lies in the repository, and this package is installed without it.
    """
    if name in INSTALLED:
        return importlib.import_module(f"vln_ros.cli.bench.{name}")
    root = checkout()
    if root is None:
        raise ConfigError(
            f"bench {name} is not part of an installed package ({Path(vln_ros.__file__).parent}): run it in "
            f"a checkout of the repository; here there are {', '.join(INSTALLED)}"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"benchmarks.suites.{name}")
