"""Reads the episodes that a bridge is started with, in their order."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from vln_ros.config import BridgeConfig, ConfigError
from vln_ros.evaluation.workers.worlds import choose_episodes
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.worlds import languages_of


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
