"""``vln_ros bench places``: from a pixel to the wheels, proven by an oracle that answers with pixels."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import Point, plot_lines
from vln_ros.config import ConfigError, Scalar
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import Estimate, share

TITLE = "Driving to a pixel, proven by an oracle"
HELP = "Run the oracle that answers with pixels: lockstep, real time, Habitat's protocol, and with errors"
DEPTH_NOISE = (0.01, 0.02, 0.03, 0.05)
"""Standard deviations, as shares of the depth."""
PIXEL_NOISE_PX = (4.0, 8.0, 16.0)
_SIZE = (320, 240)
_LOCKSTEP: dict[str, Scalar] = {
    "camera.pitch_down_deg": 30.0,
    "camera.width": _SIZE[0],
    "camera.height": _SIZE[1],
    "navigator.place.robot_radius_m": 0.2,
    "navigator.place.stop_distance_m": 0.0,
}
_DEPTH, _PIXEL = "camera.depth_noise", "navigator.pixel_oracle.pixel_noise_px"


@dataclass(frozen=True)
class Setting:
    """One way to run the oracle.

    Attributes:
        many: it is a proof, and runs all episodes; a point of a curve runs fewer.
        options: of ``vln_ros eval --set``.
        protocol: of ``vln_ros eval``.
    """

    name: str
    many: bool
    options: dict[str, Scalar]
    protocol: str = ""


SETTINGS = (
    Setting("lockstep", True, _LOCKSTEP),
    Setting(
        "lockstep, Habitat's protocol of R2R, second camera",
        True,
        {
            "camera.look_down_deg": 30.0,
            "navigator.pixel_oracle.picture": "camera",
            "navigator.place.robot_radius_m": 0.2,
            "navigator.place.stop_distance_m": 0.0,
        },
        "r2r-vlnce",
    ),
    Setting(
        "the same oracle through arrows", True, {**_LOCKSTEP, "navigator.pixel_oracle.answers": "arrows"}
    ),
    *(Setting(f"depth noise {share:.0%}", False, {**_LOCKSTEP, _DEPTH: share}) for share in DEPTH_NOISE),
    *(Setting(f"pixel noise {px:g} px", False, {**_LOCKSTEP, _PIXEL: px}) for px in PIXEL_NOISE_PX),
    Setting("depth noise 5%, pixel noise 8 px", False, {**_LOCKSTEP, _DEPTH: 0.05, _PIXEL: 8.0}),
)
REAL_TIME = "real time, cmd_vel"


@dataclass(frozen=True)
class Figures:
    """What a setting came to. ``spl`` holds mean and ends; None where there are none."""

    name: str
    episodes: int
    successes: int
    spl: tuple[float | None, float | None, float | None]
    error_m: float
    collisions: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--episodes", type=int, default=100, help="whole flats of val_unseen per proof (default: %(default)s)"
    )
    parser.add_argument(
        "--curve-episodes", type=int, default=20, help="flats per point of a curve (default: %(default)s)"
    )
    parser.add_argument(
        "--real-time-episodes",
        type=int,
        default=40,
        help="flats in real time; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--speed", type=float, default=2.0, help="simulated seconds per second, in real time (default: 2)"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", default=None, metavar="NAME", help="measure these settings only (default: all)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    names = [s.name for s in SETTINGS] + [REAL_TIME] * (options.real_time_episodes > 0)
    chosen = options.only or names
    if unknown := sorted(set(chosen) - set(names)):
        raise ConfigError(f"--only = {unknown}: no such settings; there are {names}")
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(n for n in names if n in chosen):
            out = Path(folder) / str(number)
            setting = next((s for s in SETTINGS if s.name == name), None)
            command = _real_time(options) if setting is None else _lockstep(setting, options)
            _call([*command, "--out", str(out)])
            found.append(_figures(name, out))
            print(_line(found[-1]), flush=True)
    figures = {"settings": [asdict(f) for f in found], "speed": options.speed}
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _lockstep(setting: Setting, options: argparse.Namespace) -> list[str]:
    count = options.episodes if setting.many else min(options.episodes, options.curve_episodes)
    command = ["eval", "--engine", "pixel_oracle", "--kind", "flat", "--episodes", str(count)]
    command += ["--workers", str(options.workers)]
    if setting.protocol:
        command += ["--protocol", setting.protocol]
    for name, value in setting.options.items():
        command += ["--set", f"{name}={value}"]
    return command


def _real_time(options: argparse.Namespace) -> list[str]:
    command = ["demo", "--engine", "pixel_oracle", "--mode", "realtime", "--kind", "flat", "--no-video"]
    return [*command, "--episodes", str(options.real_time_episodes), "--speed", str(options.speed)]


def _call(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "vln_ros", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise ConfigError(f"vln_ros {' '.join(arguments)} failed:\n{said}")


def _figures(name: str, out: Path) -> Figures:
    from vln_ros.evaluation.episode.metrics import summarise
    from vln_ros.evaluation.runs.lines import read_episodes
    from vln_ros.evaluation.runs.results import finite_tree

    metrics = [
        r.metrics for r in read_episodes(out / "episodes.jsonl", repair=False) if r.metrics is not None
    ]
    summary = summarise(metrics)
    spl = summary.spl
    return Figures(
        name,
        len(metrics),
        sum(bool(m.success) for m in metrics),
        (finite_tree(spl.mean), finite_tree(spl.low), finite_tree(spl.high)),
        summary.navigation_error_m.mean,
        summary.collisions.mean,
    )


def _row(f: Figures) -> tuple[str, ...]:
    success = share(f.successes, f.episodes)
    middle, low, high = (math.nan if v is None else v for v in f.spl)
    spl = Estimate(middle, low, high, f.episodes)
    return (
        f.name,
        f"{f.successes}/{f.episodes} = {success.mean:.1%} ({success.interval('.0f', 100.0)})",
        f"{100 * spl.mean:.1f} % ({spl.interval('.1f', 100.0)})",
        f"{f.error_m:.2f} m",
        f"{f.collisions:.2f}",
    )


def _line(f: Figures) -> str:
    return ", ".join(_row(f))


def _loaded(figures: dict[str, Any]) -> list[Figures]:
    return [Figures(**{**f, "spl": tuple(f["spl"])}) for f in figures["settings"]]


def plot(figures: dict[str, Any], folder: Path) -> None:
    """Success over the error of depth, and over the error of the pixel, with its interval."""
    found = {f.name: share(f.successes, f.episodes) for f in _loaded(figures)}
    for file, label, values, name, scale in (
        ("depth.png", "standard deviation of depth [%]", DEPTH_NOISE, "depth noise {:.0%}", 100.0),
        ("pixel.png", "standard deviation of the pixel [px]", PIXEL_NOISE_PX, "pixel noise {:g} px", 1.0),
    ):
        named = [(0.0, "lockstep"), *((scale * value, name.format(value)) for value in values)]
        points = [
            Point(x, 100 * e.mean, 100 * e.low, 100 * e.high)
            for x, key in named
            if (e := found.get(key)) is not None
        ]
        plot_lines(
            folder / file, TITLE, (label, "success [%], 95 % interval"), {"whole flats, lockstep": points}
        )


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    rows = [_row(f) for f in _loaded(figures)]
    return (
        table(("", "success", "SPL", "error", "collisions per episode"), rows)
        + "\nWhole flats of val_unseen; 95 % intervals in brackets (success Wilson, SPL BCa bootstrap). "
        f"Camera {_SIZE[0]}x{_SIZE[1]}, 30 degrees down. Noise of depth is alike in patches of a sixteenth "
        f"of the picture. Real time: executor with its obstacle stop, at {figures['speed']:g} times.\n"
    )
