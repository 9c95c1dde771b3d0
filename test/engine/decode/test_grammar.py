"""What is computed ahead of an answer: the likeliest nodes of the tree, which change no answer."""

from __future__ import annotations

import pytest
import torch
from engine_models import tiny_network, words
from hypothesis import given
from hypothesis import strategies as st
from phrases import ARROWS, FORWARD, LEFT, RIGHT, Words, grammar, options

from vln_ros.config import StreamConfig
from vln_ros.datatypes import STOP
from vln_ros.engine.decode.decode import Decoded, DecodeMode, decode_queue, run
from vln_ros.engine.decode.grammar import ROOT, Grammar
from vln_ros.engine.stream.segments import Text
from vln_ros.engine.stream.session import Session

SPOKEN = (
    Words("go", (FORWARD,)),
    Words("turn left", (LEFT,)),
    Words("turn right", (RIGHT,)),
    Words("stop", (STOP,)),
)
LANGUAGES = {
    "arrows, of which some are one token": grammar(),
    "letters": grammar(ARROWS, ",", 3),
    "words": grammar(SPOKEN, ", ", 3),
    "no repeats": grammar(SPOKEN, ", ", 3, max_repeats=0),
    "one phrase": grammar(SPOKEN, ", ", 1),
}
LASTS = st.one_of(st.none(), st.integers(0, len(ARROWS) - 1))


def said(language: Grammar, node: int) -> list[int]:
    """The tokens up to a node."""
    tokens: list[int] = []
    while node != ROOT:
        tokens.insert(0, language.nodes[node].token)
        node = language.nodes[node].parent
    return tokens


@pytest.mark.parametrize("last", [1, 2, 3])
def test_saying_the_last_phrase_again_is_computed_first(last: int) -> None:
    language = LANGUAGES["letters"]
    again = next(i for i, n in enumerate(language.nodes) if n.queue == (last,) * 3)
    way = said(language, again)[:-1]  # behind its last token nothing is open
    tree, nodes = language.below(ROOT, len(way), last)
    assert [language.nodes[n].token for n in nodes] == way
    assert tree.tokens == tuple(way) and tree.depths == tuple(range(len(way)))


def test_within_an_answer_its_own_last_phrase_counts() -> None:
    language = LANGUAGES["letters"]
    left = next(i for i, n in enumerate(language.nodes) if n.queue == (2,))
    again = next(i for i, n in enumerate(language.nodes) if n.queue == (2, 2))
    way = said(language, again)[len(said(language, left)) :]
    _, nodes = language.below(left, len(way), 1)
    assert [language.nodes[n].token for n in nodes] == way


@given(st.sampled_from(sorted(LANGUAGES)), st.integers(0, 60), st.integers(0, 10**6), LASTS)
def test_a_part_of_the_tree_is_a_tree(name: str, most: int, number: int, last: int | None) -> None:
    language = LANGUAGES[name]
    node = number % len(language.nodes)
    tree, nodes = language.below(node, most, last)
    opened = [n for n in range(len(language.nodes)) if not language.finished(n) and n != node]
    below = [n for n in opened if said(language, n)[: len(said(language, node))] == said(language, node)]
    assert len(nodes) == len(set(nodes)) == min(most, len(below)) and set(nodes) <= set(below)
    for index, (n, parent) in enumerate(zip(nodes, tree.parents, strict=True)):
        assert tree.tokens[index] == language.nodes[n].token
        assert language.nodes[n].parent == (node if parent < 0 else nodes[parent])


@given(st.sampled_from(sorted(LANGUAGES)), LASTS)
def test_where_all_have_room_it_is_the_same_tree_whatever_was_said(name: str, last: int | None) -> None:
    language = LANGUAGES[name]
    assert language.ahead(ROOT, 4096, last) is language.ahead(ROOT, 4096, None)


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_was_said_before_changes_no_answer(name: str) -> None:
    language, network = LANGUAGES[name], tiny_network()

    def decode(seed: int, mode: DecodeMode, nodes: int, last: int | None) -> Decoded:
        how, generator = options(mode, 1.0, nodes=nodes), torch.Generator().manual_seed(seed)
        session = Session(network, block_tokens=64)
        return run(session, decode_queue(session, [Text(words(9, seed))], language, how, generator, last))

    queues = set()
    for seed in range(6):
        slow = decode(seed, DecodeMode.TOKENS, 1, None)
        queues.add(slow.ids)
        for nodes in (1, 3, 24, 4096):
            for last in (None, *range(len(language.phrases))):
                tree = decode(seed, DecodeMode.TREE, nodes, last)
                assert tree.ids == slow.ids
                assert tree.probabilities == pytest.approx(slow.probabilities, abs=1e-5)
                assert tree.ended == pytest.approx(slow.ended, abs=1e-5)
    assert len(queues) > 1


def test_how_many_nodes_is_chosen_for_the_device() -> None:
    assert StreamConfig().most_nodes(pays_by_row=True) < StreamConfig().most_nodes(pays_by_row=False)
    for pays in (True, False):
        assert StreamConfig(tree_nodes=7).most_nodes(pays_by_row=pays) == 7
    assert Session(tiny_network()).pays_by_row
