"""What a check of the doctor returns: name, state, what was found, remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        verdict: ``ok``; ``warn``: it runs, but see the remedy; ``fail``: it does not.
        text: what was found.
        remedy: what to do; empty when fine.
    """

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""
