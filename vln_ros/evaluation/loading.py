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

What is missing is NaN and stays out of the means. Their success is taken as they counted it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vln_ros.config import ConfigError
from vln_ros.evaluation.metrics import EpisodeMetrics, summarise, summary_remarks
from vln_ros.evaluation.results import (
    EpisodeResult,
    LatencyStats,
    Protocol,
    RunInfo,
    RunResult,
    Skip,
    read_episodes,
)
from vln_ros.evaluation.run_folder import folder_name

FORMATS = ("streamvln", "janusvln", "internnav", "navida")


@dataclass(frozen=True)
class LoadedRun:
    """A finished run of anybody.

    Attributes:
        name: for tables.
        who: ``vln_ros`` or one of :data:`FORMATS` (JanusVLN writes what StreamVLN writes).
        protocol: None where the files do not tell it.
        notes: what had to be left out, to be shown beside the numbers.
    """

    name: str
    who: str
    episodes: tuple[EpisodeResult, ...]
    protocol: Protocol | None
    notes: tuple[str, ...]


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
        return LoadedRun(path.name, "vln_ros", result.episodes, result.info.protocol, tuple(notes))
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
    return {"checkpoint": "", "skipped": [], **tree}


# ---------------------------------------------------------------------------------------------- others


@dataclass(frozen=True)
class _Line:
    """A JSON object and where it stands; None where the end of a file is cut off."""

    where: str
    value: Mapping[str, Any] | None


def _json_lines(path: Path) -> Iterator[_Line]:
    """The objects of a file, one or more per line (a summary without a newline is glued to the next)."""
    decoder = json.JSONDecoder()
    lines = path.read_text("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        at, text = 0, line.strip()
        while at < len(text):
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as error:
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
        except ValueError:
            yield _Line(str(path), None)
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{path} is no JSON object: not a result file?")
        yield _Line(str(path), value)


def _load_peer(path: Path, who: str, lines: Iterator[_Line]) -> LoadedRun:
    episodes: dict[str, EpisodeResult] = {}
    cut = twice = 0
    for line in lines:
        if line.value is None:
            cut += 1
        elif "sucs_all" not in line.value:  # else it is a summary among the episodes
            episode = _peer_episode(line.where, line.value, who)
            twice += episode.episode_id in episodes
            episodes.setdefault(episode.episode_id, episode)
    notes = [f"{cut} cut off, left out"] if cut else []
    if twice:
        notes.append(f"{twice} episodes were there twice, the first counts")
    if not episodes:
        raise ConfigError(f"{path}: no episodes of {who} in it")
    return LoadedRun(path.name, who, tuple(episodes.values()), None, tuple(notes))


def _peer_episode(where: str, value: Mapping[str, Any], who: str) -> EpisodeResult:
    def number(*names: str, needed: bool = False) -> float:
        for name in names:
            if name in value:
                try:
                    return math.nan if value[name] is None else float(value[name])
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"{where}: {name} = {value[name]!r} is no number") from error
        if needed:
            raise ConfigError(f"{where}: none of {', '.join(names)} is there: not a result of {who}?")
        return math.nan

    episode_id = value.get("id" if who == "navida" else "episode_id")
    if episode_id is None:
        raise ConfigError(f"{where}: no episode id: not a result of {who}?")
    success = number("success", needed=True) > 0.5
    oracle = number("os", "oracle_success")
    error_m = number("ne", "distance_to_goal")
    ndtw = number("ndtw")
    steps = number("steps")
    metrics = EpisodeMetrics(
        success=success,
        spl=number("spl"),
        oracle_success=None if math.isnan(oracle) else oracle > 0.5,
        navigation_error_m=math.inf if math.isnan(error_m) else error_m,
        path_length_m=number("path_length"),
        ndtw=ndtw,
        sdtw=math.nan if math.isnan(ndtw) else ndtw * success,
        collisions=math.nan,
        steps=math.nan if math.isnan(steps) else int(steps),
    )
    text = value.get("episode_instruction", "")
    return EpisodeResult(
        str(episode_id),
        str(value.get("scene_id", "")),
        str(text),
        "",
        "",
        math.nan,
        0,
        array("d"),
        0,
        metrics,
    )


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
        path.write_text(text, "utf-8")
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
