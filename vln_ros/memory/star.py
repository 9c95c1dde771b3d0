"""Star memory: a few frames that stand out, and a window of the most recent ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_CELLS = 4
_LEVELS = 4


def scene_change(previous: npt.NDArray[np.uint8], current: npt.NDArray[np.uint8]) -> float:
    """How different two frames ``[H, W, 3]`` look: 0 the same, 1 nothing in common.

    One minus the intersection of their colour histograms (Swain and Ballard, 1991), taken in a
    ``4 x 4`` grid of cells, so that a turn counts even where the colours of the room stay.
    """
    a, b = _histograms(previous), _histograms(current)
    return float(1.0 - np.minimum(a, b).sum(-1).mean())


def _histograms(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """``[cells, levels ** 3]``, each row sums to 1."""
    levels = rgb.astype(np.intp) * _LEVELS // 256
    colour = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    rows = np.array_split(colour, _CELLS, axis=0)
    cells = [cell for row in rows for cell in np.array_split(row, _CELLS, axis=1)]
    counts = np.stack([np.bincount(cell.ravel(), minlength=_LEVELS**3) for cell in cells])
    shares: npt.NDArray[np.float64] = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return shares


@dataclass(frozen=True)
class Selection:
    """Which of ``total`` collected frames are shown, increasing, without repeats."""

    indices: tuple[int, ...]
    total: int

    @property
    def compression_ratio(self) -> float:
        """Collected frames per shown frame."""
        return self.total / len(self.indices)


def select_frames(scores: Sequence[float], *, recent: int, important: int, threshold: float) -> Selection:
    """The last ``recent`` frames, and of the others up to ``important`` with a score over ``threshold``.

    Args:
        scores: :func:`scene_change` of each frame to the one before it.

    Raises:
        ValueError: no frames.
    """
    total = len(scores)
    if total == 0:
        raise ValueError("there are no frames to select from")
    window = set(range(max(0, total - recent), total))
    candidates = [i for i in range(total) if i not in window and scores[i] > threshold]
    stars = sorted(candidates, key=lambda i: (-scores[i], -i))[:important]
    return Selection(tuple(sorted(window | set(stars))), total)
