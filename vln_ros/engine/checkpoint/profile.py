"""Reads profiles: how a family of checkpoints is prompted, shown frames and understood.

A prompt that a checkpoint was trained with is part of its interface, so a profile quotes it and
says where from. Shipped profiles are YAML files in ``vln_ros/profiles``; a path names one's own.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from vln_ros.config import ConfigError
from vln_ros.datatypes import STOP, Action

Choice = TypeVar("Choice", bound=str)

ON_UNPARSED = ("hold", "repeat", "ask_again")
IMAGE_MARKS = ("image", "history")
"""``{image}``: the frame (or frames) asked about; ``{history}``: all past frames that are shown."""

_MARK = re.compile(r"\{(\w+)\}")
_SUFFIX = ".yaml"
_OF_CHECKPOINT = "checkpoint"

ContextStrategy = Literal["append", "window_reset", "history", "delayed_batch"]
_CONTEXT_PARAMETERS: dict[ContextStrategy, frozenset[str]] = {
    "append": frozenset({"unasked_frames"}),
    "window_reset": frozenset({"unasked_frames", "reset_steps", "history_frames", "history_choice"}),
    "history": frozenset({"history_frames", "history_choice", "history_empty", "history_limit"}),
    "delayed_batch": frozenset({"recent_frames", "important_frames", "important_score"}),
}
"""Strategy -> the parameters it must state; none is accepted that it does not use."""


@dataclass(frozen=True)
class ContextSpec:
    """What of the past the model sees when it is asked. Parameters of other strategies are None.

    Attributes:
        strategy: ``append`` (one growing chat), ``window_reset`` (the chat is dropped every
            ``reset_steps`` actions and begun anew with ``history_frames`` past frames), ``history``
            (every question is a chat of its own with up to ``history_frames`` past frames),
            ``delayed_batch`` (frames are collected and shown as one video when asked: for comparison, as
            nothing of it is done before the question).
        unasked_frames: what becomes of frames between two questions: ``drop``, or ``keep`` (the
            next turn shows them all).
        history_choice: which past frames: ``uniform_round`` or ``uniform_floor``; see
            :meth:`choose_history`.
        history_empty: before there is a past: ``none``, or ``current`` (the current frame is shown
            twice, once as the past).
        history_limit: frames kept to choose from, the oldest are dropped; 0 for all.
        recent_frames, important_frames, important_score: window and star memory of ``delayed_batch``.
    """

    strategy: ContextStrategy
    _: KW_ONLY
    unasked_frames: str | None = None
    reset_steps: int | None = None
    history_frames: int | None = None
    history_choice: str | None = None
    history_empty: str | None = None
    history_limit: int | None = None
    recent_frames: int | None = None
    important_frames: int | None = None
    important_score: float | None = None

    def choose_history(self, past: int) -> tuple[int, ...]:
        """Which of ``past`` frames, numbered from 0 (oldest), are shown: increasing, without repeats.

        The first and the last one always are. ``uniform_round`` and ``uniform_floor`` differ in how
        the evenly spaced numbers between them are rounded, as the released scripts do.
        """
        most = self.history_frames or 0
        if past == 0 or most == 0:
            return ()
        if past == 1 or most == 1:
            return (past - 1,)
        if self.history_choice == "uniform_floor":
            return tuple(sorted({int(i * ((past - 1) / (most - 1))) for i in range(most - 1)} | {past - 1}))
        if past <= most:
            return tuple(range(past))
        return tuple(round(i * (past - 1) / (most - 1)) for i in range(most))


@dataclass(frozen=True)
class ImageSpec:
    """Size of the frames that the model sees.

    Attributes:
        resize: ``(width, height)`` to resample to first, pixels; None for none.
        max_pixels: bound on width x height that replaces the checkpoint's; None keeps it.
    """

    resize: tuple[int, int] | None
    max_pixels: int | None


@dataclass(frozen=True)
class GenerationSpec:
    """How the released evaluation chooses tokens; None: as the checkpoint's ``generation_config.json`` says.

    Attributes:
        temperature: 0 is greedy.
        top_k, top_p: 0 and 1 for all.
        repetition_penalty: 1 for none.
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None


@dataclass(frozen=True)
class Phrase:
    """A text the model may answer with, and what it means."""

    text: str
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Unsupported:
    """Something the checkpoint may want to say that this robot cannot do.

    It cannot come out under the grammar; in free text it counts as unparsed. Where the model would rather say
    it, the robot holds and the reason is told (:attr:`vln_ros.datatypes.ActionChunk.held`).

    Attributes:
        pattern: regular expression that finds it in what the model wanted to say.
        reason: what it means, and why it is not done.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """After how many of each the released evaluation ends an episode; 0 for never.

    Declared, not silent: a run that ends by a limit says so. ``turns_in_place`` counts
    consecutive primitive actions that leave the position as it was.
    """

    turns_in_place: int
    actions: int
    questions: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything the engine needs to know about a checkpoint family besides its weights.

    Attributes:
        source: where the texts come from.
        checkpoint: what is loaded where none is named: folder, hub name, or one that this package ships.
        system: the system message.
        first_turn: template of the user's first message (for ``history``: of a message without
            past frames). Marks: ``{instruction}``, ``{image}``, ``{history}``.
        next_turn: template of the later ones.
        vocabulary: what may be answered, several joined by ``separator``, at most ``max_phrases``.
        on_unparsed: when free text is not in the vocabulary: ``hold`` (stand still), ``repeat``
            (the last queue's first action again), ``ask_again`` (sampled anew, then hold).
    """

    name: str
    source: str
    checkpoint: str
    system: str
    first_turn: str
    next_turn: str
    context: ContextSpec
    image: ImageSpec
    generation: GenerationSpec
    vocabulary: tuple[Phrase, ...]
    separator: str
    max_phrases: int
    on_unparsed: str
    limits: Limits
    unsupported: tuple[Unsupported, ...]

    def why_not(self, text: str) -> str | None:
        """Why the robot does not do what ``text`` asks for; None where the profile knows nothing of it."""
        return next((u.reason for u in self.unsupported if re.search(u.pattern, text)), None)


def list_profiles() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return tuple(
        sorted(
            entry.name.removesuffix(_SUFFIX) for entry in _shipped().iterdir() if entry.name.endswith(_SUFFIX)
        )
    )


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any profile by the path of its YAML file.

    Raises:
        ConfigError: no such profile, not valid YAML, an unknown or missing key, a value of the
            wrong type or out of range; the message names it and the nearest right one.
    """
    shipped = list_profiles()
    source: Traversable | Path
    if name_or_path in shipped:
        source = _shipped() / f"{name_or_path}{_SUFFIX}"
    else:
        source = Path(name_or_path).expanduser()
        if not source.is_file():
            near = difflib.get_close_matches(name_or_path, shipped, n=1)
            raise ConfigError(
                f"profile {name_or_path!r}: neither a file nor a shipped profile"
                + (f"; did you mean {near[0]!r}?" if near else f"; shipped: {', '.join(shipped)}")
            )
    try:
        tree = yaml.safe_load(source.read_text("utf-8"))
    except OSError as e:
        raise ConfigError(f"profile {name_or_path!r} cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"profile {name_or_path!r} is not valid YAML: {e}") from e
    return parse_profile(source.name.removesuffix(_SUFFIX), tree)


def parse_profile(name: str, tree: object) -> Profile:
    """The profile that a YAML tree describes. Raises ConfigError as :func:`load_profile`."""
    top = _Keys(f"profile {name}", tree)
    context = _context(top.keys("context"))
    profile = Profile(
        name=name,
        source=top.text("source"),
        checkpoint=top.text("checkpoint"),
        system=top.text("system"),
        first_turn=_template(top, "first_turn", context),
        next_turn=_template(top, "next_turn", context),
        context=context,
        image=_image(top.keys("image")),
        generation=_generation(top.keys("generation")),
        vocabulary=_vocabulary(top),
        separator=top.text("separator", may_be_empty=True),
        max_phrases=top.integer("max_phrases", 1),
        on_unparsed=top.choice("on_unparsed", ON_UNPARSED),
        limits=_limits(top.keys("limits")),
        unsupported=_unsupported(top),
    )
    top.finish()
    return profile


def _shipped() -> Traversable:
    return resources.files("vln_ros") / "profiles"


class _Keys:
    """A mapping of a YAML tree, taken apart key by key; what is left over at the end is an error."""

    def __init__(self, where: str, tree: object) -> None:
        if not isinstance(tree, Mapping):
            raise ConfigError(f"{where} must be a mapping, got {type(tree).__name__}")
        self.where = where
        self._tree = tree
        self._known: list[str] = []

    def error(self, key: str, expected: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key} = {self._tree[key]!r}: expected {expected}")

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._tree

    def take(self, key: str) -> Any:
        if not self.has(key):
            # A misspelt key is both missing and unknown: name both at once.
            near = difflib.get_close_matches(key, [str(k) for k in self._tree], n=1)
            raise ConfigError(
                f"{self.where}: {key} is missing" + (f"; is {near[0]!r} meant?" if near else "")
            )
        return self._tree[key]

    def keys(self, key: str) -> _Keys:
        return _Keys(f"{self.where}, {key}", self.take(key))

    def items(self, key: str) -> list[_Keys]:
        value = self.take(key)
        if not isinstance(value, list):
            raise self.error(key, "a list")
        return [_Keys(f"{self.where}, {key}[{i}]", item) for i, item in enumerate(value)]

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise self.error(key, "a text")
        return value

    def integer(self, key: str, least: int) -> int:
        value = self.take(key)
        if type(value) is not int or value < least:
            raise self.error(key, f"an integer of at least {least}")
        return value

    def number(self, key: str) -> float:
        value = self.take(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, "a finite number")
        return float(value)

    def number_or_checkpoint(self, key: str, least: float, most: float) -> float | None:
        value = self.take(key)
        if value == _OF_CHECKPOINT:
            return None
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.error(key, f"a number from {least:g} to {most:g}, or {_OF_CHECKPOINT}")
        return float(value)

    def choice(self, key: str, choices: tuple[Choice, ...]) -> Choice:
        value = self.take(key)
        for choice in choices:
            if value == choice:
                return choice
        raise self.error(key, f"one of {', '.join(choices)}")

    def finish(self) -> None:
        for key in self._tree:
            if key not in self._known:
                near = difflib.get_close_matches(str(key), self._known, n=1)
                raise ConfigError(
                    f"{self.where}: unknown key {key!r}"
                    + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(self._known)}")
                )


def _context(keys: _Keys) -> ContextSpec:
    strategy = keys.choice("strategy", tuple(_CONTEXT_PARAMETERS))
    wanted = _CONTEXT_PARAMETERS[strategy]

    def integer(key: str, least: int) -> int | None:
        return keys.integer(key, least) if key in wanted else None

    def choice(key: str, *choices: str) -> str | None:
        return keys.choice(key, choices) if key in wanted else None

    spec = ContextSpec(
        strategy,
        unasked_frames=choice("unasked_frames", "drop", "keep"),
        reset_steps=integer("reset_steps", 1),
        history_frames=integer("history_frames", 1),
        history_choice=choice("history_choice", "uniform_round", "uniform_floor"),
        history_empty=choice("history_empty", "none", "current"),
        history_limit=integer("history_limit", 0),
        recent_frames=integer("recent_frames", 1),
        important_frames=integer("important_frames", 0),
        important_score=keys.number("important_score") if "important_score" in wanted else None,
    )
    keys.finish()
    return spec


def _template(top: _Keys, key: str, context: ContextSpec) -> str:
    template = top.text(key)
    marks = _MARK.findall(template)
    known = (*IMAGE_MARKS, "instruction")
    for mark in marks:
        if mark not in known:
            near = difflib.get_close_matches(mark, known, n=1)
            raise ConfigError(
                f"{top.where}: {key} has an unknown mark {{{mark}}}"
                + (f"; did you mean {{{near[0]}}}?" if near else f"; known: {', '.join(known)}")
            )
    if marks.count("image") != 1:
        raise ConfigError(f"{top.where}: {key} must have exactly one {{image}}")
    if "history" in marks and context.strategy not in ("history", "window_reset"):
        raise ConfigError(f"{top.where}: {key} has {{history}}, but context {context.strategy} shows none")
    if marks.count("history") > 1:
        raise ConfigError(f"{top.where}: {key} must have at most one {{history}}")
    return template


def _image(keys: _Keys) -> ImageSpec:
    size = None
    if keys.has("resize"):
        value = keys.take("resize")
        if not isinstance(value, list) or len(value) != 2 or any(type(v) is not int or v < 1 for v in value):
            raise keys.error("resize", "[width, height] in pixels")
        size = (int(value[0]), int(value[1]))
    max_pixels = keys.integer("max_pixels", 1) if keys.has("max_pixels") else None
    keys.finish()
    return ImageSpec(size, max_pixels)


def _generation(keys: _Keys) -> GenerationSpec:
    top_k = keys.number_or_checkpoint("top_k", 0, 10_000_000)
    spec = GenerationSpec(
        keys.number_or_checkpoint("temperature", 0.0, 10.0),
        None if top_k is None else round(top_k),
        keys.number_or_checkpoint("top_p", 1e-6, 1.0),
        keys.number_or_checkpoint("repetition_penalty", 0.01, 100.0),
    )
    keys.finish()
    return spec


def _vocabulary(top: _Keys) -> tuple[Phrase, ...]:
    phrases = tuple(_phrase(keys) for keys in top.items("vocabulary"))
    texts = [phrase.text for phrase in phrases]
    if not texts:
        raise ConfigError(f"{top.where}: vocabulary is empty")
    if twice := sorted({t for t in texts if texts.count(t) > 1}):
        raise ConfigError(f"{top.where}: vocabulary has {twice[0]!r} twice")
    return phrases


def _phrase(keys: _Keys) -> Phrase:
    text = keys.text("text")
    given = [key for key in ("forward_m", "turn_deg", "stop") if keys.has(key)]
    if len(given) != 1:
        raise ConfigError(f"{keys.where} ({text!r}): give exactly one of forward_m, turn_deg and stop")
    times = keys.integer("times", 1) if keys.has("times") else 1
    if given == ["stop"]:
        if keys.take("stop") is not True or times != 1:
            raise ConfigError(f"{keys.where} ({text!r}): a stop is `stop: true`, once")
        action = STOP
    else:
        value = keys.number(given[0])
        try:
            action = (
                Action(forward_m=value) if given == ["forward_m"] else Action(turn_rad=math.radians(value))
            )
        except ValueError as e:
            raise ConfigError(f"{keys.where} ({text!r}): {e}") from e
    keys.finish()
    return Phrase(text, (action,) * times)


def _limits(keys: _Keys) -> Limits:
    limits = Limits(
        keys.integer("turns_in_place", 0), keys.integer("actions", 0), keys.integer("questions", 0)
    )
    keys.finish()
    return limits


def _unsupported(top: _Keys) -> tuple[Unsupported, ...]:
    if not top.has("unsupported"):
        return ()
    found = []
    for keys in top.items("unsupported"):
        pattern, reason = keys.text("pattern"), keys.text("reason")
        try:
            re.compile(pattern)
        except re.error as e:
            raise ConfigError(f"{keys.where}: pattern {pattern!r} is not a regular expression: {e}") from e
        keys.finish()
        found.append(Unsupported(pattern, reason))
    return tuple(found)
