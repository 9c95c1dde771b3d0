"""Reads what a bridge is started with: mode, episodes in order, what identifies their run."""

from __future__ import annotations

import difflib
import json
import shlex
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vln_ros.config import BridgeConfig, ConfigError, to_flat
from vln_ros.evaluation.episode.run import EpisodeLimits
from vln_ros.evaluation.runs.results import Protocol, RunInfo
from vln_ros.evaluation.workers.worlds import choose_episodes
from vln_ros.nodes.sim_bridge.lockstep import Lockstep, Mode
from vln_ros.nodes.sim_bridge.manual import Manual
from vln_ros.nodes.sim_bridge.realtime import RealTime
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.worlds import languages_of

if TYPE_CHECKING:
    from vln_ros.nodes.sim_bridge.node import SimBridge


def make_mode(bridge: SimBridge) -> Mode:
    """The one that the options name."""
    match bridge.config.mode:
        case "lockstep":
            return Lockstep(bridge)
        case "realtime":
            return RealTime(bridge)
    return Manual(bridge)


def load_episodes(config: BridgeConfig) -> list[Episode]:
    """Those that the options choose. Raises ConfigError where they choose none."""
    c = config
    if c.surprises and c.world != "embedded":
        raise ConfigError(f"surprises = {c.surprises}: only the embedded world has them, not {c.world!r}")
    if not c.episodes:
        raise ConfigError("episodes is empty: name an episode file; `vln_ros scenes` writes some")
    return list(choose_episodes(Path(c.episodes), c.first_episode, c.episode_count, languages_of(c)))


class EpisodeOrder:
    """Which episode comes next: in the order of the file, unless somebody asks for one.

    Args:
        episodes: all that there are.
        is_done: has a result in the run folder, which holds one of each.
    """

    def __init__(self, episodes: Sequence[Episode], is_done: Callable[[str], bool]) -> None:
        self._by_id = {e.episode_id: e for e in episodes}
        self._is_done = is_done
        self._waiting = deque(e for e in episodes if not is_done(e.episode_id))

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> Episode | None:
        """The next one, which no longer waits; None: all have run."""
        return self._waiting.popleft() if self._waiting else None

    def put_first(self, episode: Episode) -> None:
        """It comes next."""
        if episode in self._waiting:
            self._waiting.remove(episode)
        self._waiting.appendleft(episode)

    def find(self, episode_id: str) -> Episode:
        """Raises ConfigError: there is none of this id, or it has a result already."""
        episode = self._by_id.get(episode_id)
        if episode is None:
            near = difflib.get_close_matches(episode_id, self._by_id, cutoff=0.0)
            raise ConfigError(
                f"episode = {episode_id!r}: none of the {len(self._by_id)} episodes; e.g. {', '.join(near)}"
            )
        if self._is_done(episode_id):
            raise ConfigError(f"episode = {episode_id!r}: run_folder has its result, and holds one of each")
        return episode


def run_info(config: BridgeConfig, episodes: Sequence[Episode], limits: EpisodeLimits) -> RunInfo:
    """Protocol and options, as they go into the result."""
    c = config
    if c.run_info:
        return RunInfo.from_tree(json.loads(Path(c.run_info).read_text("utf-8")))
    protocol = Protocol(
        c.world if c.protocol == "custom" else c.protocol, Path(c.episodes).stem.removesuffix(".json"),
        c.mode, episodes[0].goal_radius_m,
        c.step.forward_m, c.step.turn_deg, limits.steps, limits.actions,
        limits.turns_in_place, limits.questions, limits.as_stop,
    )  # fmt: skip
    command = tuple(shlex.split(c.command)) or tuple(sys.argv)
    decides: dict[str, Any] = {"config": {}, "checkpoint": ""}
    if c.navigator_info:
        decides = json.loads(Path(c.navigator_info).read_text("utf-8"))
    return RunInfo(command, protocol, 0, {**to_flat(c), **decides["config"]}, decides["checkpoint"])
