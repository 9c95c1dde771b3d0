"""What is checked before a command starts: places, options, checkpoints; one sentence, and nothing left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lines import beside_waiting

from vln_ros.cli import COMMANDS, interrupt, main
from vln_ros.cli.arguments.places import (
    check_model,
    holds_a_run,
    output_file,
    output_folder,
    run_folder,
)
from vln_ros.cli.output.next_steps import print_report
from vln_ros.config import ConfigError
from vln_ros.evaluation.files import write_atomically


def ends(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Status of a command, and what it says to stderr: one line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = beside_waiting(capsys.readouterr().err)
    assert said.count("\n") == 1 and said.startswith("vln_ros"), said
    assert isinstance(ended.value.code, int)
    return ended.value.code, said


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["evl"], "eval"),
        (["repot", "x"], "report"),
        (["bench", "polcy"], "policy"),
        (["profile", "shw"], "show"),
        (["demo", "--mode", "realtim"], "realtime"),
        (["eval", "--epsiodes", "3"], "--episodes"),
        (["demo", "--epsiodes=3"], "--episodes"),
        (["bench", "policy", "--kindz", "room"], "--kinds"),
        (["eval", "--set", "camera.hfv_deg=3"], "camera.hfov_deg"),
        (["report", ".", "--export", "navda"], "navida"),
    ],
)
def test_what_was_probably_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], meant: str
) -> None:
    status, said = ends(capsys, *arguments)
    assert status == 2 and "did you mean" in said and meant in said.split("did you mean")[1]


FOLDERS = {
    "demo": ["--out"],
    "eval": ["--out"],
    "replay": ["bag", "--instruction", "go", "--out"],
    "scenes": ["--out"],
    "compare": ["a", "b", "--out"],
    "report": [".", "--out"],
    "habitat": ["selftest", "--python", "python", "--out"],
    "tiny": [],
    "train": [],
}
assert set(FOLDERS) < set(COMMANDS)


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("below", ["", "/inside"])
def test_a_folder_that_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    status, said = ends(capsys, command, *FOLDERS[command], f"{tmp_path}/file{below}")
    assert status == 2 and f"{tmp_path}/file is a file, not a folder" in said
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("command", [["plan"], ["compare", "a", "b"], ["bench", "graph"], ["demo"]])
def test_a_file_that_is_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    status, said = ends(capsys, *command, "--json", str(tmp_path))
    assert status == 2 and "is a folder: name a file" in said


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert output_file(str(tmp_path / "a" / "b.json")) == tmp_path / "a" / "b.json"
    assert list(tmp_path.iterdir()) == []  # looked at, not made
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for bad, why in (("", "is empty"), (str(tmp_path / "link"), "link to nothing"), ("x" * 300, "too long"),
                     ("a\0b", "null|embedded")):  # fmt: skip
        with pytest.raises(Exception, match=why):
            output_folder(bad)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    for kind in (output_file, output_folder):
        with pytest.raises(Exception, match="cannot be written"):
            kind(str(tmp_path / "new"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--checkpoint", "nowhere"],
        ["demo", "--profile", "tinny"],
        ["demo", "--split", "vall"],
        ["demo", "--episodes", "0"],
        ["demo", "--speed", "-1"],
        ["demo", "--size", "0x0"],
        ["eval", "--episodes", "2", "--checkpoint", "nowhere"],
        ["eval", "--episodes", "2", "--checkpoint", ""],
        ["eval", "--episodes", "2", "--checkpoint", "shipped:tiny", "--profile", "tinny"],
        ["eval", "--config", "nowhere.yaml"],
        ["train", "--profile", "tinny"],
        ["train", "--start-from", "nowhere"],
        ["scenes", "--count", "0"],
        ["scenes", "--episodes", "0"],
    ],
)
def test_a_typing_mistake_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    out = str(tmp_path / "out")
    place = [out] if arguments[0] == "train" else ["--out", out]
    status, _ = ends(capsys, arguments[0], *place, *arguments[1:])
    assert status == 2 and not Path(out).exists()


@pytest.mark.parametrize("action", ["selftest", "bench", "compare"])
@pytest.mark.parametrize("python", ["", "/nowhere/python", "no-such-python", "not-executable"])
def test_no_scene_is_made_for_a_habitat_that_is_not_there(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    python: str,
) -> None:
    (tmp_path / "not-executable").touch(0o644)
    monkeypatch.chdir(tmp_path)
    given = "./" + python if python == "not-executable" else python
    status, said = ends(capsys, "habitat", action, "--python", given, "--out", str(tmp_path / "kept"))
    assert status == 2 and f"--python {given}" in said and "no such program" in said
    assert not (tmp_path / "kept").exists()


def test_models_that_may_be(tmp_path: Path) -> None:
    check_model("shipped:tiny", "tiny")
    check_model("Qwen/Qwen2.5-VL-3B-Instruct", "tiny")  # whether the hub has it, the download says
    (tmp_path / "file").touch()
    wrong = {"": "missing", str(tmp_path): "no config.json", "../x/y": "no such directory"}
    wrong[str(tmp_path / "file")] = "is a file"
    for checkpoint, why in wrong.items():
        with pytest.raises(ConfigError, match=why):
            check_model(checkpoint, "tiny")


def test_a_run_is_one_that_has_an_episode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_folder(tmp_path, "eval") == tmp_path
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "episodes.jsonl").touch()
    assert not holds_a_run(tmp_path) and run_folder(tmp_path, "eval") == tmp_path
    (tmp_path / "episodes.jsonl").write_text("{}\n")
    assert run_folder(tmp_path, "eval", resume=True) == tmp_path
    with pytest.raises(ConfigError, match="holds a run already"):
        run_folder(tmp_path, "eval")
    print_report(tmp_path)
    assert capsys.readouterr().out == ""
    (tmp_path / "report.html").touch()
    print_report(tmp_path)
    page = f"{tmp_path}/report.html"
    assert capsys.readouterr().out == f"report: {page}\nnext: open {page} in a browser\n"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO])
def test_nothing_half_written_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: int
) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def fail(handle: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=str(path)):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    status, said = ends(capsys, "plan", "--shape", "7B", "--device", "orin", "--json", str(path))
    assert status == 2 and os.strerror(error) in said and str(path) in said and path.read_text() == "old"


INTERRUPTING = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""
"""As sitecustomize: ^C in the moment in which Python looks for a module."""
HERE = "from vln_ros.__main__ import main; main()"
"""As the installed command does."""


def interrupted_at(folder: Path, module: str, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(INTERRUPTING)
    path = os.pathsep.join([str(folder), *sys.path[1:]])
    environment = {**os.environ, "PYTHONPATH": path, "INTERRUPT_AT": module}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("vln_ros.cli", ["plan"]),
        ("argparse", ["demo"]),
        ("vln_ros.cli.bench.record", ["replay", "bag"]),
        ("vln_ros.config", ["bench", "graph"]),
        ("numpy", ["bench", "stream"]),
        ("numpy.linalg", ["compare", "a", "b"]),
        ("vln_ros.cli.doctor", ["doctor"]),
        ("benchmarks.suites.faults", ["bench", "faults"]),
        ("vln_ros.cli.profile", ["profile", "show", "."]),
        ("vln_ros.cli.report", ["report", "."]),
        ("vln_ros.cli.node", ["node", "executor"]),
        ("torch", ["plan", "--shape", "3B", "--device", "orin"]),
        ("transformers", ["plan", "--shape", "3B", "--device", "orin"]),
        ("scipy.optimize", ["plan", "--shape", "3B", "--device", "orin"]),
    ],
)
@pytest.mark.parametrize("start", [["-m", "vln_ros"], ["-c", HERE]], ids=["module", "command"])
def test_interrupted_while_python_imports(
    tmp_path: Path, start: list[str], module: str, arguments: list[str]
) -> None:
    done = interrupted_at(tmp_path, module, *start, *arguments)
    said = beside_waiting(done.stderr)
    assert (done.returncode, said, done.stdout) == (130, "vln_ros: interrupted\n", ""), module


@pytest.mark.parametrize("module", ["networkx", "rtree", "shapely", "lxml", "trimesh", "trimesh.visual"])
def test_interrupted_where_a_library_swallows_it(tmp_path: Path, module: str) -> None:
    out = tmp_path / "out"
    done = interrupted_at(tmp_path, module, "-m", "vln_ros", "scenes", "--count", "1", "--out", str(out))
    assert (done.returncode, beside_waiting(done.stderr)) == (130, "vln_ros: interrupted\n")
    assert not list(out.rglob("*.glb")) and not list(out.rglob("*.part"))


def test_a_pool_is_not_ended_by_its_own_processes(tmp_path: Path) -> None:
    """They import what the command imports, and leave SIGINT as it is."""
    (tmp_path / "pool.py").write_text(
        "import multiprocessing, signal\n"
        "import vln_ros.__main__\n"
        "def handler(_): return getattr(signal.getsignal(signal.SIGINT), '__name__', '?')\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(handler(0), *pool.map(handler, [0]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "pool.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["_leave", "default_int_handler"], done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["params"], ["evl"]])
def test_interrupted_while_python_exits(tmp_path: Path, arguments: list[str]) -> None:
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT); " + HERE
    done = interrupted_at(tmp_path, "none", "-c", late, *arguments)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.endswith("vln_ros: interrupted\n")


def test_who_ignores_interrupts_is_not_interrupted(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + HERE
    done = interrupted_at(tmp_path, "vln_ros.config", "-c", ignoring, "--version")
    assert done.returncode == 0 and done.stderr == "" and done.stdout


@pytest.mark.parametrize("names", [{}, {"__name__": ""}, {"__name__": "scipy._lib"}], ids=str)
def test_interrupted_in_code_that_is_of_no_module(names: dict[str, str]) -> None:
    """scipy makes modules by exec, of nothing but a name to import."""
    with pytest.raises(KeyboardInterrupt):
        exec("interrupt(2, sys._getframe())", {**names, "interrupt": interrupt, "sys": sys})


@pytest.mark.parametrize("wait_s", [0.7, 2.5])
def test_interrupted_at_any_moment(tmp_path: Path, wait_s: float) -> None:
    command = [sys.executable, "-m", "vln_ros", "scenes", "--count", "40", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(wait_s)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    # Python itself ends by the signal where it came amidst an import: 130 for a shell, too.
    assert "Traceback" not in said and process.returncode in (130, -signal.SIGINT), said
    assert not list(tmp_path.rglob("*.part"))
