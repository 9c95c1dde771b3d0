"""Reads profiles: how a family of checkpoints is prompted, shown frames and understood.

A prompt that a checkpoint was trained with is part of its interface, so a profile quotes it and
says where from. Shipped profiles are YAML files in ``vln_ros/profiles``; a path names one's own.
"""

from __future__ import annotations

import math
import re
from dataclasses import KW_ONLY, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import yaml

from vln_ros.config import ConfigError, nearest
from vln_ros.datatypes import STOP, Action
from vln_ros.engine.checkpoint.keys import Keys
from vln_ros.engine.checkpoint.pixel_goal import PixelGoalSpec as PixelGoalSpec
from vln_ros.engine.checkpoint.pixel_goal import parse_pixel_goal

ON_UNPARSED = ("hold", "repeat", "ask_again")
IMAGE_MARKS = ("image", "history")
"""``{image}``: the frame (or frames) asked about; ``{history}``: all past frames that are shown."""

STAYS = "stays"
"""A choice of past frames whose beginning stays what it was; see :meth:`ContextSpec.choose_history`."""

_MARK = re.compile(r"\{(\w+)\}")
_SUFFIX = ".yaml"

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
        history_choice: which past frames: ``uniform_round`` or ``uniform_floor``; under ``history`` also
            ``stays``, which no checkpoint has been trained with; see :meth:`choose_history`.
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
        the evenly spaced numbers between them are rounded, as the released scripts do. ``stays`` is every
        frame at first, then every second, every fourth ...: what one question shows, the next one mostly
        begins with.
        """
        most = self.history_frames or 0
        if past == 0 or most == 0:
            return ()
        if past == 1 or most == 1:
            return (past - 1,)
        if self.history_choice == STAYS:
            stride = 1
            while len(range(0, past - 1, stride)) > most - 1:
                stride *= 2
            return (*range(0, past - 1, stride), past - 1)
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
    consecutive primitive actions that leave the position as it was. On a robot ``turns_in_place``,
    ``to_and_fro`` and ``stuck`` give a run up: :class:`vln_ros.motion.guards.GuardLimits`. The latter two
    need not be stated: no released evaluation has them.
    """

    turns_in_place: int
    actions: int
    questions: int
    to_and_fro: int = 0
    stuck: int = 0


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
        pixel_goal: how it points at places; None: it does not.
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
    pixel_goal: PixelGoalSpec | None = None

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """The vocabulary, and at its end the request to look down, which is no action."""
        look_down = () if self.pixel_goal is None else (Phrase(self.pixel_goal.request, ()),)
        return (*self.vocabulary, *look_down)

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
            near = nearest(name_or_path, shipped)
            raise ConfigError(
                f"profile {name_or_path!r}: neither a file nor a shipped profile"
                + (f"; did you mean {near!r}?" if near else f"; shipped: {', '.join(shipped)}")
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
    top = Keys(f"profile {name}", tree)
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
        pixel_goal=parse_pixel_goal(top.keys("pixel_goal"), context.strategy)
        if top.has("pixel_goal")
        else None,
    )
    top.finish()
    if profile.pixel_goal is not None and profile.pixel_goal.request in [p.text for p in profile.vocabulary]:
        raise ConfigError(
            f"profile {name}, pixel_goal: request = {profile.pixel_goal.request!r} is in the vocabulary, too"
        )
    return profile


def _shipped() -> Traversable:
    return resources.files("vln_ros") / "profiles"


def _context(keys: Keys) -> ContextSpec:
    strategy = keys.choice("strategy", tuple(_CONTEXT_PARAMETERS))
    wanted = _CONTEXT_PARAMETERS[strategy]

    def integer(key: str, least: int) -> int | None:
        return keys.integer(key, least) if key in wanted else None

    def choice(key: str, *choices: str) -> str | None:
        return keys.choice(key, choices) if key in wanted else None

    stays = (STAYS,) if strategy == "history" else ()
    spec = ContextSpec(
        strategy,
        unasked_frames=choice("unasked_frames", "drop", "keep"),
        reset_steps=integer("reset_steps", 1),
        history_frames=integer("history_frames", 1),
        history_choice=choice("history_choice", "uniform_round", "uniform_floor", *stays),
        history_empty=choice("history_empty", "none", "current"),
        history_limit=integer("history_limit", 0),
        recent_frames=integer("recent_frames", 1),
        important_frames=integer("important_frames", 0),
        important_score=keys.number("important_score") if "important_score" in wanted else None,
    )
    if spec.history_choice == STAYS and spec.history_limit:
        raise keys.error("history_limit", f"0 with history_choice {STAYS}: the oldest frames are what stays")
    keys.finish()
    return spec


def _template(top: Keys, key: str, context: ContextSpec) -> str:
    template = top.text(key)
    marks = _MARK.findall(template)
    known = (*IMAGE_MARKS, "instruction")
    for mark in marks:
        if mark not in known:
            near = nearest(mark, known)
            raise ConfigError(
                f"{top.where}: {key} has an unknown mark {{{mark}}}"
                + (f"; did you mean {{{near}}}?" if near else f"; known: {', '.join(known)}")
            )
    if marks.count("image") != 1:
        raise ConfigError(f"{top.where}: {key} must have exactly one {{image}}")
    if "history" in marks and context.strategy not in ("history", "window_reset"):
        raise ConfigError(f"{top.where}: {key} has {{history}}, but context {context.strategy} shows none")
    if marks.count("history") > 1:
        raise ConfigError(f"{top.where}: {key} must have at most one {{history}}")
    return template


def _image(keys: Keys) -> ImageSpec:
    size = None
    if keys.has("resize"):
        value = keys.take("resize")
        if not isinstance(value, list) or len(value) != 2 or any(type(v) is not int or v < 1 for v in value):
            raise keys.error("resize", "[width, height] in pixels")
        size = (int(value[0]), int(value[1]))
    max_pixels = keys.integer("max_pixels", 1) if keys.has("max_pixels") else None
    keys.finish()
    return ImageSpec(size, max_pixels)


def _generation(keys: Keys) -> GenerationSpec:
    top_k = keys.number_or_checkpoint("top_k", 0, 10_000_000)
    spec = GenerationSpec(
        keys.number_or_checkpoint("temperature", 0.0, 10.0),
        None if top_k is None else round(top_k),
        keys.number_or_checkpoint("top_p", 1e-6, 1.0),
        keys.number_or_checkpoint("repetition_penalty", 0.01, 100.0),
    )
    keys.finish()
    return spec


def _vocabulary(top: Keys) -> tuple[Phrase, ...]:
    phrases = tuple(_phrase(keys) for keys in top.items("vocabulary"))
    texts = [phrase.text for phrase in phrases]
    if not texts:
        raise ConfigError(f"{top.where}: vocabulary is empty")
    if twice := sorted({t for t in texts if texts.count(t) > 1}):
        raise ConfigError(f"{top.where}: vocabulary has {twice[0]!r} twice")
    return phrases


def _phrase(keys: Keys) -> Phrase:
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


def _limits(keys: Keys) -> Limits:
    limits = Limits(
        keys.integer("turns_in_place", 0),
        keys.integer("actions", 0),
        keys.integer("questions", 0),
        *(keys.integer(key, 0) if keys.has(key) else 0 for key in ("to_and_fro", "stuck")),
    )
    keys.finish()
    return limits


def _unsupported(top: Keys) -> tuple[Unsupported, ...]:
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
