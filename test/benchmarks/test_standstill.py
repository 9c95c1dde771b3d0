"""`vln_ros bench standstill`: a standing camera costs little, a moving one is looked at."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.suites import standstill
from vln_ros.config import ConfigError


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    standstill.add_arguments(parser)
    return parser.parse_args(given)


def test_every_drive_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert standstill.run(options("--duration-s", "0.5", "--json", str(tmp_path / "f.json"))) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    said = capsys.readouterr().out
    for name, count in figures.items():
        assert name in said and 0 < count["computed"] <= count["frames"] == 15
    # The first frames are computed while the noise is not known.
    still = figures["standing, noise of 1 grey level"]
    moving = figures["turning by 15 degrees a second"]
    assert still["computed"] <= 8 < moving["computed"] == 15
    assert still["noise"] == pytest.approx(1.41, rel=0.2)
    assert "| standing, noise of 1 grey level |" in standstill.section(figures)


def test_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="--duration-s"):
        standstill.run(options("--duration-s", "0"))
