"""Writes the episodes of a run as recordings for the Rerun viewer: trajectory, goal, decisions, video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vln_ros.config import ConfigError
from vln_ros.evaluation.episode.record import END_FRAMES, verdict
from vln_ros.evaluation.runs.results import EpisodeResult

_TIMELINE = "episode"
"""Seconds since the episode's start."""
_BLUE, _GREEN = (43, 125, 233), (26, 143, 75)


def export_rerun(episodes: Sequence[EpisodeResult], run: Path, out: Path) -> list[Path]:
    """One ``.rrd`` for each episode of the run folder ``run``; the files.

    Raises:
        ConfigError: rerun-sdk is not installed; an episode's trajectory cannot be read.
    """
    try:
        import rerun
    except ImportError as error:
        raise ConfigError(
            "--export = 'rerun': rerun-sdk is not installed; pip install -r requirements-rerun.txt"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for episode in episodes:
        folder = run / "episodes" / episode.folder
        path = out / f"{Path(episode.folder).name}.rrd"
        recording = rerun.RecordingStream("vln_ros", recording_id=f"{run.resolve().name}-{episode.folder}")
        recording.save(path)
        _write(rerun, recording, episode, folder)
        recording.disconnect()
        files.append(path)
    return files


def _write(rerun: Any, to: Any, episode: EpisodeResult, folder: Path) -> None:
    steps = list(_lines(folder / "trajectory.jsonl"))
    if not steps:
        raise ConfigError(f"{folder / 'trajectory.jsonl'} holds no step: the run is of another version")
    start_ns = steps[0]["stamp_ns"]
    points = [(s["x_m"], s["y_m"], s["z_m"]) for s in steps]
    to.log(
        "instruction",
        rerun.TextDocument(f"{episode.instruction}\n\n{verdict(episode.ended, episode.metrics)}"),
        static=True,
    )
    to.log("world", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    to.log("world/trajectory", rerun.LineStrips3D([points], colors=[_BLUE], radii=[0.01]), static=True)
    for step, point in zip(steps, points, strict=True):
        to.set_time(_TIMELINE, duration=(step["stamp_ns"] - start_ns) / 1e9)
        turn = rerun.RotationAxisAngle(axis=(0, 0, 1), radians=step["yaw_rad"])
        to.log("world/robot", rerun.Transform3D(translation=point, rotation=turn))
        to.log("world/robot", rerun.Arrows3D(vectors=[(0.4, 0.0, 0.0)], colors=[_GREEN]))
        to.log("touches", rerun.Scalars(float(step["collided"])))
    for decision in _lines(folder / "decisions.jsonl"):
        to.set_time(_TIMELINE, duration=(decision["frame_stamp_ns"] - start_ns) / 1e9)
        to.log("decision/latency_ms", rerun.Scalars(decision["latency_ms"]))
        to.log("decision/text", rerun.TextLog(_queue(decision)))
    video = folder / "video.mp4"
    if video.exists():
        asset = rerun.AssetVideo(path=video)
        to.log("video", asset, static=True)
        shown = [int(t) for t in asset.read_frame_timestamps_nanos()[:-END_FRAMES]]
        lasts_s = (steps[-1]["stamp_ns"] - start_ns) / 1e9
        for number, timestamp in enumerate(shown):  # its frames are evenly spaced over the episode
            to.set_time(_TIMELINE, duration=lasts_s * number / max(len(shown) - 1, 1))
            to.log("video", rerun.VideoFrameReference(nanoseconds=timestamp))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): is this a run folder?") from error
    for line in text.splitlines():
        yield json.loads(line)


def _queue(decision: dict[str, Any]) -> str:
    said = [
        "stop" if stop else f"forward {forward_m:.2f} m" if forward_m else f"turn {turn_rad:+.2f} rad"
        for forward_m, turn_rad, stop in decision["actions"]
    ]
    wanted = f"; wanted {decision['wanted']!r}" if decision.get("wanted") else ""
    return (", ".join(said) or "hold") + wanted
