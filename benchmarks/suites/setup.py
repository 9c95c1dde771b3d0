"""``vln_ros bench setup``: from a bare clone to a robot that moves."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import ConfigError
from vln_ros.evaluation.files import write_atomically

TITLE = "Set-up"
HELP = "Time the way from a bare clone to a running demo (needs git, make and a package index)"
ROOT = Path(__file__).parents[2]
WARM = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ci", action="store_true", help="also time .ci/run from a bare clone (minutes)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    if not (ROOT / ".git").exists():
        raise ConfigError(f"{ROOT} is no git checkout: run this from a clone of the repository")
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        fresh = _clone(Path(name) / "demo")
        figures["`make demo` from a bare clone (set-up included)"] = [_seconds(["make", "demo"], fresh)]
        figures["`make demo`, warm"] = [_seconds(["make", "demo"], fresh) for _ in range(WARM)]
        if options.ci:
            checked = _clone(Path(name) / "ci")
            figures["`.ci/run` from a bare clone (set-up, checks, every test)"] = [
                _seconds([".ci/run"], checked)
            ]
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def _seconds(command: list[str], folder: Path) -> float:
    begun = time.monotonic()
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise ConfigError(f"{' '.join(command)} failed in a fresh clone")
    return round(time.monotonic() - begun, 1)


def plot(figures: dict[str, list[float]], folder: Path) -> None:
    bars = [(name.replace("`", ""), median(s), min(s), max(s)) for name, s in figures.items()]
    plot_bars(folder / "setup.png", TITLE, "s, median, least to most", bars)


def section(figures: dict[str, list[float]]) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (name, f"{median(s):.0f}" + (f" ({min(s):.0f} – {max(s):.0f})" if len(s) > 1 else ""), len(s))
        for name, s in figures.items()
    ]
    return table(("", "seconds (least – most)", "runs"), rows)
