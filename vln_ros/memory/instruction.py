"""Takes an instruction apart: the stages of the way and the landmarks that they name.

The model is asked for it in a format that can be checked (:func:`plan_question`, :func:`parse_plan`);
where its answer does not hold, rules of English do it (:func:`plan_by_rules`). Pure text, no model here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

_MOST_STAGES = 32
_MOST_WORDS = 4
"""Of a landmark's name, by rules."""


class PlanSource(Enum):
    MODEL = "model"
    RULES = "rules"


class PlanFallback(Enum):
    """Why the model's answer is not taken."""

    EMPTY = "empty answer"
    CUT_OFF = "answer cut off"
    FORMAT = "line without a bar"
    TOO_MANY = "more stages than the instruction has words"
    INVENTED_STAGE = "stage that is not in the instruction"
    INVENTED_LANDMARK = "landmark that is not in the instruction"


@dataclass(frozen=True)
class Landmark:
    """Something to look out for.

    Attributes:
        number: its identity; the same name has the same number in every instruction of an engine.
        name: lower case, without article.
    """

    number: int
    name: str


@dataclass(frozen=True)
class Stage:
    """One thing to do.

    Attributes:
        text: as in the instruction, case and spacing aside.
        landmarks: the numbers of those that it names, in order.
    """

    text: str
    landmarks: tuple[int, ...]


@dataclass(frozen=True)
class InstructionPlan:
    """An instruction in stages.

    Attributes:
        landmarks: of all stages, in the order in which they are first named.
        refusal: why the model's answer was not taken, if it was asked and was not.
    """

    instruction: str
    stages: tuple[Stage, ...]
    landmarks: tuple[Landmark, ...]
    source: PlanSource
    fallback_reason: PlanFallback | None = None

    def mentions(self) -> tuple[tuple[Landmark, int, int], ...]:
        """Every place ``text[start:end]`` of the instruction that names a landmark, in order.

        Where names overlap the longest one counts.
        """
        text = self.instruction
        found = sorted(
            (
                (m.start(), -m.end(), landmark)
                for landmark in self.landmarks
                for m in _find(landmark.name, text)
            ),
            key=lambda f: f[:2],
        )
        mentions: list[tuple[Landmark, int, int]] = []
        for start, minus_end, landmark in found:
            if not mentions or start >= mentions[-1][2]:
                mentions.append((landmark, start, -minus_end))
        return tuple(mentions)


class LandmarkRegistry:
    """Gives landmarks their numbers: a name that comes again is the same landmark."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def landmark(self, name: str) -> Landmark:
        """``name`` as :func:`landmark_name` returns it."""
        return Landmark(self._numbers.setdefault(name, len(self._numbers)), name)


Draft = tuple[tuple[str, tuple[str, ...]], ...]
"""Stages and the names of their landmarks."""


def make_plan(
    instruction: str,
    draft: Draft,
    registry: LandmarkRegistry,
    source: PlanSource,
    fallback_reason: PlanFallback | None = None,
) -> InstructionPlan:
    """The plan that a draft amounts to."""
    named = [[registry.landmark(name) for name in names] for _, names in draft]
    stages = tuple(
        Stage(text, tuple(dict.fromkeys(landmark.number for landmark in landmarks)))
        for (text, _), landmarks in zip(draft, named, strict=True)
    )
    every = tuple(dict.fromkeys(landmark for landmarks in named for landmark in landmarks))
    return InstructionPlan(instruction, stages, every, source, fallback_reason)


# -- by the model ----------------------------------------------------------------------------------


def plan_question(instruction: str) -> str:
    """What the model is asked."""
    return (
        "Split the navigation instruction into its stages, one per line, in its own words. After each stage "
        "write a bar and the landmarks that it names, separated by semicolons; nothing behind the bar if it "
        "names none. Example for 'Leave the bedroom, turn left and stop at the red chair.':\n"
        "leave the bedroom | bedroom\nturn left |\nstop at the red chair | red chair\n"
        f"Instruction: {instruction}"
    )


def parse_plan(answer: str, instruction: str, *, ended: bool) -> Draft | PlanFallback:
    """The model's answer to :func:`plan_question`, or why it is not one.

    Words may be left out, but nothing may be there that the instruction does not say.

    Args:
        ended: the model ended its answer by itself.
    """
    lines = [line for line in (line.strip() for line in answer.splitlines()) if line]
    if not lines:
        return PlanFallback.EMPTY
    if not ended:
        return PlanFallback.CUT_OFF
    if len(lines) > min(_MOST_STAGES, len(_words(instruction))):
        return PlanFallback.TOO_MANY
    told = _words(instruction)
    stages: list[tuple[str, tuple[str, ...]]] = []
    for line in lines:
        text, bar, names = line.partition("|")
        text = re.sub(r"^\s*(?:\d+[.):]|[-*•])\s*", "", text).strip().rstrip(".,;")
        if not bar or not text:
            return PlanFallback.FORMAT
        if not set(_words(text)) <= set(told):
            return PlanFallback.INVENTED_STAGE
        landmarks = [landmark_name(name) for name in names.split(";") if name.strip(" .,;")]
        if not all(name and any(_find(name, instruction)) for name in landmarks):
            return PlanFallback.INVENTED_LANDMARK
        stages.append((text, tuple(dict.fromkeys(landmarks))))
    return tuple(stages)


# -- by rules --------------------------------------------------------------------------------------


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ARTICLES = _set("the a an your its his her their this that these those another some")
_VERBS = _set(
    "go walk turn stop wait leave enter exit pass cross take make continue head move proceed climb follow "
    "face veer keep stand stay travel step advance bear approach get ascend descend find look drive roll "
    "rotate spin"
)
_CLAUSE_STARTS = _VERBS | _set("once when after before until while")
_PREPOSITIONS = _set(
    "into through past at by near toward towards to beside behind from inside outside around along under "
    "over across between onto in on of out off up down with next before after until and or then"
)
_OTHERS = _set(
    "is are you will so which where there it them straight forward forwards ahead all again slightly "
    "immediately just directly as if for"
)
_ENDS = _ARTICLES | _PREPOSITIONS | _CLAUSE_STARTS | _OTHERS
_BEFORE_BARE_NAMES = _set("into through past at near toward towards beside behind by enter exit pass")
_NO_LANDMARKS = _set(
    "left right way end ends front back side sides middle center centre top bottom first second third last "
    "next other direction directions here there around degrees room area corner left-hand right-hand stop"
)


def plan_by_rules(instruction: str) -> Draft:
    """Stages at sentence ends, "then" and commas or "and" before a verb; landmarks as noun phrases."""
    return tuple((stage, tuple(dict.fromkeys(_noun_phrases(stage)))) for stage in split_stages(instruction))


def split_stages(instruction: str) -> tuple[str, ...]:
    """The clauses of an instruction that begin with something to do; all of its words, in order.

    Separators ("then", "and", punctuation) between stages are left out. An instruction without any
    word is one stage, as it is.
    """
    stages: list[list[str]] = [[]]
    tokens = re.findall(r"[^\s.,;:!?]+|[.,;:!?]", instruction)
    for i, token in enumerate(tokens):
        word = token.lower()
        if word in ".;!?:" or word == "then" or (word in (",", "and") and _verb_follows(tokens, i)):
            stages.append([])
        elif token != ",":
            stages[-1].append(token)
    texts = tuple(" ".join(stage) for stage in stages if stage)
    return texts or (instruction.strip(),)


def _verb_follows(tokens: Sequence[str], at: int) -> bool:
    for token in tokens[at + 1 :]:
        word = token.lower()
        if word not in (",", "and", "then"):
            return word in _CLAUSE_STARTS
    return False


def _noun_phrases(stage: str) -> Iterable[str]:
    words = _words(stage)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word not in _ARTICLES and word not in _BEFORE_BARE_NAMES:
            continue
        phrase: list[str] = []
        while at < len(words) and words[at] not in _ENDS and len(phrase) < _MOST_WORDS:
            phrase.append(words[at])
            at += 1
        if not set(phrase) <= _NO_LANDMARKS:
            yield " ".join(phrase)


def landmark_name(text: str) -> str:
    """The form in which landmarks are compared: lower case, single spaces, no article before it."""
    words = _words(text)
    while words and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _find(name: str, text: str) -> Iterable[re.Match[str]]:
    """``name`` in ``text`` as whole words, case aside; anything but words between them."""
    pattern = r"(?<!\w)" + r"\W+".join(map(re.escape, name.split(" "))) + r"(?!\w)"
    return re.finditer(pattern, text, re.IGNORECASE)


# -- either ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """A model's answer, and whether it ended by itself."""

    text: str
    ended: bool


class InstructionAgent:
    """Takes instructions apart as they come, and knows landmarks again.

    Args:
        ask: puts a question to the model; None leaves everything to the rules.
    """

    def __init__(self, ask: Callable[[str], Said] | None) -> None:
        self._ask = ask
        self._registry = LandmarkRegistry()
        self.refused: dict[PlanFallback, int] = {}
        """How often an answer of the model was not taken, by reason."""

    def read(self, instruction: str) -> InstructionPlan:
        """The plan of an instruction; asks the model, if there is one."""
        fallback_reason = None
        if self._ask is not None:
            said = self._ask(plan_question(instruction))
            draft = parse_plan(said.text, instruction, ended=said.ended)
            if not isinstance(draft, PlanFallback):
                return make_plan(instruction, draft, self._registry, PlanSource.MODEL)
            fallback_reason = draft
            self.refused[fallback_reason] = self.refused.get(fallback_reason, 0) + 1
        return make_plan(
            instruction, plan_by_rules(instruction), self._registry, PlanSource.RULES, fallback_reason
        )
