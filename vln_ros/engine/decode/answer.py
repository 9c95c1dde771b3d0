"""Decodes an answer that a robot can follow, and deals with one that it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from vln_ros.config import SamplingConfig, StreamConfig
from vln_ros.datatypes import Action
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import GenerationSpec, Profile
from vln_ros.engine.checkpoint.settings import GenerationSettings
from vln_ros.engine.decode.decode import DecodeMode, DecodeOptions, Decoding, decode_free, decode_queue
from vln_ros.engine.decode.grammar import Grammar, PixelGrammar, QueueRules, parse_queue
from vln_ros.engine.decode.reply import spoken
from vln_ros.engine.decode.scores import Sampling
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.stream.segments import Piece
from vln_ros.engine.stream.session import Session

_TRIES = 3
_RETRY_TEMPERATURE = 0.7
_MOST_NODES = 100_000
"""A pixel grammar grows by what is said; beyond this it is made anew."""

Question = Callable[[], Sequence[Piece]]
"""Puts the stream where the model answers next, and says what is still to be pushed; once for each try."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said.

    Attributes:
        ids: its tokens.
        looks_down: it wants another picture in the same chat, to point at a place in it.
        point: two numbers, in the order in which it said them: pixels of that picture.
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
    looks_down: bool = False
    point: tuple[int, int] | None = None

    @property
    def certainty(self) -> float:
        """Probability of the first action; 0 if there is none, 1 for a place, of which none is known."""
        return min(self.probabilities[:1], default=0.0 if self.point is None else 1.0)


Reading = Callable[[tuple[int, ...], str], Answer | None]
"""What free tokens and their text mean; None: nothing."""


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
            config.max_phrases or profile.max_phrases,
            max_repeats=None if config.max_repeats < 0 else config.max_repeats,
            reversals=config.reversals,
        )
        self._grammar = Grammar(template.tokenize, profile.phrases, self._rules, self._end_tokens)
        self._pixel_grammar: tuple[tuple[int, int], PixelGrammar] | None = None
        self._generator = torch.Generator()
        self.unparsed = 0
        """Answers so far that were no actions (free decoding only)."""
        self.begin(0)

    def begin(self, seed: int) -> None:
        """A new run. The same seed and questions give the same answers."""
        self._generator.manual_seed(seed)
        self._last: tuple[Action, ...] = ()
        self._last_phrase: int | None = None
        """Of the profile's phrases. Both grammars number these alike: that of pixels lacks the last one only,
        the request to look down, and where it is not known it guides nothing."""
        self._allowed = _Allowed()

    def decode(self, question: Question) -> Decoding[Answer]:
        """An answer as the forwards that it takes."""
        answer = yield from (
            self._free(question, self._read_queue)
            if self._config.decode == "free"
            else self._constrained(question, self._grammar)
        )
        self._note(answer)
        return answer

    def decode_point(self, question: Question, size: tuple[int, int]) -> Decoding[Answer]:
        """The answer to the picture that the model has asked for: a point in it, or actions after all.

        Args:
            size: rows and columns of the picture as the camera took it.
        """
        spec = self._profile.pixel_goal
        assert spec is not None, "the profile has words to ask for a picture"
        bounds = size if spec.order == "row_column" else (size[1], size[0])
        if self._config.decode == "free":
            answer = yield from self._free(question, partial(self._read_point, bounds))
        else:
            answer = yield from self._constrained(question, self._pixels(bounds))
        self._note(answer)
        return answer

    def _note(self, answer: Answer) -> None:
        self._allowed.note(answer)
        self._last = answer.actions or self._last

    def _pixels(self, bounds: tuple[int, int]) -> PixelGrammar:
        spec, made = self._profile.pixel_goal, self._pixel_grammar
        assert spec is not None
        if made is None or made[0] != bounds or len(made[1].nodes) > _MOST_NODES:
            grammar = PixelGrammar(
                self._template.tokenize, self._profile.vocabulary, self._rules, self._end_tokens,
                spec.separator, bounds,
            )  # fmt: skip
            made = self._pixel_grammar = bounds, grammar
        return made[1]

    def reply(self, answer: Answer, done: tuple[Action, ...]) -> tuple[int, ...]:
        """The tokens of a reply that is what the robot did."""
        if done == answer.actions:
            return answer.ids
        words = spoken(self._profile.vocabulary, answer.queue, done)
        return self._template.tokenize(self._grammar.text(words))

    def figures(self) -> dict[str, float]:
        """For diagnostics: how far the model stays within the action vocabulary; names with units."""
        return self._allowed.figures()

    def _constrained(self, question: Question, grammar: Grammar) -> Decoding[Answer]:
        config = self._config
        options = DecodeOptions(
            mode=DecodeMode(config.decode),
            sampling=self._sampling,
            tree_nodes=config.most_nodes(pays_by_row=self._session.pays_by_row),
            wanted_tokens=config.wanted_tokens,
            min_allowed=config.min_allowed,
            random_weights=self._random_weights,
        )
        decoded = yield from decode_queue(
            self._session, question(), grammar, options, self._generator, self._last_phrase
        )
        self._last_phrase = decoded.queue[-1] if decoded.queue else self._last_phrase
        probabilities: list[float] = []
        for index, probability in zip(decoded.queue, decoded.probabilities, strict=True):
            # A phrase is one choice: its further primitives follow from it.
            primitives = len(grammar.phrases[index].actions)
            probabilities += [probability, *[1.0] * (primitives - 1)] if primitives else []
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
            actions=grammar.actions(decoded.queue),
            probabilities=tuple(probabilities),
            unconstrained=unconstrained,
            allowed=decoded.allowed,
            looks_down=self._is_request(grammar, decoded.queue),
            point=grammar.numbers(decoded.ids) if isinstance(grammar, PixelGrammar) else None,
        )

    @staticmethod
    def _is_request(grammar: Grammar, queue: Sequence[int]) -> bool:
        return bool(queue) and not grammar.phrases[queue[0]].actions

    def _would_say(self, text: str) -> str:
        reason = self._profile.why_not(text)
        return f"it would rather say {text!r}" + ("" if reason is None else f" ({reason})")

    def _free(self, question: Question, read: Reading) -> Decoding[Answer]:
        """Say anything, then read it; what cannot be read is dealt with as the profile says."""
        ids, text = yield from self._say(question, self._sampling)
        answer = read(ids, text)
        if answer is not None:
            return answer
        self.unparsed += 1
        policy = self._profile.on_unparsed
        if policy == "repeat" and self._last:
            return Answer(ids=ids, actions=self._last[:1], unconstrained=text)
        if policy == "ask_again":
            for _ in range(_TRIES):
                warm = replace(
                    self._sampling, temperature=max(self._sampling.temperature, _RETRY_TEMPERATURE)
                )
                answer = read(*(yield from self._say(question, warm)))
                if answer is not None:
                    return replace(answer, unconstrained=text)
        return Answer(ids=ids, unconstrained=text, held=f"this is no action: {self._would_say(text)}")

    def _say(self, question: Question, sampling: Sampling) -> Decoding[tuple[tuple[int, ...], str]]:
        ids = yield from decode_free(
            self._session,
            question(),
            max_tokens=self._config.free_tokens,
            end_tokens=self._end_tokens,
            sampling=sampling,
            generator=self._generator,
        )
        return ids, self._template.detokenize(ids)

    def _read_queue(self, ids: tuple[int, ...], text: str) -> Answer | None:
        rules, grammar = self._rules, self._grammar
        queue = parse_queue(text, grammar.phrases, rules.separator, rules.max_phrases)
        if queue is None:
            return None
        return Answer(
            ids=ids,
            queue=queue,
            actions=grammar.actions(queue),
            looks_down=self._is_request(grammar, queue),
        )

    def _read_point(self, bounds: tuple[int, int], ids: tuple[int, ...], text: str) -> Answer | None:
        spec = self._profile.pixel_goal
        assert spec is not None
        point = spec.parse(text)
        if point is None:
            answer = self._read_queue(ids, text)
            return None if answer is None or answer.looks_down else answer
        if any(number >= bound for number, bound in zip(point, bounds, strict=True)):
            why = f"it says {text!r}, which is not in the picture of {bounds[0]} x {bounds[1]} pixels"
            return Answer(ids=ids, unconstrained=text, held=why)
        return Answer(ids=ids, point=point)


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
