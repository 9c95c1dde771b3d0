"""The completion that is printed completes every command, option and choice, in the shell itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vln_ros.cli import build_parser, main
from vln_ros.cli.arguments.parsing import walk_commands
from vln_ros.cli.completion import SHELLS

pytest.importorskip("shtab", reason="needs shtab (requirements.txt)")

COMPLETE = """
source "$1"
while IFS=$'\\t' read -r -a COMP_WORDS; do
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  _shtab_vln_ros
  echo "${COMPREPLY[@]}"
done
"""


def script(capsys: pytest.CaptureFixture[str], shell: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


def lines_to_complete() -> list[tuple[list[str], str]]:
    """What is typed, and what should be among the completions."""
    found = []
    for path, parser in walk_commands(build_parser()):
        if path:
            found.append(([*path[:-1], path[-1][:2]], path[-1]))
        for action in parser.arguments:
            names = [name for name in action.option_strings if name.startswith("--")]
            found += [([*path, name[:4]], name) for name in names]
            if action.choices and names:
                found += [([*path, names[-1], str(choice)[:1]], str(choice)) for choice in action.choices]
    return found


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(script(capsys, "bash"))
    wanted = lines_to_complete()
    assert len(wanted) > 400
    typed = "".join("\t".join(["vln_ros", *words]) + "\n" for words, _ in wanted)
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(tmp_path / "completion")],
        input=typed, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    answers = done.stdout.splitlines()
    assert len(answers) == len(wanted)
    missing = [
        (words, completion)
        for (words, completion), answer in zip(wanted, answers, strict=True)
        if completion not in answer.split()
    ]
    assert not missing


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_profiles_and_files_are_completed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(script(capsys, "bash"))
    (tmp_path / "options.yaml").touch()
    typed = "vln_ros\teval\t--profile\tnav\nvln_ros\teval\t--config\topt\n"
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(tmp_path / "completion")],
        input=typed, capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["navida", "options.yaml"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script(capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str) -> None:
    text = script(capsys, shell)
    assert "vln_ros" in text and "checkpoint" in text
    if shutil.which(shell) is not None:
        (tmp_path / "completion").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "completion")], check=True)


def test_another_shell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "fish"])
    assert ended.value.code == 2 and "choose from" in capsys.readouterr().err
