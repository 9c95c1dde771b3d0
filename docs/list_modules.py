"""Prints every module with its purpose, from the first sentences of docstrings; the site has it as a page."""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]


def purpose(path: Path) -> str:
    """The first sentence of a module's docstring; empty where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z`])", paragraph)[0].replace("``", "`")


def modules() -> list[Path]:
    """Every module of the package and of the benches, folder by folder."""
    found = [path for top in ("vln_ros", "benchmarks") for path in (ROOT / top).rglob("*.py")]
    return sorted(found, key=lambda p: (p.relative_to(ROOT).parts[0] != "vln_ros", p.parent, p.name))


def listing() -> str:
    """A line for each folder, and below it one for each of its modules."""
    lines = []
    for folder, paths in groupby(modules(), lambda p: p.parent):
        inside = {path.name: purpose(path) for path in paths}
        lines.append(f"\n**{folder.relative_to(ROOT).as_posix()}/** {inside.pop('__init__.py')}\n")
        lines += [f"- `{name.removesuffix('.py')}`: {text}" for name, text in inside.items()]
    return "\n".join(lines).lstrip("\n") + "\n"


def page() -> str:
    """The site's page reference/modules.md, which is no file: it would change with every module."""
    return f"# Every module\n\nFrom the first sentence of each docstring.\n\n{listing()}"


if __name__ == "__main__":
    print(page(), end="")
