"""``vln_ros bench faults``: how fast the robot stands after each fault, measured on real processes."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure.fault_rig import LIMIT_MS, Fault, FaultFigures, Rig
from benchmarks.measure.faults import make_faults
from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.bench.record import read_record, write_unfinished
from vln_ros.config import ConfigError
from vln_ros.evaluation.files import write_atomically

TITLE = "Everything that can break, broken"
HELP = "Break everything that can break in a running graph, and time how fast the robot stands still"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--injections", type=int, default=20, help="times that each fault is injected (default: 20)"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FAULT", default=None, help="measure only faults with these names"
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        metavar="RECORD",
        default=None,
        help="measure nothing: put the faults of these records together; of one that comes again, the first",
    )
    add_json(parser)
    rename_options(parser, {"--join": "--merge"})


def run(options: argparse.Namespace) -> int:
    faults = make_faults()
    unknown = set(options.only or ()) - set(faults)
    if unknown:
        raise ConfigError(f"--only {' '.join(sorted(unknown))}: choose from {', '.join(faults)}")
    if options.merge is not None:
        figures = join(options.merge)
        print("\n".join([_header(), *(_line(name, f) for name, f in figures.items())]))
    else:
        figures = _measure(options, faults)
    if options.json is not None:
        write_atomically(options.json, json.dumps(_plain(figures), indent=2) + "\n")
    return 0 if all(f.passed for f in figures.values()) else 1


def _measure(options: argparse.Namespace, faults: dict[str, Fault]) -> dict[str, FaultFigures]:
    from tqdm import tqdm

    names = options.only or list(faults)
    figures: dict[str, FaultFigures] = {}
    print(_header())
    episodes = options.injections * len(names)  # an episode sees several
    with tempfile.TemporaryDirectory() as name, Rig(Path(name), episodes) as rig:
        for fault in tqdm(names, unit="fault", disable=None):
            figures[fault] = rig.measure(fault, faults[fault], options.injections)
            tqdm.write(_line(fault, figures[fault]))
            if options.json is not None:
                write_unfinished("faults", _plain(figures), options.json)
    return figures


def join(paths: Sequence[Path]) -> dict[str, FaultFigures]:
    """The faults of several records, in the order of :func:`make_faults`.

    Raises:
        ConfigError: a file is no record of this bench, or of another version of it.
    """
    found: dict[str, FaultFigures] = {}
    for path in paths:
        record = read_record(path)
        if record.bench != "faults":
            raise ConfigError(f"{path} is a record of bench {record.bench}: only those of faults are joined")
        for name, figures in record.figures.items():
            found.setdefault(name, FaultFigures(**figures))
    order = list(make_faults())
    unknown = sorted(set(found) - set(order))
    if unknown:
        raise ConfigError(f"no fault is called {', '.join(unknown)}: measure with this version")
    return {name: found[name] for name in order if name in found}


def _plain(figures: dict[str, FaultFigures]) -> dict[str, Any]:
    return {name: asdict(f) for name, f in figures.items()}


def _header() -> str:
    columns = f"{'n':>4}{'time-out':>10}{'p50 ms':>9}{'max ms':>9}"
    columns += f"{'reason':>9}{'flushed':>9}{'still':>8}{'resumed':>9}{'anew':>6}{'stood':>7}"
    return f"from the fault (after its time-out) to zero; allowed: {LIMIT_MS:.0f} ms\n{'fault':<23}{columns}"


def _line(name: str, f: FaultFigures) -> str:
    def of(count: int | None) -> str:
        return "-" if count is None else f"{count}/{f.injections}"

    times = f"{f.injections:>4}{f.due_ms:>10.0f}{f.p50_ms:>9.0f}{f.max_ms:>9.0f}"
    counts = f"{of(f.reason):>9}{of(f.flushed):>9}{of(f.still):>8}{of(f.resumed):>9}"
    return f"{name:<23}{times}{counts}{f.placed_anew:>6}{f.stood:>7}"


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = [(name, f["p50_ms"], f["p50_ms"], f["max_ms"]) for name, f in figures.items()]
    plot_bars(folder / "faults.png", TITLE, f"ms to zero, median to longest; allowed: {LIMIT_MS:.0f}", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    def row(name: str, f: FaultFigures) -> tuple[str, ...]:
        def of(count: int | None) -> str:
            return "-" if count is None else f"{count}/{f.injections}"

        due = f"{f.due_ms:.0f} ms" if f.due_ms else "-"
        times = (f"{f.p50_ms:.0f} ms", f"{f.max_ms:.0f} ms")
        anew = f", {f.placed_anew} elsewhere" if f.placed_anew else ""
        return name, due, *times, of(f.reason), of(f.flushed), of(f.still), of(f.resumed) + anew

    rows = [row(name, FaultFigures(**f)) for name, f in figures.items()]
    columns = ("fault", "time-out", "zero after, median", "longest", "reason said", "queue empty",
               "stood still", "went on afterwards")  # fmt: skip
    worst = max(figures, key=lambda name: float(figures[name]["max_ms"]))
    return table(columns, rows) + (
        "\nFrom the fault, or the end of its time-out, until the base hears zero; two control periods and "
        f"50 ms are allowed: {LIMIT_MS:.0f} ms. The longest was {figures[worst]['max_ms']:.0f} ms ({worst}). "
        "Real processes and topics, the embedded world in real time, a relay between robot and graph. An "
        "injection counts only if the robot drove when the fault came"
        f"{_stood(figures)}. *Elsewhere*: the fault was over, but the robot stood before something else or "
        "at its goal, and drove again where it was placed anew.\n"
    )


def _stood(figures: dict[str, Any]) -> str:
    stood = sum(f.get("stood", 0) for f in figures.values())
    return f" ({stood} more met one that stood already)" if stood else ""
