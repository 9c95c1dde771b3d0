"""Finds NaN and infinite numbers before they move a robot, and where they came from.

Looking costs one reduction of scores that are read anyway. Where it began is looked for only once something
was found, so that the search may take its time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.timeline import Timeline
from vln_ros.protocols import EngineError


class NotFiniteError(EngineError):
    """A NaN or an infinity where a number should be; the message says where it came from."""


class Searched(Protocol):
    """Where the first number that is none is looked for: a session."""

    @property
    def network(self) -> PreTrainedModel: ...

    @property
    def cache(self) -> SlotCache: ...

    @property
    def timeline(self) -> Timeline: ...


def extremes(values: Tensor) -> Tensor:
    """``[2]`` least and greatest of ``values`` in float32; NaN where one of them is. Does not synchronise."""
    return torch.stack(values.aminmax()).float()


def check_scores(session: Searched, low: float, high: float) -> None:
    """Raises NotFiniteError if the :func:`extremes` of the scores behind a forward are not finite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NotFiniteError(
            f"the scores of the next token are not finite (from {low:g} to {high:g}): {_origin(session)}"
        )


def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the floating-point tensors that hold something that is not finite; one wait per device."""
    names: list[str] = []
    found: list[Tensor] = []
    for name, tensor in chain.from_iterable(stored_parts(*one) for one in named):
        if tensor.numel() and tensor.is_floating_point() and tensor.element_size() > 1:
            names.append(name)
            low, high = tensor.detach().aminmax()
            # Two casts rather than one product: inf * 0 would be NaN, but -inf + inf hides nothing here.
            found.append((torch.isfinite(low) & torch.isfinite(high)).logical_not())
    if not found:
        return []
    flags = torch.stack([flag.to(found[0].device) for flag in found]).tolist()
    return [name for name, bad in zip(names, flags, strict=True) if bad]


def stored_parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor with its name; of a quantised one what it is made of: numbers and scales."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from stored_parts(f"{name}.{part}", getattr(tensor, part))


def weights_not_finite(network: nn.Module) -> list[str]:
    """Names of a network's parameters and buffers that hold something that is not finite."""
    return not_finite([*network.named_parameters(), *network.named_buffers()])


def _overflow(dtype: torch.dtype) -> str:
    if dtype is torch.float16:
        return "float16 overflows with this checkpoint; load it as bfloat16 or float32 (qwen.dtype)"
    return "the checkpoint is damaged, or its activations overflow; try another copy, or qwen.dtype float32"


def _origin(session: Searched) -> str:
    """Where in a session's model or cache the first number is that is none."""
    weights = weights_not_finite(session.network)
    if weights:
        return f"{len(weights)} weights are not, e.g. {weights[0]}; load the checkpoint again"
    remedy = _overflow(session.network.dtype)
    for index, layer in enumerate(session.cache.layers):
        if not layer.is_initialized:
            continue
        for what, buffer in (("key", layer.keys), ("value", layer.values)):
            bad = ~torch.isfinite(buffer[0, :, : layer.length]).all(-1).all(0)
            if bool(bad.any()):
                slot = int(bad.nonzero()[0, 0])
                return f"the {what} of {_token(session, slot)} is the first, in layer {index}; {remedy}"
    return f"keys and values are, so it began in the last layer or in the scores themselves; {remedy}"


def _token(session: Searched, slot: int) -> str:
    first = 0
    for segment in session.timeline.segments:
        if slot < first + segment.count:
            return f"token {slot} ({segment.kind.value})"
        first += segment.count
    return f"token {slot} (of the answer)"
