"""Lays out token trees: many continuations that share their beginnings, for one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Paths:
    """The nodes on the way to every node of a tree, itself included, one way behind the other.

    Attributes:
        nodes: ``[steps]``.
        begins: ``[n + 1]`` int32 where each way begins, and the end of the last.
        each: ``[n + 1]`` int32 0, 1, 2 ...: one node per way.
        longest: way.
    """

    nodes: Tensor
    begins: Tensor
    each: Tensor
    longest: int


@dataclass(frozen=True)
class TokenTree:
    """Nodes in an order in which parents come before their children.

    Attributes:
        tokens: token of each node.
        parents: index of each node's parent; -1 for a node that follows the prompt directly.
        depths: 0 for those, and one more than the parent's otherwise.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]

    @staticmethod
    def build(tokens: Sequence[int], parents: Sequence[int]) -> TokenTree:
        depths: list[int] = []
        for node, parent in enumerate(parents):
            if not -1 <= parent < node:
                raise ValueError(f"node {node} has parent {parent}: parents must come first")
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return TokenTree(tuple(tokens), tuple(parents), tuple(depths))

    @staticmethod
    def from_sequences(sequences: Iterable[Sequence[int]]) -> tuple[TokenTree, list[tuple[int, ...]]]:
        """The tree of all given sequences, and the path of nodes of each."""
        tokens: list[int] = []
        parents: list[int] = []
        index: dict[tuple[int, int], int] = {}
        paths: list[tuple[int, ...]] = []
        for sequence in sequences:
            node, path = -1, []
            for token in sequence:
                key = (node, token)
                if key not in index:
                    index[key] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = index[key]
                path.append(node)
            paths.append(tuple(path))
        return TokenTree.build(tokens, parents), paths

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def ancestors(self) -> Tensor:
        """``[n, n]`` bool: row ``i`` holds the nodes on the way to ``i``, itself included."""
        rows = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                rows[node] |= rows[parent]
        return rows

    def ancestors_on(self, device: torch.device) -> Tensor:
        """:attr:`ancestors` on a device; a tree that is used again is copied there once."""
        if device not in self._copies:
            self._copies[device] = self.ancestors.to(device)
        return self._copies[device]

    def paths_on(self, device: torch.device) -> Paths:
        """The way to every node, on a device; copied there once."""
        if device not in self._paths:
            ways = [row.nonzero()[:, 0] for row in self.ancestors]
            ends = torch.tensor([0, *map(len, ways)]).cumsum(0)
            numbers = torch.cat([torch.cat(ways), ends, torch.arange(len(self) + 1)]).to(device)
            nodes, begins, each = numbers.split([int(ends[-1]), len(ends), len(self) + 1])
            self._paths[device] = Paths(
                nodes, begins.to(torch.int32), each.to(torch.int32), max(map(len, ways))
            )
        return self._paths[device]

    @cached_property
    def _paths(self) -> dict[torch.device, Paths]:
        return {}

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}


NO_TREE = TokenTree((), (), ())
