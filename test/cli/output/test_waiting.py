"""While one waits there is a line, which comes first: one that moves on a terminal, a plain one elsewhere."""

from __future__ import annotations

import inspect
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vln_ros.cli import build_parser
from vln_ros.cli.arguments.parsing import walk_commands
from vln_ros.cli.arguments.places import output_file, output_folder
from vln_ros.cli.output.next_steps import print_next, print_report, resuming
from vln_ros.cli.output.waiting import waiting

SAY = "from vln_ros.cli.output.waiting import waiting\nwith waiting('loading [b] 1'):\n    print('inside')\n"


def test_a_plain_line_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading torch") as done:
        assert capsys.readouterr().err == "vln_ros: loading torch ...\n"
        done()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_no_errors_where_there_is_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with waiting("loading torch") as done:
        done()


def on_a_terminal(code: str) -> str:
    """What a program shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # the end of a terminal on Linux
            break
        if not read:
            break
        shown += read
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_line_that_moves_on_a_terminal() -> None:
    shown = on_a_terminal(SAY)
    assert "loading [b] 1" in shown and "0:00:00" in shown and "inside" in shown
    assert "\x1b[2K" in shown, "it is gone at the end"


def test_the_line_ends_when_it_is_told() -> None:
    code = SAY.replace("1'):\n", "1') as done:\n    done()\n    done()\n").replace("'inside'", "'behind'")
    assert on_a_terminal(code).rstrip().endswith("behind")


# ------------------------------------------------------------------ every command

TRAP = """
import io, json, os, signal, sys, traceback
from vln_ros.cli import main
HEAVY = {"torch", "transformers", "scipy", "matplotlib", "trimesh", "shapely", "av", "cv2"}
class Heavy(BaseException):
    pass
class Trap:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise Heavy(name)
def stop(*_):
    raise Heavy("it waits")
def no_process(*_, **__):
    raise Heavy("a process")
assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
for line in sys.stdin:
    arguments = json.loads(line)
    read, write = os.pipe()
    sys.stdout.flush()
    if os.fork() == 0:
        os.close(read)
        said = io.StringIO()
        out, sys.stdout, sys.stderr = sys.stdout, said, said
        import subprocess
        subprocess.Popen = no_process
        subprocess.run = no_process
        sys.meta_path.insert(0, Trap())
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(10)
        why = "the end"
        try:
            main(arguments)
        except Heavy as heavy:
            why = str(heavy)
        except SystemExit as end:
            why = f"status {end.code}"
        except BaseException:
            why = traceback.format_exc()
        os.write(write, json.dumps([why, said.getvalue()]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        print(answer.read().decode(), flush=True)
    os.wait()
"""
"""Runs command lines up to where a heavy library is imported or a process is started; tells what was said."""

TREE = {path: parser for path, parser in walk_commands(build_parser()) if not parser.is_group}
NODES = {("node",), ("web",)}
"""Who starts a node reads its log."""


def arguments_of(path: tuple[str, ...], folder: Path) -> list[str]:
    """The least that a command needs to begin."""
    run = folder / "run"
    least: dict[tuple[str, ...], list[str]] = {
        ("ask",): ["where are you?", "--wait-s", "0.1"],
        ("say",): ["go on", "--wait-s", "0.1"],
        ("stop",): ["--wait-s", "0.1"],
        ("compare",): [str(run), str(run)],
        ("completion",): ["bash"],
        ("report",): [str(run)],
        ("eval",): ["--engine", "expert", "--out", str(folder / "eval")],
        ("habitat",): ["bench", "--python", sys.executable],
        ("plan",): ["--shape", "3B", "--device", "h200"],
        ("profile", "show"): [str(run)],
        ("profile", "compare"): [str(run), str(run)],
        ("record",): ["--out", str(folder / "bags")],
        ("replay",): ["shipped:flat", "--out", str(folder / "replay")],
        ("scenes",): ["--out", str(folder / "scenes")],
        ("tiny",): [str(folder / "tiny")],
        ("train",): [str(folder / "train")],
        ("demo",): ["--out", str(folder / "demo")],
        ("bench", "page"): ["--folder", str(folder)],
    }
    return [*path, *least.get(path, [])]


@pytest.mark.slow
def test_every_command_says_something_before_it_loads_anything_heavy(tmp_path: Path) -> None:
    paths = [path for path in TREE if path not in NODES]
    lines = "".join(json.dumps(arguments_of(path, tmp_path)) + "\n" for path in paths)
    done = subprocess.run(
        [sys.executable, "-c", TRAP], input=lines, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    answers: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(paths)
    silent = {
        " ".join(path): why for path, (why, said) in zip(paths, answers, strict=True) if not said.strip()
    }
    assert not silent
    broken = {" ".join(p): why for p, (why, _) in zip(paths, answers, strict=True) if "Traceback" in why}
    assert not broken
    whys = [why for why, _ in answers]
    assert sum(why in ("torch", "scipy", "matplotlib", "shapely", "trimesh") for why in whys) > 5, whys


# ------------------------------------------------------------------ what comes next


def test_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(tmp_path)
    assert capsys.readouterr().out == ""
    (tmp_path / "report.html").touch()
    print_report(tmp_path)
    page = tmp_path / "report.html"
    assert capsys.readouterr().out == f"report: {page}\nnext: open {page} in a browser\n"
    print_next("this", "that")
    assert capsys.readouterr().out == "next: this\nnext: that\n"


@pytest.mark.parametrize(
    ("given", "out", "again"),
    [
        (["eval", "--out", "x"], Path("x"), "vln_ros eval --out x --resume"),
        (["eval", "--out=x", "--resume"], Path("x"), "vln_ros eval --out=x --resume"),
        (["eval"], Path("runs/a b"), "vln_ros eval --out 'runs/a b' --resume"),
        (["train", "policy"], None, "vln_ros train policy --resume"),
    ],
)
def test_how_a_run_is_gone_on_with(given: list[str], out: Path | None, again: str) -> None:
    assert resuming(given, out) == again


def writes_files(path: tuple[str, ...]) -> bool:
    return any(a.type in (output_file, output_folder) for a in TREE[path].arguments)


@pytest.mark.parametrize("path", [path for path in TREE if writes_files(path)], ids=" ".join)
def test_who_writes_files_says_what_comes_next(path: tuple[str, ...]) -> None:
    """Benches do so in what runs them all. What is said is tested with each command's other tests."""
    run = TREE[path].get_default("run")
    module = inspect.getmodule(getattr(run, "func", run))
    assert module is not None
    assert "print_next(" in (text := inspect.getsource(module)) or "print_report(" in text
