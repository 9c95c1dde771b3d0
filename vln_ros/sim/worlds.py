"""The worlds by name, and what their scenes look like from above."""

from __future__ import annotations

import math

from vln_ros.axes import base_from_optical
from vln_ros.config import WorldConfig
from vln_ros.datatypes import CameraModel
from vln_ros.protocols import World
from vln_ros.sim.embedded import EmbeddedWorld
from vln_ros.sim.habitat import HabitatWorld
from vln_ros.sim.plan import PlanImage, draw_free_space, draw_plan

_METRES_PER_PIXEL = 0.05


def open_world(config: WorldConfig) -> World:
    """The world that the options describe; see :func:`vln_ros.config.with_protocol` for named protocols.

    Raises:
        ConfigError: it cannot be had on this machine; the message says what to do.
    """
    c = config.camera
    camera = CameraModel.from_hfov(c.width, c.height, math.radians(c.hfov_deg))
    pitch_down_rad = math.radians(c.pitch_down_deg)
    if config.world == "habitat":
        return HabitatWorld(camera, c.height_m, pitch_down_rad, config.habitat)
    return EmbeddedWorld(camera, base_from_optical(0.0, 0.0, c.height_m, pitch_down_rad=pitch_down_rad))


def plan_of(world: World) -> PlanImage | None:
    """A plan of the loaded scene (of the floor that the robot is on); None where the world knows none."""
    if isinstance(world, EmbeddedWorld):
        return draw_plan(world.scene.flat)
    if isinstance(world, HabitatWorld):
        return draw_free_space(world.free_space(_METRES_PER_PIXEL))
    return None
