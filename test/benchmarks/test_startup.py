"""The bench of the nodes' start: what it measures is a node that has become active."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.suites import startup
from vln_ros.cli import main


@pytest.mark.ros
@pytest.mark.slow
def test_a_node_is_started_and_ended(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    start = startup.start_node(startup.ROOT, *startup.NODES["executor"], tmp_path / "node.log")
    assert "]: active" in (tmp_path / "node.log").read_text("utf-8")
    assert start.cpu_s > 0.0
    assert 0.0 < start.active_s < startup.TIMEOUT_S
    assert 20.0 < start.resident_mb < 2000.0


@pytest.mark.ros
@pytest.mark.slow
def test_a_node_that_does_not_start_says_why(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    with pytest.raises(RuntimeError, match=r"executor did not become active:\n(.|\n)*rate_hz"):
        startup.start_node(startup.ROOT, "executor", ("rate_hz:=-1.0",), tmp_path / "node.log")


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--repeats", "0"], "--repeats = 0: at least 1"), (["--against", "/nowhere"], "no checkout of this")],
)
def test_what_cannot_be_measured_is_said(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "startup", *given])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_table_has_each_node_in_each_checkout(tmp_path: Path) -> None:
    starts = [asdict(startup.Start(1.0 + i, 0.5 + i, 80.0 + i)) for i in range(3)]
    figures = json.loads(json.dumps({"executor": {"this checkout": starts, "commit abc": starts[:1]}}))
    text = startup.section(figures)
    assert "| executor | this checkout | 2.00 (1.00 – 3.00) | 1.50 (0.50 – 2.50) | 81 (80 – 82) | 3 |" in text
    assert "| executor | commit abc | 1.00 (1.00 – 1.00) |" in text
    startup.plot(figures, tmp_path)
    assert (tmp_path / "startup.png").stat().st_size > 1000
