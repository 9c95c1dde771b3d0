"""``vln_ros bench kill``: an evaluation whose processes are killed at random loses and doubles nothing."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.places import add_json
from vln_ros.config import ConfigError, EvalConfig, FarmConfig, Scalar, from_flat
from vln_ros.evaluation.files import write_atomically

HELP = "Kill workers, Ray's node and the driver of an evaluation at random; compare with an undisturbed run"
TITLE = "An evaluation whose processes are killed"

_OPTIONS: dict[str, Scalar] = {
    "kind": "room",
    "camera.width": 32,
    "camera.height": 24,
    "navigator.engine": "expert",
    "navigator.expert.decision_ms": 40.0,
}
_PATIENCE_S = 240.0


@dataclass
class Tally:
    """What happened to one backend.

    Attributes:
        killed: how often, by victim.
        starts: of the driver, over all rounds.
        rounds: evaluations brought to their end.
        episodes: results over all rounds, each episode once per round.
        hung: a driver that was neither done nor ended, and had to be killed.
    """

    backend: str
    killed: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    rounds: int = 0
    episodes: int = 0
    hung: int = 0


class LostError(RuntimeError):
    """A result is missing, there twice, or another one than undisturbed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=20, help="kills per backend (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=30, help="episodes per round (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=("processes", "ray"),
        help="backends to measure (default: both, where Ray is installed)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of victims and moments (default: %(default)s)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    has_ray = importlib.util.find_spec("ray") is not None
    backends = args.backends or (["processes", "ray"] if has_ray else ["processes"])
    if "ray" in backends and not has_ray:
        raise ConfigError("--backends ray: Ray is not installed; pip install -r requirements-ray.txt")
    tallies = []
    with tempfile.TemporaryDirectory(prefix="vln_ros-kill-") as name:
        folder = Path(name)
        options = {**_OPTIONS, "episodes": args.episodes}
        wanted = _undisturbed(options, folder)
        for backend in backends:
            try:
                tallies.append(_torment(backend, folder, wanted, options, args))
            except LostError as error:
                print(f"{backend}: {error}", file=sys.stderr)
                return 1
    figures = {"kills": args.kills, "episodes": args.episodes, "backends": [asdict(t) for t in tallies]}
    print(section(figures))
    if args.json is not None:
        write_atomically(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


def section(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| backend | killed (-9) | driver started | rounds | results | missing, double or different |"]
    lines.append("|---|---|---|---|---|---|")
    for t in figures["backends"]:
        killed = ", ".join(f"{n} x {victim}" for victim, n in sorted(t["killed"].items()))
        lines.append(f"| {t['backend']} | {killed} | {t['starts']} x | {t['rounds']} | {t['episodes']} | 0 |")
    return "\n".join(lines)


Numbers = dict[str, tuple[str, str, int, str]]


def numbers_of(path: Path) -> Numbers:
    """What must be the same of every result. Raises LostError where an episode is there twice."""
    from vln_ros.evaluation.runs.lines import read_episodes

    try:
        episodes = read_episodes(path / "episodes.jsonl", repair=False)
    except ConfigError as error:
        raise LostError(str(error)) from error
    return {e.episode_id: (e.scene_id, e.ended, e.decisions, repr(e.metrics)) for e in episodes}


def _undisturbed(options: dict[str, Scalar], folder: Path) -> Numbers:
    from vln_ros.evaluation.driver import evaluate

    config = from_flat(EvalConfig, options)
    evaluate(
        config,
        FarmConfig(workers=0),
        folder / "reference",
        resume=False,
        command=["vln_ros", "bench", "kill"],
    )
    return numbers_of(folder / "reference")


def _torment(
    backend: str, folder: Path, wanted: Numbers, options: dict[str, Scalar], args: argparse.Namespace
) -> Tally:
    chance = random.Random(args.seed)
    victims = ["worker", "driver"] + (["node"] if backend == "ray" else [])
    tally = Tally(backend)
    left = args.kills
    while left or not tally.rounds:
        out = folder / f"{backend}_{tally.rounds}"
        dataset = folder / "reference" / "dataset"
        command = [
            sys.executable,
            "-m",
            "vln_ros",
            "eval",
            "--out",
            str(out),
            "--resume",
            "--dataset",
            str(dataset),
        ]
        command += [f"--backend={backend}", f"--workers={args.workers}"]
        command += [f"--set={name}={value}" for name, value in options.items()]
        while True:
            tally.starts += 1
            log = (folder / f"{backend}.log").open("ab")
            driver = subprocess.Popen(command, stdout=log, stderr=log)
            log.close()
            left -= _kill_some(driver, out, victims, left, chance, tally)
            status = _wait(driver, tally)
            if status == 0:
                break
            if status == 2:
                words = (folder / f"{backend}.log").read_text("utf-8", "replace").splitlines()
                raise LostError(f"the driver cannot go on: {words[-1] if words else ''}")
        found = numbers_of(out)
        if found != wanted:
            wrong = sorted(i for i in wanted if found.get(i) != wanted[i])
            raise LostError(
                f"round {tally.rounds}: {len(found)} results of {len(wanted)}, wrong or missing: {wrong[:5]}"
            )
        tally.rounds += 1
        tally.episodes += len(found)
    return tally


def _kill_some(
    driver: subprocess.Popen[bytes],
    out: Path,
    victims: list[str],
    left: int,
    chance: random.Random,
    tally: Tally,
) -> int:
    """Kill in one life of the driver, at random moments while episodes are under way; how many."""
    killed = 0
    before = _size(out)
    while killed < left and driver.poll() is None:
        # Not before it has done something: each life gets a little further.
        deadline_s = time.monotonic() + _PATIENCE_S
        while _size(out) == before and driver.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.5))
        before = _size(out)
        kind = chance.choice(victims)
        candidates = [driver.pid] if kind == "driver" else sorted(_processes(driver.pid, kind))
        if driver.poll() is not None or not candidates:
            continue
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(chance.choice(candidates), signal.SIGKILL)
            killed += 1
            tally.killed[kind] = tally.killed.get(kind, 0) + 1
        if kind != "worker":
            break  # without its node a driver may go on, or end; _wait finds out
    return killed


def _wait(driver: subprocess.Popen[bytes], tally: Tally) -> int:
    try:
        return driver.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        tally.hung += 1
        driver.kill()
        return driver.wait()


def _size(out: Path) -> int:
    path = out / "episodes.jsonl"
    return path.stat().st_size if path.exists() else 0


def _processes(root: int, kind: str) -> Iterator[int]:
    """Descendants of a driver that work on episodes, or that are Ray's node."""
    for pid in _descendants(root):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            worker = b"spawn_main" in line or line.startswith(b"ray::_Actor")
            if worker if kind == "worker" else b"/raylet " in line:
                yield pid


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]
