"""The table of parameters: on the terminal, and in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from vln_ros.cli import main, params
from vln_ros.config import NODES, walk_options

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["params", *arguments])
    assert not ended.value.code, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_documentation_is_what_is_generated() -> None:
    written = (ROOT / "docs/reference/parameters.md").read_text("utf-8")
    assert written == params.markdown(), "run: vln_ros params --markdown > docs/reference/parameters.md"


def test_every_parameter_of_every_node_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    for config in NODES.values():
        for entry in walk_options(config):
            assert f"  {entry.name} = " in text
    assert "max_linear_m_s = 0.5   float [0.01, 3] m/s  [live]" in text
    assert "decide_on = progress   progress | frame\n" in text


def test_one_node_and_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "navigator", "--match", "JPEG")
    assert text.startswith("navigator: ")
    assert "color_transport" in text
    assert "jpeg_quality" not in text


def test_options_of_commands_are_listed_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    every = printed(capsys)
    evaluation, training = printed(capsys, "eval"), printed(capsys, "train")
    assert "  navigator.qwen.stream.decode = " in evaluation
    assert "  attempts = " in evaluation
    assert "  dagger_share = " in training
    assert "  attempts = " not in every
    assert "  dagger_share = " not in every


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["driver"], "choose one of navigator, executor"), (["--match", "zzz"], "no parameter matches 'zzz'")],
)
def test_what_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["params", *arguments])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
