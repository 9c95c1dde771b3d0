"""What a bridge is started with: its episodes, and what identifies their run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from vln_ros.config import BridgeConfig, ConfigError, to_flat
from vln_ros.evaluation.episode_run import EpisodeLimits
from vln_ros.evaluation.results import Protocol, RunInfo
from vln_ros.evaluation.worlds import choose_episodes
from vln_ros.sim.episodes import Episode
from vln_ros.sim.worlds import languages_of


def load_episodes(config: BridgeConfig) -> list[Episode]:
    """Those that the options choose. Raises ConfigError where they choose none."""
    c = config
    if c.surprises and c.world != "embedded":
        raise ConfigError(f"surprises = {c.surprises}: only the embedded world has them, not {c.world!r}")
    if not c.episodes:
        raise ConfigError("episodes is empty: name an episode file; `vln_ros scenes` writes some")
    return list(choose_episodes(Path(c.episodes), c.first_episode, c.episode_count, languages_of(c)))


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
    return RunInfo(command, protocol, 0, to_flat(c))
