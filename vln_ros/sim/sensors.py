"""Gives a simulated robot the cameras of real ones: behind a lens, depth beside colour."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vln_ros.axes import BODY_FROM_OPTICAL, base_from_optical
from vln_ros.config import ConfigError, LensName, SensorsConfig
from vln_ros.datatypes import CameraModel
from vln_ros.lenses import Lens, LensModel
from vln_ros.protocols import LooksThroughLenses, World

OWN_DEPTH_TOPIC = "camera/depth/image_raw"
OWN_DEPTH_FRAME = "camera_depth_optical_frame"
"""Of a depth camera of its own, as most drivers call them."""
_COEFFICIENTS: dict[LensName, tuple[LensModel, tuple[float, ...]]] = {
    "plumb_bob": (LensModel.BROWN, (-0.17, 0.035, 0.0008, -0.0005, 0.0)),
    "rational_polynomial": (LensModel.BROWN, (0.45, -2.6, 0.0006, -0.0003, 1.5, 0.33, -2.43, 1.44)),
    "equidistant": (LensModel.EQUIDISTANT, (-0.02, 0.008, -0.004, 0.0006)),
}
"""Of a webcam, of the colour camera of an RGB-D camera, and of a fisheye."""


def lens_named(name: LensName, camera: CameraModel) -> Lens:
    """A lens of this kind before ``camera``; none: nothing before it."""
    return Lens(camera) if name == "none" else Lens(camera, *_COEFFICIENTS[name])


class SensorRig:
    """The cameras on a robot.

    Args:
        world: renders.
        config: how they differ from the world's own ideal RGB-D camera.

    Attributes:
        color: the colour camera, as it is.
        depth: the depth camera, where it has its own; None where depth is registered to colour.
        base_from_depth: its optical frame; the colour camera's where depth is registered.

    Raises:
        ConfigError: the world cannot render such cameras.
    """

    def __init__(self, world: World, config: SensorsConfig) -> None:
        self._extrinsics = world.base_from_optical
        self.color = lens_named(config.distortion, world.camera)
        self.depth: Lens | None = None
        self.base_from_depth = self._extrinsics
        if config.depth == "own":
            hfov_rad = math.radians(config.depth_hfov_deg)
            self.depth = Lens(CameraModel.from_hfov(config.depth_width, config.depth_height, hfov_rad))
            beside = base_from_optical(0.0, config.depth_left_m, 0.0)
            self.base_from_depth = self._extrinsics @ BODY_FROM_OPTICAL.inverse() @ beside
        self._world: LooksThroughLenses | None = None
        if self.depth is None and self.color.is_ideal:
            return
        if not isinstance(world, LooksThroughLenses):
            raise ConfigError(
                f"sensors.distortion = {config.distortion!r}, sensors.depth = {config.depth!r}: this world "
                "has an ideal RGB-D camera only; leave them at none and registered, or set world to embedded"
            )
        self._world = world

    def take(
        self, rgb: npt.NDArray[np.uint8], depth_m: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """What its cameras see where the world's ideal one sees ``rgb`` and ``depth_m``, now."""
        if self._world is None:
            return rgb, depth_m
        if not self.color.is_ideal:
            rgb, depth_m = self._world.look(self.color, self._extrinsics)
        if self.depth is not None:
            depth_m = self._world.look(self.depth, self.base_from_depth)[1]
        return rgb, depth_m
