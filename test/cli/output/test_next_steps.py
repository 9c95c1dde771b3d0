"""What a command says comes next can be typed as it stands, and does it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from vln_ros.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> list[str]:
    """The steps that a command names at its end."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == status, captured.err
    return re.findall(r"^next: (.*)$", captured.out, re.MULTILINE)


def typed(capsys: pytest.CaptureFixture[str], step: str, *more: str | Path) -> list[str]:
    """Type a step: all up to the words that say what it does."""
    program, *arguments = shlex.split(step)
    assert program == "vln_ros"
    end = next((i for i, word in enumerate(arguments) if word in ("runs", "loads", "compares")), None)
    return run(capsys, *arguments[:end], *more)


@pytest.mark.slow
def test_from_scenes_to_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = run(capsys, "scenes", "--kind", "room", "--episodes", "2", "--out", tmp_path / "scenes")
    assert len(steps) == 2 and list((tmp_path / "scenes/embedded").rglob("*.plan.png"))
    (report,) = typed(capsys, steps[1], "--out", tmp_path / "run", "--videos", "0", "--no-film-extremes")
    page = tmp_path / "run/report.html"
    assert report == f"open {page} in a browser" and page.is_file()
    page.unlink()
    assert run(capsys, "report", tmp_path / "run") == [report] and page.is_file()
    (comparison,) = run(
        capsys, "report", tmp_path / "run", "--export", "streamvln", "--out", tmp_path / "ours"
    )
    (shown,) = typed(capsys, comparison, "--out", tmp_path / "page")
    assert Path(shown.removeprefix("open ").removesuffix(" in a browser")).is_file()


@pytest.mark.slow
def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = run(capsys, "tiny", tmp_path / "small")
    assert step.startswith(f"vln_ros doctor --checkpoint {tmp_path / 'small'} ")


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    (step,) = run(capsys, "plan", "--shape", "3B", "--device", "h200", "--json", file)
    assert step.startswith(str(file)) and json.loads(file.read_text("utf-8"))["plan"]
