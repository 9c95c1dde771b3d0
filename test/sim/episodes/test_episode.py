"""Episode files in the VLN-CE layout, the splits, and what happens to broken files."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError
from vln_ros.datatypes import ActionKind
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import Episode, read_episodes, write_episodes
from vln_ros.sim.splits import EPISODES_PER_SCENE, make_episodes, make_scene_episodes
from vln_ros.training.labels import named_items

EPISODES = make_episodes("val_unseen", 3)


def same(a: Episode, b: Episode) -> None:
    assert (a.episode_id, a.trajectory_id, a.scene_id) == (b.episode_id, b.trajectory_id, b.scene_id)
    assert (a.instruction, a.actions, a.goal_radius_m) == (b.instruction, b.actions, b.goal_radius_m)
    assert a.geodesic_distance_m == b.geodesic_distance_m
    assert a.locations is not None and b.locations is not None
    for x, y in ((a.goal, b.goal), (a.reference_path, b.reference_path), (a.locations, b.locations)):
        np.testing.assert_allclose(x, y, atol=1e-9)
    np.testing.assert_allclose(a.start.matrix, b.start.matrix, atol=1e-9)


def test_round_trip(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "val_unseen", EPISODES)
    assert path == tmp_path / "val_unseen" / "val_unseen.json.gz"
    for a, b in zip(EPISODES, read_episodes(path), strict=True):
        same(a, b)
    first = path.read_bytes()
    write_episodes(tmp_path, "val_unseen", EPISODES)
    assert path.read_bytes() == first


def test_file_is_what_habitat_reads(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "s", EPISODES)
    content = json.loads(gzip.decompress(path.read_bytes()))
    record, episode = content["episodes"][0], EPISODES[0]
    # VLNEpisode and InstructionData take these keys and no others.
    assert set(record) == {
        "episode_id", "trajectory_id", "scene_id", "start_position", "start_rotation", "info", "goals",
        "instruction", "reference_path",
    }  # fmt: skip
    assert set(record["instruction"]) == {"instruction_text", "instruction_tokens"}
    x, y, _ = episode.start.position
    np.testing.assert_allclose(record["start_position"], [-y, 0.0, -x], atol=1e-12)
    yaw = 2 * math.atan2(record["start_rotation"][1], record["start_rotation"][3])
    assert math.remainder(yaw - episode.start.yaw_rad, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)
    words = content["instruction_vocab"]["word_list"]
    told = [words[t] for t in record["instruction"]["instruction_tokens"]]
    assert " ".join(told).replace(" ,", ",") == episode.instruction
    truth = json.loads(gzip.decompress((tmp_path / "s" / "s_gt.json.gz").read_bytes()))["1"]
    assert truth["actions"][-1] == 0
    assert truth["forward_steps"] == truth["actions"].count(1)
    assert len(truth["locations"]) == len(truth["actions"]) + 1


def test_without_ground_truth(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "s", [replace(EPISODES[0], actions=None, locations=None)])
    assert read_episodes(path)[0].actions is None


def with_truth(tmp_path: Path, change: Callable[..., Any]) -> Path:
    """The episodes as they are read when something has become of their ground truth."""
    path = write_episodes(tmp_path, "s", EPISODES)
    truth = path.with_name("s_gt.json.gz")
    content = json.loads(gzip.decompress(truth.read_bytes()))
    changed = change(content)
    truth.write_bytes(gzip.compress(json.dumps(content if changed is None else changed).encode()))
    return path


def test_no_ground_truth_is_none_and_not_the_sparse_path(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "s", EPISODES)
    path.with_name("s_gt.json.gz").unlink()
    assert [(e.locations, e.actions) for e in read_episodes(path)] == [(None, None)] * 3
    only_actions = write_episodes(tmp_path / "b", "s", [replace(e, locations=None) for e in EPISODES])
    for e, written in zip(read_episodes(only_actions), EPISODES, strict=True):
        assert e.locations is None and e.actions == written.actions


@pytest.mark.parametrize(
    ("change", "lost", "said"),
    [
        (lambda t: {}, {"1", "2", "3"}, None),
        (lambda t: t.pop("2") and None, {"2"}, None),
        (lambda t: {f"9{k}": v for k, v in t.items()}, {"1", "2", "3"}, None),  # of a split with other ids
        (lambda t: {"1": t["2"], "2": t["3"], "3": t["1"]}, {"1", "2", "3"}, "3 of 3 .*begin elsewhere"),
        (lambda t: t["2"].update(locations=t["2"]["locations"][:1]), {"2"}, "1 of 3 .*no way"),
        (lambda t: t["2"].update(locations=[]), {"2"}, "1 of 3 .*no way"),
        (lambda t: t["3"].update(locations=None), {"3"}, "1 of 3 .*no way"),
        (lambda t: t["3"].pop("locations") and None, {"3"}, "1 of 3 .*no way"),
    ],
)
def test_ground_truth_of_some(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[..., Any],
    lost: set[str],
    said: str | None,
) -> None:
    for e, written in zip(read_episodes(with_truth(tmp_path, change)), EPISODES, strict=True):
        if e.episode_id in lost:
            assert e.locations is None
        else:
            assert e.locations is not None and written.locations is not None
            np.testing.assert_allclose(e.locations, written.locations, atol=1e-9)
    messages = [r.message for r in caplog.records]
    assert len(messages) == (said is not None)
    assert said is None or re.search(said, messages[0])


def test_of_another_split_with_the_same_ids(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "val_unseen", EPISODES)
    other = write_episodes(tmp_path, "val_seen", make_episodes("val_seen", 3))
    path.with_name("val_unseen_gt.json.gz").write_bytes(other.with_name("val_seen_gt.json.gz").read_bytes())
    assert [(e.locations, e.actions) for e in read_episodes(path)] == [(None, None)] * 3


def test_an_expert_that_stood_still_has_one_location(tmp_path: Path) -> None:
    turned = (ActionKind.TURN_LEFT, ActionKind.STOP)
    assert EPISODES[0].locations is not None
    standing = replace(EPISODES[0], actions=turned, locations=EPISODES[0].locations[:1])
    (read,) = read_episodes(write_episodes(tmp_path, "s", [standing]))
    assert read.locations is not None and len(read.locations) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0.0, math.nan, 0.0]] * 3, "not finite"),
        ([[0.0, math.inf, 0.0]] * 3, "not finite"),
        ([[0.0, 0.0]] * 3, r"must have shape \['N', 3\], got \[3, 2\]"),
        ([0.0, 0.0, 0.0], "must have shape"),
        ([[0.0, 0.0, 0.0], [1.0]], "not an array of numbers"),
        ("here", "not an array of numbers"),
        ({"x": 1}, "not an array of numbers"),
    ],
)
def test_ground_truth_that_is_broken_is_named(tmp_path: Path, value: object, message: str) -> None:
    path = with_truth(tmp_path, lambda t: t["2"].update(locations=value))
    with pytest.raises(ConfigError, match=rf"s_gt\.json\.gz: episode 2: 'locations' .*{message}"):
        read_episodes(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"{", "Not a gzipped file"),
        (gzip.compress(b"[]", mtime=0), "must hold a JSON object"),
    ],
    ids=["empty", "of nothing", "plain", "a list"],
)
def test_ground_truth_file_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    path = write_episodes(tmp_path, "s", EPISODES)
    path.with_name("s_gt.json.gz").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"s_gt\.json\.gz.*{message}"):
        read_episodes(path)


def test_writer_refuses_what_the_layout_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        write_episodes(tmp_path, "s", [EPISODES[0], EPISODES[0]])
    with pytest.raises(ValueError, match="English only"):
        write_episodes(tmp_path, "s", [replace(EPISODES[0], language="te-IN")])


def broken(tmp_path: Path, change: Callable[..., Any]) -> Path:
    path = write_episodes(tmp_path, "s", EPISODES)
    content = json.loads(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


def setting(key: str, value: object) -> Callable[..., Any]:
    def change(content: dict[str, Any]) -> None:
        content["episodes"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("episodes"), "no list 'episodes'"),
        (lambda c: c["episodes"].append(c["episodes"][0]), "'1' occurs twice"),
        (lambda c: c["episodes"][1].pop("goals"), "episode 2: key 'goals' is missing"),
        (lambda c: c["episodes"][1].pop("episode_id"), "episode number 1: key 'episode_id'"),
        (lambda c: c["episodes"][1]["instruction"].pop("instruction_text"), "episode 2, instruction: key"),
        (lambda c: c["episodes"].append(7), "number 3: expected an object"),
        (setting("start_position", [0, math.nan, 0]), "episode 2: 'start_position' holds .* not finite"),
        (setting("start_position", [0, 0]), r"must have shape \[3\], got \[2\]"),
        (setting("start_rotation", [0, 0, 0, 0]), "episode 2: 'start_rotation' is no rotation"),
        (setting("reference_path", []), "'reference_path' must have shape"),
        (setting("reference_path", [[1, 2, "x"]]), "'reference_path' is not an array of numbers"),
        (setting("goals", []), "at least one goal"),
        (setting("info", {"geodesic_distance": -1}), "must not be negative"),
        (setting("info", None), "episode 2, info: expected an object"),
        (setting("scene_id", ""), "'scene_id' must be a non-empty text"),
    ],
)
def test_broken_content_names_episode_and_key(
    tmp_path: Path, change: Callable[..., Any], message: str
) -> None:
    path = broken(tmp_path, change)
    with pytest.raises(ConfigError, match=message) as e:
        read_episodes(path)
    assert str(path) in str(e.value)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    with pytest.raises(ConfigError, match="no episode file"):
        read_episodes(path)
    for data, message in (
        (gzip.compress(b'{"episodes": []}' * 99)[:-20], "truncated"),
        (b"{}", "cannot read"),
        (gzip.compress(b"{"), "not valid JSON"),
        (gzip.compress(b"\xff\xfe"), "not UTF-8"),
        (gzip.compress(b"[1]"), "must hold a JSON object"),
    ):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            read_episodes(path)


def test_wrong_actions_in_the_ground_truth(tmp_path: Path) -> None:
    path = write_episodes(tmp_path, "s", EPISODES)
    truth = path.with_name("s_gt.json.gz")
    content = json.loads(gzip.decompress(truth.read_bytes()))
    content["2"]["actions"] = [1, 9]
    truth.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(ConfigError, match=r"s_gt\.json\.gz: episode 2: 'actions'"):
        read_episodes(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=5), c, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["episode_id", "start_position", "start_rotation", "info", "goals", "instruction",
                     "reference_path", "trajectory_id", "scene_id"]),
    json_values,
)  # fmt: skip
def test_any_value_is_read_or_reported(tmp_path: Path, key: str, value: object) -> None:
    path = broken(tmp_path, setting(key, value))
    try:
        read_episodes(path)
    except ConfigError as e:
        assert str(path) in str(e)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_reported(tmp_path: Path, data: st.DataObject) -> None:
    path = write_episodes(tmp_path, "s", EPISODES[:1])
    good = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        good = good[:where]
    else:
        good[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(good))
    try:
        read_episodes(path)
    except ConfigError as e:
        assert str(path) in str(e)


def test_splits_are_prefixes_and_disjoint_where_they_must_be() -> None:
    for a, b in zip(make_episodes("val_unseen", 2), EPISODES[:2], strict=True):
        same(a, b)
    for a, b in zip(make_scene_episodes("val_unseen", 900_000)[:3], EPISODES, strict=True):
        same(a, b)
    train, seen = make_episodes("train", EPISODES_PER_SCENE), make_episodes("val_seen", EPISODES_PER_SCENE)
    assert {e.scene_id for e in train} == {e.scene_id for e in seen}
    assert not {e.instruction for e in train} & {e.instruction for e in seen}
    assert not {e.scene_id for e in EPISODES} & {e.scene_id for e in train}


@pytest.mark.parametrize(("split", "count"), [("test", 1), ("train", 0), ("val_unseen", 10**7)])
def test_split_or_count_that_does_not_exist(split: str, count: int) -> None:
    with pytest.raises(ConfigError):
        make_episodes(split, count)
    with pytest.raises(ConfigError, match="seed 5 is not in val_unseen"):
        make_scene_episodes("val_unseen", 5)


def test_episodes_make_sense() -> None:
    for e in (*EPISODES, *make_episodes("val_unseen", 3, "small"), *make_episodes("val_unseen", 3, "room")):
        assert e.actions is not None
        assert e.actions[-1] is ActionKind.STOP
        assert ActionKind.STOP not in e.actions[:-1]
        np.testing.assert_allclose(e.reference_path[0], e.start.position, atol=1e-9)
        np.testing.assert_allclose(e.reference_path[-1], e.goal)
        length = np.linalg.norm(np.diff(e.reference_path, axis=0), axis=1).sum()
        assert length == pytest.approx(e.geodesic_distance_m)
        assert e.geodesic_distance_m >= 1.5


@pytest.mark.parametrize("kind", ["room", "small"])
def test_the_goal_is_the_nearest_place_beside_the_thing(kind: str) -> None:
    for e in make_episodes("val_unseen", 5, kind):
        scene = Scene(e.scene_id, AGENT_RADIUS_M)
        target = scene.flat.furniture[named_items(scene.flat, e.instruction).target]
        x0, y0, x1, y1 = target.footprint
        gx, gy = e.goal[:2]
        off = np.hypot(max(x0 - gx, gx - x1, 0.0), max(y0 - gy, gy - y1, 0.0))
        assert off == pytest.approx(AGENT_RADIUS_M + 0.15)
        # No other free place that far from it is reached on a shorter way.
        grid = np.stack(np.meshgrid(np.arange(x0 - 1, x1 + 1, 0.1), np.arange(y0 - 1, y1 + 1, 0.1)), -1)
        for point in grid.reshape(-1, 2):
            apart = np.hypot(max(x0 - point[0], point[0] - x1, 0.0), max(y0 - point[1], point[1] - y1, 0.0))
            square = x0 <= point[0] <= x1 or y0 <= point[1] <= y1  # not past a corner
            if square and abs(apart - off) < 0.02 and scene.flat.room_at(point) == target.room:
                assert scene.walkable.distance(e.start.position, point) > e.geodesic_distance_m - 0.15
