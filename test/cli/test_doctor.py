"""The doctor in the places that a doctor is for: a finding with a remedy, never a traceback, never a wait."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vln_ros.cli import main
from vln_ros.cli.doctor import command as doctor
from vln_ros.cli.doctor import places as doctor_places
from vln_ros.cli.doctor import ros as doctor_ros
from vln_ros.cli.doctor.findings import Finding
from vln_ros.cli.doctor.probe import Heard, HeardTopic, heard_from_output
from vln_ros.cli.graph import last_words, why_no_node

ROOT = Path(__file__).parents[2]
DOCTOR = [sys.executable, "-m", "vln_ros", "doctor", "--listen-s", "0.2"]


def run(
    *, environment: dict[str, str], cwd: Path = ROOT, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it; ``before`` runs first, with mounts and network of its own."""
    command = DOCTOR
    if before:
        shell = f"{before} && exec {' '.join(DOCTOR)}"
        command = ["unshare", "--mount", "--net", "--map-root-user", "bash", "-c", shell]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )


def without(*names: str, **given: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in names} | given


def assert_remedies(text: str) -> None:
    lines = text.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("warn", "fail")):
            assert after.lstrip().startswith("-> "), line


def verdict(text: str, name: str) -> str:
    (found,) = [line.split()[0] for line in text.splitlines() if line[6:].startswith(f"{name} ")]
    return found


# ------------------------------------------------------------------ the command

TERMINALS = {
    "a middleware that is not installed": ({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}, "RMW_IMPLEMENTATION"),
    "domain 300": ({"ROS_DOMAIN_ID": "300"}, "domain"),
    "domain abc, ASCII": ({"ROS_DOMAIN_ID": "abc", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, "domain"),
    "nobody finds anybody": ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "discovery"),
    "no home": ({"HOME": ""}, "logs"),
    "home is a file": ({"HOME": "/dev/null"}, "logs"),
    "logs go nowhere": ({"ROS_LOG_DIR": "/proc/nowhere"}, "logs"),
    "no such profile": ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, "Fast DDS profile"),
    "colours": ({"RCUTILS_COLORIZED_OUTPUT": "always"}, "logging"),
    "what no table knows": ({"RCL_ASSERT_RMW_ID_MATCHES": "rmw_other"}, "nodes"),
}


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("case", TERMINALS)
def test_where_no_node_starts_the_doctor_says_why(case: str) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    given, name = TERMINALS[case]
    done = run(environment=without(**given))
    assert done.returncode == 1, done.stdout + done.stderr
    assert verdict(done.stdout, name) == "fail"
    assert done.stdout.splitlines()[-1] == f"cannot run: {name}"
    assert "Traceback" not in done.stdout + done.stderr
    assert_remedies(done.stdout)


can_unshare = (
    shutil.which("unshare") is not None
    and subprocess.run(
        ["unshare", "--mount", "--net", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    ).returncode
    == 0
)
FULL = "mount -t tmpfs -o size=16k tmpfs {0} && (dd if=/dev/zero of={0}/x bs=1k 2>/dev/null; true)"
UP = "ip link set lo up && ip link set lo multicast on && ip route add 224.0.0.0/4 dev lo"
MACHINES = {
    "no loopback": ("true", {}, {"loopback": "fail"}),
    "loopback without multicast": ("ip link set lo up", {}, {"nodes": "ok"}),
    "/dev/shm full": (f"{UP} && {FULL.format('/dev/shm')}", {}, {"shared memory": "warn", "nodes": "fail"}),
    "/dev/shm read-only": (
        f"{UP} && mount -t tmpfs -o ro tmpfs /dev/shm", {}, {"shared memory": "warn", "nodes": "ok"}
    ),
    "TMPDIR full": (
        f"{UP} && {FULL.format('/mnt')}", {"TMPDIR": "/mnt"}, {"temporary files": "warn", "nodes": "ok"}
    ),
    "home read-only": (
        f"{UP} && mount -t tmpfs -o ro tmpfs /mnt",
        {"HOME": "/mnt"},
        {"home": "warn", "logs": "fail", "nodes": "ok"},
    ),
    "home full": (
        f"{UP} && {FULL.format('/mnt')}", {"HOME": "/mnt"}, {"home": "warn", "logs": "fail", "nodes": "ok"}
    ),
}  # fmt: skip


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.skipif(not can_unshare, reason="needs mounts and a network of its own (unshare)")
@pytest.mark.parametrize("case", MACHINES)
def test_a_machine_that_lacks_something(case: str) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    before, given, verdicts = MACHINES[case]
    done = run(environment=without("FASTRTPS_DEFAULT_PROFILES_FILE", **given), before=before)
    found = {name: verdict(done.stdout, name) for name in verdicts}
    assert found == verdicts, done.stdout + done.stderr
    assert done.returncode == int("fail" in verdicts.values())
    assert "Traceback" not in done.stdout + done.stderr
    assert_remedies(done.stdout)


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.skipif(not can_unshare, reason="needs a network of its own (unshare)")
def test_nodes_that_do_not_hear_each_other_are_found(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    environment = without(
        "FASTRTPS_DEFAULT_PROFILES_FILE", ROS_DISCOVERY_SERVER="127.0.0.1:11811", ROS_LOG_DIR=str(tmp_path)
    )
    done = run(environment=environment, before=UP)
    assert verdict(done.stdout, "discovery server") == "warn"
    assert verdict(done.stdout, "nodes") == "fail", done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    "settings", [{}, {"ROS_LOCALHOST_ONLY": "1"}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "no"}]
)
@pytest.mark.ros
@pytest.mark.slow
def test_where_nodes_hear_each_other_they_are_heard(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    findings = {f.name: f for f in doctor_ros.look_at_ros(0.2)}
    assert findings["nodes"].verdict == "ok", findings["nodes"]
    assert findings["discovery"].verdict == ("warn" if settings else "ok")


OUTPUTS = {"a reader who has enough": " | head -1", "a full disk": " > /dev/full", "closed": " >&-"}


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_that_takes_nothing_is_no_traceback(case: str) -> None:
    line = f"{' '.join(DOCTOR)}{OUTPUTS[case]}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], env=without(ROS_DOMAIN_ID="abc"), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if case == "a full disk":
        assert done.returncode == 2
        assert "No space left on device" in done.stderr
    elif case == "closed":
        assert done.returncode == 1


@pytest.mark.parametrize("path", ["/nowhere/found.json", "/", "/dev/null/found.json", "/proc/found.json"])
@pytest.mark.slow
def test_findings_that_cannot_be_written_are_one_sentence(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "abc")  # no node is tried
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--listen-s", "0", "--json", path])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(("vln_ros: ", "vln_ros doctor: ")) and said.count("\n") == 1


# ------------------------------------------------------------------ places


def test_shared_memory(tmp_path: Path) -> None:
    assert doctor_places.shared_memory(tmp_path / "nowhere").verdict == "warn"
    assert doctor_places.shared_memory(Path("/proc")).verdict == "warn"
    assert doctor_places.shared_memory(tmp_path).verdict == "ok"


@pytest.mark.parametrize("named", ["/nowhere", "/dev/null", "/proc"])
def test_a_tmpdir_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("TMPDIR", named)
    finding = doctor_places.temporary_files()
    assert finding.verdict == "warn"
    assert named in finding.text
    assert "TMPDIR" in finding.remedy


def test_no_folder_for_temporary_files_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert doctor_places.temporary_files().verdict == "fail"


@pytest.mark.parametrize("folder", ["", "/dev/null", "/proc/nowhere", "/proc"])
def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("HOME", folder)
    assert doctor_places.home().verdict == "warn"
    assert doctor_places.home().remedy


def test_a_current_folder_that_was_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert doctor_places.current_folder().verdict == "warn"
    monkeypatch.chdir("/proc")
    assert doctor_places.current_folder().verdict == "warn"
    monkeypatch.chdir(tmp_path)
    assert doctor_places.current_folder().verdict == "ok"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_does_not_take_every_sign(encoding: str) -> None:
    finding = doctor_places.terminal(io.TextIOWrapper(io.BytesIO(), encoding))
    assert finding.verdict == "warn"
    assert doctor_places.terminal(io.TextIOWrapper(io.BytesIO(), "UTF8")).verdict == "ok"
    assert doctor_places.terminal(None).verdict == "warn"


# ------------------------------------------------------------------ pieces


def test_a_check_that_fails_itself_is_a_finding() -> None:
    def broken() -> list[Finding]:
        raise OSError("libtorch.so: cannot open shared object file")

    (finding,) = doctor.findings_of("torch", broken)
    assert finding.verdict == "fail"
    assert "libtorch.so" in finding.text
    assert finding.remedy


RCL = (
    'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    rclpy.init()\n'
    "rclpy._rclpy_pybind11.RCLError: error creating node: Unable to resolve peer x\n, at /src/a.cpp:234, at "
    "/src/node.c:252\n"
)
LAST_WORDS = {
    RCL: "error creating node: Unable to resolve peer x",
    "": "",
    "one\ntwo\n": "two",
    "\x1b[31;1mError \x1b[37mport too high\x1b[m\n": "Error port too high",
    "[ERROR] [1796024913.165] [rcl]: Expected RMW 'a', exiting with 102., at /src/c.c:154\n":
        "[rcl]: Expected RMW 'a'",
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), LAST_WORDS.items())
def test_last_words_are_one_line_without_places(text: str, words: str) -> None:
    assert last_words(text) == words


def test_how_a_node_ended() -> None:
    python = [sys.executable, "-c"]
    assert why_no_node([*python, "pass"], os.environ) is None
    assert why_no_node([*python, "import sys; sys.exit(3)"], os.environ) == "status 3"
    assert why_no_node([*python, "raise ValueError('so it is')"], os.environ) == "so it is"
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
    assert why_no_node([*python, kill], os.environ) == "a node died by SIGABRT"


@pytest.mark.parametrize("arrives", [True, False])
def test_nodes_that_are_deaf_get_the_remedy_that_fits(monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    monkeypatch.setattr(doctor_ros, "multicast_arrives", lambda: arrives)
    finding = doctor_ros.judge_nodes(Heard(None, ()))
    assert finding.verdict == "fail"
    assert ("firewall" if arrives else "multicast on") in finding.remedy


@pytest.mark.skipif(not can_unshare, reason="needs a network of its own (unshare)")
@pytest.mark.parametrize(("before", "arrives"), [("true", False), (UP, True)])
def test_whether_multicast_arrives_is_tried(before: str, arrives: bool) -> None:
    code = "from vln_ros.cli.doctor.ros import multicast_arrives as m; print(m())"
    shell = f"{before} && exec {sys.executable} -c '{code}'"
    command = ["unshare", "--mount", "--net", "--map-root-user", "bash", "-c", shell]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(arrives)


def test_what_was_heard_is_read_among_other_lines() -> None:
    heard = Heard(0.5, (HeardTopic("/odom", 3, 10.0, ("reliable, volatile",)),))
    line = json.dumps({"after_s": 0.5, "topics": [
        {"name": "/odom", "messages": 3, "rate_hz": 10.0, "quality": ["reliable, volatile"]}]})  # fmt: skip
    assert heard_from_output(f"[INFO] something\n{line}\n") == heard
    assert heard_from_output("[INFO] something\n") is None


# ------------------------------------------------------------------ the checkpoint


def test_the_shipped_checkpoint_decides() -> None:
    finding = doctor.look_at_checkpoint("shipped:tiny", "")
    assert finding.verdict == "ok", finding
    assert "profile tiny decided 'forward" in finding.text


WRONG_WEIGHTS = {
    "NaN": ("model.layers.1.mlp.down_proj.weight", float("nan")),
    "infinite": ("model.layers.0.self_attn.o_proj.weight", float("inf")),
    "NaN in the head": ("model.embed_tokens.weight", float("nan")),
    "NaN in the eye": ("visual.patch_embed.proj.weight", float("nan")),
}


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_weights_that_are_no_numbers_are_found(tmp_path: Path, case: str) -> None:
    from safetensors.torch import load_file, save_file

    name, factor = WRONG_WEIGHTS[case]
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "vln_ros/checkpoints/tiny", folder)
    weights = load_file(folder / "model.safetensors")
    assert name in weights, sorted(weights)
    wrong = {k: (v * factor if k == name else v).contiguous() for k, v in weights.items()}
    save_file(wrong, folder / "model.safetensors", metadata={"format": "pt"})
    finding = doctor.look_at_checkpoint(str(folder), "")
    assert finding.verdict == "fail", finding
    assert str(folder) in finding.text
    assert finding.remedy


def test_a_checkpoint_that_is_not_there_and_a_profile_that_is_not(tmp_path: Path) -> None:
    assert doctor.look_at_checkpoint(str(tmp_path / "nowhere"), "").verdict == "fail"
    assert doctor.look_at_checkpoint("shipped:tiny", "nobody").verdict == "fail"
