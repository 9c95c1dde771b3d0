"""Counts what a frame and its decision ask of a device: kernels, and copies that the host waits for.

The network has the released shape and no numbers (torch's meta device), so that nothing is computed: what is
counted is what the host starts. Whatever it reads back is 0, so that every decision takes the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2_5_VLConfig

from vln_ros.capacity.stages import random_model
from vln_ros.capacity.walk import walk
from vln_ros.config import StreamConfig
from vln_ros.datatypes import Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ImageSpec, Profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.layers.accelerate import Accelerator

SETTLED = 3
"""Decisions before the one that is counted: tables are made, the stream has turns."""

_ROOM = 8192
# They make no kernel: other views of what is there, and memory that nothing is written to.
_FREE = {
    "view", "_unsafe_view", "_reshape_alias", "reshape", "expand", "permute", "transpose", "t", "slice",
    "select", "unsqueeze", "squeeze", "split", "split_with_sizes", "chunk", "unbind", "narrow", "unfold",
    "as_strided", "alias", "detach", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty",
    "new_empty_strided",
}  # fmt: skip


# One kernel on a GPU each (aten::_fused_rms_norm; flash or memory-efficient attention), several on a device
# that has none of them.
_FUSED = {torch.nn.functional.rms_norm: "rms_norm", scaled_dot_product_attention: "attention"}


@dataclass
class Tally:
    """What was started: kernels by name, copies and waits by direction."""

    kernels: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.kernels.total()


class CountingDevice(TorchDispatchMode):
    """Within this mode tensors of the meta device count what is done with them, and are read back as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.tally = Tally()
        self._within: str | None = None

    @contextmanager
    def fused(self, name: str) -> Iterator[None]:
        """What is done within is one kernel of this name."""
        self.tally.kernels[name] += 1
        self._within = name
        try:
            yield
        finally:
            self._within = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        sources = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(t.device.type == "meta" for t in sources)
        if name == "_local_scalar_dense" and on_device:
            self.tally.copies["to the host"] += 1
            return 0
        if name == "_to_copy" and on_device and torch.device(kwargs.get("device") or "meta").type == "cpu":
            self.tally.copies["to the host"] += 1
            kwargs.pop("device")
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        result = func(*args, **kwargs)
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not on_device and not any(t.device.type == "meta" for t in made):
            return result  # the host's own
        if name in {"_to_copy", "copy_"} and any(t.device.type == "cpu" and t.dim() for t in sources):
            self.tally.copies["to the device"] += 1
        elif name not in _FREE and self._within is None:
            self.tally.kernels[name] += 1
        return result


class _FusedKernels(TorchFunctionMode):
    """Tells a :class:`CountingDevice` of functions that are one kernel on a GPU."""

    def __init__(self, device: CountingDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = _FUSED.get(func)
        with nullcontext() if name is None else self._device.fused(name):
            return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[CountingDevice]:
    """Within, the meta device counts, and is read back as 0."""
    device = CountingDevice()
    with device, _FusedKernels(device):
        yield device


@contextmanager
def counted(device: CountingDevice) -> Iterator[Tally]:
    """What is started within."""
    device.tally = tally = Tally()
    try:
        yield tally
    finally:
        device.tally = Tally()


@dataclass(frozen=True)
class FrameCounts:
    """Of one frame and its decision."""

    frame: Tally
    decision: Tally

    @property
    def kernels(self) -> int:
        return self.frame.total + self.decision.total

    @property
    def copies(self) -> int:
        return self.frame.copies.total() + self.decision.copies.total()


def shape_without_numbers(base: LoadedModel, config: Qwen2_5_VLConfig) -> LoadedModel:
    """A network of this shape on the meta device, in bfloat16, that speaks the tokens of ``base``."""
    tokens = base.tokens
    config.vision_start_token_id, config.vision_end_token_id = tokens.vision_start, tokens.vision_end
    config.image_token_id, config.video_token_id = tokens.image_pad, tokens.video_pad
    return random_model(base, config, "meta", torch.bfloat16)


def measure_counts(model: LoadedModel, profile: Profile, size: tuple[int, int], decode: str) -> FrameCounts:
    """Counts of a frame and its decision in a stream that has begun.

    Args:
        model: of :func:`shape_without_numbers`.
        size: width and height of the frames, as the model sees them.
    """
    profile = replace(profile, image=ImageSpec(None, None))
    frames: list[Frame] = list(walk(SETTLED + 1, size))
    with counting() as device, torch.no_grad():
        # Room for all of it from the beginning: the cache's growth is no part of a decision.
        stream = StreamConfig(decode=decode, min_allowed=0.0, cache_block_tokens=_ROOM)
        engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=stream)
        engine.start(Instruction(1, "Walk past the red sofa and stop next to the lamp."))

        def take(work: Callable[[], object]) -> Tally:
            with counted(device) as tally:
                work()
            return tally

        for frame in frames[:-1]:
            engine.observe(frame)
            engine.decide(frame.index)
        newest = frames[-1]
        seen = take(lambda: engine.observe(newest))
        decided = take(lambda: engine.decide(newest.index))
        engine.close()
    return FrameCounts(seen, decided)


SHAPE_FRAMES = 500


def measure_shapes(model: LoadedModel, profile: Profile) -> list[int]:
    """Forwards recorded so far after every hundredth of 500 frames with their decisions.

    The stream is evicted all the time, pictures have two sizes by turns of ten, a question is asked every
    twenty-fifth frame, and another instruction given every 125. Nothing is gained by what is recorded here:
    the work is only done again.
    """
    accelerator = Accelerator("graphs", lambda work: work)
    profile = replace(profile, image=ImageSpec(None, None))
    stream = StreamConfig(min_allowed=0.0, token_budget=256, recent_turns=2)
    engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=stream, accelerator=accelerator)
    recorded = []
    sizes = (84, 56), (112, 84)
    frames = [list(walk(SHAPE_FRAMES, size)) for size in sizes]
    for index in range(SHAPE_FRAMES):
        if index % 125 == 0:
            engine.start(Instruction(index + 1, f"Go past the red sofa and {index} more things."))
        engine.observe(frames[index // 10 % 2][index])
        engine.decide(index)
        if index % 25 == 24:
            engine.ask("What do you see?", max_tokens=3)
        if index % 100 == 99:
            recorded.append(accelerator.recorded)
    engine.close()
    return recorded
