"""Makes batches of conversations from demonstrations, in a profile's chat format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vln_ros.config import ConfigError
from vln_ros.datatypes import ActionKind
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.preprocess import patchify, smart_resize
from vln_ros.engine.stream.segments import Image, Piece, Text, append_piece
from vln_ros.engine.stream.timeline import SegmentKind, Timeline
from vln_ros.sim.splits import SPLIT_STEP
from vln_ros.training.demonstrations import Decision, Demonstration, View
from vln_ros.training.labels import TokenLabels

Nested = TypeVar("Nested", "Batch", "Shown", "Way", "Choices")
Group = TypeVar("Group", "Shown", "Way")
IGNORED = -100
"""Label of a token that nothing is learnt from."""
_LENGTH_STEP = 64  # few lengths: code for products in bfloat16 is generated for each one


@dataclass(frozen=True)
class Options:
    """The choice of one action: its place among the tokens of an answer, and the token of each one of
    :class:`vln_ros.datatypes.ActionKind`."""

    position: int
    ids: tuple[int, ...]


class ActionWords:
    """The single actions of a profile's vocabulary as the policy says them.

    Raises:
        ConfigError: the profile lacks a phrase for one of the four actions of the embedded world.
    """

    def __init__(self, template: ChatTemplate, profile: Profile, end_token: int) -> None:
        self._template, self._separator, self._end = template, profile.separator, end_token
        self._most = profile.max_phrases
        self._texts: dict[ActionKind, str] = {}
        self._tokens: dict[tuple[ActionKind, ...], tuple[int, ...]] = {(): ()}  # there are but some hundred
        for kind in ActionKind:
            action = SPLIT_STEP.action(kind)
            texts = [p.text for p in profile.vocabulary if p.actions == (action,)]
            if not texts:
                raise ConfigError(f"profile {profile.name} has no phrase for the action {action}")
            self._texts[kind] = texts[0]

    def tokens(self, kinds: Sequence[ActionKind]) -> tuple[int, ...]:
        said = tuple(kinds)
        if said not in self._tokens:
            self._tokens[said] = self._template.tokenize(self._separator.join(self._texts[k] for k in said))
        return self._tokens[said]

    def options(self, decision: Decision) -> list[Options]:
        """Where the executed queue goes on with one action or another, and by which tokens."""
        found = []
        for k in range(len(decision.executed)):
            ways = [self.tokens((*decision.executed[:k], kind)) for kind in ActionKind]
            position = next(n for n, ids in enumerate(zip(*ways, strict=False)) if len(set(ids)) > 1)
            found.append(Options(position, tuple(way[position] for way in ways)))
        return found

    def labels(self, decision: Decision) -> list[int]:
        """What should be said at each token of the executed queue and behind it.

        Where the expert would have done something else, its word is the label and what follows is
        what was done, so that every word answers what was really said before it.
        """
        said = self.tokens(decision.executed)
        labels = [IGNORED] * (len(said) + 1)
        for k, kind in enumerate(decision.expert):
            before = self.tokens(decision.executed[:k])
            better = self.tokens((*decision.executed[:k], kind))
            for position in range(len(before), len(better)):
                labels[position] = better[position]
                if position >= len(said) or better[position] != said[position]:
                    break
        if decision.executed[-1] is ActionKind.STOP or len(decision.executed) == self._most:
            labels[-1] = self._end
        return labels


@dataclass(frozen=True, eq=False, kw_only=True)
class Shown:
    """What the visual tokens of all frames show, ``[f * v]`` each; see :class:`TokenLabels`."""

    category: Tensor
    color: Tensor
    referent: Tensor
    depth: Tensor
    aim: Tensor
    room: Tensor
    onward: Tensor


@dataclass(frozen=True, eq=False)
class Way:
    """Classes of where the way goes on at each decision, ``[d]`` each; see :class:`Decision`."""

    bearing: Tensor
    distance: Tensor
    doors: Tensor


@dataclass(frozen=True, eq=False)
class Choices:
    """Where one action or another is said; ``a`` actions.

    Attributes:
        places: ``[a]`` places of the tokens behind which it is said.
        ids: ``[a, 4]`` what is said for each kind of action.
        costs: ``[a, 4]`` what each would cost, in actions.
    """

    places: Tensor
    ids: Tensor
    costs: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Frames:
    """What one or several conversations show; ``f`` frames of ``v`` tokens and ``p`` patches each.

    Attributes:
        patches: ``[f * p, values]`` uint8: pixels, one half of each temporal patch.
        sources: ``[f * v]`` number of the visual token that showed the same place in the frame before; -1
            for none.
        tower_origins: ``[f * v]`` number of the visual token whose keys and values a token has within the
            vision tower's layers of full attention; see :class:`Conversation`.
    """

    patches: Tensor
    sources: Tensor
    tower_origins: Tensor
    shown: Shown


@dataclass(frozen=True, eq=False, kw_only=True)
class Conversation:
    """One chat, ready for the decoder.

    It has ``n`` tokens, ``m`` visual ones among them, and ``d`` decisions.

    Attributes:
        ids: ``[n]``; placeholders where a frame is.
        positions: ``[3, n]``.
        labels: ``[n]``: what should follow each token, or :data:`IGNORED`.
        visual: ``[m]`` places of the visual tokens.
        pictures: ``[m]`` which visual token of ``frames`` stands at each of them.
        origins: ``[m]`` which of the ``m`` has the keys and values that a token has: itself, or an earlier
            one where it is stale; see :func:`vln_ros.training.staleness.make_stale`.
        asked: ``[d]`` places of the tokens behind which the policy answers.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    visual: Tensor
    pictures: Tensor
    origins: Tensor
    asked: Tensor
    frames: Frames
    choices: Choices
    way: Way


class Collator:
    """Turns demonstrations into conversations exactly as the engine would hold them.

    Args:
        model: its tokenizer and image settings are used, not its weights.
        profile: must be one growing chat (strategy ``append``) or show frames of the past with every
            question (``history``), with a fixed image size.
    """

    def __init__(self, model: LoadedModel, profile: Profile) -> None:
        if profile.context.strategy not in ("append", "history") or profile.image.resize is None:
            raise ConfigError(
                f"profile {profile.name}: training needs strategy append or history, and image.resize, "
                f"not {profile.context.strategy} and {profile.image.resize}"
            )
        self.profile = profile
        # Pixels as they are: small to keep, and normalised when they are used.
        self._pixels = replace(model.pixels, mean=(0.0,) * 3, std=(1.0 / 255.0,) * 3, temporal_patch_size=1)
        self._config = model.network.config
        self._template = ChatTemplate(model, profile)
        self.words = ActionWords(self._template, profile, model.tokens.im_end)
        width, height = profile.image.resize
        pixels = model.pixels
        bound = profile.image.max_pixels or pixels.max_pixels
        h, w = smart_resize(
            height, width, factor=pixels.token_side, min_pixels=pixels.min_pixels, max_pixels=bound
        )
        self.grid = (h // pixels.token_side, w // pixels.token_side)
        """Rows and columns of visual tokens of a frame."""

    def write(self, demonstration: Demonstration, asked: Sequence[int] = ()) -> list[Conversation]:
        """The conversations that a demonstration is.

        One growing chat with all decisions; or, of a profile that shows a history, one chat for each of the
        decisions ``asked``, which share their frames. None of these named are all.
        """
        if self.profile.context.strategy == "append":
            return [self._write_chat(demonstration)]
        return self._write_questions(demonstration, asked or range(len(demonstration.decisions)))

    def _write_chat(self, demonstration: Demonstration) -> Conversation:
        chat = _Chat(self._template, self.words, self.grid, self._config)
        chat.say(self._template.opening())
        for number, decision in enumerate(demonstration.decisions):
            turn = self._template.turn(number, demonstration.instruction, ())
            chat.say(turn.prefix)
            for _ in decision.views:
                chat.say(self._template.shown(chat.blank))
            chat.say(turn.suffix)
            chat.answer(decision, is_last=number == len(demonstration.decisions) - 1)
        views = [v for d in demonstration.decisions for v in d.views]
        return chat.written(range(len(views)), self._frames(views), demonstration.decisions)

    def _write_questions(self, demonstration: Demonstration, asked: Sequence[int]) -> list[Conversation]:
        """As a history context holds them that has seen a frame behind every primitive."""
        spec = self.profile.context
        views = [v for d in demonstration.decisions for v in d.views]
        newest = np.cumsum([len(d.views) for d in demonstration.decisions]) - 1
        shown: list[tuple[int, ...]] = []
        for number in asked:
            past = int(newest[number])
            history = spec.choose_history(past)
            if not past and spec.history_empty == "current":
                history = (past,)
            shown.append((*history, past))
        used = sorted({k for frames in shown for k in frames})
        frames = self._frames([views[k] for k in used])
        conversations = []
        for number, numbers in zip(asked, shown, strict=True):
            chat = _Chat(self._template, self.words, self.grid, self._config)
            chat.say(self._template.opening())
            turn = self._template.turn(0, demonstration.instruction, [chat.blank] * (len(numbers) - 1))
            chat.say((*turn.prefix, *self._template.shown(chat.blank), *turn.suffix))
            decision = demonstration.decisions[number]
            chat.answer(decision, is_last=True)
            conversations.append(chat.written([used.index(k) for k in numbers], frames, [decision]))
        return conversations

    def _frames(self, views: Sequence[View]) -> Frames:
        spec, tokens = self.profile.image, self.grid[0] * self.grid[1]
        patches = [patchify(v.rgb, self._pixels, spec.max_pixels, spec.resize).patches for v in views]
        sources = [np.where(v.source < 0, -1, v.source + (k - 1) * tokens) for k, v in enumerate(views)]
        return Frames(
            patches=torch.cat(patches).round().to(torch.uint8),
            sources=torch.from_numpy(np.concatenate(sources)),
            tower_origins=torch.arange(len(views) * tokens),
            shown=_shown([v.labels for v in views]),
        )


class _Chat:
    """A conversation as it is written, with what is to be learnt from it."""

    def __init__(
        self, template: ChatTemplate, words: ActionWords, grid: tuple[int, int], config: Any
    ) -> None:
        self._template, self._words, self._config = template, words, config
        self._tokens = grid[0] * grid[1]
        self._timeline = Timeline()
        self._labels: list[int] = []
        self._asked: list[int] = []
        self._options: list[Options] = []
        self.blank = Image(torch.empty(self._tokens, 0), *grid)
        """Stands for a frame."""

    def say(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            append_piece(self._timeline, piece, self._config)

    def answer(self, decision: Decision, *, is_last: bool) -> None:
        """What was done, and what should have been said. The last answer is not closed."""
        at = self._timeline.tokens - 1
        self._asked.append(at)
        self._options += [replace(o, position=at + o.position) for o in self._words.options(decision)]
        self._labels += [IGNORED] * (at - len(self._labels)) + self._words.labels(decision)
        said = self._words.tokens(decision.executed)
        self.say([Text(said)] if is_last else self._template.reply(said))

    def written(self, shown: Sequence[int], frames: Frames, decisions: Sequence[Decision]) -> Conversation:
        """The conversation. ``shown``: which of ``frames`` each picture in it is."""
        timeline, start = self._timeline, 0
        visual = []
        for segment in timeline.segments:
            if segment.kind is SegmentKind.IMAGE:
                visual.append(torch.arange(start, start + segment.count))
            start += segment.count
        of_frame = torch.arange(self._tokens)
        return Conversation(
            ids=torch.tensor([i for s in timeline.segments for i in s.ids]),
            positions=timeline.positions(),
            labels=torch.tensor(self._labels + [IGNORED] * (timeline.tokens - len(self._labels))),
            visual=torch.cat(visual),
            pictures=torch.cat([k * self._tokens + of_frame for k in shown]),
            origins=torch.arange(len(shown) * self._tokens),
            asked=torch.tensor(self._asked),
            frames=frames,
            choices=Choices(
                places=torch.tensor([o.position for o in self._options]),
                ids=torch.tensor([o.ids for o in self._options]),
                costs=torch.from_numpy(np.concatenate([d.costs for d in decisions])).float(),
            ),
            way=Way(
                bearing=torch.tensor([d.bearing for d in decisions]),
                distance=torch.tensor([d.distance for d in decisions]),
                doors=torch.tensor([d.doors for d in decisions]),
            ),
        )


def _shown(labels: Sequence[TokenLabels]) -> Shown:
    """Of all frames, one behind the other."""

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(frame, name) for frame in labels]))

    return Shown(**{f.name: joined(f.name) for f in fields(Shown)})


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Conversations padded at the end: what comes later is seen by nothing before it.

    ``ids`` and ``labels`` are ``[b, n]``, ``positions`` ``[3, b, n]``; ``visual``, ``asked`` and
    ``choices.places`` are places in ``[b * n]``; ``pictures`` and ``tower_origins`` are numbers among the
    visual tokens of all frames, ``origins`` among those at ``visual``; the others are those of the
    conversations, one behind the other. Frames that conversations share are there once.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    visual: Tensor
    pictures: Tensor
    origins: Tensor
    asked: Tensor
    patches: Tensor
    tower_origins: Tensor
    choices: Choices
    shown: Shown
    way: Way

    def to(self, device: torch.device) -> Batch:
        return _each(self, lambda tensor: tensor.to(device))


def collate(conversations: Sequence[Conversation]) -> Batch:
    longest = -(-max(c.ids.shape[0] for c in conversations) // _LENGTH_STEP) * _LENGTH_STEP
    frames = list({id(c.frames): c.frames for c in conversations}.values())
    begins = np.cumsum([0, *(len(f.tower_origins) for f in frames)])
    first = {id(f): int(begin) for f, begin in zip(frames, begins, strict=False)}

    def pad(values: Tensor, filler: int) -> Tensor:
        return torch.nn.functional.pad(values, (0, longest - values.shape[-1]), value=filler)

    def places(of_each: Iterable[Tensor]) -> Tensor:
        return torch.cat([own + k * longest for k, own in enumerate(of_each)])

    before = np.cumsum([0, *(len(c.visual) for c in conversations)])
    return Batch(
        ids=torch.stack([pad(c.ids, 0) for c in conversations]),
        positions=torch.stack([pad(c.positions, 0) for c in conversations], 1),
        labels=torch.stack([pad(c.labels, IGNORED) for c in conversations]),
        visual=places(c.visual for c in conversations),
        pictures=torch.cat([c.pictures + first[id(c.frames)] for c in conversations]),
        origins=torch.cat([c.origins + int(n) for c, n in zip(conversations, before, strict=False)]),
        asked=places(c.asked for c in conversations),
        patches=torch.cat([f.patches for f in frames]),
        tower_origins=torch.cat([f.tower_origins + first[id(f)] for f in frames]),
        choices=Choices(
            places=places(c.choices.places for c in conversations),
            ids=torch.cat([c.choices.ids for c in conversations]),
            costs=torch.cat([c.choices.costs for c in conversations]),
        ),
        shown=_joined([f.shown for f in frames]),
        way=_joined([c.way for c in conversations]),
    )


def _each(tensors: Nested, change: Callable[[Tensor], Tensor]) -> Nested:
    """The same dataclass with every tensor changed, those of nested ones included."""
    changed: dict[str, Any] = {}
    for f in fields(tensors):
        value = getattr(tensors, f.name)
        changed[f.name] = change(value) if isinstance(value, Tensor) else _each(value, change)
    return replace(tensors, **changed)


def _joined(parts: Sequence[Group]) -> Group:
    """Dataclasses of tensors as one, each tensor one behind the other."""
    names = [f.name for f in fields(parts[0])]
    return type(parts[0])(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})
