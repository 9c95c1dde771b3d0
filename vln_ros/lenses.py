"""Declares lenses: what bends the rays before they meet a pinhole's image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from vln_ros.datatypes import CameraModel


class LensModel(Enum):
    """How a lens bends the rays, in the words of ``CameraInfo.distortion_model``."""

    BROWN = "plumb_bob"
    """k1, k2, p1, p2, k3, k4, k5, k6, s1 ... s4: OpenCV's, which ``rational_polynomial`` fills up."""
    EQUIDISTANT = "equidistant"
    """k1 ... k4 of a fisheye (Kannala and Brandt)."""


@dataclass(frozen=True)
class Lens:
    """A camera as it is: a pinhole behind a lens.

    Attributes:
        camera: where an undistorted ray would be; also the pinhole that its images are brought to.
        model: which formula the coefficients belong to.
        coefficients: up to 12, or 4; those that are not there are 0. None at all: an ideal pinhole.

    Raises:
        ValueError: too many coefficients, or one that is not finite.
    """

    camera: CameraModel
    model: LensModel = LensModel.BROWN
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        most = 12 if self.model is LensModel.BROWN else 4
        if len(self.coefficients) > most or not all(math.isfinite(k) for k in self.coefficients):
            raise ValueError(
                f"a {self.model.value} lens has up to {most} finite coefficients, got {self.coefficients}"
            )

    @property
    def is_ideal(self) -> bool:
        """It bends nothing. An equidistant lens always does."""
        return self.model is LensModel.BROWN and not any(self.coefficients)
