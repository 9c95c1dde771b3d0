"""Writes the results of a bridge into a run folder, if it was given one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vln_ros.config import BridgeConfig
from vln_ros.evaluation.episode.metrics import summary_table
from vln_ros.evaluation.episode.record import EpisodeRecord, EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, episode_info
from vln_ros.evaluation.runs.results import Skip
from vln_ros.evaluation.runs.run_folder import RunFolder
from vln_ros.nodes.sim_bridge.episodes import run_info
from vln_ros.protocols import World
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.worlds import plan_of


class BridgeResults:
    """A run folder, or nothing where the option names none. Raises ConfigError as the folder does."""

    def __init__(self, config: BridgeConfig, episodes: Sequence[Episode], limits: EpisodeLimits) -> None:
        self._video = config.video
        self._folder = None
        if config.run_folder:
            info = run_info(config, episodes, limits)
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
