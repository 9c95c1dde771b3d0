"""Reads finished runs, ours and those of other projects, so that they stand in one table.

=============  =======================================================  ====================================
who            what they leave                                          what is missing
=============  =======================================================  ====================================
vln_ros        ``episodes.jsonl`` beside ``result.json``; or shards
StreamVLN,     ``result.json``: a JSON object per line, and a summary   path length, nDTW, collisions
JanusVLN       object, glued to the next line by a resumed run
InternNav      ``progress.json``: a JSON object per line                path length, collisions
NaVIDA         ``log/stats_{id}.json``: one file per episode            scene, steps, collisions
=============  =======================================================  ====================================

Their success is taken as they counted it. What is missing, or is no number that the measure can have, is NaN
and stays out of the means; :attr:`LoadedRun.coverage` says how many values each has. What is chosen for them
is counted in the notes:

* an episode without a verdict (success missing, null, NaN) is left out: neither a success nor a failure;
* SPL of a failure is 0, whatever stands there; in a file that states no SPL at all it is unknown;
* a success that is neither 0 nor 1 counts from above 0.5; a number written as text is read as a number.
"""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vln_ros.config import ConfigError
from vln_ros.evaluation.episode.metrics import (
    MEASURES,
    EpisodeMetrics,
    metric_columns,
    summarise,
    summary_remarks,
)
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.runs.lines import read_episodes
from vln_ros.evaluation.runs.results import EpisodeResult, LatencyStats, Protocol, RunInfo, RunResult, Skip
from vln_ros.evaluation.runs.run_folder import folder_name

FORMATS = ("streamvln", "janusvln", "internnav", "navida")


@dataclass(frozen=True)
class OwnRun:
    """The folder of a run of ours, or of its shards, and what identifies it."""

    folder: Path
    info: RunInfo
    versions: Mapping[str, str]


@dataclass(frozen=True)
class LoadedRun:
    """A finished run of anybody.

    Attributes:
        name: for tables.
        who: ``vln_ros`` or one of :data:`FORMATS` (JanusVLN writes what StreamVLN writes).
        protocol: None where the files do not tell it.
        notes: what had to be left out or chosen, to be shown beside the numbers.
        own: of a run of ours where it lies, and what was run with which versions; None for others.
    """

    name: str
    who: str
    episodes: tuple[EpisodeResult, ...]
    protocol: Protocol | None
    notes: tuple[str, ...]
    _: KW_ONLY
    own: OwnRun | None = None

    @property
    def coverage(self) -> tuple[str, ...]:
        """Of how many values the mean of each measure is, where that is not all episodes."""
        columns = metric_columns([e.metrics for e in self.episodes if e.metrics is not None])
        total = len(self.episodes)
        found = []
        for name, column in zip(MEASURES, columns.T, strict=True):
            count = int(np.isfinite(column).sum())
            if count < total:
                label = name.removesuffix("_m").replace("_", " ")
                found.append(f"{label} {count} of {total}" if count else f"{label} none")
        return tuple(found)


def short_scene(scene_id: str) -> str:
    """The name of a scene without its folders, which every project writes differently."""
    return PurePosixPath(scene_id).name.removesuffix(".glb")


def load_run(path: Path) -> LoadedRun:
    """A run from its folder, or from its file.

    Raises:
        ConfigError: nothing known is there; a line in the midst of a file is broken.
    """
    if (path / "episodes.jsonl").is_file() or _shards(path):
        result = load_result(path)
        notes = [] if result.complete else ["the run is not complete"]
        if result.skipped:
            notes.append(f"{len(result.skipped)} episodes could not be run")
        notes += summary_remarks(result.summary)
        own = OwnRun(path, result.info, result.versions)
        return LoadedRun(path.name, "vln_ros", result.episodes, result.info.protocol, tuple(notes), own=own)
    candidates: tuple[tuple[str, Path, Callable[[Path], Iterator[_Line]]], ...] = (
        ("internnav", path / "progress.json", _json_lines),
        ("navida", path / "log", _stats_files),
        ("navida", path, _stats_files),
        ("streamvln", path / "result.json", _json_lines),
        ("internnav" if path.name == "progress.json" else "streamvln", path, _json_lines),
    )
    for who, place, lines in candidates:
        found = any(place.glob("stats_*.json")) if lines is _stats_files else place.is_file()
        if found:
            return _load_peer(path, who, lines(place))
    raise ConfigError(
        f"{path}: no run there; expected episodes.jsonl (vln_ros), progress.json (InternNav), "
        "log/stats_*.json (NaVIDA), or result.json with a JSON object per line (StreamVLN, JanusVLN)"
    )


# ---------------------------------------------------------------------------------------------- our own


def _shards(path: Path) -> list[Path]:
    return sorted(p.parent for p in path.glob("shard_*_of_*/episodes.jsonl"))


def load_result(path: Path) -> RunResult:
    """A run of ours, or the shards below ``path`` as one run. Their summary is computed anew.

    Raises:
        ConfigError: there is none, a file is damaged, or the shards are of different runs.
    """
    folders = [path] if (path / "episodes.jsonl").is_file() else _shards(path)
    if not folders:
        raise ConfigError(f"{path}: no run folder, and no shards of one below it")
    trees = [_result_tree(folder) for folder in folders]
    episodes: dict[str, EpisodeResult] = {}
    for folder, tree in zip(folders, trees, strict=True):
        for name in ("protocol", "config", "seed", "checkpoint"):
            if tree[name] != trees[0][name]:
                raise ConfigError(f"{folder} and {folders[0]} have another {name}: they are not of one run")
        for e in read_episodes(folder / "episodes.jsonl", repair=False):
            if e.episode_id in episodes:
                raise ConfigError(f"episode {e.episode_id!r} is in {folder} and in another shard")
            if folder is not path:
                e = dataclasses.replace(e, folder=f"../{folder.name}/episodes/{e.folder}")
            episodes[e.episode_id] = e
    first = trees[0]
    count = int(folders[0].name.rsplit("_", 1)[1]) if folders != [path] else 1
    try:
        info = RunInfo.from_tree(first)
    except ValueError as error:
        raise ConfigError(f"{folders[0] / 'result.json'}: {error}") from error
    measured = [e.metrics for e in episodes.values() if e.metrics is not None]
    latencies = array("d", (v for e in episodes.values() for v in e.latencies_ms))
    return RunResult(
        info=info,
        versions=first["versions"],
        complete=all(t["complete"] for t in trees) and len(folders) == count,
        episodes=tuple(episodes.values()),
        summary=summarise(measured, info.seed),
        latency_ms=LatencyStats.of(latencies),
        frames=None,
        skipped=tuple(Skip(**s) for t in trees for s in t["skipped"]),
        cut_short="; ".join(dict.fromkeys(t["cut_short"] for t in trees if t["cut_short"])),
    )


def _result_tree(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: was the folder copied whole?") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    missing = {"protocol", "config", "seed", "command", "versions", "complete"} - set(tree)
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(sorted(missing))}: is it a result of vln_ros?")
    return {"checkpoint": "", "skipped": [], "cut_short": "", **tree}


# ---------------------------------------------------------------------------------------------- others


@dataclass(frozen=True)
class _Line:
    """A JSON object and where it stands; None where the end of a file is cut off."""

    where: str
    value: Mapping[str, Any] | None


def _json_lines(path: Path) -> Iterator[_Line]:
    """The objects of a file, one or more per line (a summary without a newline is glued to the next)."""
    decoder = json.JSONDecoder()
    # Not splitlines: a text may hold what only Unicode takes for the end of a line.
    lines = path.read_text("utf-8-sig", "replace").rstrip().split("\n")
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        at, text = 0, line.strip()
        while at < len(text):
            try:
                value, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if number == len(lines):
                    yield _Line(where, None)
                    break
                raise ConfigError(f"{where} is broken ({error}); remove the line") from error
            if not isinstance(value, dict):
                raise ConfigError(f"{where} is no JSON object: not a result file?")
            yield _Line(where, value)
            while at < len(text) and text[at].isspace():
                at += 1


def _stats_files(folder: Path) -> Iterator[_Line]:
    for path in sorted(folder.glob("stats_*.json")):
        try:
            value = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError):
            yield _Line(str(path), None)
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{path} is no JSON object: not a result file?")
        yield _Line(str(path), value)


def _load_peer(path: Path, who: str, lines: Iterator[_Line]) -> LoadedRun:
    said: Counter[str] = Counter()
    episodes: dict[str, EpisodeResult] = {}
    summary: Mapping[str, Any] = {}
    for line in lines:
        if line.value is None:
            said["cut off, left out"] += 1
        elif "sucs_all" in line.value:  # a summary among the episodes
            summary = line.value
        else:
            episode = _peer_episode(line.where, line.value, who, said)
            if episode is None:
                continue
            before = episodes.setdefault(episode.episode_id, episode)
            if before is not episode:
                said["episodes were there twice, the first counts"] += 1
                if (repr(before.metrics), before.scene_id) != (repr(episode.metrics), episode.scene_id):
                    said["of those that were there twice had other values or another scene"] += 1
    if not episodes:
        without = f": {said[_NO_VERDICT]} {_NO_VERDICT}" if said[_NO_VERDICT] else ""
        raise ConfigError(f"{path}: no episodes of {who} in it{without}")
    measured = _with_spl(tuple(episodes.values()), said)
    notes = [f"{count} {what}" for what, count in said.items()]
    notes += _summary_notes(measured, summary)
    return LoadedRun(path.name, who, measured, None, tuple(notes))


_NO_VERDICT = "episodes have no success value that is one (missing, null, NaN, outside 0 to 1), left out"


class _Values:
    """The numbers of one JSON object; what was guessed of them is counted in ``said``."""

    def __init__(self, where: str, value: Mapping[str, Any], said: Counter[str]) -> None:
        self.where = where
        self._value = value
        self._said = said

    def number(self, *names: str, most: float = math.inf, verdict: bool = False) -> float:
        """The first of these keys that is there, from 0 to ``most``; NaN where it is no such number.

        Args:
            verdict: it says yes or no, and may be a boolean.

        Raises:
            ConfigError: a text that is no number, a list or an object: somebody else's format.
        """
        name = next((n for n in names if n in self._value), None)
        if name is None or self._value[name] is None:
            return math.nan
        value = self._value[name]
        if isinstance(value, bool):
            if verdict:
                return float(value)
            self._said[f"values of {name} are true or false, left out"] += 1
            return math.nan
        if isinstance(value, str):
            self._said[f"values of {name} were written as text"] += 1
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.where}: {name} = {value!r} is no number") from error
        if not math.isnan(number) and not 0.0 <= number <= most:
            self._said[f"values of {name} cannot be (e.g. {value!r}), left out"] += 1
            return math.nan
        return number


def _peer_episode(where: str, value: Mapping[str, Any], who: str, said: Counter[str]) -> EpisodeResult | None:
    """None where it has no verdict. SPL of a failure is left as it stands: see :func:`_with_spl`."""
    episode_id = value.get("id" if who == "navida" else "episode_id")
    if isinstance(episode_id, float) and episode_id.is_integer():
        episode_id = int(episode_id)  # as tables write them
    if isinstance(episode_id, bool) or not isinstance(episode_id, int | str) or episode_id == "":
        raise ConfigError(f"{where}: no episode id: not a result of {who}?")
    values = _Values(where, value, said)
    verdict = values.number("success", most=1.0, verdict=True)
    if math.isnan(verdict):
        said[_NO_VERDICT] += 1
        return None
    if verdict not in (0.0, 1.0):
        said["success values are neither 0 nor 1, above 0.5 counts as success"] += 1
    success = verdict > 0.5
    oracle = values.number("os", "oracle_success", most=1.0, verdict=True)
    if oracle not in (0.0, 1.0) and not math.isnan(oracle):
        said["oracle success values are neither 0 nor 1, above 0.5 counts as success"] += 1
    ndtw = values.number("ndtw", most=1.0)
    steps = values.number("steps", most=1e9)
    if not math.isnan(steps) and steps != int(steps):
        said["values of steps are no whole numbers, left out"] += 1
        steps = math.nan
    metrics = EpisodeMetrics(
        success=success,
        spl=values.number("spl", most=1.0),
        oracle_success=None if math.isnan(oracle) else oracle > 0.5,
        navigation_error_m=values.number("ne", "distance_to_goal"),
        path_length_m=values.number("path_length", most=1e9),
        ndtw=ndtw,
        sdtw=math.nan if math.isnan(ndtw) else ndtw * success,
        collisions=math.nan,
        steps=math.nan if math.isnan(steps) else int(steps),
    )
    text = value.get("episode_instruction", "")
    return EpisodeResult(
        episode_id=str(episode_id),
        scene_id=str(value.get("scene_id", "")),
        instruction=str(text),
        folder="",
        ended="",
        wall_s=math.nan,
        decisions=0,
        latencies_ms=array("d"),
        video_frames=0,
        metrics=metrics,
    )


def _with_spl(episodes: tuple[EpisodeResult, ...], said: Counter[str]) -> tuple[EpisodeResult, ...]:
    """SPL of failures is 0 by its definition, if the file states SPL at all."""
    measured = [(e, e.metrics) for e in episodes if e.metrics is not None]
    if all(math.isnan(m.spl) for _, m in measured) and any(m.success for _, m in measured):
        return episodes
    result = []
    for e, m in measured:
        if not m.success and m.spl != 0.0:
            said["failures had another SPL than 0 (none, NaN, above 0); it is 0 by its definition"] += 1
            e = dataclasses.replace(e, metrics=dataclasses.replace(m, spl=0.0))
        result.append(e)
    return tuple(result)


_SUMMARISED = {"sucs_all": ("success", "success"), "spls_all": ("spl", "SPL")}


def _summary_notes(episodes: tuple[EpisodeResult, ...], summary: Mapping[str, Any]) -> list[str]:
    """Where their own summary says something else than the episodes."""
    measures = metric_columns([e.metrics for e in episodes if e.metrics is not None])
    notes = []
    for theirs, (name, label) in _SUMMARISED.items():
        column = measures[:, MEASURES.index(name)]
        value = summary.get(theirs)
        if isinstance(value, float | int) and np.isfinite(column).any():
            ours = float(np.nanmean(column))
            if not abs(value - ours) < 5e-4:
                notes.append(f"its summary says {label} {100 * value:.1f} %, its episodes {100 * ours:.1f} %")
    return notes


# ---------------------------------------------------------------------------------------------- exports


def export_run(episodes: Sequence[EpisodeResult], who: str, folder: Path) -> list[Path]:
    """Write measured episodes as another project writes them, with its own way to average.

    Returns:
        The files, below ``folder``.

    Raises:
        ConfigError: unknown format, or the folder holds such files already.
    """
    measured = [(e, e.metrics) for e in episodes if e.metrics is not None]
    match who:
        case "streamvln" | "janusvln":
            lines = [_stream_line(e, m) for e, m in measured]
            means = _means(measured, {"sucs": "success", "spls": "spl", "oss": "oracle_success",
                                      "ones": "navigation_error_m"}, lambda v: v)  # fmt: skip
            # The summary goes into the same file, as theirs does; here with an end of line.
            files = {"result.json": "".join(f"{json.dumps(line)}\n" for line in [*lines, means])}
        case "internnav":
            lines = [_intern_line(e, m) for e, m in measured]
            means = _means(
                measured,
                {"sucs": "success", "spls": "spl", "oss": "oracle_success", "nes": "navigation_error_m",
                 "ndtws": "ndtw"},
                lambda v: v if math.isfinite(v) else None,
            )  # fmt: skip
            files = {
                "progress.json": "".join(f"{json.dumps(line)}\n" for line in lines),
                "result.json": json.dumps(means) + "\n",
            }
        case "navida":
            files = {
                f"log/stats_{folder_name(e.episode_id)}.json": json.dumps(
                    {
                        "distance_to_goal": m.navigation_error_m,
                        "success": float(m.success),
                        "spl": m.spl,
                        "path_length": m.path_length_m,
                        "oracle_success": _flag(m.oracle_success),
                        "ndtw": m.ndtw,
                        "id": _as_id(e.episode_id),
                    },
                    indent=4,
                )
                for e, m in measured
            }
        case _:
            raise ConfigError(f"format = {who!r}: choose one of {', '.join(FORMATS)}")
    written = []
    for name, text in files.items():
        path = folder / name
        if path.exists():
            raise ConfigError(f"{path} exists: choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        written.append(path)
    return written


def _flag(value: bool | None) -> float:
    return math.nan if value is None else float(value)


def _as_id(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


def _stream_line(e: EpisodeResult, m: EpisodeMetrics) -> dict[str, object]:
    return {
        "scene_id": short_scene(e.scene_id),
        "episode_id": e.episode_id,
        "success": float(m.success),
        "spl": m.spl,
        "os": _flag(m.oracle_success),
        "ne": m.navigation_error_m,
        "steps": m.steps,
        "episode_instruction": e.instruction,
    }


def _intern_line(e: EpisodeResult, m: EpisodeMetrics) -> dict[str, object]:
    line = _stream_line(e, m)
    return {**line, "episode_id": _as_id(e.episode_id), "ndtw": m.ndtw}


def _means(
    measured: Sequence[tuple[EpisodeResult, EpisodeMetrics]],
    fields: Mapping[str, str],
    keep: Callable[[float], float | None],
) -> dict[str, float | int]:
    """Means under their names; ``keep`` says what becomes of a value: None leaves it out."""
    means: dict[str, float | int] = {}
    for theirs, ours in fields.items():
        values = [_flag(getattr(m, ours)) for _, m in measured]
        kept = [k for v in values if (k := keep(v)) is not None]
        means[f"{theirs}_all"] = sum(kept) / len(kept) if kept else math.nan
    return {**means, "length": len(measured)}
