"""Asks the model for the landmarks of an instruction, and which frames show them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from vln_ros.config import LandmarkConfig
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.stream.forward import Work
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import SegmentKind, Timeline
from vln_ros.memory.instruction import InstructionAgent, InstructionPlan, PlanFallback, PlanSource, Said
from vln_ros.memory.landmarks import LandmarkRule, LandmarkScores
from vln_ros.profiling.spans import span

_SEEN = "Is the {} in the last picture? Answer yes or no."
_ANSWERS = ("yes", "no")


@dataclass(frozen=True)
class Cost:
    """Wall clock and decoder work."""

    ms: float
    work: Work


@dataclass(frozen=True)
class LandmarkReport:
    """Instruction agent and frame memory.

    Attributes:
        plan: of the present instruction.
        plan_cost: of taking it apart.
        refused: answers of the model that were not taken, by reason, over all instructions.
        scores: how surely the frame of the last decision shows each landmark of the plan.
        chunks: decisions of this run whose frame was scored.
        prefill_cost: of the last one.
        chunks_ms: of all of them.
    """

    plan: InstructionPlan | None
    plan_cost: Cost | None
    refused: Mapping[PlanFallback, int]
    scores: tuple[float, ...]
    chunks: int
    prefill_cost: Cost | None
    chunks_ms: float

    def figures(self) -> dict[str, float]:
        """For results and diagnostics: names with units; empty without a plan."""
        if self.plan is None or self.plan_cost is None:
            return {}
        figures: dict[str, float] = {
            "landmarks: named": len(self.plan.landmarks),
            "landmarks: stages": len(self.plan.stages),
            "landmarks: plan by the model": float(self.plan.source is PlanSource.MODEL),
            "landmarks: plan [ms]": self.plan_cost.ms,
            "landmarks: plan [tokens]": self.plan_cost.work.tokens,
            "landmarks: chunks": self.chunks,
            "landmarks: chunks [ms]": self.chunks_ms,
        }
        return figures | {f"landmarks refused: {reason.value}": n for reason, n in self.refused.items()}


class LandmarkMemory:
    """Knows the landmarks of the instruction and asks the model which of them a frame shows.

    Args:
        aside: a context in which the stream stands where a user's question may follow, and that takes
            back whatever is pushed in it.
        table: where to note what frames show; None with ``landmarks.memory`` off.

    Raises:
        ConfigError: options that do not go together.
    """

    def __init__(
        self,
        config: LandmarkConfig,
        session: Session,
        template: ChatTemplate,
        end_tokens: Sequence[int],
        aside: Callable[[], AbstractContextManager[None]],
        table: LandmarkScores | None,
    ) -> None:
        self._config, self._session, self._template, self._aside = config, session, template, aside
        self._table = table
        self._end_tokens = end_tokens
        self._agent = InstructionAgent(self._ask if config.plan == "model" else None)
        self._forget()

    def _forget(self) -> None:
        self.plan: InstructionPlan | None = None
        self._plan_cost: Cost | None = None
        self._questions: list[tuple[int, ...]] = []
        self._is_due = False
        self._scores: tuple[float, ...] = ()
        self._chunks = 0
        self._prefill_cost: Cost | None = None
        self._chunks_ms = 0.0

    def begin(self, instruction: str) -> None:
        """A new instruction: take it apart. The stream must have begun."""
        self._forget()
        if self._table is not None:
            self._table.begin()
        if self._config.plan == "none":
            return
        with span("instruction agent"), self._measured() as costs:
            self.plan = self._agent.read(instruction)
        self._plan_cost = costs[0]
        asked = [self._template.query(_SEEN.format(landmark.name)) for landmark in self.plan.landmarks]
        answers = [self._template.tokenize(answer) for answer in _ANSWERS]
        self._questions = [(*question, *answer) for question in asked for answer in answers]

    def answered(self) -> None:
        """The model has been asked about the newest frame: what that shows is worth knowing."""
        self._is_due = True

    def score(self, image: int | None) -> None:
        """Note what the newest frame, of that image, shows, if that is still to be done."""
        if not self._is_due:
            return
        scores = self.look()
        self._is_due = False
        if scores is not None and self._table is not None and image is not None:
            self._table.note(image, scores)

    def look(self) -> tuple[float, ...] | None:
        """How surely the newest frame shows each landmark, in one forward; None if nobody wants to know."""
        if not self._config.memory or not self._questions:
            return None
        with span("memory: landmarks"), self._measured() as costs, self._aside():
            common = _common_beginning(self._questions)
            rests = [question[len(common) :] for question in self._questions]
            # The questions are branches of one tree; of a pair only the answers differ.
            scores = self._session.ask_choice(common, rests).view(-1, len(_ANSWERS)).softmax(-1)
            self._scores = tuple(scores[:, 0].tolist())
        self._prefill_cost = costs[0]
        self._chunks += 1
        self._chunks_ms += costs[0].ms
        return self._scores

    def slots(self) -> dict[int, Tensor]:
        """Where in the stream each landmark of the plan is named: its number and slots ``[n]``."""
        if self.plan is None:
            return {}
        timeline, decode = self._session.timeline, self._template.detokenize
        return {m.number: find_text(timeline, decode, m.name) for m in self.plan.landmarks}

    def report(self) -> LandmarkReport:
        return LandmarkReport(
            self.plan,
            self._plan_cost,
            dict(self._agent.refused),
            self._scores,
            self._chunks,
            self._prefill_cost,
            self._chunks_ms,
        )

    def _ask(self, question: str) -> Said:
        limit = self._config.plan_tokens
        with self._aside():
            ids = self._session.ask(
                self._template.query(question), max_tokens=limit, end_tokens=self._end_tokens
            )
        return Said(self._template.detokenize(ids), len(ids) < limit)

    @contextmanager
    def _measured(self) -> Iterator[list[Cost]]:
        """The cost of what is done within, in a list of one once it is done."""
        costs: list[Cost] = []
        begun, before = time.perf_counter(), self._session.work
        yield costs
        costs.append(Cost((time.perf_counter() - begun) * 1e3, self._session.work - before))


def landmark_scores(config: LandmarkConfig) -> LandmarkScores | None:
    """Where a run notes what its frames show; None where nobody wants to know."""
    return LandmarkScores(LandmarkRule(config.threshold, config.frames)) if config.memory else None


def _common_beginning(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return tuple(column[0] for column in columns)


def find_text(timeline: Timeline, decode: Callable[[tuple[int, ...]], str], text: str) -> Tensor:
    """Slots ``[n]`` of the tokens that spell ``text`` in a stream, case aside, wherever they do."""
    found: list[int] = []
    first = 0
    for segment in timeline.segments:
        if segment.kind is SegmentKind.TEXT:
            parts = [decode((token,)).lower() for token in segment.ids]
            spelled, owners = "".join(parts), [i for i, part in enumerate(parts) for _ in part]
            at = spelled.find(text)
            while at >= 0:
                found += sorted({first + owners[i] for i in range(at, at + len(text))})
                at = spelled.find(text, at + len(text))
        first += segment.count
    return torch.tensor(found, dtype=torch.long)
