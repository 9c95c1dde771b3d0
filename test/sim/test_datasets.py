"""R2R and RxR files as they are handed around, and how they can be wrong."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError
from vln_ros.sim.episodes.episode import Episode, read_episodes, split_file


def record(number: int, **changes: object) -> dict[str, object]:
    """As RxR has them: no geodesic distance, no vocabulary, an instruction with a language."""
    yaw = 0.3 * number
    return {
        "episode_id": number,
        "trajectory_id": str(number // 2),
        "scene_id": "mp3d/17DRP5sb8fy/17DRP5sb8fy.glb",
        "start_position": [1.0, 0.17, -3.0],
        "start_rotation": [0.0, math.sin(yaw / 2), 0.0, math.cos(yaw / 2)],
        "info": {"role": "guide"},
        "goals": [{"position": [2.0, 0.17, -5.0], "radius": 3.0}],
        "instruction": {"instruction_id": "7", "instruction_text": "जाओ", "language": "hi-IN"},
        "reference_path": [[1.0, 0.17, -3.0], [2.0, 0.17, -5.0]],
        **changes,
    }  # fmt: skip


def in_language(number: int, language: str) -> dict[str, object]:
    return record(number, instruction={"instruction_text": "go", "language": language})


def write(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps({"episodes": records}).encode()))
    return path


def test_rxr_is_found_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "RxR_VLNCE_v0"
    path = write(folder / "val_unseen" / "val_unseen_guide.json.gz", record(5), in_language(6, "en-US"))
    truth = {"5": {"locations": [[1.0, 0.17, -3.0]], "forward_steps": 1, "actions": [1, 0]}}
    path.with_name("val_unseen_guide_gt.json.gz").write_bytes(gzip.compress(json.dumps(truth).encode()))
    assert split_file(folder, "val_unseen") == path == split_file(path.parent, "val_unseen")
    first, second = read_episodes(split_file(path, "val_unseen"))
    assert (first.episode_id, first.trajectory_id, first.language) == ("5", "2", "hi-IN")
    assert first.actions is not None
    assert first.start.yaw_rad == pytest.approx(1.5)
    assert first.start.position.tolist() == [3.0, -1.0, 0.17]
    assert math.isnan(first.geodesic_distance_m)
    assert [e.episode_id for e in read_episodes(path, ["en"])] == [second.episode_id]
    assert len(read_episodes(path, ["hi-IN", "en-US"])) == 2


def test_what_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "train.json.gz", record(1))
    with pytest.raises(ConfigError, match=r"no split 'val_unseen' in .*it holds train"):
        split_file(tmp_path, "val_unseen")
    with pytest.raises(ConfigError, match=r"no dataset .*R2R_VLNCE_v1-3_preprocessed"):
        split_file(tmp_path / "nowhere", "train")
    with pytest.raises(
        ConfigError, match=r"no episode in language 'de'; it has hi-IN \(RxR as a whole: en-US"
    ):
        read_episodes(path, ["de"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="truncated or damaged"):
        read_episodes(path)


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "scalar first": ({"start_rotation": [0.9, 0.0, math.sqrt(0.19), 0.0]}, "w first"),
    "scalar first, facing along": ({"start_rotation": [1.0, 0.0, 0.0, 0.0]}, "w first"),
    "no unit quaternion": ({"start_rotation": [0.0, 3.0, 0.0, 1.0]}, "no rotation"),
    "no goals": ({"goals": None}, "a test split"),
    "not a number": ({"start_position": [math.nan, 0.0, 0.0]}, "not finite"),
    "negative distance": ({"info": {"geodesic_distance": -math.inf}}, "geodesic_distance"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    changes, words = WRONG[name]
    path = write(tmp_path / "x.json.gz", record(1), record(2, **changes))
    with pytest.raises(ConfigError, match=rf"x\.json\.gz: episode 2.*{words}"):
        read_episodes(path)


def test_ids_occur_once_and_an_infinite_distance_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="episode id '1' occurs twice"):
        read_episodes(write(tmp_path / "x.json.gz", record(1), record(1)))
    endless = record(1, info={"geodesic_distance": math.inf})
    (episode,) = read_episodes(write(tmp_path / "x.json.gz", endless))
    assert episode.geodesic_distance_m == math.inf


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(record(1))), values)
def test_any_value_is_either_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.json.gz", record(1, **{key: value}))
    try:
        episodes = read_episodes(path)
    except ConfigError as error:
        assert "any.json.gz" in str(error)
    else:
        assert isinstance(episodes[0], Episode)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, zipped: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json.gz"
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(ConfigError, match=r"bytes\.json\.gz"):
        read_episodes(path)
