"""Writes the list of modules into docs/reference/modules.md, from the first sentences of their docstrings.

Run by `make docs`.
"""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/modules.md"
BEGIN, END = "<!-- modules: made by docs/list_modules.py -->\n", "<!-- end of modules -->\n"


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
    """docs/reference/modules.md with the list as it should be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{listing()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
