"""Writes the results of a bridge into its run folder, if it was given one, with what identifies the run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vln_ros.config import BridgeConfig, to_flat
from vln_ros.evaluation.episode.metrics import summary_table
from vln_ros.evaluation.episode.record import EpisodeRecord, EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, episode_info
from vln_ros.evaluation.runs.results import Protocol, RunInfo, Skip
from vln_ros.protocols import World
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.worlds import plan_of

if TYPE_CHECKING:
    from vln_ros.evaluation.runs.run_folder import RunFolder


class BridgeResults:
    """A run folder, or nothing where the option names none. Raises ConfigError as the folder does."""

    def __init__(self, config: BridgeConfig, episodes: Sequence[Episode], limits: EpisodeLimits) -> None:
        self._video = config.video
        self._folder: RunFolder | None = None
        if config.run_folder:
            # What draws reports takes longer to import than all else of a bridge.
            from vln_ros.evaluation.runs.run_folder import RunFolder

            info = _run_info(config, episodes, limits)
            self._folder = RunFolder(Path(config.run_folder), info, resume=bool(config.run_info))

    def is_done(self, episode_id: str) -> bool:
        """It has a result; a folder holds one of each."""
        return self._folder is not None and self._folder.is_done(episode_id)

    def recorder(self, episode: Episode) -> EpisodeRecorder:
        """For an episode that begins."""
        info = episode_info(episode)
        if self._folder is None:
            return EpisodeRecorder(info, None)
        return self._folder.start_episode(info, video=self._video)

    def unrecorded(self, episode: Episode) -> EpisodeRecorder:
        """For one that is no result."""
        return EpisodeRecorder(episode_info(episode), None)

    def add(self, record: EpisodeRecord, world: World) -> None:
        """Write a finished episode down; ``world`` still shows its scene."""
        if self._folder is not None:
            self._folder.add(record, plan_of(world))

    def skip(self, episode: Episode, why: str, *, engine_failure: bool) -> None:
        """Note that it cannot be run, or that the engine failed while it was."""
        if self._folder is not None:
            self._folder.skip(Skip(episode.episode_id, episode.scene_id, why, engine_failure))

    def print_summary(self) -> None:
        """The table of measures, to the terminal."""
        if self._folder is not None:
            print(summary_table(self._folder.result(complete=True, frames=None).summary))

    def close(self, *, complete: bool) -> None:
        """Write the report, and let go of the folder."""
        if self._folder is not None:
            self._folder.finish(None, complete=complete)
            self._folder.close()


def _run_info(config: BridgeConfig, episodes: Sequence[Episode], limits: EpisodeLimits) -> RunInfo:
    """Protocol and options, as they go into the result."""
    c = config
    if c.run_info:
        return RunInfo.from_tree(json.loads(Path(c.run_info).read_text("utf-8")))
    protocol = Protocol(
        name=c.world if c.protocol == "custom" else c.protocol,
        split=Path(c.episodes).stem.removesuffix(".json"),
        control=c.mode,
        goal_radius_m=episodes[0].goal_radius_m,
        forward_m=c.step.forward_m,
        turn_deg=c.step.turn_deg,
        max_steps=limits.steps,
        max_actions=limits.actions,
        max_turns_in_place=limits.turns_in_place,
        max_questions=limits.questions,
        early_end_is_stop=limits.as_stop,
    )
    command = tuple(shlex.split(c.command)) or tuple(sys.argv)
    decides: dict[str, Any] = {"config": {}, "checkpoint": ""}
    if c.navigator_info:
        decides = json.loads(Path(c.navigator_info).read_text("utf-8"))
    return RunInfo(command, protocol, 0, {**to_flat(c), **decides["config"]}, decides["checkpoint"])
