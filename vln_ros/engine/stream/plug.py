"""Declares what an optional feature may see of a stream, and what it may spare the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vln_ros.datatypes import Frame
from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.partial_tower import TowerPart, TowerStates
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.stream.sparse import Sources


@dataclass(frozen=True, eq=False)
class NewFrame:
    """A frame of which nothing is computed yet.

    Attributes:
        image_id: what it will be known by.
        rows, columns: of its visual tokens.
        picture: ``[H, W, 3]`` uint8 at the size of the model.
    """

    frame: Frame
    image_id: int
    rows: int
    columns: int
    picture: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class VisionPlan:
    """What a plug asks of the vision tower: what it makes of the frame is to be kept for later ones.

    Attributes:
        part: what is computed; None: all.
    """

    part: TowerPart | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What a plug asks of a forward.

    Attributes:
        sources: which tokens take over what is cached already; None: all are computed.
        attention: :meth:`Plug.on_attention` is to be called behind it.
    """

    sources: Sources | None = None
    attention: bool = False


@dataclass(frozen=True)
class Cost:
    """Seconds that a forward of one session alone took, and those of planning it."""

    forward_s: float
    plan_s: float


class Plug:
    """A feature that a session holds, told of the life of each frame in this order.

    All that it knows of a picture it keeps to itself, by the image id: segments and images carry nothing else
    for it. Each method does nothing here, so that a feature says only what it is about.
    """

    timed: bool = False
    """It wants to know what a forward costs. A device is waited for then."""

    def begin(self) -> None:
        """A new run. The stream of the one before may still be there."""

    def before_vision(self, new: NewFrame, cache: SlotCache) -> VisionPlan | None:
        """Before anything is computed of a frame, maybe more than once; None: nothing is asked."""

    def after_vision(self, image_id: int, states: TowerStates | None, vision_s: float | None) -> None:
        """The tower has been run as planned.

        Args:
            states: what it made; None where that was not asked for.
            vision_s: how long it took; None where it was spared: the frame is equal to the one before.
        """

    def on_frame(self, frame: Frame, image: Image) -> None:
        """A frame was seen and became ``image``, whose id stays the same wherever its tokens go."""

    def plan(self, prefill: Prefill, cache: SlotCache) -> Plan | None:
        """Before the forward of ``prefill``, unless several sessions share it; None: nothing is asked."""

    def on_cached(self, prefill: Prefill, cache: SlotCache, cost: Cost | None) -> None:
        """The chunk's keys and values are in the cache; no cost where several sessions shared the forward."""

    def on_attention(self, prefill: Prefill, cache: SlotCache, queries: Sequence[Tensor]) -> None:
        """The last token's queries ``[width]``, layer by layer, not turned yet."""

    def on_answer(self, probability: float, held: bool) -> None:
        """The model has decided, so sure of its first action; ``held``: it meant to say something else."""

    def want_whole(self) -> None:
        """All of the next frame is to be computed, whatever was seen before."""
