"""Decodes an action queue: under the grammar in two equivalent modes, or as free text.

The ways differ in how much goes into one forward. ``TOKENS``: one token. ``TREE``: the prompt
together with every queue (or the likeliest ones, where there are more than fit), so that a decision is one
forward, or on a processor sometimes more.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from vln_ros.engine.decode.grammar import ROOT, Grammar
from vln_ros.engine.decode.scores import Sampling, Scores, next_free
from vln_ros.engine.stream.forward import Work
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Snapshot
from vln_ros.engine.stream.tree import NO_TREE, TokenTree
from vln_ros.profiling.spans import span

_HELD_TOKENS = 16
"""How far the free text of a decision that is held is followed at least: enough for a person to read."""


class DecodeMode(str, Enum):
    TOKENS = "tokens"
    TREE = "tree"


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode.

    Attributes:
        mode: see the module.
        sampling: how a token is chosen among those that the grammar allows.
        tree_nodes: most tree nodes in one forward.
        wanted_tokens: how far the free text is followed once it leaves the grammar; 0 does not ask
            for it beyond the token that left. Costs one forward per token, only when it happens.
        min_allowed: the queue is held where the grammar allows less of the probability than this; its
            free text is then followed for at least 16 tokens.
        random_weights: nobody has trained the model, so that nearly all it says is outside and means nothing:
            only a single token outside with more than ``1 - min_allowed`` holds a queue.
    """

    mode: DecodeMode
    sampling: Sampling
    tree_nodes: int
    wanted_tokens: int
    min_allowed: float = 0.0
    random_weights: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_allowed <= 1.0:
            raise ValueError(f"min_allowed = {self.min_allowed}: must be in [0, 1]")
        if self.tree_nodes < 1 or self.wanted_tokens < 0:
            raise ValueError(
                f"tree_nodes = {self.tree_nodes}, wanted_tokens = {self.wanted_tokens}: must be >= 1 and >= 0"
            )


@dataclass(frozen=True)
class DecodeStats:
    """What one decision cost the decoder, its prompt included.

    Attributes:
        work: forwards, tokens and FLOPs up to the queue.
        wanted_work: the same for following the free text.
    """

    work: Work
    wanted_work: Work


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A queue.

    Attributes:
        queue: indices of its phrases.
        ids: its tokens, without the end token.
        probabilities: of each phrase given those before it, among what the grammar allows.
        ended: probability of ending there, among what the grammar allows.
        wanted: the free text's tokens, where the model would rather have left the grammar, or where the
            queue is held.
        allowed: share of the model's probability that the grammar allowed: the least over the tokens of the
            queue at which it had to be asked. The same in all modes.
        held: it was less than ``min_allowed``: the queue is not what the model wants.
    """

    queue: tuple[int, ...]
    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    ended: float
    unconstrained: tuple[int, ...] | None
    stats: DecodeStats
    allowed: float
    held: bool


@dataclass(frozen=True)
class Push:
    """A forward that a decoding asks for: ``pieces``, and ``tree`` behind them.

    It is answered with scores ``[1 + nodes, vocabulary]``: behind the last piece and each node.
    """

    pieces: Sequence[Piece]
    tree: TokenTree


T = TypeVar("T")
Decoding = Generator[Push, Tensor, T]
"""A decoding asks for forwards one after the other and ends with its result. Who runs the forwards
is not its business: :func:`run` does so for one session, ``batch.run_batch`` for many together."""


@torch.no_grad()
def run(session: Session, decoding: Decoding[T]) -> T:
    """The result of one decoding."""
    try:
        push, stage = next(decoding), "prefill"
        while True:
            with span(stage, device=True):
                states, nodes = session.push_tree(push.pieces, push.tree)
            with span("head", device=True):
                scores = session.logits(torch.cat([states[-1:], nodes]))
            with span("grammar"):  # on a GPU it waits for the scores
                push = decoding.send(scores)
            stage = "decode"
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        decoding.close()


def decode_queue(
    session: Session,
    prompt: Sequence[Piece],
    grammar: Grammar,
    options: DecodeOptions,
    generator: torch.Generator,
    last: int | None = None,
) -> Decoding[Decoded]:
    """The queue that the model answers to ``prompt``.

    The session grows by the prompt; the answer is not part of it.

    Args:
        generator: source of randomness on the CPU; used only with a temperature, and equally by
            all modes.
        last: phrase that was said before, which is likely to be said again: it only decides what is
            computed early.
    """
    begun = session.work
    node, path = ROOT, [ROOT]
    probabilities: dict[int, float] = {}
    ended = allowed = 1.0
    departure: tuple[int, ...] | None = None
    held = False
    outside: tuple[int, ...] = ()
    pieces = prompt
    asked: Snapshot | None = None
    while True:
        ahead = grammar.ahead(node, options.tree_nodes if options.mode is DecodeMode.TREE else 0, last)
        tree, follow = ahead.tree, ahead.options.rows
        rows = yield Push(pieces, tree)
        if asked is None:
            asked = session.snapshot()
        scores = Scores(
            session, rows, ahead.options, tree=tree, repetition_penalty=options.sampling.repetition_penalty
        )
        row_of = ahead.row_of
        walked: list[int] = []
        done = False
        while node in row_of and not done:
            row = row_of[node]
            said = tuple(grammar.nodes[n].token for n in path[1:])
            if scores.best(row) not in follow[row] and departure is None:
                departure = (*said, scores.best(row))
            share = scores.allowed(row)
            left = 1.0 - scores.outweighed(row) if options.random_weights else share
            if left < options.min_allowed and (share < allowed or not held):
                held, outside = True, (*said, scores.best_outside(row))
            allowed = min(allowed, share)
            token, probability = scores.choose(row, options.sampling, generator)
            following = follow[row][token]
            if following is None:
                ended, done = probability, True
                break
            phrase = len(grammar.nodes[node].settled)
            probabilities[phrase] = probabilities.get(phrase, 1.0) * probability
            node = following
            path.append(node)
            done = grammar.finished(node)
            if node in row_of:
                walked.append(row_of[node] - 1)
        if done:
            break
        if walked:
            session.keep_branch(tree, walked)
        pieces = [Text((grammar.nodes[node].token,))]
    session.rollback(asked)
    decided = session.work
    unconstrained = departure if departure is not None or not held else outside
    more = max(options.wanted_tokens, _HELD_TOKENS) if held else options.wanted_tokens
    if unconstrained is not None and more:
        unconstrained = yield from _follow(session, unconstrained, more, grammar.end_tokens, options.sampling)
        session.rollback(asked)
    queue = grammar.nodes[node].queue
    assert queue is not None, "the walk ended inside a queue"
    return Decoded(
        queue=queue,
        ids=tuple(grammar.nodes[n].token for n in path[1:]),
        probabilities=tuple(probabilities.get(i, 1.0) for i in range(len(queue))),
        ended=ended,
        unconstrained=unconstrained,
        stats=DecodeStats(decided - begun, session.work - decided),
        allowed=allowed,
        held=held,
    )


def decode_free(
    session: Session,
    prompt: Sequence[Piece],
    *,
    max_tokens: int,
    end_tokens: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator,
) -> Decoding[tuple[int, ...]]:
    """The tokens that the model says unasked for a grammar. The session grows by the prompt."""
    rows = yield Push(prompt, NO_TREE)
    asked = session.snapshot()
    said: list[int] = []
    while True:
        token = next_free(session, rows, sampling, generator)
        if token in end_tokens:
            break
        said.append(token)
        if len(said) == max_tokens:
            break
        rows = yield Push([Text((token,))], NO_TREE)
    session.rollback(asked)
    return tuple(said)


def _follow(
    session: Session, said: tuple[int, ...], more: int, end_tokens: Sequence[int], sampling: Sampling
) -> Decoding[tuple[int, ...]]:
    """``said`` and up to ``more`` greedy tokens behind it, an end token left out."""
    new = said
    while more and said[-1] not in end_tokens:
        rows = yield Push([Text(new)], NO_TREE)
        token = next_free(session, rows, sampling)
        new, said, more = (token,), (*said, token), more - 1
    return said[:-1] if said[-1] in end_tokens else said
