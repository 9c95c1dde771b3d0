"""Holds the grammar of action queues: a trie over the tokens of every queue that may be said.

Queues are tokenised as whole texts, the way a checkpoint saw them in training; joining the tokens
of single phrases would differ wherever the tokenizer merges across a separator.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vln_ros.config import ConfigError
from vln_ros.datatypes import Action, ActionKind
from vln_ros.engine.stream.tree import TokenTree

MAX_QUEUES = 50_000
"""A vocabulary with more queues than this is refused: its trie would take seconds and gigabytes."""

ROOT = 0

_SAME_AGAIN = 0.6
"""How often the shipped policy says an action again, about; a guess only decides what is computed early."""


class Phrase(Protocol):
    """Words for one or more primitives."""

    @property
    def text(self) -> str: ...
    @property
    def actions(self) -> tuple[Action, ...]: ...


@dataclass(frozen=True)
class QueueRules:
    """Which queues of phrases may be said. A stop always ends a queue.

    Attributes:
        separator: text between phrases.
        max_phrases: most phrases of a queue.
        max_actions: most primitives of a queue; None for no bound.
        max_repeats: most times that a phrase may directly follow itself; None for no bound.
        reversals: a left turn may directly follow a right turn, and vice versa.
    """

    separator: str
    max_phrases: int
    max_actions: int | None = None
    max_repeats: int | None = None
    reversals: bool = True

    def __post_init__(self) -> None:
        if self.max_phrases < 1:
            raise ConfigError(f"max_phrases = {self.max_phrases}: a queue has at least one phrase")

    def follows(self, queue: tuple[Phrase, ...], phrase: Phrase) -> bool:
        """May ``phrase`` be said after ``queue``? One that is no action is an answer of its own."""
        if not phrase.actions:
            return not queue
        if queue and not queue[-1].actions:
            return False
        longer = (*queue, phrase)
        actions = [a for p in longer for a in p.actions]
        if len(longer) > self.max_phrases or any(a.stop for a in actions[:-1]):
            return False
        if self.max_actions is not None and len(actions) > self.max_actions:
            return False
        if self.max_repeats is not None and len(longer) > self.max_repeats + 1:
            tail = longer[-self.max_repeats - 2 :]
            if all(p.text == phrase.text for p in tail):
                return False
        if not self.reversals and queue:
            turned = {queue[-1].actions[-1].kind, phrase.actions[0].kind}
            return turned != {ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT}
        return True


@dataclass(eq=False)
class Node:
    """A beginning of at least one queue.

    Attributes:
        children: next token -> node.
        queue: indices of the phrases, if a queue may end here.
        settled: indices of the phrases that all queues that begin like this have in common.
    """

    token: int
    parent: int
    children: dict[int, int] = field(default_factory=dict)
    queue: tuple[int, ...] | None = None
    settled: tuple[int, ...] = ()


class Options:
    """What may be said behind a forward: for each of its rows the tokens, and which node each leads to.

    Args:
        rows: for each row token -> node; None where it ends the answer.
    """

    def __init__(self, rows: Sequence[Mapping[int, int | None]]) -> None:
        self.rows = tuple(rows)
        self.tokens = tuple(tuple(row) for row in rows)
        self.width = max(map(len, rows))
        there = torch.tensor([[i < len(row) for i in range(self.width)] for row in rows])
        self.padding = torch.zeros(there.shape).masked_fill_(~there, -torch.inf)
        """``[rows, width]`` on the CPU: 0, and minus infinity where :meth:`table` is filled up."""
        self._copies: dict[torch.device, Tensor] = {}

    def table(self, device: torch.device) -> Tensor:
        """``[rows, width]`` tokens, each row filled up with its first; copied to a device once."""
        if device not in self._copies:
            filled = [[*tokens, *[tokens[0]] * (self.width - len(tokens))] for tokens in self.tokens]
            self._copies[device] = torch.tensor(filled, dtype=torch.long).to(device)
        return self._copies[device]


@dataclass(frozen=True, eq=False)
class Ahead:
    """What is computed together with the token of a node.

    Attributes:
        tree: the likeliest nodes below it at which something is still open; may be empty.
        options: what may be said behind the node and behind each of these.
        row_of: which row of the scores is behind which node.
    """

    tree: TokenTree
    options: Options
    row_of: Mapping[int, int]


class Grammar:
    """All queues of ``phrases`` under ``rules``.

    Args:
        tokenize: text to token ids, without special tokens.
        end_tokens: any of these is what the model says behind a finished queue.

    Raises:
        ConfigError: no phrases, more than :data:`MAX_QUEUES` queues, two queues with the same tokens.
    """

    def __init__(
        self,
        tokenize: Callable[[str], Sequence[int]],
        phrases: Sequence[Phrase],
        rules: QueueRules,
        end_tokens: Sequence[int],
    ) -> None:
        if not phrases or not end_tokens:
            raise ConfigError(f"the {'list of end tokens' if phrases else 'action vocabulary'} is empty")
        self.phrases = tuple(phrases)
        self.rules = rules
        self.end_tokens = tuple(end_tokens)
        self.nodes = [Node(token=-1, parent=-1)]
        self.queues = 0
        for queue in self._all_queues():
            self.queues += 1
            if self.queues > MAX_QUEUES:
                raise ConfigError(
                    f"{len(phrases)} phrases make more than {MAX_QUEUES} queues of {rules.max_phrases}: "
                    "lower max_phrases, of the profile or qwen.stream.max_phrases"
                )
            self._insert(tokenize(self.text(queue)), queue)
        self._settle(ROOT)
        self._ends = {n.queue: i for i, n in enumerate(self.nodes) if n.queue is not None}
        self._ahead: dict[tuple[int, int, int | None], Ahead] = {}

    def text(self, queue: Sequence[int]) -> str:
        return self.rules.separator.join(self.phrases[i].text for i in queue)

    def actions(self, queue: Sequence[int]) -> tuple[Action, ...]:
        return tuple(a for i in queue for a in self.phrases[i].actions)

    def options(self, node: int) -> dict[int, int | None]:
        """What may be said next: token -> node, and an end token -> None where a queue may end."""
        here = self.nodes[node]
        options: dict[int, int | None] = dict(here.children)
        if here.queue is not None:
            options |= dict.fromkeys(self.end_tokens)
        return options

    def finished(self, node: int) -> bool:
        """Nothing is left to say but the end."""
        return not self.nodes[node].children

    def ahead(self, node: int, max_nodes: int, last: int | None) -> Ahead:
        """What may follow ``node``, with at most ``max_nodes`` computed ahead; made once for each.

        Args:
            last: phrase that was said before this answer; it guides which nodes are likely.
        """
        if max_nodes >= len(self.nodes):
            last = None  # all have room: one order, which a recorded graph knows
        key = node, max_nodes, last
        if key not in self._ahead:
            tree, nodes = self.below(node, max_nodes, last)
            known = (node, *nodes)
            options = Options([self.options(n) for n in known])
            self._ahead[key] = Ahead(tree, options, {n: row for row, n in enumerate(known)})
        return self._ahead[key]

    def below(self, node: int, max_nodes: int, last: int | None) -> tuple[TokenTree, tuple[int, ...]]:
        """The likeliest nodes below ``node`` at which something is still open, and which they are.

        Likely is what says the same phrase again.
        """
        found: list[int] = []
        parents: list[int] = []
        # By likelihood, then as found: parents come before their children.
        frontier: list[tuple[float, int, int, int]] = [(-1.0, 0, node, -1)]
        count = 0
        while frontier and len(found) < max_nodes:
            likelihood, _, origin, position = heapq.heappop(frontier)
            if origin != node:
                parents.append(position)
                position = len(found)
                found.append(origin)
            shares = self._shares(origin, last)
            for child, share in shares.items():
                if not self.finished(child):
                    count += 1
                    heapq.heappush(frontier, (likelihood * share, count, child, position))
        return TokenTree.build([self.nodes[n].token for n in found], parents), tuple(found)

    def _shares(self, node: int, last: int | None) -> dict[int, float]:
        """How likely each child of a node is, about."""
        children = tuple(self.nodes[node].children.values())
        same = self._towards_same(node, last)
        if len(children) == 1 or same not in children:
            return dict.fromkeys(children, 1.0 / max(1, len(children)))
        return {c: _SAME_AGAIN if c == same else (1.0 - _SAME_AGAIN) / (len(children) - 1) for c in children}

    def _towards_same(self, node: int, last: int | None) -> int | None:
        """The child on the way to the phrase before ``node`` once more, if that may be said."""
        said = self.nodes[node].settled
        phrase = said[-1] if said else last
        target = None if phrase is None else self._ends.get((*said, phrase))
        while target is not None and target > node:
            if self.nodes[target].parent == node:
                return target
            target = self.nodes[target].parent
        return None

    def _all_queues(self) -> Iterator[tuple[int, ...]]:
        level: list[tuple[int, ...]] = [()]
        while level:
            following: list[tuple[int, ...]] = []
            for queue in level:
                said = tuple(self.phrases[i] for i in queue)
                for index, phrase in enumerate(self.phrases):
                    if self.rules.follows(said, phrase):
                        yield (*queue, index)
                        following.append((*queue, index))
            level = following

    def _insert(self, tokens: Sequence[int], queue: tuple[int, ...]) -> None:
        if not tokens or not set(tokens).isdisjoint(self.end_tokens):
            raise ConfigError(f"action text {self.text(queue)!r} is empty or holds an end token")
        node = ROOT
        for token in tokens:
            if token not in self.nodes[node].children:
                self.nodes[node].children[token] = len(self.nodes)
                self.nodes.append(Node(token, node))
            node = self.nodes[node].children[token]
        other = self.nodes[node].queue
        if other is not None:
            raise ConfigError(f"queues {self.text(other)!r} and {self.text(queue)!r} have the same tokens")
        self.nodes[node].queue = queue

    def _settle(self, root: int) -> None:
        """Children are made after their parents, so going backwards meets every child first."""
        common: list[tuple[int, ...] | None] = [node.queue for node in self.nodes]
        for index in range(len(self.nodes) - 1, root, -1):
            mine, parent = common[index], self.nodes[index].parent
            assert mine is not None, "a node without a queue below it"
            self.nodes[index].settled = mine
            theirs = common[parent]
            common[parent] = mine if theirs is None else _common_prefix(mine, theirs)


class PixelGrammar(Grammar):
    """Two whole numbers within bounds with a separator between them, or any queue of ``phrases``.

    The number pairs are far too many to be laid out: nodes are made as they are asked for. Nothing is
    computed ahead of a number, for all that could follow is far more than what will.

    Args:
        separator: text between the numbers.
        bounds: of the first and the second number, from 0, exclusive.
        tokenize, phrases, rules, end_tokens: see :class:`Grammar`.

    Raises:
        ConfigError: as :class:`Grammar`; the tokenizer joins the first number with what follows.
    """

    def __init__(
        self,
        tokenize: Callable[[str], Sequence[int]],
        phrases: Sequence[Phrase],
        rules: QueueRules,
        end_tokens: Sequence[int],
        separator: str,
        bounds: tuple[int, int],
    ) -> None:
        super().__init__(tokenize, phrases, rules, end_tokens)
        self._first = _Numbers.of(range(bounds[0]), lambda n: tokenize(str(n)))
        self._second = _Numbers.of(range(bounds[1]), lambda n: tokenize(f"{separator}{n}"))
        last = tuple(b - 1 for b in bounds)
        for first, second in ((0, 0), last, (last[0], 0), (0, last[1]), (last[0] // 2, last[1] // 2)):
            whole = tuple(tokenize(f"{first}{separator}{second}"))
            if whole != (*tokenize(str(first)), *tokenize(f"{separator}{second}")):
                raise ConfigError(
                    f"the tokenizer does not split {first}{separator}{second} between the numbers: "
                    f"give another separator than {separator!r}"
                )
        self._places: dict[int, _Place] = {ROOT: _Place(self._first, 0, None)}
        self._grow(ROOT)

    def numbers(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """The two numbers that these tokens say; None if they say a queue."""
        node = ROOT
        for token in ids:
            following = self.options(node).get(token)
            if following is None:
                return None
            node = following
        return self._numbers_at(node)

    def _numbers_at(self, node: int) -> tuple[int, int] | None:
        place = self._places.get(node)
        if place is None or place.first is None:
            return None
        second = place.numbers.values.get(place.at)
        return None if second is None else (place.first, second)

    def options(self, node: int) -> dict[int, int | None]:
        self._grow(node)
        return super().options(node)

    def finished(self, node: int) -> bool:
        self._grow(node)
        return super().finished(node)

    def below(self, node: int, max_nodes: int, last: int | None) -> tuple[TokenTree, tuple[int, ...]]:
        if node in self._places:
            return TokenTree.build((), ()), ()
        return super().below(node, max_nodes, last)

    def _grow(self, node: int) -> None:
        place = self._places.get(node)
        if place is None or place.grown:
            return
        place.grown = True
        for token, at in place.numbers.children[place.at].items():
            self._add(node, token, _Place(place.numbers, at, place.first))
        if place.first is None and (first := place.numbers.values.get(place.at)) is not None:
            for token, at in self._second.children[0].items():
                self._add(node, token, _Place(self._second, at, first))
        if self._numbers_at(node) is not None:
            self.nodes[node].queue = ()

    def _add(self, parent: int, token: int, place: _Place) -> None:
        if token in self.nodes[parent].children:
            raise ConfigError("an action text begins like a number, so that the two cannot be told apart")
        self.nodes[parent].children[token] = len(self.nodes)
        self._places[len(self.nodes)] = place
        self.nodes.append(Node(token, parent))


@dataclass
class _Numbers:
    """A trie of the tokens of numbers: for each node what may follow, and the number that ends there."""

    children: list[dict[int, int]]
    values: dict[int, int]

    @staticmethod
    def of(numbers: Sequence[int], tokenize: Callable[[int], Sequence[int]]) -> _Numbers:
        trie = _Numbers([{}], {})
        for number in numbers:
            node = 0
            for token in tokenize(number):
                if token not in trie.children[node]:
                    trie.children[node][token] = len(trie.children)
                    trie.children.append({})
                node = trie.children[node][token]
            trie.values[node] = number
        return trie


@dataclass
class _Place:
    """Where a node of a :class:`PixelGrammar` is: in which number's trie, and what the first number was."""

    numbers: _Numbers
    at: int
    first: int | None
    grown: bool = False


def _common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return a[:n]


def parse_queue(
    text: str, phrases: Sequence[Phrase], separator: str, max_phrases: int
) -> tuple[int, ...] | None:
    """Phrases of a freely spoken queue, or None if any part of it is not an action.

    Case, surrounding space and a final full stop are forgiven; what is said after a stop, or beyond
    ``max_phrases``, is dropped, and so is what is said before or after a phrase that is no action: whichever
    comes first counts.
    """
    known = {_plain(p.text): i for i, p in enumerate(phrases)}
    queue: list[int] = []
    rest = _plain(text)
    glue = separator.strip().casefold()
    while rest:
        # The longest phrase first: "turn left 15" begins "turn left 150".
        name = max((n for n in known if rest.startswith(n)), key=len, default=None)
        if name is None:
            return None
        actions = phrases[known[name]].actions
        if queue and not actions:
            return tuple(queue)
        queue.append(known[name])
        rest = rest[len(name) :].lstrip()
        if not actions or actions[-1].stop or len(queue) == max_phrases:
            return tuple(queue)
        if rest:
            if not rest.startswith(glue):
                return None
            rest = rest[len(glue) :].lstrip()
            if not rest:
                return None
    return tuple(queue) or None


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()
