"""``vln_ros bench places``: its settings exist, and its table and curves show what was run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.suites import places as bench
from vln_ros.config import ConfigError, EvalConfig, from_flat


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("setting", bench.SETTINGS, ids=lambda s: s.name)
def test_every_option_of_a_setting_exists(setting: bench.Setting) -> None:
    from_flat(EvalConfig, dict(setting.options))


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no such settings; there are .*lockstep"):
        bench.run(parsed("--only", "lockstop"))


@pytest.mark.slow
def test_a_proof_and_a_point_of_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "places.json"
    only = ["--only", "lockstep", "depth noise 1%"]
    assert bench.run(parsed("--episodes", "1", "--workers", "1", *only, "--json", str(record))) == 0
    figures = json.loads(record.read_text("utf-8"))
    assert [(f["name"], f["episodes"]) for f in figures["settings"]] == [
        ("lockstep", 1),
        ("depth noise 1%", 1),
    ]
    assert all(f["successes"] == 1 and f["collisions"] == 0 for f in figures["settings"])
    assert bench.section(figures) in capsys.readouterr().out
    bench.plot(figures, tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {"depth.png", "pixel.png"}
