"""Lines on stderr that say what a command is doing, which are no complaints."""

from __future__ import annotations

import re

_PROGRESS = re.compile(r"^vln_ros: .* \.\.\.\n", re.MULTILINE)


def complaints(stderr: str) -> str:
    """What else a command said on stderr."""
    return _PROGRESS.sub("", stderr)
