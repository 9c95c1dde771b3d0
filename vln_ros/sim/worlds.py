"""Opens a world by its name, and draws what its scenes look like from above."""

from __future__ import annotations

import math

from vln_ros.axes import base_from_optical
from vln_ros.config import CameraConfig, WorldConfig
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.protocols import World
from vln_ros.sim.embedded.plan import (
    FreeSpace,
    PlanImage,
    draw_free_space,
    draw_plan,
    free_space_of_flat,
)
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


def look_down_rad(config: CameraConfig) -> float | None:
    """Tilt of the second camera; None where there is none."""
    return math.radians(config.look_down_deg) if config.look_down_deg else None


def look_down_extrinsics(config: CameraConfig) -> Pose | None:
    """The second camera's optical frame in the base's; None where there is none."""
    tilt_rad = look_down_rad(config)
    return None if tilt_rad is None else base_from_optical(0.0, 0.0, config.height_m, pitch_down_rad=tilt_rad)


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
        return HabitatWorld(
            camera,
            c.height_m,
            math.radians(c.pitch_down_deg),
            config.habitat,
            depth_noise=c.depth_noise,
            look_down_rad=look_down_rad(c),
        )
    check_ray_caster()
    return EmbeddedWorld(
        camera,
        extrinsics,
        sliding=config.habitat.sliding,
        depth_noise=config.camera.depth_noise,
        base_from_look_down=look_down_extrinsics(config.camera),
    )


def plan_of(world: World) -> PlanImage | None:
    """A plan of the loaded scene (of the floor that the robot is on); None where the world knows none."""
    if isinstance(world, EmbeddedWorld):
        return draw_plan(world.scene.flat)
    if isinstance(world, HabitatWorld):
        return draw_free_space(world.free_space(_METRES_PER_PIXEL))
    return None


def free_space_of(world: World) -> FreeSpace | None:
    """Where the robot can stand in the loaded scene (on the floor that it is on), over the area of its plan;
    None where the world does not know."""
    if isinstance(world, EmbeddedWorld):
        return free_space_of_flat(world.scene.flat, world.scene.walkable, _METRES_PER_PIXEL)
    if isinstance(world, HabitatWorld):
        return world.free_space(_METRES_PER_PIXEL)
    return None
