"""Reads and writes episodes (start, goal, instruction) in the VLN-CE layout of R2R and RxR.

In memory everything is in ROS axes; the files hold Habitat's. The conversion is in
:mod:`vln_ros.axes`.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vln_ros.axes import (
    habitat_from_pose,
    habitat_from_ros_points,
    pose_from_habitat,
    ros_from_habitat_points,
)
from vln_ros.config import ConfigError
from vln_ros.datatypes import ActionKind, Float64Array, Pose

ENGLISH = "en"
_SAME_PLACE_M = 0.5
_LOG = logging.getLogger(__name__)
RXR_LANGUAGES = ("en-US", "en-IN", "hi-IN", "te-IN")


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode:
    """One task: from ``start``, do what ``instruction`` says, end near ``goal`` and stop.

    Attributes:
        episode_id: unique in its file.
        trajectory_id: episodes with the same way, told differently, share it.
        scene_id: as :meth:`vln_ros.protocols.World.load` takes it.
        start: ``world_from_base`` at the beginning, ROS axes.
        goal: ``[3]`` metres, ROS axes.
        goal_radius_m: success is a stop strictly nearer than this (geodesic). 1.0 m in embedded
            episodes, whose rooms are small; 3.0 m in R2R.
        instruction: the text.
        reference_path: ``[N, 3]`` metres, ROS axes, start to goal.
        geodesic_distance_m: from start to goal, as the file says; inf: no way; NaN: it does not say (RxR).
            Measures do not use it: they ask the world.
        actions: what the expert did, the final stop included; None when the file has none.
        locations: ``[K, 3]`` positions of the expert, step by step, ROS axes: the ground truth of nDTW. None
            when the file has none; the sparse ``reference_path`` is no substitute.
        language: language tag of the instruction.
        goal_area: ``x_min, y_min, x_max, y_max`` in metres, in which the distance to the goal is 0; None: the
            goal is a place. Files have none.
    """

    episode_id: str
    trajectory_id: str
    scene_id: str
    start: Pose
    goal: Float64Array
    goal_radius_m: float
    instruction: str
    reference_path: Float64Array
    geodesic_distance_m: float
    actions: tuple[ActionKind, ...] | None = None
    locations: Float64Array | None = None
    language: str = ENGLISH
    goal_area: tuple[float, float, float, float] | None = None

    def is_in_goal_area(self, position: Float64Array) -> bool:
        """``position`` ``[>= 2]``, metres; never where the goal is a place."""
        if self.goal_area is None:
            return False
        x0, y0, x1, y1 = self.goal_area
        return bool(x0 <= position[0] <= x1 and y0 <= position[1] <= y1)


def words(text: str) -> list[str]:
    """The words of an instruction as they enter the vocabulary of a file."""
    return re.findall(r"[a-z0-9']+|[.,]", text.lower())


def write_episodes(root: Path, split: str, episodes: Sequence[Episode]) -> Path:
    """Write ``root/{split}/{split}.json.gz`` and, for episodes with actions, ``{split}_gt.json.gz``.

    Equal episodes give equal bytes. Returns the path of the first file.

    Raises:
        ValueError: an id occurs twice, an episode is not in English or has an area for a goal (the layout
            cannot say so).
    """
    seen: set[str] = set()
    for e in episodes:
        if e.episode_id in seen:
            raise ValueError(f"episode id {e.episode_id!r} occurs twice")
        if e.language != ENGLISH:
            raise ValueError(f"episode {e.episode_id}: the R2R layout holds English only, not {e.language!r}")
        if e.goal_area is not None:
            raise ValueError(f"episode {e.episode_id}: the R2R layout holds places, no goal_area")
        seen.add(e.episode_id)
    vocabulary = ["<pad>", "<unk>", *sorted({w for e in episodes for w in words(e.instruction)})]
    number = {w: k for k, w in enumerate(vocabulary)}
    records, truth = [], {}
    for e in episodes:
        position, rotation = habitat_from_pose(e.start)
        records.append(
            {
                "episode_id": _file_id(e.episode_id),
                "trajectory_id": _file_id(e.trajectory_id),
                "scene_id": e.scene_id,
                "start_position": position.tolist(),
                "start_rotation": rotation.tolist(),
                "info": {"geodesic_distance": e.geodesic_distance_m},
                "goals": [{"position": habitat_from_ros_points(e.goal).tolist(), "radius": e.goal_radius_m}],
                "instruction": {
                    "instruction_text": e.instruction,
                    "instruction_tokens": [number[w] for w in words(e.instruction)],
                },
                "reference_path": habitat_from_ros_points(e.reference_path).tolist(),
            }
        )
        if e.actions is not None:
            known: dict[str, object] = {
                "forward_steps": sum(a is ActionKind.FORWARD for a in e.actions),
                "actions": [int(a) for a in e.actions],
            }
            if e.locations is not None:
                known = {"locations": habitat_from_ros_points(e.locations).tolist(), **known}
            truth[e.episode_id] = known
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.json.gz"
    _write_gz(path, {"episodes": records, "instruction_vocab": {"word_list": vocabulary}})
    if truth:
        _write_gz(folder / f"{split}_gt.json.gz", truth)
    return path


def _file_id(text: str) -> int | str:
    """Ids are numbers in R2R files."""
    return int(text) if text.isascii() and text.isdecimal() and str(int(text)) == text else text


def _write_gz(path: Path, value: object) -> None:
    data = json.dumps(value, separators=(",", ":")).encode()
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(gzip.compress(data, mtime=0))
        part.replace(path)  # whole, or not at all
    finally:
        part.unlink(missing_ok=True)


def split_file(folder: Path, split: str) -> Path:
    """The episode file of a split: R2R's ``{split}/{split}.json.gz`` or RxR's ``{split}_guide.json.gz``.

    Args:
        folder: of the dataset, or of the split in it, or the file itself.

    Raises:
        ConfigError: there is none; the message says what is there instead.
    """
    folder = folder.expanduser()
    names = (f"{split}.json.gz", f"{split}_guide.json.gz")
    candidates = [folder, *(below / name for below in (folder / split, folder) for name in names)]
    for path in candidates:
        if path.is_file():
            return path
    if not folder.exists():
        raise ConfigError(f"no dataset {folder}; R2R is usually data/datasets/R2R_VLNCE_v1-3_preprocessed")
    there = [p.name for p in sorted(folder.iterdir())] if folder.is_dir() else []
    raise ConfigError(
        f"no split {split!r} in {folder}: neither {candidates[1]} nor {names[1]}; "
        f"it holds {', '.join(there[:10]) or 'nothing'}"
    )


def read_episodes(path: Path, languages: Sequence[str] = ()) -> tuple[Episode, ...]:
    """Episodes of a VLN-CE file (R2R or RxR), with actions where its ``..._gt.json.gz`` lies beside it.

    An episode that is not in there has no ground truth. Nor has one whose locations are less than a way
    (none, or one of an expert that moved), or begin elsewhere than the episode: ids say little, every split
    counts from 1. How many there are of the last two kinds is logged.

    Args:
        path: of ``{split}.json.gz`` or ``{split}_guide.json.gz``.
        languages: keep only these (``en-IN``; ``en`` takes en-US too); empty keeps all.

    Raises:
        ConfigError: the file is missing, truncated, no JSON or no list of episodes; an id occurs twice;
            an episode lacks a key or holds a value that cannot be; nothing is in these languages. The
            message names file, episode, key.
    """
    content = _read_gz(path)
    records = content.get("episodes")
    if not isinstance(records, list):
        raise ConfigError(f"{path}: no list 'episodes' at the top; found {', '.join(content) or 'nothing'}")
    truth_path = path.with_name(path.name.removesuffix(".json.gz") + "_gt.json.gz")
    truth = _read_gz(truth_path) if truth_path.exists() else {}
    episodes: dict[str, Episode] = {}
    unusable: Counter[str] = Counter()
    for index, record in enumerate(records):
        parsed = _Record(f"{path}: episode number {index}", record)
        episode = _parse_episode(parsed, truth, truth_path, unusable)
        if episode.episode_id in episodes:
            raise ConfigError(f"{path}: episode id {episode.episode_id!r} occurs twice")
        episodes[episode.episode_id] = episode
    for problem, count in unusable.items():
        _LOG.warning("%s: not used for %d of %d episodes: %s", truth_path, count, len(episodes), problem)
    spoken = {e.language for e in episodes.values()}
    for language in languages:
        if not any(_speaks(s, language) for s in spoken):
            raise ConfigError(
                f"{path}: no episode in language {language!r}; it has {', '.join(sorted(spoken)) or 'none'}"
                f" (RxR as a whole: {', '.join(RXR_LANGUAGES)})"
            )
    return tuple(
        e for e in episodes.values() if not languages or any(_speaks(e.language, w) for w in languages)
    )


def _speaks(language: str, wanted: str) -> bool:
    return language == wanted or language.startswith(f"{wanted}-")


def _read_gz(path: Path) -> dict[str, Any]:
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except FileNotFoundError as e:
        raise ConfigError(f"no episode file {path}: expected {{split}}/{{split}}.json.gz") from e
    except (EOFError, zlib.error) as e:
        raise ConfigError(f"{path} is truncated or damaged ({e}): copy or download it again") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text: {e}") from e
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e}") from e
    if not text:
        raise ConfigError(f"{path} is empty: copy or download it again, or remove it if it is not needed")
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as e:
        raise ConfigError(f"{path} is not valid JSON: {e}") from e
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


class _Record:
    """A JSON object that knows where it is from, for errors that say so."""

    def __init__(self, where: str, value: object) -> None:
        self.where = where
        if not isinstance(value, Mapping):
            raise self.error(f"expected an object, got {type(value).__name__}")
        self.value = value

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.where}: {problem}")

    def get(self, key: str) -> Any:
        if key not in self.value:
            raise self.error(f"key {key!r} is missing")
        return self.value[key]

    def record(self, key: str) -> _Record:
        return _Record(f"{self.where}, {key}", self.get(key))

    def identifier(self, key: str) -> str:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.error(f"{key!r} must be a number or a non-empty text, got {value!r}")
        return str(value)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{key!r} must be a non-empty text, got {value!r}")
        return value

    def numbers(self, key: str, shape: tuple[int | None, ...]) -> Float64Array:
        """An array of finite numbers; None in ``shape`` is any length but 0."""
        try:
            array = np.array(self.get(key), np.float64)
        except (TypeError, ValueError) as e:
            raise self.error(f"{key!r} is not an array of numbers: {e}") from e
        fits = array.ndim == len(shape) and all(
            n == want or (want is None and n > 0) for n, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted = ["N" if n is None else n for n in shape]
            raise self.error(f"{key!r} must have shape {wanted}, got {list(array.shape)}")
        if not np.isfinite(array).all():
            raise self.error(f"{key!r} holds values that are not finite")
        return array

    def positive(self, key: str) -> float:
        value = float(self.numbers(key, ()))
        if not math.isfinite(value) or value < 0.0:
            raise self.error(f"{key!r} must not be negative, got {value}")
        return value


def _geodesic(record: _Record) -> float:
    if "info" not in record.value:
        return math.nan
    info = record.record("info")
    value = info.value.get("geodesic_distance")
    if value is None:
        return math.nan
    return math.inf if value == math.inf else info.positive("geodesic_distance")


def _parse_episode(
    record: _Record, truth: Mapping[str, Any], truth_path: Path, unusable: Counter[str]
) -> Episode:
    episode_id = record.identifier("episode_id")
    record.where = record.where.rsplit(": ", 1)[0] + f": episode {episode_id}"
    try:
        start = pose_from_habitat(
            record.numbers("start_position", (3,)), record.numbers("start_rotation", (4,))
        )
    except ConfigError:
        raise
    except ValueError as e:
        raise record.error(f"'start_rotation' is no rotation (x, y, z, w): {e}") from e
    if start.rotation[2, 2] < 0.99:
        raise record.error(
            f"'start_rotation' {record.get('start_rotation')} does not stand upright; it is (x, y, z, w): "
            "is it written with w first?"
        )
    goals = record.value.get("goals")
    if goals is None:
        raise record.error("key 'goals' is missing: a test split without goals cannot be measured")
    if not isinstance(goals, list) or not goals:
        raise record.error("'goals' must be a list with at least one goal")
    goal = _Record(f"{record.where}, goals[0]", goals[0])
    instruction = record.record("instruction")
    language = instruction.text("language") if "language" in instruction.value else ENGLISH
    actions: tuple[ActionKind, ...] | None = None
    locations: Float64Array | None = None
    if episode_id in truth:
        known = _Record(f"{truth_path}: episode {episode_id}", truth[episode_id])
        try:
            actions = tuple(ActionKind(a) for a in known.get("actions"))
        except (TypeError, ValueError) as e:
            raise known.error(f"'actions' must be a list of 0 (stop) to 3 (turn right): {e}") from e
        if known.value.get("locations"):
            locations = ros_from_habitat_points(known.numbers("locations", (None, 3)))
        if locations is None or (len(locations) == 1 and ActionKind.FORWARD in actions):
            unusable["its locations are no way"] += 1
            locations = None
        elif float(np.linalg.norm(locations[0] - start.position)) > _SAME_PLACE_M:
            unusable["its locations begin elsewhere (is it of another split?)"] += 1
            actions = locations = None
    return Episode(
        episode_id=episode_id,
        trajectory_id=record.identifier("trajectory_id"),
        scene_id=record.text("scene_id"),
        start=start,
        goal=ros_from_habitat_points(goal.numbers("position", (3,))),
        goal_radius_m=goal.positive("radius"),
        instruction=instruction.text("instruction_text"),
        reference_path=ros_from_habitat_points(record.numbers("reference_path", (None, 3))),
        geodesic_distance_m=_geodesic(record),
        actions=actions,
        locations=locations,
        language=language,
    )
