"""What the player of recordings notes down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vln_ros.datatypes import ActionChunk


@dataclass(frozen=True)
class PlayedDecision:
    """One queue that came back."""

    queue: int
    frame_stamp_ns: int
    actions: tuple[tuple[float, float, bool], ...]
    after_ms: float
    """From the publication of the frame that it answers to its arrival."""

    @classmethod
    def of(cls, chunk: ActionChunk, after_ms: float) -> PlayedDecision:
        actions = tuple((a.forward_m, a.turn_rad, a.stop) for a in chunk.actions)
        return cls(chunk.queue, chunk.frame_stamp_ns, actions, after_ms)


@dataclass(frozen=True)
class PlayReport:
    """What the player saw, and what the navigator says of itself at the end."""

    published: int
    processed: int
    decisions: tuple[PlayedDecision, ...]
    taken_ms: tuple[float, ...]
    """Per processed frame: from its publication to the news that the engine has taken it in."""
    late_ms: float
    """By how much the player itself was late, at most."""
    navigator: tuple[tuple[str, str], ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), "utf-8")
