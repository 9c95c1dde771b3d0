"""Measures one answer behind a stream of frames, computed in one of several ways.

Each way runs in a process of its own, so that its peak memory is its own:

    python -m benchmarks.measure.stream streaming|features|native REQUEST.json RESULT.json

All see the same conversation, token for token: the system message, one user turn with all
frames, the question. *Native* gets the frames when it is asked, as every one-shot use of
``generate`` does; *features* has the vision features of each frame, which depend on nothing else,
and prefills all of them when asked; *streaming* has prefilled each chunk of frames when it arrived.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from vln_ros.capacity.walk import make_frame
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.oom_fallback import is_out_of_memory
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session, Work

WAYS = ("streaming", "features", "native")
OUT_OF_MEMORY = 3
"""Exit status of a measuring process that ran out of memory by itself."""
_HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_QUESTION = "What do you see?<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Request:
    """What to measure. Frames are ``width x height`` pixels; ``chunk`` of them are taken in at once.

    Attributes:
        stride: of the ``frames`` only every such one is shown.
        memory_limit_mb: as on a machine that has no more; 0 for no limit of its own.
        repeats: of the question, for the times.
    """

    checkpoint: str
    device: str
    dtype: str
    frames: int
    width: int
    height: int
    chunk: int
    answer_tokens: int
    stride: int = 1
    memory_limit_mb: int = 0
    repeats: int = 1

    @property
    def shown(self) -> range:
        """Indices of the frames that are shown."""
        return range(0, self.frames, self.stride)


@dataclass(frozen=True)
class Result:
    """One way's figures.

    Attributes:
        first_tokens_s, totals_s: from the question to its first and last token, each time it is put.
        frame_s: time to take in each frame when it comes (a chunk's time divided by its frames): vision and
            prefill for streaming, vision for features, none for native.
        peak_bytes: most memory in use above what the process had with the model loaded (resident
            memory; on CUDA, allocated device memory).
        process_peak_bytes: most memory of the whole process, model and libraries included.
        context_tokens: tokens before the answer.
        cache_tokens, cache_bytes: streaming only: what the cache holds when asked.
        ask_flops: decoder FLOPs between question and last token; all_flops: those before it, too.
        flops_by_frame: streaming only: decoder FLOPs spent up to and including each chunk.
        first_logits: scores of the first answer token.
    """

    first_tokens_s: tuple[float, ...]
    totals_s: tuple[float, ...]
    frame_s: tuple[float, ...]
    peak_bytes: int
    process_peak_bytes: int
    context_tokens: int
    cache_tokens: int
    cache_bytes: int
    ask_flops: float
    all_flops: float
    flops_by_frame: tuple[float, ...]
    answer: tuple[int, ...]
    first_logits: tuple[float, ...]

    @property
    def first_token_s(self) -> float:
        """Median."""
        return float(np.median(self.first_tokens_s))

    @property
    def with_newest_s(self) -> float:
        """To the first token, where the newest frame comes together with the question: median."""
        return self.first_token_s + (float(np.median(self.frame_s)) if self.frame_s else 0.0)

    @property
    def total_s(self) -> float:
        """Median."""
        return float(np.median(self.totals_s))


class _PeakMemory:
    """Most memory since the last reset."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device

    def reset(self) -> int:
        """Forget the peak; memory in use now, bytes."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        except OSError:
            return (
                self.process_peak()
            )  # not Linux, or not allowed: the peak so far is what is left to compare
        return self._status("VmRSS")

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._cuda else self.process_peak()

    def process_peak(self) -> int:
        if Path("/proc/self/status").exists():
            return self._status("VmHWM")
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    @staticmethod
    def _status(key: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/self/status has no {key}")


def _now(model: LoadedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def _ids(model: LoadedModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer(text, add_special_tokens=False).input_ids)


class _Stream:
    """The streaming way."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.session = Session(model.network)
        self.session.push([Text(_ids(model, _HEAD))])

    def take_in(self, frames: list[npt.NDArray[np.uint8]]) -> None:
        model = self.model
        patches = [patchify(f, model.pixels, None, None) for f in frames]
        pieces: list[Piece] = []
        for image in encode_images(model.network, patches):
            pieces += [Text((model.tokens.vision_start,)), image, Text((model.tokens.vision_end,))]
        self.session.push(pieces)

    def ask(self, answer_tokens: int) -> tuple[int, ...]:
        return self.session.ask(_ids(self.model, _QUESTION), max_tokens=answer_tokens, end_tokens=())

    def first_logits(self) -> torch.Tensor:
        before = self.session.snapshot()
        hidden = self.session.push([Text(_ids(self.model, _QUESTION))])
        logits = self.session.logits(hidden[-1]).cpu()
        self.session.rollback(before)
        return logits


def measure_streaming(model: LoadedModel, request: Request) -> Result:
    """Prefill frames as they arrive, then ask."""
    warm = _Stream(model)
    warm.take_in([make_frame(0, request.width, request.height)])
    warm.ask(2)
    warm.session.close()
    memory = _PeakMemory(model.device)
    base = memory.reset()
    stream = _Stream(model)
    frame_s: list[float] = []
    spent: list[float] = []
    shown = request.shown
    bar = tqdm(total=len(shown), desc="streaming", unit="frame", disable=None)
    for first in range(0, len(shown), request.chunk):
        indices = shown[first : first + request.chunk]
        count = len(indices)
        frames = [make_frame(i, request.width, request.height) for i in indices]
        start = _now(model)
        stream.take_in(frames)
        frame_s += [(_now(model) - start) / count] * count
        spent.append(stream.session.work.flops)
        bar.update(count)
    bar.close()
    before: Work = stream.session.work
    first_tokens_s, totals_s = [], []
    for _ in range(request.repeats):  # a question leaves no trace in the stream
        start = _now(model)
        stream.ask(1)
        first_tokens_s.append(_now(model) - start)
        asked = stream.session.work
        start = _now(model)
        answer = stream.ask(request.answer_tokens)
        totals_s.append(_now(model) - start)
        ask_flops = (stream.session.work - asked).flops
    return Result(
        tuple(first_tokens_s),
        tuple(totals_s),
        tuple(frame_s),
        memory.peak() - base,
        memory.process_peak(),
        stream.session.timeline.tokens + len(_ids(model, _QUESTION)),
        stream.session.timeline.tokens,
        stream.session.cache.used_bytes,
        ask_flops,
        before.flops + ask_flops,
        tuple(spent),
        answer,
        tuple(stream.first_logits().tolist()),
    )


def measure_features(model: LoadedModel, request: Request) -> Result:
    """Vision as the frames arrive; when asked, all of them through the decoder in one forward."""

    def see(index: int) -> list[Piece]:
        patches = patchify(make_frame(index, request.width, request.height), model.pixels, None, None)
        (image,) = encode_images(model.network, [patches])
        return [Text((model.tokens.vision_start,)), image, Text((model.tokens.vision_end,))]

    def ask(pieces: Sequence[Piece], tokens: int) -> tuple[tuple[int, ...], Session]:
        session = Session(model.network)
        session.push([Text(_ids(model, _HEAD)), *pieces])
        return session.ask(_ids(model, _QUESTION), max_tokens=tokens, end_tokens=()), session

    ask(see(0), 2)  # warm up
    memory = _PeakMemory(model.device)
    base = memory.reset()
    frame_s: list[float] = []
    pieces: list[Piece] = []
    for index in tqdm(request.shown, desc="features", unit="frame", disable=None):
        start = _now(model)
        pieces += see(index)
        frame_s.append(_now(model) - start)
    first_tokens_s, totals_s = [], []
    for _ in range(request.repeats):
        start = _now(model)
        ask(pieces, 1)
        first_tokens_s.append(_now(model) - start)
        start = _now(model)
        answer, session = ask(pieces, request.answer_tokens)
        totals_s.append(_now(model) - start)
    hidden = session.push([Text(_ids(model, _QUESTION))])
    return Result(
        tuple(first_tokens_s),
        tuple(totals_s),
        tuple(frame_s),
        memory.peak() - base,
        memory.process_peak(),
        session.timeline.tokens,
        0,
        0,
        0.0,  # as for native
        0.0,
        (),
        answer,
        tuple(session.logits(hidden[-1]).cpu().tolist()),
    )


class _FirstTokenClock(BaseStreamer):  # type: ignore[misc]
    """Notes when ``generate`` hands over its first new token."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._calls = 0
        self.first_s = 0.0

    def put(self, value: torch.Tensor) -> None:
        self._calls += 1
        if self._calls == 2:  # the first call brings the prompt
            self.first_s = _now(self._model)

    def end(self) -> None:
        return


@torch.no_grad()
def measure_native(model: LoadedModel, request: Request) -> Result:
    """Everything when asked: preprocess all frames, one ``generate``."""
    network: Any = model.network  # the signature of generate names a protocol that no model satisfies
    network.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=None, pad_token_id=model.tokenizer.pad_token_id, use_cache=True
    )

    pictures = [make_frame(i, request.width, request.height) for i in request.shown]

    def answer(count: int, tokens: int) -> tuple[Any, float, int]:
        clock = _FirstTokenClock(model)
        start = _now(model)
        frames = pictures[:count]
        patches = [patchify(f, model.pixels, None, None) for f in frames]
        tokens_per_image = patches[0].grid_h * patches[0].grid_w // model.pixels.merge_size**2
        image = (
            model.tokens.vision_start,
            *(model.tokens.image_pad,) * tokens_per_image,
            model.tokens.vision_end,
        )
        ids = torch.tensor(
            [[*_ids(model, _HEAD), *image * count, *_ids(model, _QUESTION)]], device=model.device
        )
        output = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.tokens.image_pad).int(),
            pixel_values=torch.cat([p.patches for p in patches]).to(model.device, model.dtype),
            image_grid_thw=torch.cat([p.grid_thw for p in patches]).to(model.device),
            max_new_tokens=tokens,
            return_dict_in_generate=True,
            output_logits=True,
            streamer=clock,
        )
        return output, clock.first_s - start, ids.shape[1]

    answer(1, 2)  # warm up
    memory = _PeakMemory(model.device)
    base = memory.reset()
    first_tokens_s, totals_s = [], []
    for _ in tqdm(range(request.repeats), desc="native", unit="answer", disable=None):
        start = _now(model)
        output, first_token_s, context = answer(len(pictures), request.answer_tokens)
        totals_s.append(_now(model) - start)
        first_tokens_s.append(first_token_s)
    return Result(
        tuple(first_tokens_s),
        tuple(totals_s),
        (),
        memory.peak() - base,
        memory.process_peak(),
        context,
        0,
        0,
        0.0,  # counted by the streaming way: prefill in chunks and in one go are the same sum
        0.0,
        (),
        tuple(output.sequences[0, context:].tolist()),
        tuple(output.logits[0][0].float().cpu().tolist()),
    )


def main(way: str, request_file: str, result_file: str) -> None:
    """Entry of the measuring process."""
    request = Request(**json.loads(Path(request_file).read_text("utf-8")))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if request.memory_limit_mb:
        resource.setrlimit(resource.RLIMIT_DATA, (request.memory_limit_mb * 10**6, hard))
    measure = {"streaming": measure_streaming, "features": measure_features, "native": measure_native}[way]
    try:
        model = load_model(
            request.checkpoint,
            device=request.device,
            dtype=request.dtype,
            attention="sdpa",
            quantisation="none",
        )
        result = measure(model, request)
    except Exception as error:
        # What is said about it, and Python's own end, need memory, too.
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        # Below a limit, a library that could not even make its own error ends in a SystemError.
        if not is_out_of_memory(error) and not (request.memory_limit_mb and isinstance(error, SystemError)):
            raise
        print(error, file=sys.stderr)
        sys.exit(OUT_OF_MEMORY)
    Path(result_file).write_text(json.dumps(asdict(result)), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
