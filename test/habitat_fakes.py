"""A Python that has the fake habitat_sim of test/fake_habitat, named as users name theirs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

FAKE = Path(__file__).with_name("fake_habitat")


def fake_python(folder: Path, **variables: str) -> str:
    """A program in ``folder`` that runs Python scripts in an environment with the fake and ``variables``."""
    program = folder / "habitat_python"
    settings = {"PYTHONPATH": str(FAKE), **variables}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    program.write_text(f'#!/bin/sh\nenv > {shlex.quote(str(folder / "environment"))}\n'
                       f'exec env {exports} {shlex.quote(sys.executable)} "$@"\n')  # fmt: skip
    program.chmod(0o755)
    return str(program)
