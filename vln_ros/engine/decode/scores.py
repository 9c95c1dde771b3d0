"""Chooses a token from the scores of a forward, as transformers' ``generate`` does.

In this order, like there: repetition penalty over every token of the context, the grammar, temperature,
``top_k``, ``top_p``. Shares of probability are those after the penalty and before the temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from vln_ros.engine.decode.grammar import Options
from vln_ros.engine.finite import check_scores, extremes
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE, TokenTree


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: 0 is greedy; the rest then does not matter.
        top_k: only the so many most probable; 0 for all.
        top_p: only the most probable that together reach this; 1 for all.
        repetition_penalty: divides positive scores, and multiplies negative ones, of tokens that are in the
            context already; 1 for none. It holds for greedy choices, too.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature}: must be 0 (greedy) or positive")
        if self.top_k < 0 or not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                f"top_k = {self.top_k}, top_p = {self.top_p}: must be 0 (all) or more, in (0, 1] (1: all)"
            )
        if not 0.0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty = {self.repetition_penalty}: must be positive, 1 for none")

    def __str__(self) -> str:
        parts = ["greedy" if self.temperature == 0.0 else f"temperature {self.temperature:g}"]
        if self.temperature and self.top_k:
            parts.append(f"top_k {self.top_k}")
        if self.temperature and self.top_p < 1.0:
            parts.append(f"top_p {self.top_p:g}")
        return ", ".join([*parts, f"repetition penalty {self.repetition_penalty:g}"])

    def pick(self, scores: Tensor, generator: torch.Generator) -> int:
        """One of ``scores`` ``[n]`` on the CPU."""
        if self.temperature == 0.0:
            return int(scores.argmax())
        row = (scores / self.temperature)[None]
        ids = torch.empty(1, 0, dtype=torch.long)  # these two do not look at them
        if self.top_k:
            row = TopKLogitsWarper(self.top_k)(ids, row)
        if self.top_p < 1.0:
            row = TopPLogitsWarper(self.top_p)(ids, row)
        return int(torch.multinomial(row[0].softmax(-1), 1, generator=generator))


GREEDY = Sampling(0.0)


def penalise(session: Session, rows: Tensor, tree: TokenTree, penalty: float) -> None:
    """Repetition penalty on scores ``[1 + nodes, vocabulary]``, in place.

    The context of the first row is all that is in the session's stream, pictures as their placeholders; a
    node's is that and the tokens on the way to it. Tokens that were evicted count no more.
    """
    if penalty == 1.0:
        return
    vocabulary = rows.shape[1]
    seen = {token for segment in session.timeline.segments for token in segment.ids if token < vocabulary}

    def less(scores: Tensor) -> Tensor:
        return torch.where(scores < 0, scores * penalty, scores / penalty)

    said: list[frozenset[int]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        said.append((said[parent] if parent >= 0 else frozenset()) | {token})
    places = [(i + 1, token) for i, tokens in enumerate(said) for token in sorted(tokens - seen)]
    told = [*sorted(seen), *(row for row, _ in places), *(token for _, token in places)]
    numbers = torch.tensor(told, dtype=torch.long).to(rows.device)  # one copy for all of it
    common, row, token = numbers.split([len(seen), len(places), len(places)])
    rows[:, common] = less(rows[:, common])
    if places:
        rows[row, token] = less(rows[row, token])


class Scores:
    """The scores ``[1 + nodes, vocabulary]`` behind a forward, and what of them a decision needs, on the CPU.

    Args:
        session: whose forward it was; its stream ends with what was pushed.
        rows: are written to.
        options: what may be said behind each row.

    Raises:
        NotFiniteError: one of the scores is NaN or infinite.
    """

    def __init__(
        self,
        session: Session,
        rows: Tensor,
        options: Options,
        *,
        tree: TokenTree = NO_TREE,
        repetition_penalty: float = 1.0,
    ) -> None:
        width = options.width
        spread = extremes(rows)
        penalise(session, rows, tree, repetition_penalty)
        chosen = rows.gather(1, options.table(rows.device))
        top, best = rows.max(-1)
        total = torch.logsumexp(rows, -1)
        # One copy, which is what the device is waited for. A token's number is exact in float32.
        columns = [chosen, total[:, None], top[:, None], best[:, None].float()]
        packed = torch.cat([torch.cat(columns, 1).flatten(), spread]).cpu()
        check_scores(session, float(packed[-2]), float(packed[-1]))
        numbers = packed[:-2].view(len(rows), width + 3)
        self._rows, self._options = rows, options.tokens
        # All rows at once: the walk through the tree then only looks things up.
        self._allowed = numbers[:, :width] + options.padding
        weights = self._allowed.double().logsumexp(-1)
        self._shares: list[float] = (weights - numbers[:, width].double()).exp().clamp(max=1.0).tolist()
        self._chances: list[list[float]] = self._allowed.softmax(-1).tolist()
        self._greedy: list[int] = self._allowed.argmax(-1).tolist()
        self._total, self._top = numbers[:, width].tolist(), numbers[:, width + 1].tolist()
        self._best = numbers[:, width + 2].long().tolist()

    def best(self, row: int) -> int:
        """The most probable token, allowed or not."""
        return int(self._best[row])

    def allowed(self, row: int) -> float:
        """Share of the probability that the allowed tokens have."""
        return self._shares[row]

    def outweighed(self, row: int) -> float:
        """Probability of the most probable token, if it is not allowed; else 0."""
        if self._best[row] in self._options[row]:
            return 0.0
        return math.exp(self._top[row] - self._total[row])

    def choose(self, row: int, sampling: Sampling, generator: torch.Generator) -> tuple[int, float]:
        """An allowed token, and its probability among those that are allowed."""
        tokens = self._options[row]
        if len(tokens) == 1:
            return tokens[0], 1.0
        greedy = sampling.temperature == 0.0
        pick = self._greedy[row] if greedy else sampling.pick(self._allowed[row, : len(tokens)], generator)
        return tokens[pick], self._chances[row][pick]

    def best_outside(self, row: int) -> int:
        """The most probable token that is not allowed. Waits for the device."""
        scores = self._rows[row].clone()
        scores[torch.tensor(self._options[row], device=scores.device)] = -math.inf
        return int(scores.argmax())


def next_free(
    session: Session, rows: Tensor, sampling: Sampling, generator: torch.Generator | None = None
) -> int:
    """A token of the whole vocabulary, from the scores ``[1, vocabulary]`` behind the stream.

    They are written to.

    Raises:
        NotFiniteError: one of the scores is NaN or infinite.
    """
    spread = extremes(rows)
    penalise(session, rows, NO_TREE, sampling.repetition_penalty)
    if sampling.temperature == 0.0 or generator is None:
        low, high, best = torch.cat([spread, rows[0].argmax()[None].float()]).tolist()
        check_scores(session, low, high)
        return int(best)
    numbers = torch.cat([spread, rows[0]]).cpu()
    check_scores(session, float(numbers[0]), float(numbers[1]))
    return sampling.pick(numbers[2:], generator)
