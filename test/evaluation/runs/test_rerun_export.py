"""Episodes as Rerun recordings hold what the run folder holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vln_ros.cli import main
from vln_ros.config import ConfigError
from vln_ros.datatypes import STOP, Action, ActionChunk, Pose
from vln_ros.evaluation.episode.metrics import measure_episode
from vln_ros.evaluation.episode.record import EpisodeInfo, Step
from vln_ros.evaluation.runs.loading import load_result
from vln_ros.evaluation.runs.rerun_export import export_rerun
from vln_ros.evaluation.runs.results import Protocol, RunInfo
from vln_ros.evaluation.runs.run_folder import RunFolder

FORWARD = Action(forward_m=0.25)
GOAL = np.array([1.0, 0.0])


def write_run(path: Path, episodes: Sequence[tuple[str, bool]]) -> None:
    """A finished run of episodes by id, with or without video."""
    protocol = Protocol(
        name="custom", split="x", control="lockstep", goal_radius_m=1.0, forward_m=0.25, turn_deg=15.0,
        max_steps=100,
    )  # fmt: skip
    info = RunInfo(("vln_ros", "eval"), protocol, 0, {})
    with RunFolder(path, info, resume=False) as folder:
        for episode_id, video in episodes:
            recorder = folder.start_episode(
                EpisodeInfo(
                    episode_id=episode_id,
                    scene_id="flat",
                    instruction=f"go to the lamp of {episode_id}",
                    goal=GOAL,
                    goal_radius_m=1.0,
                    reference_path=np.array([[0.0, 0.0], [1.0, 0.0]]),
                ),
                video=video,
            )
            recorder.step(Step.discrete(10**9, Pose.identity(), None, False))
            recorder.decision(ActionChunk(1, 1, 10**9, (FORWARD, STOP), unconstrained="fly"), 41.5)
            for n in range(1, 5):
                recorder.frame(np.full((48, 64, 3), 40 * n, np.uint8), None, n * 10**9, 0)
                pose = Pose.planar(0.25 * n, 0.0, 0.1)
                recorder.step(Step.discrete((n + 1) * 10**9, pose, FORWARD, n == 2))
            positions = np.array([(s.x_m, s.y_m) for s in recorder.steps])
            metrics = measure_episode(
                positions,
                np.linalg.norm(positions - GOAL, axis=1),
                stop_called=True,
                goal_radius_m=1.0,
                reference_path=positions,
                collisions=1,
                steps=4,
            )
            folder.add(recorder.finish("stop", 1.0, metrics), None)
        folder.finish(None)


def printed(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", "-vvv", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_every_episode_is_a_recording_of_all_that_is_known(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="needs rerun-sdk (requirements-rerun.txt)")
    write_run(tmp_path / "run", [("7", True), ("8", False)])
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "run"), "--export", "rerun", "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["7.rrd", "8.rrd"]
    for name, video in (("7", True), ("8", False)):
        text = printed(tmp_path / "out" / f"{name}.rrd")
        for entity in ("/instruction", "/world/trajectory", "/world/robot", "/decision/text", "/touches"):
            assert entity in text, entity
        assert f"go to the lamp of {name}" in text and "success: stop, 0.00 m from the goal" in text
        assert "forward 0.25 m, stop; wanted 'fly'" in text
        assert ("/video" in text) == video


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", [("7", False)])
    episodes = load_result(tmp_path / "run").episodes
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rerun", None)
        with pytest.raises(ConfigError, match=r"requirements-rerun\.txt"):
            export_rerun(episodes, tmp_path / "run", tmp_path / "out")
    pytest.importorskip("rerun", reason="needs rerun-sdk (requirements-rerun.txt)")
    (tmp_path / "run/episodes/7/trajectory.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"trajectory\.jsonl cannot be read"):
        export_rerun(episodes, tmp_path / "run", tmp_path / "out")
    (tmp_path / "run/episodes/7/trajectory.jsonl").write_text("")
    with pytest.raises(ConfigError, match="holds no step"):
        export_rerun(episodes, tmp_path / "run", tmp_path / "out")


def test_an_unknown_format_names_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path), "--export", "rerum"])
    assert end.value.code == 2
    assert "rerun; did you mean rerun?" in capsys.readouterr().err
