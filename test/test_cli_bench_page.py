"""The roof of the benches: records, and the page that is made from them and from nothing else."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vln_ros.cli import build_parser, main
from vln_ros.cli.bench_page import make_page
from vln_ros.cli.bench_record import Machine, Record, read_record, run_bench, write_record
from vln_ros.config import ConfigError

DOCS = Path(__file__).parents[1] / "docs"
MACHINE = Machine("Abacus 9", 2, "Linux x86_64", "", {"python": "3.11.7"}, (0.1, 1.9))
TIMINGS = {"floor plan": {"median_ms": 1.25, "p95_ms": 2.0, "n": 3}}
RECORD = Record("world", "vln_ros bench world", "2026-11-21", 61.0, MACHINE, TIMINGS)


def test_the_page_is_what_the_records_say() -> None:
    made = make_page(DOCS / "benchmarks")
    assert (DOCS / "benchmarks.md").read_text("utf-8") == made, "run `vln_ros bench page`"


def test_a_section_names_command_machine_and_load(tmp_path: Path) -> None:
    write_record(RECORD, tmp_path / "world.json")
    page = make_page(tmp_path)
    assert "## The embedded world\n\n`vln_ros bench world`, 2026-11-21, 61 s. 2 x Abacus 9, no GPU" in page
    assert "| floor plan | 1.2 ms | 2.0 ms | 3 |" in page
    assert "busy" not in page
    busy = replace(MACHINE, load=(3.5, 3.5))
    write_record(replace(RECORD, machine=busy), tmp_path / "world.json")
    assert "**The machine was busy with other programs** (load before and after (3.5, 3.5))" in make_page(
        tmp_path
    )


def test_a_bench_without_a_section_is_a_plain_table(tmp_path: Path) -> None:
    figures = {"a": [{"b": 1.23456}, {"b": "x"}], "many": list(range(9)), "n": {str(i): i for i in range(60)}}
    write_record(replace(RECORD, bench="page", figures=figures), tmp_path / "page.json")
    page = make_page(tmp_path)
    assert "| a [0], b | 1.235 |\n| a [1], b | x |\n| many | 9 values |" in page
    assert "... (23 more in the record)" in page


def test_a_bench_becomes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", ["vln_ros", "bench", "world", "--frames", "3", "--json", str(path)])
    options = build_parser().parse_args(sys.argv[1:])

    def bench(given: object) -> int:
        assert given is options
        path.write_text('{"a": 1}')
        return 0

    assert run_bench("world", bench, options) == 0
    record = read_record(path)
    assert record.command == "vln_ros bench world --frames 3"
    assert record.figures == {"a": 1}
    assert record.machine.cores > 0
    assert run_bench("world", lambda _: 1, options) == 1
    assert read_record(path) == record  # what failed leaves no record


def test_records_survive_the_file(tmp_path: Path) -> None:
    write_record(RECORD, tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == RECORD


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1}', '{"format": 0}'])
def test_bad_records_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json"):
        make_page(tmp_path)


def test_no_records_and_unknown_benches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="holds no records"):
        make_page(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "all", "--only", "wolrd"])
    assert ended.value.code == 2
    assert "wolrd: no such bench; there are" in capsys.readouterr().err


def test_committed_records_have_their_bench_and_its_name() -> None:
    for path in (DOCS / "benchmarks").glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        assert record["bench"] == path.stem
        assert record["command"].startswith(f"vln_ros bench {path.stem}")
