"""Records of a policy's tables: put together, and refused where they are not of the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suites import policy as bench_policy
from vln_ros.cli.bench.record import Record, read_record, this_machine, write_record
from vln_ros.config import ConfigError

ESTIMATE = {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 4}
MEASURES = (
    "success", "spl", "oracle_success", "navigation_error_m", "path_length_m", "ndtw", "sdtw", "collisions",
    "steps",
)  # fmt: skip


def baseline(kind: str, name: str) -> dict[str, Any]:
    summary = {"episodes": 4, "unreachable": 0, **dict.fromkeys(MEASURES, ESTIMATE)}
    return {"kind": kind, "name": name, "summary": summary}


def way(kind: str, name: str, against: str, decisions: float = 5.0) -> dict[str, Any]:
    return {
        "kind": kind, "name": name, "against": against, "episodes": 4, "success": ESTIMATE, "spl": ESTIMATE,
        "gain": ESTIMATE, "same": 1.0, "agreement": 1.0, "reuse": 0.0, "net_ms": 0.0, "decisions": decisions,
        "tokens": 9.0, "median_ms": 1.0, "high_ms": 2.0,
    }  # fmt: skip


def written(path: Path, command: str, bench: str = "policy", **figures: Any) -> Path:
    common = {
        "checkpoint": "shipped:tiny",
        "fingerprint": "f",
        "profile": "tiny",
        "device": "cpu",
        "size": "160x120",
        "episodes": 4,
        "baselines": [],
        "ways": [],
    }
    write_record(
        Record(
            bench=bench,
            command=command,
            day="2026-01-01",
            wall_s=1.0,
            machine=this_machine(),
            figures=common | figures,
        ),
        path,
    )
    return path


def test_joined_rows_stand_by_kind_and_reference_and_once(tmp_path: Path) -> None:
    flats = written(
        tmp_path / "a.json", "vln_ros bench policy --kinds flat small --against stream",
        baselines=[baseline("flat", "policy")],
        ways=[
            way("flat", "stream", "stream"), way("small", "stream", "stream", 5.0),
            way("small", "landmark memory", "stream"),
        ],
    )  # fmt: skip
    rooms = written(
        tmp_path / "b.json", "vln_ros bench policy --kinds room",
        baselines=[baseline("room", "policy"), baseline("room", "expert")],
        ways=[
            way("room", "full recompute", "full recompute"), way("room", "stream", "full recompute"),
            way("small", "stream", "stream", 7.0),
        ],
    )  # fmt: skip
    out = tmp_path / "joined.json"
    options = bench_policy_arguments(["--merge", str(flats), str(rooms), "--json", str(out)])
    assert bench_policy.run(options) == 0
    joined = bench_policy.join([flats, rooms])
    assert [(b["kind"], b["name"]) for b in joined["baselines"]] == [
        ("room", "policy"), ("room", "expert"), ("flat", "policy"),
    ]  # fmt: skip
    assert [(w["kind"], w["name"], w["decisions"]) for w in joined["ways"]] == [
        ("room", "full recompute", 5.0), ("room", "stream", 5.0), ("small", "stream", 5.0),
        ("small", "landmark memory", 5.0), ("flat", "stream", 5.0),
    ]  # fmt: skip
    text = bench_policy.section(joined)
    assert text.count("Kind of flats: small; reference: stream.") == 1
    assert "    vln_ros bench policy --kinds room\n" in text
    assert "vln_ros bench policy" not in bench_policy.section(read_record(rooms).figures)


def bench_policy_arguments(given: list[str]) -> Any:
    parser = argparse.ArgumentParser()
    bench_policy.add_arguments(parser)
    return parser.parse_args(given)


def test_records_of_something_else_are_not_joined(tmp_path: Path) -> None:
    one = written(tmp_path / "one.json", "vln_ros bench policy")
    other = written(tmp_path / "other.json", "vln_ros bench policy", fingerprint="g")
    with pytest.raises(ConfigError, match=r"other\.json has fingerprint g, .*one\.json has f: measure both"):
        bench_policy.join([one, other])
    with pytest.raises(ConfigError, match="record of bench reuse"):
        bench_policy.join([one, written(tmp_path / "reuse.json", "vln_ros bench reuse", "reuse")])
    with pytest.raises(ConfigError, match="cannot read"):
        bench_policy.join([one, tmp_path / "none.json"])
