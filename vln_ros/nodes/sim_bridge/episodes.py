"""Reads the episodes that a bridge is started with, in their order; and where a robot may be put besides."""

from __future__ import annotations

import difflib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vln_ros.config import BridgeConfig, ConfigError
from vln_ros.datatypes import Pose
from vln_ros.evaluation.workers.worlds import choose_episodes
from vln_ros.protocols import World, WorldLostError
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, KINDS, scene_id
from vln_ros.sim.embedded.world import EmbeddedWorld, Scene
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.splits import SPLITS, begin_scene
from vln_ros.sim.worlds import free_space_of, languages_of

ANYWHERE = "anywhere"
"""Id of a start that is drawn by lot in the loaded scene."""
SPLIT = SPLITS["val_unseen"]
"""Whose flats people may choose."""
OFFERED_FLATS = 10
"""Of each kind, and no more starts of a file than five times as many: a list is to be read."""


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
        episode = _find(self._by_id, episode_id)
        if self._is_done(episode_id):
            raise ConfigError(f"episode = {episode_id!r}: run_folder has its result, and holds one of each")
        return episode


class StartList:
    """Where the robot of a world that waits for people may be put.

    These are the starts of the file, any place in the loaded scene, and, in the embedded world, the first
    start of each flat of :data:`SPLIT`, by the id of its scene.

    Args:
        episodes: of the file, one at least.
        world: whose robot it is.

    Attributes:
        current: at whose start the robot was put last; before it is put anywhere, the one to begin with.
        is_put: it stands somewhere.
    """

    def __init__(self, episodes: Sequence[Episode], world: World) -> None:
        self._by_id = {e.episode_id: e for e in episodes}
        self._world = world
        self._lot = np.random.default_rng()
        self.current = episodes[0]
        self.is_put = False

    @property
    def current_id(self) -> str:
        current = self.current
        listed = self._by_id.get(current.episode_id)
        return (
            current.episode_id
            if listed is not None and listed.scene_id == current.scene_id
            else current.scene_id
        )

    def offered(self) -> tuple[tuple[str, str], ...]:
        """Id and name, for people, of those that are offered; every other flat may be asked for as well."""
        most = 5 * OFFERED_FLATS
        starts = [
            (e.episode_id, f"{_name_of(e.scene_id)}, start {e.episode_id}") for e in self._by_id.values()
        ]
        flats: list[tuple[str, str]] = []
        if isinstance(self._world, EmbeddedWorld):
            seeds = range(SPLIT.first_seed, SPLIT.first_seed + OFFERED_FLATS)
            scenes = [scene_id(seed, kind) for kind in KINDS for seed in seeds]
            flats = [(scene, _name_of(scene)) for scene in scenes]
        return ((ANYWHERE, "anywhere here"), *starts[:most], *flats)

    def find(self, start: str) -> Episode:
        """Raises ConfigError: there is none of this id."""
        if start in self._by_id:
            return self._by_id[start]
        if start == ANYWHERE:
            return self._anywhere()
        if isinstance(self._world, EmbeddedWorld) and "/" in start:
            return begin_scene(SPLIT.name, Scene(start, AGENT_RADIUS_M))[0]
        return _find(self._by_id, start)

    def _anywhere(self) -> Episode:
        space, floor_m = None, 0.0
        if self.is_put:
            try:
                space, floor_m = free_space_of(self._world), float(self._world.pose.position[2])
            except WorldLostError as error:
                raise ConfigError(f"episode = {ANYWHERE!r}: {error}") from error
        places = np.argwhere(space.free) if space is not None else np.empty((0, 2))
        if space is None or not len(places):
            raise ConfigError(f"episode = {ANYWHERE!r}: no free place is known yet; name an episode")
        row, column = places[int(self._lot.integers(len(places)))] + 0.5
        x, y = space.origin + np.array([column, -row]) * space.metres_per_pixel
        yaw_rad = float(self._lot.uniform(-math.pi, math.pi))
        return replace(self.current, start=Pose.planar(float(x), float(y), yaw_rad, floor_m))


def _find(by_id: Mapping[str, Episode], episode_id: str) -> Episode:
    if episode_id not in by_id:
        near = difflib.get_close_matches(episode_id, by_id, cutoff=0.0)
        raise ConfigError(
            f"episode = {episode_id!r}: none of the {len(by_id)} episodes; e.g. {', '.join(near)}"
        )
    return by_id[episode_id]


def _name_of(scene: str) -> str:
    """The folder or file of a scene says enough: ``small_900003``."""
    return Path(scene).stem
