"""``vln_ros bench page``: writes the pages of docs/benchmarks from the records of the benches."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.places import output_folder
from vln_ros.cli.bench import bench_module, summary
from vln_ros.cli.bench.all import ALL
from vln_ros.cli.bench.record import Record, read_record
from vln_ros.cli.output.next_steps import print_next
from vln_ros.config import ConfigError
from vln_ros.evaluation.files import write_atomically

HELP = "Write the pages of figures from the JSON files that the benches wrote"
FOLDER = Path("docs/benchmarks")
RECORDS, SUMMARY = "records.md", "index.md"
PLAIN_ROWS = 40

_HEAD = """# Benchmark records

Every record of a bench, with its command, its machine and all its figures.
[Benchmarks at a glance](index.md) says in a line each what they show.

Made by `vln_ros bench page` from the records in `docs/benchmarks/`; do not edit.

    vln_ros bench all --out docs/benchmarks && vln_ros bench page     # measures this machine anew{took}
    vln_ros bench NAME --json docs/benchmarks/NAME.json               # one bench; --plots DIR draws it, too

Among `all` are: {all}.
The others take longer, or need root, a trained policy or Ray. Ratios within one run are what to look at;
single times depend on the machine, and on what else runs on it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="folder of records (default: %(default)s)"
    )
    parser.add_argument("--out", type=output_folder, help="folder to write to (default: that of the records)")


def run(options: argparse.Namespace) -> int:
    out = options.out or options.folder
    for name, text in ((SUMMARY, make_summary(options.folder)), (RECORDS, make_page(options.folder))):
        write_atomically(out / name, text)
        print(f"wrote {out / name}")
    print_next(f"open {out / SUMMARY}")
    return 0


def make_page(folder: Path) -> str:
    """The page. Raises ConfigError: no records, or a file that is none."""
    records = read_records(folder)
    took_s = [r.wall_s for r in records if r.bench in ALL and r.wall_s is not None]
    took = f" ({sum(took_s) / 60:.0f} min)" if took_s else ""
    return "\n".join([_HEAD.format(took=took, all=", ".join(ALL)), *map(_section, records)])


def make_summary(folder: Path) -> str:
    """The page above it, with a line for each record. Raises ConfigError, as make_page."""
    records = read_records(folder)
    return summary.make_summary(records, {r.bench: _title(r.bench) for r in records}, anchor)


def read_records(folder: Path) -> list[Record]:
    """In the order of their names. Raises ConfigError: no records, or a file that is none."""
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise ConfigError(f"{folder} holds no records: run `vln_ros bench all --out {folder}`")
    return records


def anchor(heading: str) -> str:
    """As GitHub and MkDocs make it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def _title(name: str) -> str:
    bench: Any = bench_module(name)
    title: str = getattr(bench, "TITLE", bench.HELP)
    return title


def _section(record: Record) -> str:
    bench: Any = bench_module(record.bench)
    title = _title(record.bench)
    machine = record.machine
    text = bench.section(record.figures) if hasattr(bench, "section") else _plain(record.figures)
    busy = ""
    if machine.was_busy:
        busy = (
            f" **Other programs used {machine.others:.2f} of its cores meanwhile**: times are too long, and "
            "ratios are what to read."
        )
    note = f" {record.note}" if record.note else ""
    wall = "" if record.wall_s is None else f", {record.wall_s:.0f} s"
    facts = f"`{record.command}`, {record.day}{wall}. {machine.describe()}.{busy}{note}"
    return f"## {title}\n\n{facts}\n\n{text.strip()}\n"


def _plain(figures: Any) -> str:
    rows = list(_flat(figures, ""))
    omitted = len(rows) - PLAIN_ROWS
    more = f"\n... ({omitted} more in the record)\n" if omitted > 0 else ""
    return table(("figure", "value"), rows[:PLAIN_ROWS]) + more


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}, {key}" if name else key)
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{name} [{i}]")
    elif isinstance(value, list):
        yield name, f"{len(value)} values"
    else:
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
