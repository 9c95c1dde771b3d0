"""Notes down what is heard while a recording is played."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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


@dataclass(kw_only=True)
class PlayReport:
    """What the player saw, and what the navigator says of itself at the end. Filled while it plays."""

    published: int = 0
    processed: int = 0
    decisions: list[PlayedDecision] = field(default_factory=list)
    taken_ms: list[float] = field(default_factory=list)
    """Per processed frame: from its publication to the news that the engine has taken it in."""
    late_ms: float = 0.0
    """By how much the player itself was late, at most."""
    navigator: tuple[tuple[str, str], ...] = ()
    unreadable: int = 0
    """Messages of the recording that are none, and were not published."""
    failure: str = ""
    """What the navigator said at the end, where that was an error; else empty."""

    quiet: bool = False
    """The navigator has heard nothing new between its last two diagnostics, and works on no frame."""

    def hear(self, values: tuple[tuple[str, str], ...], failure: str) -> None:
        """The navigator's diagnostics, and its message where that is an error."""
        was, says = dict(self.navigator), dict(values)
        done = int(says.get("frames processed", 0)) + int(says.get("frames replaced by a newer one", 0))
        news = was.get("frames received") != says.get("frames received")
        self.quiet = not news and int(says.get("frames aligned", 0)) <= done
        self.navigator, self.failure = values, failure

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), "utf-8")
