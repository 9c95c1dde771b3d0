"""The settings of ``vln_ros bench stream``, all ways measured at each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.config import ConfigError

if TYPE_CHECKING:
    from benchmarks.measure.stream import Request, Result

CHUNKS = (1, 2, 4, 8)


class OutOfMemoryError(RuntimeError):
    """A measuring process had not enough memory."""


@dataclass(frozen=True)
class StepDown:
    """One attempt that ended for lack of memory; the next one showed every second of its frames."""

    way: str
    frames: int
    stride: int
    shown: int
    size: str
    reason: str

    def describe(self) -> str:
        return (
            f"{self.way} ran out of memory with {self.shown} of {self.frames} frames of {self.size} (stride "
            f"{self.stride}): {self.reason}; compared with stride {2 * self.stride} instead"
        )


@dataclass(frozen=True)
class Point:
    """All ways at one setting.

    Attributes:
        lag_s: per frame rate asked for, how far behind the camera the stream is when the last frame
            has come, computed from the measured time of each frame.
        logit_difference: largest difference between the scores of the first answer token and native's.
        same_tokens: share of answer tokens that agree with native's, in both other ways.
        flops_question_each_frame: decoder FLOPs, prefill and answers, had the question been put after
            every chunk of frames; ``streaming`` and ``native``.
    """

    sweep: str
    request: Request
    streaming: Result
    features: Result
    native: Result
    lag_s: dict[str, float]
    logit_difference: float
    same_tokens: float
    flops_question_each_frame: dict[str, float]

    @property
    def first_token_speedup(self) -> float:
        return self.native.first_token_s / self.streaming.first_token_s

    @property
    def with_newest_speedup(self) -> float:
        """The same where the newest frame comes with the question."""
        return self.native.with_newest_s / self.streaming.with_newest_s

    @property
    def features_speedup(self) -> float:
        """That, against a one-shot that keeps vision features."""
        return self.features.with_newest_s / self.streaming.with_newest_s

    @property
    def total_speedup(self) -> float:
        return self.native.total_s / self.streaming.total_s

    @property
    def peak_ratio(self) -> float:
        return self.streaming.peak_bytes / self.native.peak_bytes


def settings_of(main: Request, sweeps: list[str]) -> list[tuple[str, Request]]:
    found = [("main", main)]
    if "frames" in sweeps:
        counts = sorted({max(1, main.frames // 2**k) for k in (1, 2, 3)} - {main.frames})
        found += [("frames", replace(main, frames=n)) for n in counts]
    if "chunk" in sweeps:
        found += [("chunk", replace(main, chunk=n)) for n in CHUNKS if n != main.chunk and n <= main.frames]
    if "resolution" in sweeps:
        found += [
            ("resolution", replace(main, width=round(main.width * f), height=round(main.height * f)))
            for f in (0.5, 0.75, 1.35)
        ]
    return found


def compare(
    request: Request,
    measure: Callable[[str, Request], Result],
    others: dict[tuple[str, Request], Result],
    steps: list[StepDown],
) -> tuple[Request, Result, Result, Result]:
    """All ways with all frames, or with every second, fourth ... where memory does not reach further.

    Args:
        others: what was measured already of the ways that have no chunks.
        steps: gets what was given up.

    Returns:
        What could be measured, streaming, features, native.

    Raises:
        ConfigError: not even a single frame fits.
    """
    while True:
        way = "native"
        try:
            key = replace(request, chunk=1)
            for way in ("native", "features"):
                if (way, key) not in others:
                    others[way, key] = measure(way, request)
            way = "streaming"
            return request, measure(way, request), others["features", key], others["native", key]
        except OutOfMemoryError as error:
            shown = len(request.shown)
            if shown == 1:
                raise ConfigError(
                    f"{way} runs out of memory with a single frame: choose a smaller checkpoint or --size"
                ) from error
            size = f"{request.width}x{request.height}"
            steps.append(StepDown(way, request.frames, request.stride, shown, size, str(error)))
            request = replace(request, stride=2 * request.stride)


def measure(way: str, request: Request, folder: Path) -> Result:
    from benchmarks.measure.stream import OUT_OF_MEMORY, Result

    asked, answered = folder / "request.json", folder / "result.json"
    asked.write_text(json.dumps(asdict(request)), "utf-8")
    command = [sys.executable, "-m", "benchmarks.measure.stream", way, str(asked), str(answered)]
    # -m finds the package from wherever this one was imported, installed or not.
    path = os.pathsep.join(p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=False, stderr=subprocess.PIPE
    )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == -signal.SIGKILL:
        raise OutOfMemoryError("killed by the system")
    if done.returncode == OUT_OF_MEMORY:
        # The status says it: a library's last words below the limit may name anything, or nothing.
        raise OutOfMemoryError(": ".join(["out of memory", *lines[-1:]]))
    if done.returncode and request.memory_limit_mb and any("backtrace" in line.lower() for line in lines):
        # The tokenizer's library cannot say that it got no thread or no page.
        raise OutOfMemoryError("out of memory: a library gave up below the limit")
    if done.returncode:
        raise ConfigError(
            f"{way} with {request.frames} frames failed: {lines[-1] if lines else done.returncode}"
        )
    fields: dict[str, Any] = json.loads(answered.read_text("utf-8"))
    fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Result(**fields)


def point_of(
    sweep: str,
    request: Request,
    streaming: Result,
    features: Result,
    native: Result,
    rates: list[float],
) -> Point:
    ours = (streaming, features)
    scores = np.abs(np.array([r.first_logits for r in ours]) - np.array(native.first_logits))
    agree = [a == b for r in ours for a, b in zip(r.answer, native.answer, strict=True)]
    # Asked after every chunk, the native way prefills everything up to there each time.
    asks = len(streaming.flops_by_frame)
    answers = asks * streaming.ask_flops
    each = {
        "streaming": streaming.flops_by_frame[-1] + answers,
        "native": sum(streaming.flops_by_frame) + answers,
    }
    lag = {f"{rate:g}": lag_s(streaming.frame_s, request.chunk, rate) for rate in rates}
    return Point(
        sweep, request, streaming, features, native, lag, float(scores.max()), float(np.mean(agree)), each
    )


def lag_s(frame_s: tuple[float, ...], chunk: int, rate: float) -> float:
    """Seconds from the arrival of the last frame until the stream holds it, at ``rate`` frames a second."""
    done = 0.0
    for first in range(0, len(frame_s), chunk):
        part = frame_s[first : first + chunk]
        arrived = (first + len(part) - 1) / rate  # a chunk can start when its last frame is there
        done = max(done, arrived) + sum(part)
    return done - (len(frame_s) - 1) / rate
