"""Builds the expert of each world, as the options name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vln_ros.config import ExpertConfig, PixelOracleConfig
from vln_ros.datatypes import CameraModel, Float64Array, StepSize
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import SceneCache
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.habitat.world import HabitatGround, HabitatWorld
from vln_ros.sim.oracle.expert import Expert
from vln_ros.sim.oracle.follower import EmbeddedGround, Follower, FollowerEngine
from vln_ros.sim.oracle.pixel_oracle import ActionsFrom, PixelOracle, Way, corners_of
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


def build_pixel_oracle(
    episodes: Sequence[Episode],
    expert: ExpertConfig,
    config: PixelOracleConfig,
    step: StepSize,
    room_m: float,
) -> PixelOracle:
    """The oracle of pixels in the world that the options describe.

    Args:
        room_m: where there is room its ways keep this distance from walls: what comes after it plans for a
            circle of about this radius.

    Raises:
        ConfigError: Habitat cannot be started.
    """

    def oracle(
        way_of: Callable[[Episode], Way],
        actions_of: Callable[[Episode], ActionsFrom],
        close: Callable[[], None],
    ) -> PixelOracle:
        return PixelOracle(
            episodes,
            way_of,
            actions_of if config.answers == "arrows" else None,
            step.turn_rad,
            pixel_noise_px=config.pixel_noise_px,
            seed=config.seed,
            close=close,
        )

    if expert.habitat.python:
        world = HabitatWorld(CameraModel.from_hfov(4, 4, 1.0), 1.0, 0.0, expert.habitat, cameras=False)

        def way_in_habitat(episode: Episode) -> Way:
            world.load(episode.scene_id)
            return corners_of(lambda place: world.way(place, episode.goal))

        def steps_in_habitat(episode: Episode) -> ActionsFrom:
            world.load(episode.scene_id)
            follower = Follower(HabitatGround(world, episode.goal, expert.clearance_m), step)
            return lambda pose, count: follower.next_actions(pose.position, pose.yaw_rad, count)

        return oracle(way_in_habitat, steps_in_habitat, world.close)
    scenes = SceneCache(AGENT_RADIUS_M, 2)
    clearance_m = max(expert.clearance_m, room_m - AGENT_RADIUS_M)

    def expert_of(episode: Episode) -> Expert:
        return Expert(scenes.get(episode.scene_id).walkable, episode.goal, step, clearance_m=clearance_m)

    def way_in_flat(episode: Episode) -> Way:
        known = expert_of(episode)

        def way(place: Float64Array) -> Float64Array:
            corners = known.way(place[:2])
            return np.concatenate([corners, np.zeros((len(corners), 1))], 1)

        return way

    def steps_in_flat(episode: Episode) -> ActionsFrom:
        if expert.habitat.sliding:
            known = Expert(
                scenes.get(episode.scene_id).walkable, episode.goal, step, clearance_m=expert.clearance_m
            )
            return lambda pose, count: known.rollout(pose, count)[0]
        walkable = scenes.get(episode.scene_id).walkable
        ground = EmbeddedGround(walkable, episode.goal, sliding=False, clearance_m=expert.clearance_m)
        follower = Follower(ground, step)
        return lambda pose, count: follower.next_actions(pose.position, pose.yaw_rad, count)

    return oracle(way_in_flat, steps_in_flat, scenes.clear)
