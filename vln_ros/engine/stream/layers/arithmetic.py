"""What decoder and vision tower share of a layer's arithmetic, in few kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, addcmul
from torch.nn.functional import rms_norm


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: the halves of the last axis of ``x`` turned by an angle.

    ``sin`` carries the sign of the rotation: minus in its first half.
    """
    return addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def normalise(norm: Any, x: Tensor) -> Tensor:
    """The released RMS norm with its own weight: one kernel where a device has one."""
    return rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
