"""The self-test finds a Habitat right, and finds it wrong where it is; the doctor looks at its Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from habitat_fakes import fake_python

from vln_ros.cli import build_parser, doctor


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
    found = doctor._habitat(fake_python(tmp_path))
    assert (found.verdict, "habitat_sim 0.3.3" in found.text) == ("ok", True)
    missing = doctor._habitat(sys.executable)
    assert missing.verdict == "fail"
    assert "conda install" in missing.remedy
