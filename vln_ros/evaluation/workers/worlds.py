"""Opens the world of an evaluation and finds its episodes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vln_ros.config import ConfigError, EvalConfig, ExpertConfig
from vln_ros.evaluation.episode.top_view import Plan
from vln_ros.protocols import World
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, generate_flat
from vln_ros.sim.embedded.plan import draw_plan
from vln_ros.sim.embedded.world import EmbeddedWorld, SceneCache
from vln_ros.sim.episodes.episode import Episode, read_episodes, split_file, write_episodes
from vln_ros.sim.splits import SPLITS, make_episodes
from vln_ros.sim.worlds import camera_and_extrinsics, languages_of, look_down_extrinsics, open_world

_CACHED_SCENES = 2  # the one in use and the one before


def build_worlds(config: EvalConfig, count: int) -> Sequence[World]:
    """So many worlds for one process; they share what they can."""
    match config.world:
        case "embedded":
            camera, extrinsics = camera_and_extrinsics(config.camera)
            scenes = SceneCache(AGENT_RADIUS_M, max(_CACHED_SCENES, count))
            sliding = config.habitat.sliding
            noise = config.camera.depth_noise
            return [
                EmbeddedWorld(
                    camera,
                    extrinsics,
                    scenes=scenes,
                    sliding=sliding,
                    depth_noise=noise,
                    base_from_look_down=look_down_extrinsics(config.camera),
                )
                for _ in range(count)
            ]
        case "habitat":
            return [open_world(config) for _ in range(count)]
    raise ConfigError(f"world = {config.world!r}: unknown")


def plan_of(world: str, scene_id: str) -> Plan | None:
    """The scene from above, for maps; None where there is no such picture."""
    return draw_plan(generate_flat(scene_id)) if world == "embedded" else None


def dataset_file(config: EvalConfig, folder: Path) -> Path:
    """The episode file that the options name; the embedded world's own episodes are written there first.

    Args:
        folder: where to write them.

    Raises:
        ConfigError: there is no such file.
    """
    if not config.dataset:
        if config.world != "embedded":
            raise ConfigError(
                f"dataset is empty: world = {config.world!r} has no episodes of its own; name one"
            )
        return _own_episodes(config, folder)
    return split_file(Path(config.dataset), config.split)


def _own_episodes(config: EvalConfig, folder: Path) -> Path:
    if config.split not in SPLITS:
        raise ConfigError(f"split = {config.split!r}: the embedded world has {', '.join(SPLITS)}")
    if config.episodes == 0:
        raise ConfigError("episodes = 0: the embedded world makes as many as it is asked for; say how many")
    count = config.first_episode + config.episodes
    path = folder / config.split / f"{config.split}.json.gz"
    if path.exists() and not _are(read_episodes(path), count, config.kind):
        shutil.rmtree(path.parent)  # left by a run that asked for others, and ended before its first episode
    if not path.exists():
        progress = partial(tqdm, desc="making episodes", unit="episode", delay=2.0, leave=False)
        part = folder / "part"
        write_episodes(part, config.split, make_episodes(config.split, count, config.kind, progress))
        (part / config.split).rename(path.parent)  # a half-written dataset never looks like a whole one
        part.rmdir()
    return path


def expert_of(config: EvalConfig, path: Path) -> ExpertConfig:
    """The expert's options: the episodes of the run, if it has no others, and the rules of its world."""
    expert = config.navigator.expert
    python = config.habitat.python if config.world == "habitat" else ""
    return replace(
        expert, episodes=expert.episodes or str(path), habitat=replace(config.habitat, python=python)
    )


def _are(episodes: Sequence[Episode], count: int, kind: str) -> bool:
    """So many, in flats of this kind: what the split's first ones are then known to be."""
    return len(episodes) == count and all(f"/{kind}_" in e.scene_id for e in episodes)


def chosen_episodes(config: EvalConfig, path: Path) -> tuple[Episode, ...]:
    """The episodes that the options choose from a file. Raises ConfigError where they choose none."""
    return choose_episodes(path, config.first_episode, config.episodes, languages_of(config))


def choose_episodes(path: Path, first: int, count: int, languages: Sequence[str] = ()) -> tuple[Episode, ...]:
    """So many episodes of a file (0: all) from an index on, those in ``languages`` (empty: all).

    Raises:
        ConfigError: there are none.
    """
    every = read_episodes(path, languages)
    chosen = every[first : first + count if count else None]
    if not chosen:
        raise ConfigError(f"first_episode = {first}: {path} has only {len(every)} episodes")
    return chosen
