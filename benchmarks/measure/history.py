"""Measures what a history costs: prefilled anew at each question, kept, or prefilled ahead of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from vln_ros.config import StreamConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.qwen import QwenEngine

INSTRUCTION = "Walk past the red sofa and stop next to the lamp."


@dataclass(frozen=True)
class Way:
    """How a history is shown.

    Attributes:
        choice: ``profile`` or ``stays``, as :attr:`vln_ros.config.StreamConfig.history_choice`.
        is_kept: what a chat has in common with the stream stays there; else all behind the opening is new.
        is_ahead: the history is prefilled before the question.
    """

    name: str
    choice: str
    is_kept: bool
    is_ahead: bool


WAYS = (
    Way("as before: all anew", "profile", False, False),
    Way("common beginning kept", "profile", True, False),
    Way("and prefilled ahead", "profile", True, True),
    Way("`stays`, all anew", "stays", False, False),
    Way("`stays`, common beginning kept", "stays", True, False),
    Way("`stays`, and prefilled ahead", "stays", True, True),
)


@dataclass(frozen=True)
class Decision:
    """One decision, its frame already seen by the vision tower.

    Attributes:
        rows: of the decoder, the answer's included; ``other_rows``: since the decision before, of what was
            done while the robot moves.
        decide_s, decide_cpu_s, other_s, other_cpu_s: wall clock and processor time of the same.
    """

    chunk: ActionChunk
    rows: int
    other_rows: int
    decide_s: float
    decide_cpu_s: float
    other_s: float
    other_cpu_s: float


def measure_way(
    model: LoadedModel, profile: Profile, way: Way, frames: Sequence[Frame], *, every: int
) -> list[Decision]:
    """Every ``every``-th frame is asked about, as on a robot that moves on in between."""
    config = StreamConfig(history_choice=way.choice, prefill_on_arrival=way.is_ahead)
    engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=config)
    engine.start(Instruction(1, INSTRUCTION))
    opened = engine.session.snapshot()
    found: list[Decision] = []
    rows, wall_s, cpu_s = 0, 0.0, 0.0
    for frame in tqdm(frames, desc=f"{profile.name}, {way.name}", unit="frame", disable=None, leave=False):
        engine.observe(frame)
        if frame.index % every == 0:
            before = _Clock(engine)
            if not way.is_kept:
                engine.session.rollback(opened)
            chunk = engine.decide(frame.index + 1)
            spent = before.since(engine)
            found.append(Decision(chunk, spent[0], rows, spent[1], spent[2], wall_s, cpu_s))
            rows, wall_s, cpu_s = 0, 0.0, 0.0
        before = _Clock(engine)
        engine.work_ahead()
        spent = before.since(engine)
        rows, wall_s, cpu_s = rows + spent[0], wall_s + spent[1], cpu_s + spent[2]
    engine.close()
    return found


class _Clock:
    """Rows, wall clock and processor time until now."""

    def __init__(self, engine: QwenEngine) -> None:
        if engine.session.network.device.type == "cuda":
            torch.cuda.synchronize(engine.session.network.device)
        self._then = engine.tokens, time.perf_counter(), time.process_time()

    def since(self, engine: QwenEngine) -> tuple[int, float, float]:
        rows, wall_s, cpu_s = self._then
        now = _Clock(engine)._then
        return now[0] - rows, now[1] - wall_s, now[2] - cpu_s
