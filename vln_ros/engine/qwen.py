"""The streaming engine: a Qwen2.5-VL checkpoint that turns frames into action chunks."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from vln_ros.config import LookDownConfig, PlaceConfig, ReuseConfig, SamplingConfig, StreamConfig
from vln_ros.datatypes import ActionChunk, Executed, Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.options import check_options
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.context.budget import TokenBudget
from vln_ros.engine.context.build import budget_options, build_context
from vln_ros.engine.context.landmark_memory import LandmarkMemory, LandmarkReport, landmark_scores
from vln_ros.engine.context.pruning import KeepAll, PruneReport, build_pruning
from vln_ros.engine.context.still_frames import StillFrames
from vln_ros.engine.context.travelled import TravelledWay
from vln_ros.engine.decode.answer import Answer, AnswerDecoder, sampling_of
from vln_ros.engine.decode.decode import Decoding, run
from vln_ros.engine.decode.look_down import LookDown
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import FIXED_SHAPES, Forwards, VisionEncoder
from vln_ros.engine.layer_spans import note_memory
from vln_ros.engine.oom_fallback import OomFallback
from vln_ros.engine.questions.beside import BesideTheRun
from vln_ros.engine.stream.cache_memory import keeps_original_keys, most_tokens
from vln_ros.engine.stream.forward import Work, takes_mask
from vln_ros.engine.stream.kv_pool import KVPool
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.reuse import build_reuse
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.geometry.pixel_goal import PixelGoalRules
from vln_ros.profiling.spans import span
from vln_ros.questions import Question, Spoken
from vln_ros.reuse.accounting import ReuseStats


@dataclass(frozen=True)
class EngineReport:
    """The state of an engine after its last decision, for diagnostics and results.

    Attributes:
        cached_tokens: tokens in the stream.
        used_bytes, allocated_bytes: of the cache.
        decision: decoder work since the decision before: frames, question and answer.
        unparsed: answers so far that were no actions (free decoding only).
        evicted: turns evicted so far.
        fallback: what was given up for lack of memory in this run, in order.
        frame_stride: only every such frame is taken in.
        pruning: what was left out of this run's frames; None if that is off.
        landmarks: of the instruction, and the frames that show them.
    """

    cached_tokens: int
    used_bytes: int
    allocated_bytes: int
    decision: Work
    unparsed: int
    evicted: int
    fallback: tuple[str, ...]
    frame_stride: int
    pruning: PruneReport | None
    landmarks: LandmarkReport


class QwenEngine:
    """Implements :class:`vln_ros.protocols.Engine`.

    Args:
        model: shared, read only.
        temperature: 0 decodes greedily; negative: as the profile says.
        seed: the same seed, instructions and frames give the same queues.
        sampling, stream, reuse, look_down, place: options; None for the defaults.
        pool: for keys and values, shared with other engines of the model; None: memory of its own.
        accelerator: how forwards are recorded; None: each is run anew.
        forwards: whose are run where nothing is recorded.
    """

    _executed: tuple[Executed, ...] | None
    _answer: Answer | None
    _answered: Frame | None

    def __init__(
        self,
        model: LoadedModel,
        profile: Profile,
        *,
        temperature: float,
        seed: int,
        sampling: SamplingConfig | None = None,
        stream: StreamConfig | None = None,
        reuse: ReuseConfig | None = None,
        look_down: LookDownConfig | None = None,
        place: PlaceConfig | None = None,
        pool: KVPool | None = None,
        accelerator: Accelerator | None = None,
        forwards: Forwards = FIXED_SHAPES,
    ) -> None:
        self._accelerator = accelerator
        self._config = config = stream or StreamConfig()
        check_options(profile, config, reuse or ReuseConfig(), takes_mask=takes_mask(model.network))
        self.profile = profile
        self.fingerprint = model.fingerprint
        self._end_tokens = model.generation.end_tokens
        self.sampling = sampling_of(
            temperature, sampling or SamplingConfig(), profile.generation, model.generation
        )
        self._seed = seed
        self._template = ChatTemplate(model, profile)
        scores = landmark_scores(config.landmarks)
        self.pruning = build_pruning(config.prune)
        again = self.pruning is not None or profile.context.strategy == "history"
        self.reuse = build_reuse(model, reuse or ReuseConfig(), scores, features_again=again)
        self.session = Session(
            model.network,
            # What is recorded holds the cache as it is: all of it is there from the beginning.
            block_tokens=config.cache_block_tokens if accelerator is None else most_tokens(config),
            keep_original_keys=keeps_original_keys(model, reuse),
            plugs=[plug for plug in (self.reuse, self.pruning) if plug is not None],
            pool=pool,
            chunk_tokens=config.chunk_tokens,
            accelerator=accelerator,
            run_chunk=forwards.run_chunk,
        )
        self._answers = AnswerDecoder(model, profile, self._template, self.session, config, self.sampling)
        self._look_down = None if profile.pixel_goal is None else LookDown(
            model, profile, self.session, self._template, self._answers, look_down or LookDownConfig(),
            PixelGoalRules.of(place or PlaceConfig()), forwards,
        )  # fmt: skip
        self._encoder = VisionEncoder(model, profile.image, self.session, accelerator, forwards)
        self._token_area = model.pixels.token_side**2
        self._budget = TokenBudget(budget_options(config, self.session), scores)
        self._way = TravelledWay.of(action for phrase in profile.vocabulary for action in phrase.actions)
        self.context = build_context(
            profile, self.session, self._template, self._encoder, self._budget,
            KeepAll() if self.pruning is None else self.pruning, config, self._way, scores,
        )  # fmt: skip
        self.landmarks = LandmarkMemory(
            config.landmarks, self.session, self._template, self._end_tokens, self._aside, scores
        )
        own = VisionEncoder(model, profile.image, forwards=forwards)
        self.beside = BesideTheRun(self.session, self._template, self.context, own, self._end_tokens)
        # Smaller windows and pictures first; then fewer frames; then once more; at last a new stream.
        less = [self.context.shrink, self._fewer_pixels]
        self._fallback = OomFallback(
            [*less, lambda: self._stride(2), lambda: self._stride(4), *less, *less],
            self._begin_anew,
            spare=lambda: self.beside.drop() or self.session.stop_recording(config.cache_block_tokens),
        )
        spec = profile.context
        self._replaces = spec.strategy == "append" and spec.unasked_frames == "drop"
        self._drops = spec.unasked_frames == "drop"
        self._still = StillFrames(config.standstill, spec.strategy, self.session.want_whole)
        self._frame_stride = 1
        self._seen: Frame | None = None
        self._image: Image | None = None  # what was seen of it
        self._skipped: Frame | None = None
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None
        self._reported = Work()
        self._forget_executed()

    def start(self, instruction: Instruction) -> None:
        self._instruction = instruction
        self._frame = self._seen = self._skipped = self._image = None
        self._still.begin()
        self._forget_executed()
        self._undo_fallback()
        self._answers.begin(self._seed + instruction.number)
        for plug in self.session.plugs:
            plug.begin()
        if self._look_down is not None:
            self._look_down.begin()
        self._fallback.run(lambda: self.context.start(instruction.text))
        self._fallback.run(lambda: self.landmarks.begin(instruction.text))

    @property
    def forwards(self) -> int:
        """Calls of the decoder so far."""
        return self.session.work.forwards

    @property
    def tokens(self) -> int:
        """Tokens that they computed."""
        return self.session.work.tokens

    def executed(self, done: Sequence[Executed]) -> None:
        """Implements :class:`vln_ros.protocols.HearsExecuted`."""
        self._executed = tuple(done)
        self._way.stamps_ns = tuple(e.stamp_ns for e in done)
        self.context.reported = True

    def observe(self, frame: Frame) -> None:
        """Take in the next frame. One that the profile drops is not seen before somebody asks about it."""
        if self._instruction is None:
            raise RuntimeError("a frame came before any instruction: call start first")
        frame = _own(frame)
        self._fallback.run(self._score)  # here, and not when deciding: by now the robot moves
        self._fallback.run(lambda: self._account(frame, asked=False))
        thinned = frame.index % self._frame_stride != 0
        # A frame that the next one replaces need not be seen before somebody asks.
        if self._frame is not None and (thinned or self._replaces):
            self._skipped = frame  # only if the robot asks right now is it taken in after all
            return
        self._take_in(frame)

    @property
    def wants_look_down(self) -> bool:
        """Implements :class:`vln_ros.protocols.LooksDown`."""
        return self._look_down is not None and self._look_down.has_second_camera

    def look_down(self, frame: Frame) -> None:
        """Implements :class:`vln_ros.protocols.LooksDown`."""
        if self._look_down is not None:
            self._look_down.see(_own(frame))

    def work_ahead(self) -> None:
        """Prefill what has been taken in and will be shown: nobody asks about the newest frame any more."""
        if self.ahead():
            self._fallback.run(self._prefill)

    def prefill(self) -> None:
        """See and prefill the newest frame now, also one that the profile drops: to look, or to measure."""
        self._check_started("prefill")
        self._fallback.run(self._prefill)

    def ahead(self) -> Sequence[Piece]:
        """What :meth:`work_ahead` pushes; to prefill frames of several robots at once, see ``batch.py``."""
        if not self._config.prefill_on_arrival or self._drops:
            return ()
        self._fallback.run(self._score)  # as long as the chat about its frame is there
        return self.context.to_prefill()

    def decide(self, queue: int) -> ActionChunk:
        self.ready()
        return self._fallback.run(lambda: run(self.session, self.deciding(queue)))

    def ready(self) -> None:
        """Make sure that a decision can be taken, and that it sees the newest frame.

        Raises:
            RuntimeError: no instruction or no frame yet.
        """
        if self._instruction is None or self._frame is None:
            missing = "instruction" if self._instruction is None else "frame"
            raise RuntimeError(f"the engine is asked to decide before any {missing}")
        newest = self._skipped or self._frame
        self._fallback.run(lambda: self._account(newest, asked=True))
        self._catch_up()

    def deciding(self, queue: int) -> Decoding[ActionChunk]:
        """A decision as the forwards that it takes, for several robots at once; see ``batch.py``."""
        assert self._instruction is not None and self._frame is not None, "call ready first"
        answer = yield from self._answers.decode(self.context.question)
        shown = self._frame
        if answer.looks_down and self._look_down is not None:
            answer, shown = yield from self._look_down.answer(answer, shown)
        if answer.allowed is not None and answer.held is not None:
            self.context.withdraw()  # what the model was made to say is neither done nor meant
            self._answer = None
        else:
            self.context.answered(answer.ids, len(answer.actions))
            self._answer = answer
            self._still.turn_changed()
            self.landmarks.answered()
        self._answered = self._frame
        self.session.on_answer(answer.certainty, answer.held is not None)
        note_memory(self.session.cache, self.session.timeline.tokens, self._budget.budget)
        chunk = ActionChunk(
            queue,
            self._instruction.number,
            self._frame.stamp_ns,
            answer.actions,
            answer.probabilities,
            answer.unconstrained,
            allowed=answer.allowed,
            held=answer.held,
        )
        return chunk if self._look_down is None else self._look_down.placed(chunk, answer, shown)

    def ask(self, question: str, *, max_tokens: int) -> str:
        """The model's greedy answer to any question about the run so far, which goes on untouched."""
        self._check_started("answer")

        def work() -> str:
            with self._aside():
                ids = self.session.ask(
                    self._template.query(question), max_tokens=max_tokens, end_tokens=self._end_tokens
                )
            return self._template.detokenize(ids)

        return self._fallback.run(work)

    def ask_choice(self, question: str, options: Sequence[str]) -> tuple[float, ...]:
        """Probability of each option among them as the answer to ``question``; the run goes on untouched."""
        self._check_started("answer")
        ids = [(*self._template.choice(o), self._end_tokens[0]) for o in options]

        def work() -> tuple[float, ...]:
            with self._aside():
                scores = self.session.ask_choice(self._template.query(question), ids)
            return tuple(scores.softmax(-1).tolist())

        return self._fallback.run(work)

    def asking(
        self, question: Question, newest: Frame | None, *, max_question_tokens: int, max_answer_tokens: int
    ) -> Generator[None, None, Spoken]:
        """Implements :class:`vln_ros.protocols.AnswersQuestions`."""
        if self._instruction is None:
            raise RuntimeError("the engine is asked a question before any instruction")
        newest = newest or self._skipped
        if self._frame is not None and newest is not None and newest.stamp_ns == self._frame.stamp_ns:
            newest = None
        return self.beside.asking(
            question,
            newest,
            self._encoder.max_pixels,
            max_question_tokens=max_question_tokens,
            max_answer_tokens=max_answer_tokens,
        )

    def report(self) -> EngineReport:
        done, self._reported = self.session.work - self._reported, self.session.work
        cache = self.session.cache
        return EngineReport(
            self.session.timeline.tokens,
            cache.used_bytes,
            cache.allocated_bytes,
            done,
            self._answers.unparsed,
            self._budget.evicted,
            tuple(self._fallback.steps),
            self._frame_stride,
            None if self.pruning is None else self.pruning.report(),
            self.landmarks.report(),
        )

    def given_up(self) -> tuple[str, ...]:
        """Implements :class:`vln_ros.protocols.GivesUp`."""
        return tuple(self._fallback.steps)

    def vitals(self) -> tuple[tuple[str, int | float | str], ...]:
        """For /diagnostics: how full the cache is, what was reused, memory."""
        tokens, cache = self.session.timeline.tokens, self.session.cache
        values: list[tuple[str, int | float | str]] = [
            ("cached tokens", tokens),
            ("cache fill [%]", 100.0 * tokens / max(self._budget.budget, 1)),
            ("cache [MB]", cache.allocated_bytes / 2**20),
            ("evicted turns", self._budget.evicted),
        ]
        stats = self.reuse_stats()
        if stats is not None:
            values += stats.figures().items()
        values += self._still.figures().items()
        if torch.cuda.is_available():
            values.append(("GPU memory [MB]", torch.cuda.memory_allocated() / 2**20))
        if self._accelerator is not None:
            values.append(("accelerate", str(self._accelerator)))
        if self._fallback.steps:
            values.append(("given up for lack of memory", "; ".join(self._fallback.steps)))
        return (*values, *self._answers.figures().items(), *self.figures().items())

    def figures(self) -> dict[str, float]:
        """What pruning, landmarks and pixel goals came to since :meth:`start`; empty where all are off."""
        pruning = {} if self.pruning is None else self.pruning.report().figures()
        pixel_goals = {} if self._look_down is None else self._look_down.figures()
        return pruning | self.landmarks.report().figures() | pixel_goals

    def reuse_labels(self) -> npt.NDArray[np.int64] | None:
        """Implements :class:`vln_ros.protocols.ShowsReuse`."""
        return None if self.reuse is None else self.reuse.labels()

    def reuse_stats(self) -> ReuseStats | None:
        """Of the run since :meth:`start`; None where reuse is not configured."""
        return None if self.reuse is None else self.reuse.stats()

    def close(self) -> None:
        self.session.close()
        self._instruction = self._frame = self._seen = self._skipped = self._image = None

    def _check_started(self, what: str) -> None:
        if self._instruction is None:
            raise RuntimeError(f"the engine is asked to {what} before any instruction")
        self._catch_up()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        pieces = self.context.aside(self.session)
        before = self.session.snapshot()
        try:
            if pieces:
                self.session.push(pieces)
            yield
        finally:
            self.session.rollback(before)

    def _score(self) -> None:
        self.landmarks.score(None if self._image is None else self._image.image_id)

    def _forget_executed(self) -> None:
        self._executed = None
        self._told = 0  # of these the chat holds the first so many
        self._answer = None
        self._answered = None
        self._way.stamps_ns = None
        self.context.reported = False

    def _account(self, frame: Frame, *, asked: bool) -> None:
        """Let the chat say what the robot has done of the last answer until ``frame``.

        That is settled when all of it is done, and at the latest when the model is ``asked`` again. What is
        reported later belongs to the next reply.
        """
        answer, done = self._answer, self._executed
        if done is None or answer is None or frame is self._answered:
            return
        until = max(bisect_right(done, frame.stamp_ns, key=lambda e: e.stamp_ns), self._told)
        since = tuple(e.action for e in done[self._told : until])
        if asked or since == answer.actions:
            self.context.executed(self._answers.reply(answer, since), len(since))
            self._told, self._answer = until, None
            self._still.turn_changed()

    def _undo_fallback(self) -> None:
        """What one run lacked the next one may have."""
        self._fallback.begin()
        self.context.restore()
        self._encoder.max_pixels = self.profile.image.max_pixels
        self._frame_stride = 1

    def _catch_up(self) -> None:
        if self._skipped is not None:
            self._take_in(self._skipped)

    def _take_in(self, frame: Frame) -> None:
        self._frame, self._skipped = frame, None
        self._fallback.run(lambda: self._show(frame))

    def _show(self, frame: Frame) -> None:
        if self._seen is frame:  # beginning anew has already seen it
            return
        done = len(self._executed or ())
        shown = self._still.to_show(frame, done)
        if shown is not None:
            self._image = self.context.observe(shown)
            self._still.was_shown(frame, shown, done)
        self._seen = frame

    def _prefill(self) -> None:
        pieces = self.context.to_prefill()
        if pieces:
            with span("prefill", device=True):
                self.session.push(pieces)
            self.context.prefilled()

    def _fewer_pixels(self) -> str | None:
        if self._frame is None:
            return None
        height, width = self._frame.rgb.shape[:2]
        now = self._encoder.max_pixels or math.prod(self.profile.image.resize or (width, height))
        if now <= self._token_area:
            return None
        self._encoder.max_pixels = max(now // 2, self._token_area)
        return f"frames of {self._encoder.max_pixels} pixels"

    def _stride(self, stride: int) -> str | None:
        self._frame_stride = stride
        return f"every {'second' if stride == 2 else f'{stride}th'} frame"

    def _begin_anew(self) -> str | None:
        if self._instruction is None:
            return None
        self.session.close()
        self.context.start(self._instruction.text)
        self._seen = self._answer = None
        self._still.turn_changed()
        self._told = len(self._executed or ())
        if self._frame is not None:
            self._show(self._frame)
        return "a new stream"


def _own(frame: Frame) -> Frame:
    """A frame whose arrays nobody else has: callers may write the next picture into the same buffer."""
    depth_m = None if frame.depth_m is None else frame.depth_m.copy()
    return replace(frame, rgb=frame.rgb.copy(), depth_m=depth_m)
