"""The self-test finds a Habitat right, and finds it wrong where it is; the doctor looks at its Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from habitat_fakes import fake_python

from vln_ros.cli import build_parser
from vln_ros.cli.doctor import command as doctor
from vln_ros.config import ConfigError


def selftest(python: str) -> int:
    options = build_parser().parse_args(["habitat", "selftest", "--python", python])
    return int(options.run(options))


def test_a_right_one_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest(fake_python(tmp_path)) == 0
    text = capsys.readouterr().out
    for name in (
        "axes",
        "turn direction",
        "floor height",
        "walk",
        "depth",
        "intrinsics",
        "navigation mesh",
        "lockstep",
    ):
        assert f"ok  {name}" in text


WRONG = {
    "axes": {"axes"},
    "coarse": {"floor height"},
    "lifted": {"floor height", "walk"},
    "turn": {"turn direction"},
    "height": {"axes"},
    "hfov": {"depth", "intrinsics"},
    "principal": {"depth", "intrinsics"},
    "depth": {"depth", "intrinsics"},
    "normalised": {"depth", "intrinsics"},
    "stale": {"depth"},
    "colour": {"colour order"},
    "walls": {"collision"},
    "distance": {"navigation mesh"},
    "noise": {"lockstep"},
    "stage": {"scene"},
}
"""What the fake does wrong, and the checks that notice."""


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_one_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    assert selftest(fake_python(tmp_path, FAKE_HABITAT_WRONG=what)) == 1
    failed = {line[6:22].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")}
    assert failed & WRONG[what]


def test_the_doctor_looks_at_the_python(tmp_path: Path) -> None:
    found = doctor.look_at_habitat(fake_python(tmp_path))
    assert (found.verdict, "habitat_sim 0.3.3" in found.text) == ("ok", True)
    missing = doctor.look_at_habitat(sys.executable)
    assert missing.verdict == "fail"
    assert "conda install" in missing.remedy


def test_the_bench_times_both_ways_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = fake_python(tmp_path, FAKE_HABITAT_RENDER_MS="4")
    command = ["habitat", "bench", "--python", python, "--sizes", "64x48", "32x32"]
    options = build_parser().parse_args(
        [*command, "--blocks", "2", "--actions", "5", "--json", str(tmp_path / "bench.json")]
    )
    assert options.run(options) == 0
    assert "64x48  called directly" in capsys.readouterr().out
    first, second = json.loads((tmp_path / "bench.json").read_text())
    assert (first["size"], second["size"], first["blocks"], first["actions"]) == ("64x48", "32x32", 2, 5)
    for pace in (first, second):
        assert pace["through_us_hz"] > 0.0 and 0.0 < pace["direct_hz"] < 260.0  # it took its 4 ms
        assert pace["low"] <= pace["ratio"] <= pace["high"]
    for wrong in (["--sizes", "64"], ["--sizes", "0x4"], ["--blocks", "0"]):
        options = build_parser().parse_args([*command[:4], *wrong])
        with pytest.raises(ConfigError, match=r"must be|expected"):
            options.run(options)


@pytest.mark.slow
def test_our_flats_are_the_same_in_both_worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "habitat",
        "compare",
        "--python",
        fake_python(tmp_path),
        "--episodes",
        "4",
        "--engine",
        "expert",
    ]
    options = build_parser().parse_args([*command, "--size", "32x24", "--out", str(tmp_path / "kept")])
    assert options.run(options) == 0
    text = capsys.readouterr().out
    assert "100.0 % embedded, 100.0 % in Habitat, +0.0 points over 4 episodes" in text
    assert (tmp_path / "kept" / "habitat" / "report.html").exists()
