"""Runs a bench and writes its record: figures, command, machine, versions.

A bench is a module ``NAME`` of ``benchmarks/suites`` or of this folder, with ``HELP``, ``add_arguments``
(with ``--json``, which takes any JSON) and ``run``.
``vln_ros bench page`` makes docs/benchmarks/records.md from the records in docs/benchmarks. A bench that has
``TITLE`` and ``section(figures) -> str`` (Markdown) is shown as it likes, another one as a plain table.
``plot(figures, folder)`` gives a bench ``--plots``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vln_ros.cli.output.next_steps import print_next
from vln_ros.config import ConfigError
from vln_ros.evaluation.files import write_atomically

FORMAT = 1
PACKAGES = ("numpy", "torch", "transformers", "rclpy", "ros-jazzy-rclpy", "trimesh", "embreex", "scipy")
OUTPUTS = ("--json", "--plots")
BUSY_SHARE = 0.05
BROKEN_OFF = "Broken off: what had been measured by then."
NOT_MET = "The command ended with status 1: not everything was as it should be."


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it ran.

    Attributes:
        versions: of Python and of what the figures depend on.
        others: cores that other programs used, on average, while the bench ran; None where that is not known.
    """

    processor: str
    cores: int
    system: str
    gpu: str
    versions: dict[str, str]
    others: float | None

    def describe(self) -> str:
        parts = [f"{self.cores} x {self.processor}", self.gpu or "no GPU", self.system]
        return ", ".join([*parts, *(f"{k} {v}" for k, v in self.versions.items())])

    @property
    def was_busy(self) -> bool:
        """Other programs took enough of the machine to be seen in times."""
        return self.others is not None and self.others > BUSY_SHARE * self.cores


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one bench.

    Attributes:
        command: that repeats it; ``day``: ISO date; ``wall_s``: how long it took, if that is known.
        figures: whatever the bench writes.
        note: what a reader must know of how they came about.
    """

    bench: str
    command: str
    day: str
    wall_s: float | None
    machine: Machine
    figures: Any
    note: str = ""


def this_machine(others: float | None = None) -> Machine:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package.removeprefix("ros-jazzy-")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        gpu=_gpu(),
        versions=versions,
        others=None if others is None else round(others, 2),
    )


class _Others:
    """What everything but this process, and what it starts and waits for, uses from now on; Linux only.

    What the host of a virtual machine takes counts, too.
    """

    def __init__(self) -> None:
        self._begun = self._used_s(), time.monotonic()

    @property
    def cores(self) -> float | None:
        """On average; None in the first second, for which the kernel's ticks are too coarse."""
        (used_s, begun_s), now_s = self._begun, time.monotonic()
        return (self._used_s() - used_s) / (now_s - begun_s) if used_s and now_s - begun_s > 1.0 else None

    @staticmethod
    def _used_s() -> float:
        try:
            line = Path("/proc/stat").read_text("ascii").split("\n", 1)[0]
        except OSError:
            return 0.0
        user, nice, system, _idle, _waiting, *rest = (int(ticks) for ticks in line.split()[1:9])
        own = os.times()
        own_s = own.user + own.system + own.children_user + own.children_system
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - own_s


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a kernel that does not say
        return platform.processor() or "unknown processor"


def _gpu() -> str:
    try:
        found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        lines = [line for path in found for line in path.read_text("utf-8").splitlines()]
    except OSError:
        return ""
    return ", ".join(line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:"))


def run_bench(
    name: str,
    run: Callable[[argparse.Namespace], int],
    options: argparse.Namespace,
    plot: Callable[[Any, Path], None] | None = None,
) -> int:
    """Run a bench; what it writes as JSON becomes a record, and is drawn where ``--plots`` says so.

    Figures of a bench whose goals were not met, or that was interrupted, are a record too: its note says it.
    """
    others, begun_s = _Others(), time.monotonic()
    print(this_machine().describe(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        kept: Path | None = options.json
        path = kept or Path(scratch) / "figures.json"
        options.json = path
        path.parent.mkdir(parents=True, exist_ok=True)
        before_ns = _written_ns(path)
        interrupted: KeyboardInterrupt | None = None
        status = 1
        try:
            status = run(options)
        except KeyboardInterrupt as error:
            interrupted = error
        wall_s = time.monotonic() - begun_s
        machine = this_machine(others.cores)
        print(f"{wall_s:.0f} s; cores that other programs used: {machine.others}")
        if _written_ns(path) != before_ns:
            note = BROKEN_OFF if interrupted else NOT_MET if status else ""
            figures = json.loads(path.read_text("utf-8"))
            if isinstance(figures, dict) and {"format", "bench", "figures"} <= figures.keys():
                figures = figures["figures"]  # of an unfinished record
            write_record(
                Record(
                    bench=name,
                    command=_command(),
                    day=_day(),
                    wall_s=round(wall_s, 1),
                    machine=machine,
                    figures=figures,
                    note=note,
                ),
                path,
            )
            if plot is not None and options.plots is not None:
                plot(figures, options.plots)
                print(f"plots: {options.plots}")
            if kept is not None:
                print_next(f"vln_ros bench page --folder {kept.parent} --page FILE writes their page")
        if interrupted:
            raise interrupted
    return status


def write_unfinished(bench: str, figures: Any, path: Path) -> None:
    """What a long bench has measured so far, as a record that says so; it is there whatever ends the run."""
    write_record(
        Record(
            bench=bench,
            command=_command(),
            day=_day(),
            wall_s=None,
            machine=this_machine(),
            figures=figures,
            note=BROKEN_OFF,
        ),
        path,
    )


def _command() -> str:
    return shlex.join(["vln_ros", *_without_outputs(sys.argv[1:])])


def _day() -> str:
    return time.strftime("%Y-%m-%d")


def _written_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _without_outputs(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in OUTPUTS:
            skip = True
        elif not argument.startswith(tuple(f"{o}=" for o in OUTPUTS)):
            kept.append(argument)
    return kept


def write_record(record: Record, path: Path) -> None:
    write_atomically(path, json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Raises ConfigError: the file is no record."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.pop("format") != FORMAT:
            raise ConfigError(f"{path} was written by another version: run the bench again")
        return Record(machine=Machine(**content.pop("machine")), **content)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is no record of a bench: {error!r}") from error
