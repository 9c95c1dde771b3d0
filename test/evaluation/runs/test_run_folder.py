"""The run folder: what is in it, that it survives a crash, and that its report shows every episode."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError
from vln_ros.datatypes import STOP, Action, ActionChunk, Pose
from vln_ros.evaluation.episode.metrics import EpisodeMetrics, measure_episode
from vln_ros.evaluation.episode.record import EpisodeInfo, EpisodeRecord, Step
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.runs.lines import read_episodes
from vln_ros.evaluation.runs.results import EpisodeResult, FrameCounts, LatencyStats, Protocol, RunInfo
from vln_ros.evaluation.runs.run_folder import RunFolder, folder_name

PROTOCOL = Protocol(
    name="r2r-vlnce",
    split="val_unseen",
    control="lockstep",
    goal_radius_m=3.0,
    forward_m=0.25,
    turn_deg=15.0,
    max_steps=500,
)
INFO = RunInfo(("vln_ros", "demo", "--instruction", "go & stop"), PROTOCOL, 7, {"camera.width": 64})
FORWARD = Action(forward_m=0.25)
GOAL = np.array([2.0, 0.0])


def run_episode(
    folder: RunFolder,
    episode_id: str,
    *,
    video: bool = False,
    goal: bool = True,
    last_distance_m: float = 1.0,
) -> EpisodeRecord:
    info = EpisodeInfo(
        episode_id=episode_id,
        scene_id="flat_0001",
        instruction=f"Go to <the lamp> of {episode_id}.",
        goal=GOAL if goal else None,
        goal_radius_m=3.0 if goal else None,
        reference_path=np.array([[0.0, 0.0], [1.0, 0.0]]) if goal else None,
    )
    recorder = folder.start_episode(info, video=video)
    recorder.step(Step.discrete(0, Pose.identity(), None, False))
    recorder.decision(ActionChunk(0, 0, 0, (FORWARD, FORWARD, FORWARD, STOP)), 41.5)
    rgb = np.full((48, 64, 3), 90, np.uint8)
    depth = np.ones((48, 64), np.float32)
    for n in range(4):
        recorder.frame(rgb, depth, n * 10**9, n)
        pose = Pose.planar(0.25 * (n + 1), 0.0, 0.1)
        recorder.step(Step.discrete((n + 1) * 10**9, pose, FORWARD if n < 3 else STOP, n == 2))
    metrics = None
    if goal:
        positions = np.array([(s.x_m, s.y_m) for s in recorder.steps])
        distances = np.linalg.norm(positions - GOAL, axis=1)
        distances[-1] = last_distance_m
        metrics = measure_episode(
            positions,
            distances,
            stop_called=True,
            goal_radius_m=3.0,
            reference_path=info.reference_path,
            collisions=1,
            steps=4,
        )
    return recorder.finish("stop", 1.25, metrics)


def load(path: Path) -> dict[str, object]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)  # type: ignore[no-any-return]


def test_everything_is_there_and_agrees(tmp_path: Path) -> None:
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        assert load(tmp_path / "result.json")["complete"] is False
        folder.add(run_episode(folder, "a", video=True), None)
        folder.add(run_episode(folder, "b", last_distance_m=math.inf), None)
        result = folder.finish(FrameCounts(240, 240, 0, 200))
    tree = load(tmp_path / "result.json")
    assert tree["complete"] is True and tree["seed"] == 7 and tree["decisions"] == 2
    assert tree["frames"] == {"received": 240, "aligned": 240, "dropped": 0, "processed": 200}
    assert tree["latency_ms"] == {"count": 2, "p50": 41.5, "p95": 41.5, "max": 41.5}
    assert tree["protocol"]["goal_radius_m"] == 3.0  # type: ignore[index]
    assert tree["summary"]["success"]["mean"] == 0.5  # type: ignore[index]
    assert tree["summary"]["unreachable"] == 1  # type: ignore[index]
    assert {"vln_ros", "python", "numpy"} <= set(tree["versions"])  # type: ignore[call-overload]
    assert [e["episode_id"] for e in tree["episodes"]] == ["a", "b"]  # type: ignore[attr-defined]
    assert read_episodes(tmp_path / "episodes.jsonl", repair=False) == list(result.episodes)

    for name in ("a", "b"):
        here = tmp_path / "episodes" / name
        assert (here / "map.png").read_bytes()[:4] == b"\x89PNG"
        poses = [json.loads(line) for line in (here / "trajectory.jsonl").read_text().splitlines()]
        assert [p["x_m"] for p in poses] == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert [p["action"] for p in poses] == [
            None,
            "forward 25 cm",
            "forward 25 cm",
            "forward 25 cm",
            "stop",
        ]
        assert [p["collided"] for p in poses] == [False, False, False, True, False]
        (decision,) = [json.loads(line) for line in (here / "decisions.jsonl").read_text().splitlines()]
        assert decision["latency_ms"] == 41.5 and decision["actions"][3] == [0.0, 0.0, True]
    assert (tmp_path / "episodes/a/video.mp4").exists() and not (tmp_path / "episodes/b/video.mp4").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_report_shows_every_episode_escaped_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    ids = [f"e{n}" for n in range(15)]
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        for n, episode_id in enumerate(ids):
            record = run_episode(folder, episode_id, video=n < 2, last_distance_m=0.5 * n)
            folder.add(record, None)
        folder.finish(None)
    page = (tmp_path / "report.html").read_text()
    table = page[page.index('id="all"') :]
    for episode_id in ids:
        assert f"Go to &lt;the lamp&gt; of {episode_id}." in table
    assert "<the lamp>" not in page
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) > 2 * len(ids)
    for link in links:
        assert "://" not in link and (tmp_path / link).exists(), link
    assert page.count("<video ") == 2  # both are among the shown
    worst, best = page.index("Worst episodes"), page.index("Best episodes")
    assert worst < page.index("episodes/e14/map.png") < best < page.index("episodes/e0/map.png", best)


def test_a_recording_without_goal_has_no_invented_numbers(tmp_path: Path) -> None:
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        folder.add(run_episode(folder, "kitchen", goal=False), None)
        result = folder.finish(None)
    assert result.summary.episodes == 0 and result.episodes[0].metrics is None
    page = (tmp_path / "report.html").read_text()
    assert "recorded" in page and "Success rate" not in page


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        folder.finish(None, complete=False)
    assert "not complete" in (tmp_path / "report.html").read_text()


def test_result_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def die(handle: int) -> None:
        raise OSError("the power went")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError, match="power"):
        write_atomically(path, "new" * 100)
    assert path.read_text() == "old"


def test_resume_after_a_crash_at_any_byte(tmp_path: Path) -> None:
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        for episode_id in ("a", "b"):
            folder.add(run_episode(folder, episode_id), None)
    log = tmp_path / "episodes.jsonl"
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (0, 1, first - 1, first, first + 1, len(whole) - 1, len(whole)):
        log.write_bytes(whole[:cut])
        done = whole[:cut].count(b"\n")
        with RunFolder(tmp_path, INFO, resume=True) as folder:
            assert [folder.is_done(e) for e in ("a", "b")] == [done > 0, done > 1]
            for episode_id in ("a", "b"):
                if not folder.is_done(episode_id):
                    folder.add(run_episode(folder, episode_id), None)
            result = folder.result(complete=True, frames=None)
        assert log.read_bytes() == whole, f"cut at {cut}"
        assert result.latency_ms.count == 2 and result.summary.episodes == 2


def test_refusals_name_the_remedy(tmp_path: Path) -> None:
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        folder.add(run_episode(folder, "a"), None)
        with pytest.raises(ConfigError, match="another process"):
            RunFolder(tmp_path, INFO, resume=True)
        with pytest.raises(ValueError, match="unique"):
            run_episode(folder, "a")
    with pytest.raises(ConfigError, match="resume it"):
        RunFolder(tmp_path, INFO, resume=False)
    with pytest.raises(ConfigError, match="another seed"):
        RunFolder(tmp_path, RunInfo(INFO.command, PROTOCOL, 8, INFO.config), resume=True)
    log = tmp_path / "episodes.jsonl"
    line = log.read_text()
    log.write_text(line + line)
    with pytest.raises(ConfigError, match=r"line 2.*twice"):
        RunFolder(tmp_path, INFO, resume=True)
    log.write_text("{}\n" + line)
    with pytest.raises(ConfigError, match="line 1 is broken"):
        RunFolder(tmp_path, INFO, resume=True)
    with pytest.raises(ConfigError, match="cannot write"):
        RunFolder(log / "below", INFO, resume=False)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_latency_quantiles_are_numpys(latencies_ms: list[float]) -> None:
    got = LatencyStats.of(latencies_ms)
    expected = np.quantile(latencies_ms, [0.5, 0.95, 1.0])
    assert [got.p50, got.p95, got.max] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_folder_names_are_safe_and_different(a: str, b: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", folder_name(a))
    assert (folder_name(a) == folder_name(b)) == (a == b)


@settings(deadline=None, max_examples=100)
@given(
    st.text(), st.text(min_size=1), st.floats(0, 1e3) | st.just(math.inf), st.floats(0, 1) | st.just(math.nan)
)
def test_a_result_line_reads_back(instruction: str, episode_id: str, error_m: float, spl: float) -> None:
    metrics = EpisodeMetrics(
        success=True,
        spl=spl,
        oracle_success=True,
        navigation_error_m=error_m,
        path_length_m=1.5,
        ndtw=math.nan,
        sdtw=math.nan,
        collisions=0,
        steps=9,
    )
    before = EpisodeResult(
        episode_id=episode_id,
        scene_id="s",
        instruction=instruction,
        folder="f",
        ended="stop",
        wall_s=1.5,
        decisions=1,
        latencies_ms=array("d", [2.25]),
        video_frames=0,
        metrics=metrics,
    )
    line = before.to_json()
    assert "\n" not in line
    assert repr(EpisodeResult.from_json(line)) == repr(before)


def test_a_resume_names_the_keys_that_differ(tmp_path: Path) -> None:
    before = {"seed": 7, "camera.width": 320, "gone": 1}
    with RunFolder(tmp_path, dataclasses.replace(INFO, config=before), resume=False):
        pass
    now = {"seed": 7, "camera.width": 640, "new": True}
    other = dataclasses.replace(INFO, config=now, protocol=dataclasses.replace(INFO.protocol, turn_deg=30.0))
    with pytest.raises(ConfigError) as error:
        RunFolder(tmp_path, other, resume=True)
    said = str(error.value)
    assert "protocol turn_deg:" in said and "now 30.0" in said and "config camera.width: 320, now 640" in said
    assert "config gone: 1, now 'none'" in said and "config new: 'none', now True" in said
    assert "seed" not in said and "forward_m" not in said


def test_a_run_without_an_episode_is_in_nobodys_way(tmp_path: Path) -> None:
    with RunFolder(tmp_path, INFO, resume=False) as folder:
        folder.finish(None, complete=False, cut_short="no space left")
    assert "This run is not complete</b>: no space left" in (tmp_path / "report.html").read_text()
    with RunFolder(tmp_path, dataclasses.replace(INFO, seed=8), resume=False) as folder:
        assert folder.finish(None).complete
    assert json.loads((tmp_path / "result.json").read_text())["seed"] == 8


def test_the_page_says_who_decided(tmp_path: Path) -> None:
    config = {
        "navigator.engine": "qwen",
        "navigator.qwen.profile": "tiny",
        "navigator.qwen.checkpoint": "CKPT",
    }
    with RunFolder(
        tmp_path, dataclasses.replace(INFO, config=config, checkpoint="0123"), resume=False
    ) as folder:
        folder.finish(None)
    page = (tmp_path / "report.html").read_text()
    for row in ("<th>Engine</th><td>qwen</td>", "<th>Profile</th><td>tiny</td>", "CKPT (fingerprint 0123)",
                "<th>torch</th>", "<th>transformers</th>", "<th>python</th>"):  # fmt: skip
        assert row in page
