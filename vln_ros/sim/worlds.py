"""Opens a world by its name, and draws what its scenes look like from above."""

from __future__ import annotations

import math

from vln_ros.axes import base_from_optical
from vln_ros.config import CameraConfig, WorldConfig
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.protocols import World
from vln_ros.sim.embedded.plan import PlanImage, draw_free_space, draw_plan
from vln_ros.sim.embedded.render import check_ray_caster
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.habitat.world import HabitatWorld

_METRES_PER_PIXEL = 0.05


def camera_and_extrinsics(config: CameraConfig) -> tuple[CameraModel, Pose]:
    """Intrinsics, and the camera's optical frame in the base's."""
    camera = CameraModel.from_hfov(config.width, config.height, math.radians(config.hfov_deg))
    return camera, base_from_optical(
        0.0, 0.0, config.height_m, pitch_down_rad=math.radians(config.pitch_down_deg)
    )


def languages_of(config: WorldConfig) -> tuple[str, ...]:
    """As :func:`vln_ros.sim.episodes.episode.read_episodes` takes them."""
    return tuple(language.strip() for language in config.languages.split(",") if language.strip())


def open_world(config: WorldConfig) -> World:
    """The world that the options describe; see :func:`vln_ros.config.with_protocol` for named protocols.

    Raises:
        ConfigError: it cannot be had on this machine; the message says what to do.
    """
    camera, extrinsics = camera_and_extrinsics(config.camera)
    if config.world == "habitat":
        c = config.camera
        return HabitatWorld(camera, c.height_m, math.radians(c.pitch_down_deg), config.habitat)
    check_ray_caster()
    return EmbeddedWorld(camera, extrinsics, sliding=config.habitat.sliding)


def plan_of(world: World) -> PlanImage | None:
    """A plan of the loaded scene (of the floor that the robot is on); None where the world knows none."""
    if isinstance(world, EmbeddedWorld):
        return draw_plan(world.scene.flat)
    if isinstance(world, HabitatWorld):
        return draw_free_space(world.free_space(_METRES_PER_PIXEL))
    return None
