"""What a command line says, taken apart."""

from __future__ import annotations

import re


def beside_waiting(said: str) -> str:
    """What a command says to stderr besides the lines that tell for what one waits."""
    return re.sub(r"^vln_ros: (loading|reading|starting) [^\n]* \.\.\.\n", "", said, flags=re.MULTILINE)
