"""Decodes an answer that a robot can follow, and deals with one that it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from vln_ros.config import SamplingConfig, StreamConfig
from vln_ros.datatypes import Action
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import GenerationSpec, Profile
from vln_ros.engine.checkpoint.settings import GenerationSettings
from vln_ros.engine.decode.decode import DecodeMode, DecodeOptions, Decoding, decode_free, decode_queue
from vln_ros.engine.decode.grammar import Grammar, QueueRules, parse_queue
from vln_ros.engine.decode.reply import spoken
from vln_ros.engine.decode.scores import Sampling
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.stream.segments import Piece
from vln_ros.engine.stream.session import Session

_TRIES = 3
_RETRY_TEMPERATURE = 0.7

Question = Callable[[], Sequence[Piece]]
"""Puts the stream where the model answers next, and says what is still to be pushed; once for each try."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said.

    Attributes:
        ids: its tokens.
        queue: indices of the phrases that these are, where that is known.
        actions, probabilities: see :class:`vln_ros.datatypes.ActionChunk`, as the others.
    """

    ids: tuple[int, ...]
    queue: tuple[int, ...] = ()
    actions: tuple[Action, ...] = ()
    probabilities: tuple[float, ...] = ()
    unconstrained: str | None = None
    allowed: float | None = None
    held: str | None = None


@dataclass
class _Allowed:
    """How much of what the model wanted to say the grammar allowed, over the decisions of a run."""

    decisions: int = 0
    least: float = 1.0
    total: float = 0.0
    left: int = 0
    held: int = 0

    def note(self, answer: Answer) -> None:
        if answer.allowed is not None:
            self.decisions += 1
            self.least = min(self.least, answer.allowed)
            self.total += answer.allowed
        self.left += answer.unconstrained is not None
        self.held += answer.held is not None

    def figures(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        if self.decisions:
            figures["allowed by the grammar, least [%]"] = 100.0 * self.least
            figures["allowed by the grammar, mean [%]"] = 100.0 * self.total / self.decisions
        return figures | {"answers that left the vocabulary": self.left, "answers held": self.held}


class AnswerDecoder:
    """Lets the model answer: under the grammar, or freely and then read.

    Args:
        config: how to decode.
    """

    def __init__(
        self,
        model: LoadedModel,
        profile: Profile,
        template: ChatTemplate,
        session: Session,
        config: StreamConfig,
        sampling: Sampling,
    ) -> None:
        self._profile, self._template, self._session = profile, template, session
        self._config, self._sampling = config, sampling
        self._end_tokens = model.generation.end_tokens
        self._random_weights = model.random_weights
        self._rules = QueueRules(
            profile.separator,
            min(profile.max_phrases, config.max_phrases or profile.max_phrases),
            max_repeats=None if config.max_repeats < 0 else config.max_repeats,
            reversals=config.reversals,
        )
        self._grammar = Grammar(template.tokenize, profile.vocabulary, self._rules, self._end_tokens)
        self._generator = torch.Generator()
        self.unparsed = 0
        """Answers so far that were no actions (free decoding only)."""
        self.begin(0)

    def begin(self, seed: int) -> None:
        """A new run. The same seed and questions give the same answers."""
        self._generator.manual_seed(seed)
        self._last: tuple[Action, ...] = ()
        self._allowed = _Allowed()

    def decode(self, question: Question) -> Decoding[Answer]:
        """An answer as the forwards that it takes."""
        answer = yield from (
            self._free(question) if self._config.decode == "free" else self._constrained(question)
        )
        self._allowed.note(answer)
        self._last = answer.actions or self._last
        return answer

    def reply(self, answer: Answer, done: tuple[Action, ...]) -> tuple[int, ...]:
        """The tokens of a reply that is what the robot did."""
        if done == answer.actions:
            return answer.ids
        words = spoken(self._profile.vocabulary, answer.queue, done)
        return self._template.tokenize(self._grammar.text(words))

    def figures(self) -> dict[str, float]:
        """For diagnostics: how far the model stays within the action vocabulary; names with units."""
        return self._allowed.figures()

    def _constrained(self, question: Question) -> Decoding[Answer]:
        config = self._config
        options = DecodeOptions(
            mode=DecodeMode(config.decode),
            sampling=self._sampling,
            tree_nodes=config.tree_nodes,
            wanted_tokens=config.wanted_tokens,
            min_allowed=config.min_allowed,
            random_weights=self._random_weights,
        )
        decoded = yield from decode_queue(self._session, question(), self._grammar, options, self._generator)
        probabilities: list[float] = []
        for index, probability in zip(decoded.queue, decoded.probabilities, strict=True):
            # A phrase is one choice: its further primitives follow from it.
            more = len(self._profile.vocabulary[index].actions) - 1
            probabilities += [probability, *[1.0] * more]
        unconstrained = (
            None if decoded.unconstrained is None else self._template.detokenize(decoded.unconstrained)
        )
        if decoded.held:
            held = (
                f"the action vocabulary has {decoded.allowed:.2%} of what the model wants to say, less than "
                f"min_allowed = {config.min_allowed:g}; {self._would_say(unconstrained or '')}"
            )
            return Answer(ids=(), unconstrained=unconstrained, allowed=decoded.allowed, held=held)
        return Answer(
            ids=decoded.ids,
            queue=decoded.queue,
            actions=self._grammar.actions(decoded.queue),
            probabilities=tuple(probabilities),
            unconstrained=unconstrained,
            allowed=decoded.allowed,
        )

    def _would_say(self, text: str) -> str:
        reason = self._profile.why_not(text)
        return f"it would rather say {text!r}" + ("" if reason is None else f" ({reason})")

    def _free(self, question: Question) -> Decoding[Answer]:
        """Say anything, then read it; what cannot be read is dealt with as the profile says."""
        ids, text, queue = yield from self._say(question, self._sampling)
        if queue is not None:
            return Answer(ids=ids, queue=queue, actions=self._grammar.actions(queue))
        self.unparsed += 1
        policy = self._profile.on_unparsed
        if policy == "repeat" and self._last:
            return Answer(ids=ids, actions=self._last[:1], unconstrained=text)
        if policy == "ask_again":
            for _ in range(_TRIES):
                warm = replace(
                    self._sampling, temperature=max(self._sampling.temperature, _RETRY_TEMPERATURE)
                )
                again, _, queue = yield from self._say(question, warm)
                if queue is not None:
                    actions = self._grammar.actions(queue)
                    return Answer(ids=again, queue=queue, actions=actions, unconstrained=text)
        return Answer(ids=ids, unconstrained=text, held=f"this is no action: {self._would_say(text)}")

    def _say(
        self, question: Question, sampling: Sampling
    ) -> Decoding[tuple[tuple[int, ...], str, tuple[int, ...] | None]]:
        ids = yield from decode_free(
            self._session,
            question(),
            max_tokens=self._config.free_tokens,
            end_tokens=self._end_tokens,
            sampling=sampling,
            generator=self._generator,
        )
        text = self._template.detokenize(ids)
        rules = self._rules
        return ids, text, parse_queue(text, self._profile.vocabulary, rules.separator, rules.max_phrases)


def sampling_of(
    temperature: float, options: SamplingConfig, profile: GenerationSpec, checkpoint: GenerationSettings
) -> Sampling:
    """What holds: the options, else the profile's, else the checkpoint's."""
    of_profile = (profile.temperature, profile.top_k, profile.top_p, profile.repetition_penalty)
    of_checkpoint = (
        checkpoint.temperature, checkpoint.top_k, checkpoint.top_p, checkpoint.repetition_penalty,
    )  # fmt: skip
    declared = [c if p is None else p for p, c in zip(of_profile, of_checkpoint, strict=True)]
    return Sampling(
        declared[0] if temperature < 0.0 else temperature,
        round(declared[1]) if options.top_k < 0 else options.top_k,
        options.top_p or declared[2],
        options.repetition_penalty or declared[3],
    )
