"""Writes and reads what a run has in JSON: episodes, trajectories, decisions, which poses a video shows."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path

from vln_ros.config import ConfigError
from vln_ros.datatypes import Action, ActionChunk, PixelGoal, PlaceGoal, PlaceSource
from vln_ros.evaluation.episode.record import Decision, EpisodeRecord, Step
from vln_ros.evaluation.runs.results import EpisodeResult, finite_tree

FILMED = "video.json"
"""Beside a video: which poses its frames show."""
_LOG = logging.getLogger(__name__)


def read_episodes(path: Path, *, repair: bool) -> list[EpisodeResult]:
    """The lines of an ``episodes.jsonl``; a missing file has none.

    Args:
        path: the file.
        repair: cut off a last line that a crash left unfinished, so that the file can be appended to.

    Raises:
        ConfigError: a line other than the last is broken, or an episode is there twice.
    """
    if not path.exists():
        return []
    results: dict[str, EpisodeResult] = {}
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                # The newline is the last byte written: without it the line is not known to be whole.
                _LOG.warning("%s: line %d is cut off; its episode is run again", path, number)
                break
            try:
                result = EpisodeResult.from_json(line.decode("utf-8"))
            except ValueError as e:
                raise ConfigError(f"{path}: line {number} is broken ({e}); remove the line") from e
            if result.episode_id in results:
                raise ConfigError(f"{path}: line {number}: episode {result.episode_id!r} is there twice")
            results[result.episode_id] = result
            end += len(line)
    if repair and end != path.stat().st_size:
        os.truncate(path, end)
    return list(results.values())


def trajectory_lines(record: EpisodeRecord) -> str:
    """One JSON object per pose: ``stamp_ns, x_m, y_m, z_m, yaw_rad, action, linear_m_s, angular_rad_s,
    collided``; ``action`` is a text such as ``forward 25 cm``, or null."""
    lines = []
    for s in record.steps:
        line = {f.name: getattr(s, f.name) for f in dataclasses.fields(s)}
        line["action"] = None if s.action is None else str(s.action)
        lines.append(json.dumps(finite_tree(line), allow_nan=False) + "\n")
    return "".join(lines)


def read_trajectory(path: Path) -> tuple[Step, ...]:
    """The poses of :func:`trajectory_lines`, without the actions."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return tuple(Step(**(row | {"action": None})) for row in rows)


def filmed_text(record: EpisodeRecord) -> str:
    """A JSON object: ``pose_of_frame``, for each frame of the video a line of ``trajectory.jsonl``."""
    return json.dumps({"pose_of_frame": record.filmed}) + "\n"


def read_filmed(path: Path) -> tuple[Step, ...]:
    """For each frame of an episode's video the pose that it shows; empty where an earlier release has not
    noted them.

    Args:
        path: the episode's folder.

    Raises:
        ConfigError: the files do not belong together.
    """
    if not (path / FILMED).exists():
        return ()
    try:
        steps = read_trajectory(path / "trajectory.jsonl")
        return tuple(steps[i] for i in json.loads((path / FILMED).read_text("utf-8"))["pose_of_frame"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path / FILMED} and trajectory.jsonl do not belong together: {error}") from error


def decision_lines(record: EpisodeRecord) -> str:
    """One JSON object per queue: ``step, latency_ms, queue, instruction, frame_stamp_ns, actions
    [[forward_m, turn_rad, stop]], probabilities, wanted, allowed, held, pixel_goal [row, column, stamp_ns],
    place [x_m, y_m, stamp_ns, source, moved_m]``. One with a place and no pixel goal goes on toward the place
    before."""
    lines = []
    for d in record.decisions:
        pixel, place = d.chunk.pixel_goal, d.chunk.place
        line = {
            "step": d.step,
            "latency_ms": d.latency_ms,
            "queue": d.chunk.queue,
            "instruction": d.chunk.instruction,
            "frame_stamp_ns": d.chunk.frame_stamp_ns,
            "actions": [[a.forward_m, a.turn_rad, a.stop] for a in d.chunk.actions],
            "probabilities": list(d.chunk.probabilities),
            "wanted": d.chunk.unconstrained,
            "allowed": d.chunk.allowed,
            "held": d.chunk.held,
            "pixel_goal": None if pixel is None else [pixel.row, pixel.column, pixel.stamp_ns],
            "place": None
            if place is None
            else [place.x_m, place.y_m, place.stamp_ns, place.source.value, place.moved_m],
        }
        lines.append(json.dumps(finite_tree(line), allow_nan=False) + "\n")
    return "".join(lines)


def _place(x_m: float, y_m: float, stamp_ns: int, source: str, moved_m: float) -> PlaceGoal:
    return PlaceGoal(x_m, y_m, stamp_ns, PlaceSource(source), moved_m)


def read_decisions(path: Path) -> tuple[Decision, ...]:
    """The queues of :func:`decision_lines`; those of an earlier release have neither pixel goal nor place."""
    decisions = []
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        pixel, place = line.get("pixel_goal"), line.get("place")
        chunk = ActionChunk(
            line["queue"],
            line["instruction"],
            line["frame_stamp_ns"],
            tuple(Action(forward_m, turn_rad, stop) for forward_m, turn_rad, stop in line["actions"]),
            tuple(line["probabilities"]),
            line["wanted"],
            allowed=line["allowed"],
            held=line["held"],
            pixel_goal=None if pixel is None else PixelGoal(*pixel),
            place=None if place is None else _place(*place),
        )
        decisions.append(Decision(chunk=chunk, latency_ms=line["latency_ms"], step=line["step"]))
    return tuple(decisions)
