"""The three ways to decode a queue agree with each other and with the one-shot reference."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from engine_models import IM_END, VISION_END, VISION_START, VOCABULARY, random_patches, tiny_network, words
from hypothesis import given, settings
from hypothesis import strategies as st
from phrases import FORWARD, LEFT, RIGHT, Words, grammar, options, spell

from vln_ros.config import ConfigError
from vln_ros.datatypes import STOP
from vln_ros.engine.decode.decode import Decoded, DecodeMode, DecodeOptions, decode_free, decode_queue, run
from vln_ros.engine.decode.grammar import Grammar, parse_queue
from vln_ros.engine.decode.scores import GREEDY
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.reference import Item, Pixels, one_shot
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session

SPOKEN = (
    Words("go 25cm", (FORWARD,)),
    Words("go 50cm", (FORWARD, FORWARD)),
    Words("turn left 15", (LEFT,)),
    Words("turn left 150", (LEFT,) * 10),
    Words("turn right 15", (RIGHT,)),
    Words("stop", (STOP,)),
)


def stream(seed: int) -> tuple[Session, list[Piece], list[Item]]:
    session = Session(tiny_network(), block_tokens=64)
    first, picture = words(5, seed), Pixels(random_patches(1, 6, 8, seed), 1, 6, 8)
    last = (VISION_END, *words(2, seed + 1))
    session.push([Text(first)])
    (image,) = encode_images(session.network, [picture])
    return session, [Text((VISION_START,)), image, Text(last)], [first, (VISION_START,), picture, last]


def decode(seed: int, language: Grammar, how: DecodeOptions) -> Decoded:
    session, prompt, _ = stream(seed)
    result = run(session, decode_queue(session, prompt, language, how, torch.Generator().manual_seed(seed)))
    assert session.cache.length == session.timeline.tokens == 5 + 1 + 12 + 3
    return result


def assert_same(a: Decoded, b: Decoded) -> None:
    assert (a.queue, a.ids, a.unconstrained) == (b.queue, b.ids, b.unconstrained)
    assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    assert a.ended == pytest.approx(b.ended, abs=1e-5)


LANGUAGES = {
    "arrows": grammar(),
    "spoken": grammar(SPOKEN, ", ", 2),
    "ruled": grammar(SPOKEN, ", ", 3, max_actions=4, max_repeats=0, reversals=False),
}


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_two_ways_one_result(name: str, temperature: float) -> None:
    language = LANGUAGES[name]
    queues = set()
    for seed in range(5):
        slow = decode(seed, language, options(DecodeMode.TOKENS, temperature, unconstrained=3))
        tree = decode(seed, language, options(DecodeMode.TREE, temperature, unconstrained=3))
        narrow = decode(seed, language, options(DecodeMode.TREE, temperature, nodes=7, unconstrained=3))
        for other in (tree, narrow):
            assert_same(slow, other)
        assert tree.stats.work.forwards == 1
        assert slow.stats.work.forwards >= narrow.stats.work.forwards
        queues.add(slow.queue)
    assert len(queues) > 1


def test_four_actions_cost_one_forward_with_the_tree_and_one_each_without() -> None:
    for seed in range(40):
        slow = decode(seed, LANGUAGES["arrows"], options(DecodeMode.TOKENS, 1e3))
        if len(slow.ids) == 4:
            break
    assert slow.stats.work.forwards == 4
    tree = decode(seed, LANGUAGES["arrows"], options(DecodeMode.TREE, 1e3))
    assert tree.stats.work.forwards == 1
    assert tree.queue == slow.queue
    assert tree.stats.work.flops > 0


@pytest.mark.parametrize("name", LANGUAGES)
def test_queue_and_probabilities_equal_a_one_shot_forward_per_token(name: str) -> None:
    language = LANGUAGES[name]
    by_text = {language.text(n.queue): n.queue for n in language.nodes if n.queue is not None}
    for seed in range(3):
        network, (_, _, seen) = tiny_network(), stream(seed)
        said: tuple[int, ...] = ()
        logp = 0.0
        while True:  # without the trie: every queue whose tokens begin like this
            live = [q for q in by_text.values() if tuple(spell(language.text(q)))[: len(said)] == said]
            tokens = {(*spell(language.text(q)), IM_END)[len(said)] for q in live}
            row = one_shot(network, [*seen, said] if said else seen).logits[-1]
            best = max(sorted(tokens), key=lambda t: row[t].item())
            logp += row[sorted(tokens)].log_softmax(-1)[sorted(tokens).index(best)].item()
            if best == IM_END:
                break
            said = (*said, best)
        result = decode(seed, language, options(DecodeMode.TREE))
        assert result.ids == said
        assert tuple(spell(language.text(result.queue))) == said
        product = math.prod(result.probabilities) * result.ended
        assert math.log(product) == pytest.approx(logp, abs=1e-4)


def test_probabilities_of_all_queues_sum_to_one() -> None:
    language = grammar(SPOKEN[:3] + SPOKEN[5:], ", ", 2)
    session, prompt, seen = stream(0)
    scores = {}
    for node in language.nodes:
        if node.queue is not None:
            ids, logp = (*spell(language.text(node.queue)), IM_END), 0.0
            index = 0
            rows = one_shot(session.network, [*seen, ids]).logits[-len(ids) - 1 : -1]
            for token, row in zip(ids, rows, strict=True):
                allowed = list(language.options(index))
                logp += row[allowed].log_softmax(-1)[allowed.index(token)].item()
                index = language.nodes[index].children.get(token, index)
            scores[node.queue] = math.exp(logp)
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-4)
    result = run(
        session,
        decode_queue(session, prompt, language, options(DecodeMode.TREE), torch.Generator().manual_seed(0)),
    )
    assert math.prod(result.probabilities) * result.ended == pytest.approx(scores[result.queue], abs=1e-4)


def test_samples_follow_the_probabilities() -> None:
    language = grammar(max_phrases=1)
    counts: dict[int, int] = {}
    n = 400
    session, prompt, seen = stream(1)
    row = one_shot(session.network, seen).logits[-1]
    expected = row[[10 + ord(c) for c in "SFLR"]].softmax(-1).tolist()
    generator = torch.Generator().manual_seed(5)
    before = session.snapshot()
    for _ in range(n):
        result = run(
            session, decode_queue(session, prompt, language, options(DecodeMode.TREE, 1.0), generator)
        )
        counts[result.queue[0]] = counts.get(result.queue[0], 0) + 1
        session.rollback(before)
    for index, probability in enumerate(expected):
        spread = 4 * math.sqrt(probability * (1 - probability) / n)
        assert abs(counts.get(index, 0) / n - probability) <= spread + 1e-9


def test_what_the_model_wanted_is_its_free_text() -> None:
    language = LANGUAGES["arrows"]
    session, prompt, _ = stream(2)
    generator = torch.Generator()
    free = run(
        session,
        decode_free(
            session, prompt, max_tokens=6, end_tokens=(IM_END,), sampling=GREEDY, generator=generator
        ),
    )
    result = decode(2, language, options(DecodeMode.TREE, unconstrained=5))
    assert result.unconstrained is not None and result.unconstrained == free
    assert result.stats.wanted_work.forwards == 5
    assert decode(2, language, options(DecodeMode.TREE)).unconstrained == free[:1]


def test_nothing_is_wanted_when_the_model_stays_within_the_grammar() -> None:
    network = tiny_network()
    letters = [10 + ord(c) for c in "SFLR"] + [300, 301, IM_END]
    mute = torch.full((VOCABULARY,), -1e4)
    mute[letters] = 0.0
    handle = network.lm_head.register_forward_hook(lambda _m, _i, out: out + mute)
    try:
        for seed in range(4):
            result = decode(seed, grammar(max_phrases=1), options(DecodeMode.TREE, unconstrained=5))
            session, prompt, _ = stream(seed)
            free = run(
                session,
                decode_free(
                    session,
                    prompt,
                    max_tokens=1,
                    end_tokens=(IM_END,),
                    sampling=GREEDY,
                    generator=torch.Generator(),
                ),
            )
            if free and free[0] < 300:
                assert result.unconstrained is None and result.ids == free
            else:
                assert result.unconstrained is not None
    finally:
        handle.remove()


def test_rules_hold_for_every_queue() -> None:
    texts = [LANGUAGES["ruled"].text(n.queue) for n in LANGUAGES["ruled"].nodes if n.queue is not None]
    assert "stop" in texts and "go 50cm, stop" in texts and "turn left 15, go 25cm" in texts
    for text in texts:
        parts = text.split(", ")
        assert "stop" not in parts[:-1]
        assert all(a != b for a, b in itertools.pairwise(parts))
        assert "turn left 15, turn right 15" not in text and "turn right 15, turn left 15" not in text
        assert "turn left 150" not in parts
    repeats = grammar(max_phrases=4, max_repeats=1)
    assert not any("FFF" in repeats.text(n.queue) for n in repeats.nodes if n.queue is not None)
    assert any("FF" in repeats.text(n.queue) for n in repeats.nodes if n.queue is not None)
    assert grammar().queues == 3 + 9 + 27 + 81 + 1 + 3 + 9 + 27


def test_a_vocabulary_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        grammar(())
    with pytest.raises(ConfigError, match="lower max_phrases"):
        grammar(max_phrases=12)
    with pytest.raises(ConfigError, match="same tokens"):
        grammar((Words("F", (FORWARD,)), Words("FF", (LEFT,))))
    with pytest.raises(ConfigError, match="max_phrases = 0"):
        grammar(max_phrases=0)
    with pytest.raises(ValueError, match="temperature"):
        options(DecodeMode.TREE, temperature=-1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.booleans())
def test_the_parser_reads_back_every_queue(queue: list[int], shout: bool) -> None:
    queue = queue[: queue.index(5) + 1] if 5 in queue else queue
    text = ", ".join(SPOKEN[i].text for i in queue)
    text = f" {text.upper()}." if shout else text
    assert parse_queue(text, SPOKEN, ", ", 3) == tuple(queue)


@pytest.mark.parametrize(
    "text",
    ["", "   ", "fly", "go 25cm, fly", "go 25cm turn left 15", "go 25cm,", "turn left 1500", "do not stop"],
)
def test_what_is_not_an_action_is_not_parsed(text: str) -> None:
    assert parse_queue(text, SPOKEN, ", ", 3) is None


def test_the_parser_cuts_after_stop_and_at_the_longest_queue() -> None:
    assert parse_queue("stop, go 25cm", SPOKEN, ", ", 3) == (5,)
    assert parse_queue("go 25cm, go 25cm, go 50cm", SPOKEN, ", ", 2) == (0, 0)
