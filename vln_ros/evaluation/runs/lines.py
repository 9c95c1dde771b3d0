"""Writes and reads the JSON Lines files of a run: episodes, trajectories, decisions."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path

from vln_ros.config import ConfigError
from vln_ros.evaluation.episode.record import EpisodeRecord, Step
from vln_ros.evaluation.runs.results import EpisodeResult, finite_tree

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


def decision_lines(record: EpisodeRecord) -> str:
    """One JSON object per decision: ``step, latency_ms, queue, instruction, frame_stamp_ns, actions
    [[forward_m, turn_rad, stop]], probabilities, wanted, allowed, held``."""
    lines = []
    for d in record.decisions:
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
        }
        lines.append(json.dumps(finite_tree(line), allow_nan=False) + "\n")
    return "".join(lines)
