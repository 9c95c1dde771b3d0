"""The tower's first layer for pictures of bytes: what a processor does to a pixel is part of its matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vln_ros.engine.checkpoint.settings import PixelSpec


@dataclass(frozen=True, eq=False)
class FoldedEmbedding:
    """A linear layer, which computes in float32.

    Attributes:
        matrix: ``[values, width]``, the values of a patch row by row, each pixel's colours together.
        bias: ``[width]``.
        dtype: of what comes out, as the tower goes on with it.
    """

    matrix: Tensor
    bias: Tensor
    dtype: torch.dtype

    def embed(self, patches: Tensor) -> Tensor:
        """``[n, width]`` of patches ``[n, values]`` uint8."""
        return torch.addmm(self.bias, patches.float(), self.matrix).to(self.dtype)


class PatchEmbedding:
    """The released patch embedding of one network, folded for pictures of bytes.

    A picture's mean, deviation and two equal time slices are part of the matrix: what goes to the device is
    the bytes of the picture.

    Args:
        released: ``network.model.visual``.
        spec: the checkpoint's image settings.
    """

    def __init__(self, released: Any, spec: PixelSpec) -> None:
        self._released = released
        self.spec = spec
        self._folded: tuple[object, FoldedEmbedding] | None = None

    def folded(self) -> FoldedEmbedding:
        """Of the weights as they are now: the very one that was given before, unless they have changed."""
        weight = self._released.patch_embed.proj.weight
        state = (weight.data_ptr(), weight._version, weight.device, weight.dtype)
        if self._folded is None or self._folded[0] != state:
            self._folded = state, _fold(weight, self.spec)
        return self._folded[1]


@torch.no_grad()
def _fold(weight: Tensor, spec: PixelSpec) -> FoldedEmbedding:
    """Args: ``weight``: ``[width, 3, times, patch, patch]``; all times see one picture."""
    kernel = weight.to("cpu", torch.float64).sum(2)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (spec.mean, spec.std))
    matrix = (kernel / (255.0 * std)[:, None, None]).permute(2, 3, 1, 0).reshape(-1, len(kernel))
    bias = -(kernel * (mean / std)[:, None, None]).flatten(1).sum(1)
    return FoldedEmbedding(matrix.float().to(weight.device), bias.float().to(weight.device), weight.dtype)
