"""The grammar of two numbers: all pixels of a picture and nothing else, whatever the tokenizer joins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import ConfigError
from vln_ros.datatypes import STOP, Action
from vln_ros.engine.decode.grammar import ROOT, Grammar, PixelGrammar, QueueRules, parse_queue

END = (1, 2)


@dataclass(frozen=True)
class Words:
    text: str
    actions: tuple[Action, ...]


PHRASES = (Words("L", (Action(turn_rad=0.3),)), Words("F", (Action(forward_m=0.25),)), Words("S", (STOP,)))
LOOK = Words("D", ())


def by_character(text: str) -> list[int]:
    return [10 + ord(c) for c in text]


def by_group(text: str) -> list[int]:
    """Up to three digits are one token, as with other families of tokenizers."""
    tokens, word = [], ""
    for c in text:
        if word and (c == " " or not c.isdigit() or len(word.strip()) == 3):
            tokens.append(1000 + int(word))
            word = ""
        if c.isdigit() or c == " ":
            word += c if c.isdigit() else ""
            if c == " ":
                tokens.append(5)
        else:
            tokens.append(10 + ord(c))
    return tokens + ([1000 + int(word)] if word else [])


def grammar(bounds: tuple[int, int], tokenize: Callable[[str], Sequence[int]] = by_character) -> PixelGrammar:
    return PixelGrammar(tokenize, PHRASES, QueueRules("", 2), END, " ", bounds)


def walk(made: PixelGrammar, ids: Sequence[int]) -> int | None:
    node = ROOT
    for token in ids:
        following = made.options(node).get(token)
        if following is None:
            return None
        node = following
    return node


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 1300), st.integers(1, 1300), st.integers(0, 1500), st.integers(0, 1500),
    st.sampled_from([by_character, by_group]),
)  # fmt: skip
def test_what_may_be_said_is_what_lies_in_the_picture(
    rows: int, columns: int, row: int, column: int, tokenize: Callable[[str], Sequence[int]]
) -> None:
    made = grammar((rows, columns), tokenize)
    ids = tokenize(f"{row} {column}")
    node = walk(made, ids)
    inside = row < rows and column < columns
    may_end = node is not None and (made.finished(node) or None in made.options(node).values())
    assert may_end == inside
    assert made.numbers(ids) == ((row, column) if inside else None)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.data())
def test_every_walk_ends_in_the_picture_or_in_a_queue(rows: int, columns: int, data: st.DataObject) -> None:
    made = grammar((rows, columns))
    node, ids = ROOT, []
    while not made.finished(node):
        options = made.options(node)
        assert options
        token = data.draw(st.sampled_from(sorted(options)))
        following = options[token]
        if following is None:
            break
        node = following
        ids.append(token)
    text = "".join(chr(i - 10) for i in ids)
    numbers = made.numbers(ids)
    if numbers is None:
        assert set(text) <= set("LFS") and made.nodes[node].queue
        assert made.actions(made.nodes[node].queue or ())
    else:
        assert text == f"{numbers[0]} {numbers[1]}"  # no zeros in front
        assert numbers[0] < rows and numbers[1] < columns
        assert made.nodes[node].queue == ()


def test_every_pixel_of_a_small_picture_is_there_once() -> None:
    made = grammar((12, 11))
    found: list[tuple[int, int]] = []
    frontier: list[tuple[int, tuple[int, ...]]] = [(ROOT, ())]
    for node, ids in frontier:
        for token, following in made.options(node).items():
            if following is not None:
                frontier.append((following, (*ids, token)))
        numbers = made.numbers(ids)
        if numbers is not None:
            found.append(numbers)
    assert sorted(found) == [(r, c) for r in range(12) for c in range(11)]


def test_nothing_is_computed_ahead_of_a_number_and_queues_are() -> None:
    made = grammar((480, 640))
    assert len(made.below(ROOT, 256, None)[0]) == 0
    first = made.options(ROOT)[by_character("L")[0]]
    assert first is not None
    assert len(made.below(first, 256, None)[0]) == 0  # two phrases at most: nothing is open behind the second
    assert len(made.nodes) < 100


def test_the_request_to_look_down_guides_nothing_where_it_is_no_phrase() -> None:
    """It is the last of a profile's phrases, so that both grammars number the others alike."""
    own = PixelGrammar(by_character, PHRASES, QueueRules("", 3), END, " ", (480, 640))
    wide = Grammar(by_character, (*PHRASES, LOOK), QueueRules("", 3), END)
    request = wide.phrases.index(LOOK)
    assert wide.phrases[:request] == own.phrases
    assert len(wide.below(ROOT, 2, request)[1]) == 2
    for token in by_character("LF"):
        node = own.options(ROOT)[token]
        assert node is not None and len(own.below(node, 2, None)[1]) == 2
        assert own.below(node, 2, request)[1] == own.below(node, 2, None)[1]


def test_a_tokenizer_that_joins_the_numbers_is_refused() -> None:
    def joined(text: str) -> list[int]:
        return [hash(text) % 10_000 + 10]

    with pytest.raises(ConfigError, match="does not split"):
        PixelGrammar(joined, PHRASES, QueueRules("", 1), END, " ", (5, 5))


def test_an_action_that_begins_like_a_number_is_refused() -> None:
    words = (Words("3 left", (Action(turn_rad=0.3),)),)
    with pytest.raises(ConfigError, match="begins like a number"):
        PixelGrammar(by_character, words, QueueRules("", 1), END, " ", (5, 5))


@pytest.mark.parametrize(
    ("text", "queue"),
    [
        ("D", (3,)), ("d.", (3,)), (" D ", (3,)), ("LLD", (0, 0)), ("LD", (0,)), ("DL", (3,)), ("DD", (3,)),
        ("LS", (0, 2)), ("X", None), ("", None), ("LX", None),
    ],
)  # fmt: skip
def test_a_free_text_with_a_request(text: str, queue: tuple[int, ...] | None) -> None:
    """Whichever comes first counts: actions, or the request to look down."""
    assert parse_queue(text, (*PHRASES, LOOK), "", 3) == queue
