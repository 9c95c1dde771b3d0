"""Keeps the folder that demo, replay and evaluation leave behind.

::

    result.json              what was run, with which versions, and what came out; replaced atomically
    episodes.jsonl           one line per finished episode; append-only, on disk before the next begins
    episodes/<name>/trajectory.jsonl   one line per pose
    episodes/<name>/decisions.jsonl    one line per queue
    episodes/<name>/map.png, video.mp4
    episodes/<name>/video.json         for each frame of the video the pose that it shows
    report.html, plots/      what a person looks at

A run that was killed is taken up again with ``resume=True``: finished episodes are read back, and the
one that was under way is run anew.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from vln_ros.config import ConfigError
from vln_ros.evaluation.episode.maps import write_map
from vln_ros.evaluation.episode.metrics import summarise
from vln_ros.evaluation.episode.record import EpisodeInfo, EpisodeRecord, EpisodeRecorder
from vln_ros.evaluation.episode.top_view import Plan
from vln_ros.evaluation.episode.video import VideoWriter
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.runs.lines import (
    FILMED,
    decision_lines,
    filmed_text,
    read_decisions,
    read_episodes,
    read_trajectory,
    trajectory_lines,
)
from vln_ros.evaluation.runs.report import write_report
from vln_ros.evaluation.runs.results import (
    Answers,
    EpisodeResult,
    FrameCounts,
    LatencyStats,
    RunInfo,
    RunResult,
    Skip,
    versions,
)


def folder_name(episode_id: str) -> str:
    """A name that any file system and URL takes; different ids have different names."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", episode_id)[:80]
    if safe == episode_id:
        return safe
    return f"{safe}-{hashlib.sha256(episode_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@dataclass(frozen=True, eq=False)
class EpisodeOutcome:
    """A finished episode on its way from a worker to the run folder.

    Attributes:
        result: its line.
        files: names and contents of what goes into its folder.
    """

    result: EpisodeResult
    files: Mapping[str, bytes]


def outcome_of(record: EpisodeRecord, video: Path | None) -> EpisodeOutcome:
    """What there is to keep of a record and its video."""
    files = {
        "trajectory.jsonl": trajectory_lines(record).encode(),
        "decisions.jsonl": decision_lines(record).encode("utf-8", "replace"),
    }
    if record.filmed:
        files[FILMED] = filmed_text(record).encode()
    if video is not None:
        files["video.mp4"] = video.read_bytes()
    info = record.info
    answers = Answers.of([d.chunk for d in record.answers])
    result = EpisodeResult(
        episode_id=info.episode_id,
        scene_id=info.scene_id,
        instruction=info.instruction,
        folder=folder_name(info.episode_id),
        ended=record.ended,
        wall_s=record.wall_s,
        decisions=len(record.answers),
        latencies_ms=array("d", (d.latency_ms for d in record.answers)),
        video_frames=record.video_frames,
        metrics=record.metrics,
        standing_s=record.standing_s,
        cost=record.cost,
        reuse=record.reuse,
        given_up=record.given_up,
        answers=None if record.cost is None or record.cost.forwards is None else answers,
    )
    return EpisodeOutcome(result, files)


def _changes(name: str, before: Any, now: Any) -> list[str]:
    """What differs of a setting, or of which of its keys."""
    now = json.loads(json.dumps(now))
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{name}: {before!r}, now {now!r}"]
    missing = "none"
    return [
        f"{name} {key}: {before.get(key, missing)!r}, now {now.get(key, missing)!r}"
        for key in (*before, *(k for k in now if k not in before))
        if before.get(key, missing) != now.get(key, missing)
    ]


class RunFolder:
    """Writes one run's folder, episode by episode. One process at a time; used from one thread.

    Leaving the context without an error does not finish the run: call :meth:`finish` once all is done.
    """

    def __init__(self, path: Path, info: RunInfo, *, resume: bool, video_fps: float = 4.0) -> None:
        """Make the folder, or with ``resume`` go on in one.

        Args:
            path: the folder.
            info: what is run.
            resume: go on with a run of the same protocol, seed and configuration, if there is one.
            video_fps: frames a second when a video is played.

        Raises:
            ConfigError: it holds a run already (without ``resume``), another run, or another process
                is writing it.
        """
        self.path = path
        self.info = info
        self._video_fps = video_fps
        self._results: list[EpisodeResult] = []
        self._ids: set[str] = set()
        self._skips: list[Skip] = []
        self._versions: dict[str, str] = {}
        self._latencies_ms: array[float] = array("d")
        try:
            (path / "episodes").mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
        except OSError as e:
            raise ConfigError(f"cannot write the run folder {path}: {e.strerror}; choose another") from e
        try:
            self._take_lock()
            self._begin(resume)
            self._log: TextIO = (path / "episodes.jsonl").open("a", encoding="utf-8")
        except BaseException:
            self._lock.close()
            raise
        self._write_result(complete=False, frames=None)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise ConfigError(
                f"another process is writing the run folder {self.path}; wait for it or choose another"
            ) from e

    def _begin(self, resume: bool) -> None:
        result, log = self.path / "result.json", self.path / "episodes.jsonl"
        if not result.exists():
            return
        if not resume and log.exists() and log.stat().st_size == 0:
            return  # one that ended before its first episode is in nobody's way
        if not resume:
            raise ConfigError(
                f"{self.path} holds a run already; resume it, remove it or choose another folder"
            )
        try:
            before: dict[str, Any] = json.loads(result.read_text("utf-8"))
        except ValueError as e:
            raise ConfigError(
                f"{result} is not valid JSON ({e}); it was changed by hand: choose another"
            ) from e
        now: dict[str, Any] = {
            "protocol": dataclasses.asdict(self.info.protocol),
            "seed": self.info.seed,
            "config": dict(self.info.config),
        }
        changed = [c for name, value in now.items() for c in _changes(name, before.get(name), value)]
        if changed:
            raise ConfigError(
                f"{self.path} was begun with another {'; '.join(changed)}; "
                "resume with the same or choose another folder"
            )
        self.info = dataclasses.replace(self.info, checkpoint=before.get("checkpoint", ""))
        for episode in read_episodes(self.path / "episodes.jsonl", repair=True):
            self._take(episode)

    def _take(self, episode: EpisodeResult) -> None:
        self._results.append(episode)
        self._ids.add(episode.episode_id)
        self._latencies_ms.extend(episode.latencies_ms)

    def is_done(self, episode_id: str) -> bool:
        """Finished in this run or in the one that is resumed."""
        return episode_id in self._ids

    def start_episode(self, info: EpisodeInfo, *, video: bool) -> EpisodeRecorder:
        """A recorder for one episode; hand its record to :meth:`add`.

        Raises:
            ValueError: an episode with this id is finished.
        """
        if self.is_done(info.episode_id):
            raise ValueError(f"episode {info.episode_id!r} is in {self.path} already: ids must be unique")
        folder = self.path / "episodes" / folder_name(info.episode_id)
        folder.mkdir(exist_ok=True)
        return EpisodeRecorder(info, VideoWriter(folder / "video.mp4", self._video_fps) if video else None)

    def add(self, record: EpisodeRecord, plan: Plan | None) -> EpisodeResult:
        """Write one finished episode. When this returns, it survives a crash.

        Args:
            record: from :meth:`EpisodeRecorder.finish`.
            plan: the scene from above, or None for a bare grid.
        """
        outcome = outcome_of(record, None)
        folder = self.path / "episodes" / outcome.result.folder
        folder.mkdir(exist_ok=True)
        write_map(record, plan, folder / "map.png")
        return self.store(outcome)

    def store(self, outcome: EpisodeOutcome) -> EpisodeResult:
        """Write what a worker sent. When this returns, it survives a crash."""
        result = outcome.result
        if self.is_done(result.episode_id):
            raise ValueError(f"episode {result.episode_id!r} is in {self.path} already: ids must be unique")
        self.store_files(outcome)
        self._log.write(result.to_json() + "\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        self._take(result)
        return result

    def store_files(self, outcome: EpisodeOutcome) -> None:
        """Only the episode's own files, each replaced whole."""
        folder = self.path / "episodes" / outcome.result.folder
        folder.mkdir(exist_ok=True)
        for name, content in outcome.files.items():
            write_atomically(folder / name, content)

    def has_video(self, episode_id: str) -> bool:
        """There is one of this episode."""
        return (self.path / "episodes" / folder_name(episode_id) / "video.mp4").exists()

    def illustrate(self, info: EpisodeInfo, plan: Plan | None) -> None:
        """Draw the map of a finished episode that has none, from its trajectory and decisions."""
        result = next(e for e in self._results if e.episode_id == info.episode_id)
        folder = self.path / "episodes" / result.folder
        if not (folder / "map.png").exists():
            steps = read_trajectory(folder / "trajectory.jsonl")
            record = EpisodeRecord(
                info=info,
                steps=steps,
                decisions=read_decisions(folder / "decisions.jsonl"),
                ended=result.ended,
                wall_s=result.wall_s,
                metrics=result.metrics,
                video_frames=0,
            )
            write_map(record, plan, folder / "map.png")

    def skip(self, skip: Skip) -> None:
        """Note an episode that cannot be run. A resumed run tries it again."""
        self._skips.append(skip)

    @property
    def results(self) -> Sequence[EpisodeResult]:
        """Of the finished episodes, in the order in which they finished."""
        return self._results

    def identify(self, checkpoint: str, versions_there: Mapping[str, str]) -> None:
        """Note which weights and libraries a worker has.

        Raises:
            ConfigError: the run was begun with other weights.
        """
        self._versions |= versions_there
        if self.info.checkpoint not in ("", checkpoint):
            raise ConfigError(
                f"{self.path} was begun with the checkpoint {self.info.checkpoint}, now it is {checkpoint}; "
                "resume with the same or choose another folder"
            )
        if self.info.checkpoint != checkpoint:
            self.info = dataclasses.replace(self.info, checkpoint=checkpoint)
            self._write_result(complete=False, frames=None)

    def result(
        self, *, complete: bool, frames: FrameCounts | None, cut_short: str = "it was killed, or still runs"
    ) -> RunResult:
        """The run so far."""
        measured = [e.metrics for e in self._results if e.metrics is not None]
        return RunResult(
            info=self.info,
            versions=versions() | self._versions,  # the workers' own count
            complete=complete,
            cut_short="" if complete else cut_short,
            episodes=tuple(self._results),
            summary=summarise(measured, self.info.seed),
            latency_ms=LatencyStats.of(self._latencies_ms),
            frames=frames,
            skipped=tuple(self._skips),
        )

    def _write_result(self, *, complete: bool, frames: FrameCounts | None) -> None:
        write_atomically(self.path / "result.json", self.result(complete=complete, frames=frames).to_json())

    def finish(
        self, frames: FrameCounts | None, *, complete: bool = True, cut_short: str = "it was ended early"
    ) -> RunResult:
        """Write ``result.json`` and ``report.html``.

        Args:
            frames: counts of this process (a resumed run does not know those of the first), or None.
            complete: False where the run was cut short, which the report then says.
            cut_short: why, if it was.
        """
        result = self.result(complete=complete, frames=frames, cut_short=cut_short)
        write_atomically(self.path / "result.json", result.to_json())
        write_report(result, self.path)
        return result

    def close(self) -> None:
        """Let go of the folder."""
        self._log.close()
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
