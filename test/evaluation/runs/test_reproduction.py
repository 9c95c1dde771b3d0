"""A published evaluation as one command: it says what it lacks, and what its figures are beside ours."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vln_ros.cli import build_parser
from vln_ros.cli.eval import configs
from vln_ros.config import ConfigError, EvalConfig, Scalar, from_flat, with_protocol
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.evaluation.episode.metrics import MEASURES, EpisodeMetrics, summarise
from vln_ros.evaluation.runs.reproduction import (
    PUBLISHED,
    changes,
    find_published,
    missing,
    reproduction_options,
    reproduction_table,
)
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import make_episodes


def config_of(name: str, **options: Scalar) -> EvalConfig:
    own = {key.replace("__", "."): value for key, value in options.items()}
    return with_protocol(from_flat(EvalConfig, {**reproduction_options(find_published(name)), **own}))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    write_episodes(root, "val_unseen", make_episodes("val_unseen", 3, "room"))
    return root


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_is_a_whole_evaluation(name: str) -> None:
    published, config = find_published(name), config_of(name)
    profile = load_profile(config.navigator.qwen.profile)
    assert config.world == "habitat" and config.episodes == 0 and config.split == "val_unseen"
    assert config.protocol != "custom"
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", published.checkpoint)
    assert published.figures and set(published.figures) <= set(MEASURES)
    assert all(0.0 < published.figures[m] < 1.0 for m in published.figures if m != "navigation_error_m")
    assert re.search(r"README at [0-9a-f]{7}", published.source), "who states it, and in which version"
    assert changes(published, config) == ()
    assert profile.name in ("navida", "activevln-r2r", "internvla-n1-s2")


def test_one_that_nobody_knows_is_named_with_all_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'navida'.*navida-r2r, navida-rxr"):
        find_published("navida")


def test_all_that_is_missing_is_said_at_once_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = missing(find_published("navida-r2r"), config_of("navida-r2r"))
    assert [line.partition(":")[0] for line in lines] == ["episodes", "scenes", "checkpoint", "Habitat"]
    assert "data/datasets/R2R_VLNCE_v1-3_preprocessed" in lines[0]
    assert "Matterport3D" in lines[1] and "habitat.scenes=" in lines[1]
    assert "hf download waynechu/NaVIDA" in lines[2]
    assert "habitat.python=" in lines[3]
    options = build_parser().parse_args(["eval", "--reproduce", "navida-r2r", "--out", str(tmp_path / "run")])
    with pytest.raises(ConfigError) as error:
        options.run(options)
    assert all(line in str(error.value) for line in lines)
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_not_missing(dataset: Path, tmp_path: Path) -> None:
    def lines(**options: Scalar) -> list[str]:
        config = config_of("navida-r2r", dataset=str(dataset), habitat__scenes=str(scenes), **options)
        return [line.partition(":")[0] for line in missing(find_published("navida-r2r"), config)]

    scenes, checkpoint = tmp_path / "scenes", tmp_path / "checkpoint"
    python: dict[str, Scalar] = {"habitat__python": sys.executable}
    assert lines(**python) == ["scenes", "checkpoint"]
    wanted = sorted({e.scene_id for e in make_episodes("val_unseen", 3, "room")})
    scenes.mkdir()
    for scene in wanted[1:]:
        (scenes / scene).parent.mkdir(parents=True, exist_ok=True)
        (scenes / scene).touch()
    config = config_of("navida-r2r", dataset=str(dataset), habitat__scenes=str(scenes), **python)
    (line,) = [m for m in missing(find_published("navida-r2r"), config) if m.startswith("scenes")]
    assert f"1 of {len(wanted)}" in line and str(scenes / wanted[0]) in line
    (scenes / wanted[0]).parent.mkdir(parents=True, exist_ok=True)
    (scenes / wanted[0]).touch()
    assert lines(**python) == ["checkpoint"]
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    assert lines(**python, navigator__qwen__checkpoint=str(checkpoint)) == []
    assert lines(**python, navigator__qwen__checkpoint=str(tmp_path / "no such")) == ["checkpoint"]
    assert lines(navigator__qwen__checkpoint=str(checkpoint), habitat__python="no-such-python") == ["Habitat"]


def test_what_a_user_says_comes_first_and_is_named_as_a_difference() -> None:
    options = build_parser().parse_args(
        [
            "eval",
            "--reproduce",
            "navida-r2r",
            "--episodes",
            "20",
            "--set",
            "navigator.qwen.stream.decode=tree",
        ]
    )
    config, _ = configs(options)
    assert config.episodes == 20 and config.navigator.qwen.stream.decode == "tree"
    found = changes(find_published("navida-r2r"), config)
    assert len(found) == 2 and any(line.startswith("episodes = 20") for line in found)


def test_figures_stand_beside_ours_and_one_outside_our_interval_is_marked() -> None:
    def episode(success: bool) -> EpisodeMetrics:
        return EpisodeMetrics(
            success=success, spl=0.9 * success, oracle_success=success, navigation_error_m=1.0 + success,
            path_length_m=5.0, ndtw=math.nan, sdtw=math.nan, collisions=0, steps=9,
        )  # fmt: skip

    table = reproduction_table(
        find_published("navida-r2r"), summarise([episode(i % 10 < 6) for i in range(100)])
    )
    rows = {line[:24].strip(): line for line in table.splitlines()}
    assert "61.4" in rows["Success rate [%]"] and "60.0" in rows["Success rate [%]"]
    assert "OUTSIDE" not in rows["Success rate [%]"]
    assert "4.32" in rows["Navigation error [m]"] and "OUTSIDE" in rows["Navigation error [m]"]
    assert rows["nDTW [%]"].split()[-3:] == ["-", "-", "-"]  # neither they nor we have one
    assert "waynechu1021/NAVIDA" in table


@pytest.mark.slow
def test_the_command_compares_with_what_was_published_and_with_a_peer(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another world and another checkpoint, as nobody may hand out the true ones: all of it is said."""
    command = [
        "eval", "--reproduce", "navida-r2r", "--world", "embedded", "--dataset", str(dataset),
        "--episodes", "2", "--checkpoint", "shipped:tiny", "--max-steps", "6", "--protocol", "custom",
        "--workers", "0",
        "--set", "camera.width=64", "--set", "camera.height=48",
    ]  # fmt: skip
    peer = tmp_path / "log"
    peer.mkdir()
    for episode in make_episodes("val_unseen", 2, "room"):
        stats = {"id": episode.episode_id, "success": 1.0, "spl": 0.5, "distance_to_goal": 0.5,
                 "path_length": 4.0, "oracle_success": 1.0}  # fmt: skip
        (peer / f"stats_{episode.episode_id}.json").write_text(json.dumps(stats))
    options = build_parser().parse_args([*command, "--out", str(tmp_path / "run"), "--peer", str(tmp_path)])
    assert options.run(options) == 0
    text = capsys.readouterr().out
    said = (tmp_path / "run" / "reproduction.txt").read_text()
    assert said in text
    for expected in ("published by: github.com/waynechu1021/NAVIDA", "differs: world = 'embedded'",
                     "differs: episodes = 2", "Success [%]"):  # fmt: skip
        assert expected in said, said


def test_a_peer_without_anything_to_reproduce_is_refused(tmp_path: Path) -> None:
    options = build_parser().parse_args(["eval", "--peer", str(tmp_path), "--engine", "expert"])
    with pytest.raises(ConfigError, match="--peer needs --reproduce"):
        options.run(options)
    config = replace(config_of("navida-r2r"), via="graph")
    assert config.via == "graph"
    graph = build_parser().parse_args(["eval", "--reproduce", "navida-r2r", "--via", "graph"])
    with pytest.raises(ConfigError, match="one process"):
        graph.run(graph)
