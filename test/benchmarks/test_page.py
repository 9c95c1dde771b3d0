"""The roof of the benches: records, and the page that is made from them and from nothing else."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure.fault_rig import FaultFigures
from benchmarks.suites import world as bench_world
from benchmarks.suites.collisions import CollisionFigures
from benchmarks.suites.soak import SoakFigures
from benchmarks.suites.tracking import TrackingFigures
from vln_ros.cli import BENCHES, build_parser, main
from vln_ros.cli.bench import bench_module
from vln_ros.cli.bench.all import ALL
from vln_ros.cli.bench.page import anchor, make_page, make_summary
from vln_ros.cli.bench.record import (
    BROKEN_OFF,
    NOT_MET,
    Machine,
    Record,
    read_record,
    run_bench,
    write_record,
    write_unfinished,
)
from vln_ros.cli.bench.summary import GROUPS
from vln_ros.config import ConfigError

DOCS = Path(__file__).parents[2] / "docs"
MACHINE = Machine(
    processor="Abacus 9", cores=2, system="Linux x86_64", gpu="", versions={"python": "3.11.7"}, others=0.01
)
TIMINGS = {"floor plan": {"median_ms": 1.25, "p95_ms": 2.0, "n": 3}}
RECORD = Record(
    bench="world",
    command="vln_ros bench world",
    day="2026-11-21",
    wall_s=61.0,
    machine=MACHINE,
    figures=TIMINGS,
)


def test_the_page_is_what_the_records_say() -> None:
    for name, make in (("records.md", make_page), ("index.md", make_summary)):
        assert (DOCS / "benchmarks" / name).read_text("utf-8") == make(DOCS / "benchmarks"), (
            "run `vln_ros bench page`"
        )


def test_the_summary_has_a_line_for_every_committed_record() -> None:
    text = make_summary(DOCS / "benchmarks")
    for path in (DOCS / "benchmarks").glob("*.json"):
        assert f"#{anchor(bench_module(path.stem).TITLE)})" in text, path
    assert "a part of the bench only" not in text
    headlines = [line.bench for group in GROUPS.values() for line in group]
    assert len(headlines) == len(set(headlines))
    assert set(headlines) <= set(BENCHES)


def test_the_readme_says_what_the_records_say() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    faults, web, policy = (
        read_record(DOCS / f"benchmarks/{name}.json").figures for name in ("faults", "web", "policy")
    )
    injections, still = (sum(f[key] for f in faults.values()) for key in ("injections", "still"))
    reached = {
        b["kind"]: b["summary"]["success"]["mean"] for b in policy["baselines"] if b["name"] == "policy"
    }
    for said in (
        f"{len(faults)} faults, injected {injections} times: the robot stood still in {still}",
        f"STOP in {web['stop_max_ms']:.0f} ms at most, {web['stops']} times",
        f"{100 * reached['room']:g} % of goals in a room, {100 * reached['small']:g} % in small flats, "
        f"{100 * reached['flat']:g} % in whole flats",
    ):
        assert said in readme, "the records say something else now: put it there"


def test_the_summary_says_what_the_record_says(tmp_path: Path) -> None:
    faults = {"no odometry": asdict(FAULT), "pause": asdict(replace(FAULT, max_ms=99.0))}
    write_record(replace(RECORD, bench="faults", figures=faults), tmp_path / "faults.json")
    write_record(replace(RECORD, bench="reuse", figures={"geometry": []}), tmp_path / "reuse.json")
    text = make_summary(tmp_path)
    assert "2 faults were injected, 40 times in all. It stood still in 38." in text
    assert "99 ms (pause)" in text
    assert (
        "[Everything that can break, broken](records.md#everything-that-can-break-broken), 2026-11-21 |"
        in text
    )
    assert "a part of the bench only" in text
    assert "More records" not in text
    assert "How fast is the simulator?" not in text


def test_a_bench_without_a_headline_is_listed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(RECORD, tmp_path / "world.json")
    monkeypatch.setattr("vln_ros.cli.bench.summary.GROUPS", {})
    text = make_summary(tmp_path)
    assert "## More records\n\n- [The embedded world](records.md#the-embedded-world), 2026-11-21\n" in text


def test_the_command_writes_both_pages(tmp_path: Path) -> None:
    write_record(RECORD, tmp_path / "world.json")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "page", "--folder", str(tmp_path)])
    assert ended.value.code == 0
    assert (tmp_path / "index.md").read_text("utf-8") == make_summary(tmp_path)
    assert (tmp_path / "records.md").read_text("utf-8") == make_page(tmp_path)


def test_a_section_names_command_machine_and_who_else_used_it(tmp_path: Path) -> None:
    write_record(RECORD, tmp_path / "world.json")
    page = make_page(tmp_path)
    assert "## The embedded world\n\n`vln_ros bench world`, 2026-11-21, 61 s. 2 x Abacus 9, no GPU" in page
    assert "| floor plan | 1.2 ms | 2.0 ms | 3 |" in page
    assert "Other programs" not in page
    busy = replace(MACHINE, others=0.5)
    write_record(replace(RECORD, machine=busy), tmp_path / "world.json")
    assert "**Other programs used 0.50 of its cores meanwhile**" in make_page(tmp_path)


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
    assert record.machine.others is None or -0.1 < record.machine.others <= record.machine.cores + 0.1
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


def test_what_misses_its_goal_or_is_broken_off_is_a_record_that_says_so(tmp_path: Path) -> None:
    path, plots = tmp_path / "new" / "x.json", tmp_path / "plots"
    options = build_parser().parse_args(["bench", "world", "--json", str(path), "--plots", str(plots)])
    drawn: list[tuple[object, Path]] = []

    def missed(_: object) -> int:
        path.write_text('{"a": 1}')
        return 1

    assert run_bench("world", missed, options, lambda f, folder: drawn.append((f, folder))) == 1
    assert read_record(path).note == NOT_MET
    assert drawn == [({"a": 1}, plots)]

    def interrupted(_: object) -> int:
        path.write_text('{"a": 2}')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench("world", interrupted, options)
    record = read_record(path)
    assert (record.note, record.figures) == (BROKEN_OFF, {"a": 2})


def test_what_a_long_bench_has_so_far_is_a_record_whatever_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "faults.json"
    monkeypatch.setattr(sys, "argv", ["vln_ros", "bench", "faults", "--json", str(path)])
    options = build_parser().parse_args(["bench", "faults", "--json", str(path)])
    figures = {"no odometry": asdict(FAULT)}

    class Killed(BaseException):
        """Nothing of the command runs any more."""

    def bench(end: BaseException | None) -> Callable[[argparse.Namespace], int]:
        def run(given: argparse.Namespace) -> int:
            write_unfinished("faults", figures, given.json)
            if end is not None:
                raise end
            return 0

        return run

    for end in (Killed(), RuntimeError("the robot does not drive")):
        path.unlink(missing_ok=True)
        with pytest.raises(type(end)):
            run_bench("faults", bench(end), options)
        record = read_record(path)
        assert (record.bench, record.note, record.wall_s) == ("faults", BROKEN_OFF, None)
        assert (record.command, record.figures) == ("vln_ros bench faults", figures)
    assert BROKEN_OFF in make_page(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_bench("faults", bench(KeyboardInterrupt()), options)
    record = read_record(path)
    assert (record.note, record.figures) == (BROKEN_OFF, figures)
    assert record.wall_s is not None
    assert run_bench("faults", bench(None), options) == 0
    record = read_record(path)
    assert (record.note, record.figures) == ("", figures)


def test_records_of_some_faults_are_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def record(name: str, **figures: FaultFigures) -> str:
        plain = {fault.replace("_", " "): asdict(f) for fault, f in figures.items()}
        path = tmp_path / f"{name}.json"
        write_record(replace(RECORD, bench="faults", figures=plain, note=BROKEN_OFF), path)
        return str(path)

    good = replace(FAULT, still=20)
    first = record("first", pause=good, no_scan=good)
    second = record("second", no_odometry=good, pause=FAULT)
    out = tmp_path / "faults.json"

    def status(*arguments: str) -> object:
        with pytest.raises(SystemExit) as ended:
            main(["bench", "faults", "--merge", *arguments])
        return ended.value.code

    assert status(first, second, "--json", str(out)) == 0
    joined = read_record(out)
    assert list(joined.figures) == ["no odometry", "no scan", "pause"]
    assert joined.figures["pause"] == asdict(good)  # the first
    assert status(second) == 1  # one did not stand still
    capsys.readouterr()
    gone = record("gone", a_fault_of_old=good)
    other = tmp_path / "world.json"
    write_record(RECORD, other)
    for path, said in ((gone, "no fault is called a fault of old"), (str(other), "record of bench world")):
        assert status(path) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"placed_anew": 3, "stood": 4}, True),
        ({"max_ms": 151.0}, False),
        ({"still": 19}, False),
        ({"resumed": 19}, False),
        ({"reason": 19}, False),
        ({"flushed": 19}, False),
        ({"reason": None, "flushed": None}, True),
    ],
)
def test_a_fault_passes_only_whole(changed: dict[str, Any], passed: bool) -> None:
    figures = FaultFigures(20, 500.0, 41.0, 66.0, 20, 20, 20, 20)
    assert replace(figures, **changed).passed is passed


def test_plots_need_no_json(tmp_path: Path) -> None:
    options = build_parser().parse_args(["bench", "world", "--plots", str(tmp_path)])

    def bench(given: argparse.Namespace) -> int:
        given.json.write_text(json.dumps(TIMINGS))
        return 0

    assert run_bench("world", bench, options, bench_world.plot) == 0
    assert (tmp_path / "world.png").read_bytes()[:4] == b"\x89PNG"


FAULT = FaultFigures(20, 500.0, 41.0, 66.0, 20, None, 19, 20)
TRACKING = TrackingFigures(3, 9, 0.011, 0.02, 0.031, 0.4, 0.9, 1.2, 0.01, 0.012, 12.5, 0, 0.1, 0.11)
COLLISIONS = CollisionFigures(100, 200, 3, 7, 0.95)
SOAK = SoakFigures(
    30.0,
    {"executor": [(1.0, 90.0), (7.0, 100.0), (29.5, 101.5)]},
    {"executor": 3.0},
    9000,
    2,
    4.0,
    25.0,
    {"received": 7},
    1,
)


@pytest.mark.parametrize(
    ("bench", "figures", "said"),
    [
        ("faults", {"no odometry": asdict(FAULT)},
         ["| no odometry | 500 ms | 41 ms | 66 ms | 20/20 | - | 19/20 | 20/20 |", "longest was 66 ms"]),
        ("faults", {"pause": asdict(replace(FAULT, placed_anew=2, stood=3))},
         ["19/20 | 20/20, 2 elsewhere |", "when the fault came (3 more met one that stood already)"]),
        ("tracking", {"ideal base": {"plain": asdict(TRACKING)}},
         ["3 random queues (9 actions", "| plain | 1.1 / 2.0 / 3.1 | 0.4 / 0.9 / 1.2 | 1.0 / 1.2 |"]),
        ("collisions", {"depth": asdict(COLLISIONS)},
         ["| depth | 100 | 200 | 3 = 1.5 % (0.5 – 4.3) | 7 | 95% |"]),
        ("soak", asdict(SOAK),
         ["| executor | 100.0 MB | 101.5 MB | +3.0 MB/h |", "9000 control periods, 2 of them", "received 7"]),
    ],
)  # fmt: skip
def test_the_robots_benches_have_sections_and_plots(
    bench: str, figures: object, said: list[str], tmp_path: Path
) -> None:
    write_record(replace(RECORD, bench=bench, command="c", figures=figures), tmp_path / f"{bench}.json")
    page = make_page(tmp_path)
    for text in said:
        assert text in page
    module = bench_module(bench)
    module.plot(json.loads(json.dumps(figures)), tmp_path)
    assert (tmp_path / f"{bench}.png").stat().st_size > 1000


@pytest.mark.slow
def test_committed_records_can_be_drawn(tmp_path: Path) -> None:
    for path in (DOCS / "benchmarks").glob("*.json"):
        module = bench_module(path.stem)
        if hasattr(module, "plot"):
            module.plot(read_record(path).figures, tmp_path / path.stem)
            assert list((tmp_path / path.stem).glob("*.png")), path


@pytest.mark.parametrize("bench", BENCHES)
def test_every_bench_says_how_the_page_shows_it(bench: str) -> None:
    module = bench_module(bench)
    assert module.TITLE
    assert callable(module.section)
    assert hasattr(build_parser().parse_args(["bench", bench]), "json")


def test_all_are_benches_and_the_page_says_how_long_they_take(tmp_path: Path) -> None:
    assert set(ALL) <= set(BENCHES)
    write_record(RECORD, tmp_path / "world.json")
    assert "measures this machine anew (1 min)" in make_page(tmp_path)


@pytest.mark.parametrize("given", [["engine"], ["graph", "--episodes", "3"], ["world", "--help"], ["all"]])
def test_what_lies_in_the_repository_says_so_where_it_is_not(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vln_ros.cli.bench.checkout", lambda: None)  # as where only the package is installed
    with pytest.raises(SystemExit) as ended:
        main(["bench", *given])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "is not part of an installed package" in error
    assert "a checkout of the repository" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("bench", ["link", "nodes", "roofline"])
def test_an_installed_package_has_the_benches_of_a_robot(bench: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vln_ros.cli.bench.checkout", lambda: None)
    assert hasattr(build_parser().parse_args(["bench", bench]), "json")
    with pytest.raises(SystemExit) as ended:
        main(["bench", bench, "--help"])
    assert ended.value.code == 0
