"""Which Python installed nodes run under: said by the executable itself, looked at by the doctor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vln_ros.cli.doctor.nodes import look_at_nodes
from vln_ros.config import NODES, ConfigError, NavigatorConfig, walk_options
from vln_ros.nodes import MODULES
from vln_ros.ros.interpreter import (
    CHECK,
    ENGINE_NEEDS,
    NEEDS,
    PYTHON,
    find_executable,
    installed_interpreter,
    missing_modules,
    missing_text,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """A folder with a python3 as the system's: it runs, and has nothing of what the nodes need."""
    folder = tmp_path / "system"
    folder.mkdir()
    bare = folder / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    return folder


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, whose command was built with this Python."""
    prefix = tmp_path / "install"
    (prefix / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/vln_ros").touch()
    shutil.copytree(ROOT / "scripts", prefix / "lib/vln_ros")
    (prefix / "bin").mkdir()
    command = prefix / "bin/vln_ros"
    command.write_text(f"#!{sys.executable}\nfrom vln_ros.cli import main\nmain()\n")
    command.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(PYTHON, raising=False)
    return prefix


@pytest.mark.ros
@pytest.mark.parametrize("node", NODES)
def test_a_node_needs_what_it_imports(node: str) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    code = (
        f"import sys, json; import {MODULES[node]}; "
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pinned = {
        "numpy",
        "yaml",
        "cv2",
        "scipy",
        "matplotlib",
        "PIL",
        "jinja2",
        "tqdm",
        "av",
        "shapely",
        "rosbags",
    }
    loaded = (pinned | {"trimesh", "embreex", "torch", "transformers"}) & set(json.loads(done.stdout))
    assert loaded <= set(NEEDS[node])


def test_every_node_has_its_needs() -> None:
    assert set(NEEDS) == set(NODES)
    assert not {"torch", "transformers"} & {m for modules in NEEDS.values() for m in modules}


def test_every_engine_has_its_needs() -> None:
    (choices,) = (o.option.choices for o in walk_options(NavigatorConfig) if o.name == "engine")
    assert set(ENGINE_NEEDS) == set(choices)


def test_torch_is_needed_where_a_model_decides_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    assert missing_modules("navigator", "qwen") == ["torch"]
    assert missing_modules("navigator", "expert") == missing_modules("executor") == []


def test_what_is_missing_is_said_with_a_remedy() -> None:
    assert "pip install -r requirements.txt" in missing_text(["torch"])
    assert PYTHON in missing_text(["torch", "cv2"])
    assert sys.executable in missing_text(["torch"])
    assert "setup.bash" in missing_text(["rclpy"])
    assert "setup.bash" in missing_text(["tf2_msgs"])


@pytest.mark.ros
@pytest.mark.parametrize("node", NODES)
def test_a_node_runs_under_the_python_that_the_package_was_built_with(
    node: str, prefix: Path, other_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    monkeypatch.setenv("PATH", f"{other_python}:{os.environ['PATH']}")
    assert installed_interpreter(find_executable("vln_ros", node)) == sys.executable
    monkeypatch.setenv(PYTHON, str(other_python / "python3"))
    with pytest.raises(ConfigError, match=r"No module named 'vln_ros'|not installed for"):
        installed_interpreter(find_executable("vln_ros", node))


@pytest.mark.ros
def test_a_node_starts_where_python3_is_another_one(prefix: Path, other_python: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    done = subprocess.run(
        [prefix / "lib/vln_ros/navigator", "--ros-args", "-p", "engine:=magic"],
        env={**os.environ, "PATH": f"{other_python}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "engine = 'magic'" in done.stderr


@pytest.mark.parametrize("python", ["/nowhere/python", "/"])
def test_an_interpreter_that_is_gone_is_said(python: str, prefix: Path) -> None:
    command = prefix / "bin/vln_ros"
    command.write_text(command.read_text().replace(sys.executable, python))
    with pytest.raises(ConfigError, match="executor"):
        installed_interpreter(prefix / "lib/vln_ros/executor")
    done = subprocess.run(
        [prefix / "lib/vln_ros/executor"], env={**os.environ, PYTHON: python},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (126, 127)
    assert python in done.stderr


def test_a_path_with_spaces_is_no_obstacle(prefix: Path, tmp_path: Path) -> None:
    moved = tmp_path / "my robot" / "install"
    moved.parent.mkdir()
    prefix.rename(moved)
    done = subprocess.run(
        [moved / "lib/vln_ros/executor", CHECK], capture_output=True, text=True, check=False
    )
    assert "not found" not in done.stderr
    assert done.stdout.strip() == sys.executable or "not installed for" in done.stderr


def test_what_is_not_there_is_no_executable(prefix: Path) -> None:
    pytest.importorskip("ament_index_python", reason="needs ROS")
    with pytest.raises(ConfigError, match="rviz2 is not installed: install it"):
        find_executable("rviz2", "rviz2")
    (prefix / "lib/vln_ros/executor").chmod(0o644)
    with pytest.raises(ConfigError, match=r"lib/vln_ros/executor cannot be run"):
        find_executable("vln_ros", "executor")


@pytest.mark.ros
def test_the_doctor_looks_at_the_python_of_the_nodes(
    prefix: Path, other_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    if not missing_modules("navigator"):
        (finding,) = look_at_nodes()
        assert (finding.verdict, finding.text) == ("ok", f"run under {sys.executable}")
    monkeypatch.setenv(PYTHON, str(other_python / "python3"))
    (finding,) = look_at_nodes()
    assert finding.verdict == "fail"
    assert all(node in finding.text for node in NODES)
    assert finding.remedy
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    (finding,) = look_at_nodes()
    assert finding.verdict == "fail"
    assert "colcon build" in finding.remedy
    shutil.rmtree(prefix)
    (finding,) = look_at_nodes()
    assert "not for `ros2 run`" in finding.text


@pytest.mark.ros
@pytest.mark.slow
def test_a_repeated_ctrl_c_leaves_no_traceback(tmp_path: Path) -> None:
    """The terminal sends one to every process, and launch another one."""
    pytest.importorskip("rclpy", reason="needs ROS")
    command = [
        sys.executable,
        "-m",
        "vln_ros",
        "node",
        "executor",
        "--ros-args",
        "-p",
        "extrinsics:=parameters",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "stopped:" in line:
                break
        for _ in range(20):
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert "BrokenPipeError" not in rest


def test_a_node_that_nobody_knows_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vln_ros", "node", "pilot"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "invalid choice: 'pilot'" in done.stderr
