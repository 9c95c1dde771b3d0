"""Builds the expert of each world, as the options name it."""

from __future__ import annotations

from collections.abc import Sequence

from vln_ros.config import ExpertConfig
from vln_ros.datatypes import CameraModel, StepSize
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import SceneCache
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.habitat.world import HabitatGround, HabitatWorld
from vln_ros.sim.oracle.follower import EmbeddedGround, FollowerEngine
from vln_ros.sim.oracle.policy import OraclePolicy


def build_oracle(episodes: Sequence[Episode], config: ExpertConfig, step: StepSize) -> OraclePolicy:
    """The expert of the world that the options describe.

    Raises:
        ConfigError: Habitat cannot be started.
    """
    count, clearance_m = config.actions_per_decision, config.clearance_m
    if config.habitat.python:
        # Without cameras: it needs the ways only, and the memory and the GPU are the world's.
        world = HabitatWorld(CameraModel.from_hfov(4, 4, 1.0), 1.0, 0.0, config.habitat, cameras=False)

        def ground_in_habitat(episode: Episode) -> HabitatGround:
            world.load(episode.scene_id)
            return HabitatGround(world, episode.goal, clearance_m)

        follower = FollowerEngine(ground_in_habitat, step, count, world.close)
    elif not config.habitat.sliding:
        scenes = SceneCache(AGENT_RADIUS_M, 2)

        def ground_in_flat(episode: Episode) -> EmbeddedGround:
            walkable = scenes.get(episode.scene_id).walkable
            return EmbeddedGround(walkable, episode.goal, sliding=False, clearance_m=clearance_m)

        follower = FollowerEngine(ground_in_flat, step, count, scenes.clear)
    else:
        return OraclePolicy(episodes, step, count, clearance_m)
    return OraclePolicy(episodes, step, count, follower=follower)
