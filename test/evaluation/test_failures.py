"""An engine that fails during an evaluation: the episode is skipped, counted, shown, and in no mean."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import vln_ros
from vln_ros.axes import base_from_optical
from vln_ros.cli import main
from vln_ros.config import EvalConfig, FarmConfig, NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import CameraModel, Instruction
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engines import build_engine, build_loop
from vln_ros.evaluation.driver import evaluate
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.workers.worlds import chosen_episodes, dataset_file
from vln_ros.protocols import EngineError
from vln_ros.sim.embedded.world import EmbeddedWorld

SHIPPED = Path(vln_ros.__file__).parent / "checkpoints" / "tiny"


def overflowing(folder: Path) -> Path:
    """The shipped policy with activations as large as released models have: too large for float16."""
    shutil.copytree(SHIPPED, folder)
    tensors = load_file(SHIPPED / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name].float() * 3e4
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def options(checkpoint: str | Path = "shipped:tiny", **more: Scalar) -> EvalConfig:
    values = {
        "navigator.engine": "qwen",
        "navigator.qwen.checkpoint": str(checkpoint),
        "episodes": 3,
        "max_steps": 8,
        "camera.width": 112,
        "camera.height": 112,
    }
    return from_flat(EvalConfig, values | more)


@pytest.fixture
def fails_at_two(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """The network's head breaks when the second episode begins, and is whole again at the next."""
    broken: dict[str, int | None] = {"episode": 2}
    start = QwenEngine.start

    def begin(self: Any, instruction: Instruction) -> None:
        weight = self.session.network.lm_head.weight
        if not hasattr(self.session.network, "kept_for_test"):
            self.session.network.kept_for_test = weight.clone()
        weight.copy_(self.session.network.kept_for_test)
        if instruction.number == broken["episode"]:
            weight[3] = math.nan
        start(self, instruction)

    monkeypatch.setattr(QwenEngine, "start", begin)
    return broken


def test_the_episode_is_skipped_and_run_again_on_resume(
    tmp_path: Path, fails_at_two: dict[str, int | None]
) -> None:
    config, farm = options(), FarmConfig(workers=0)
    result = evaluate(config, farm, tmp_path / "run", resume=False, command=["x"])
    (skip,) = result.skipped
    assert skip.engine_failure and "engine failure" in skip.reason and "not finite" in skip.reason
    assert len(result.episodes) == result.summary.episodes == result.summary.success.count == 2
    assert skip.episode_id not in {e.episode_id for e in result.episodes}
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["engine_failures"] == 1 and written["skipped"][0]["engine_failure"] is True
    page = (tmp_path / "run" / "report.html").read_text()
    assert "1 for a failure of the engine" in page and "not finite" in page
    lines = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all(json.loads(line)["answers"]["least_allowed"] > 0.5 for line in lines)

    fails_at_two["episode"] = None
    again = evaluate(config, farm, tmp_path / "run", resume=True, command=["x"])
    assert again.skipped == () and len(again.episodes) == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["engine_failures"] == 0


def test_episodes_side_by_side_do_not_notice(tmp_path: Path, fails_at_two: dict[str, int | None]) -> None:
    """One model: while its head is broken all who are asked fail; the failure is each one's own."""
    fails_at_two["episode"] = 3  # begins when one of the first two has ended
    result = evaluate(
        options(sessions=2), FarmConfig(workers=0), tmp_path / "run", resume=False, command=["x"]
    )
    assert all(s.engine_failure for s in result.skipped) and result.skipped
    assert len(result.episodes) + len(result.skipped) == 3


def test_a_checkpoint_that_overflows_gives_no_number_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, too: the worker lives on, and no episode is tried three times."""
    folder = overflowing(tmp_path / "c")
    command = [
        "eval", "--checkpoint", str(folder), "--set", "navigator.qwen.dtype=float16", "--episodes", "2",
        "--workers", "1", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="1"):
        main(command)
    said = capsys.readouterr().out
    assert "2 of 2 episodes could not be run (2 for a failure of the engine)" in said
    assert "float16 overflows" in said and "bfloat16 or float32" in said
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["summary"]["episodes"] == 0 and written["engine_failures"] == 2


def test_a_run_without_ros_raises_and_leaves_no_result(tmp_path: Path) -> None:
    config = options(overflowing(tmp_path / "c"), **{"navigator.qwen.dtype": "float16"})
    episode = chosen_episodes(config, dataset_file(config, tmp_path / "data"))[0]
    world = EmbeddedWorld(CameraModel.from_hfov(112, 112, 1.4), base_from_optical(0.0, 0.0, 1.25))
    recorder = EpisodeRecorder(episode_info(episode), None)
    run = EpisodeRun(
        world, episode, start_ns=0, step_period_ns=10**9, limits=EpisodeLimits(8), recorder=recorder
    )
    with pytest.raises(EngineError, match="not finite"):
        run_lockstep(run, build_loop(build_engine(config.navigator), NavigatorConfig()), 1)
    assert run.ended is None and run.progress.steps == 0


def test_what_a_decision_cost_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--checkpoint", "shipped:tiny", "--episodes", "1", "--set", "max_steps=12"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--workers", "0", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "per decision: 1.00 forwards" in said and "ms of processor time" in said
    assert "0 answers left it, 0 were held" in said
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["protocol"]["generation"] == "greedy, repetition penalty 1"
    assert "greedy, repetition penalty 1" in (tmp_path / "run" / "report.html").read_text()
    assert (
        json.loads((tmp_path / "run" / "episodes.jsonl").read_text().splitlines()[0])["cost"]["engine_cpu_s"]
        > 0
    )
