"""What `scripts/try_docs` types: the blocks of the pages, with the marks that say what they need."""

from __future__ import annotations

import re
import shlex
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from test_pages import program

from vln_ros.cli import main

TRY = program("scripts/try_docs")
BLOCKS = [block for page in TRY.pages() for block in TRY.blocks(page)]
HOLE = re.compile(r"\b[A-Z][A-Z_]{2,}\b")
"""A word in capitals stands for something of the reader's own."""


def page_of(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    return page


def test_marks_are_read(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        """Words
```bash
true
```

<!-- needs: robot, ros -->
<!-- in: an empty folder -->
```bash
echo a \\
  b
```

* An item:

  <!-- interrupt after: 20 s -->
  <!-- stdin: go on -->
  ```bash
  cat
  ```

```python
nothing()
```

<!-- needs: gpu -->
Words in between.

```bash
false
```
""",
    )
    first, second, third, fourth = TRY.blocks(page)
    assert (first.text, first.needs, first.line, first.elsewhere) == ("true\n", frozenset(), 2, False)
    assert (second.text, second.needs) == ("echo a \\\n  b\n", frozenset({"robot", "ros"}))
    assert second.elsewhere
    assert (third.text, third.interrupt_s, third.stdin) == ("cat\n", 20.0, "go on\n")
    assert fourth.needs == frozenset(), "a mark belongs to the block behind it"


@pytest.mark.parametrize(
    ("mark", "said"), [("needs: a robto", "needs a robto; known: "), ("in: the sea", "not 'an empty folder'")]
)
def test_an_unknown_mark_is_named(mark: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        TRY.blocks(page_of(tmp_path, f"<!-- {mark} -->\n```bash\ntrue\n```\n"))


@pytest.mark.parametrize(
    ("text", "works", "said"),
    [
        ("```bash\necho one\n```", True, "one"),
        ("```bash\nfalse\necho two\n```", False, ""),
        ("```bash\nfalse | cat\n```", False, ""),
        ("<!-- stdin: three -->\n```bash\ncat\n```", True, "three"),
        ('<!-- in: an empty folder -->\n```bash\ntest -z "$(ls)"\n```', True, ""),
        ("```bash\ntest -d .venv\n```", True, ""),
        ("```bash\necho URL_OF_THIS_REPOSITORY\n```", True, str(TRY.ROOT)),
        ("<!-- interrupt after: 0.5 s -->\n```bash\nexec sleep 60\n```", True, ""),
        ("<!-- interrupt after: 30 s -->\n```bash\ntrue\n```", False, "ended by itself"),
        ("```bash\nsleep 60\n```", False, "not over after 1 s"),
    ],
)
def test_a_block_is_typed(text: str, works: bool, said: str, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (block,) = TRY.blocks(page_of(tmp_path, f"{text}\n"))
    place = tmp_path / "place"
    place.mkdir()
    worked, output = TRY.type_in(block, tmp_path, place, 1.0)
    assert worked is works, output
    assert said in output


def test_what_is_not_here_is_not_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    (clone / ".venv").mkdir(parents=True)
    monkeypatch.setattr(TRY, "fresh_clone", lambda place, environment: clone)
    text = "```bash\ntouch typed\n```\n\n<!-- needs: robot -->\n```bash\ntouch robot\n```\n"
    page = str(page_of(tmp_path, text))
    assert TRY.main([page]) == 0
    assert "1 of 1 blocks work; 1 need what is not here" in capsys.readouterr().out
    assert (clone / "typed").exists()
    assert not (clone / "robot").exists()
    assert TRY.main([page, "--have", "robot"]) == 0
    assert (clone / "robot").exists()
    assert TRY.main([str(page_of(tmp_path, "```bash\nfalse\n```\n"))]) == 1
    assert "FAIL" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        TRY.main([page, "--have", "robto"])


def test_pages_have_blocks_for_a_reader_with_nothing() -> None:
    assert {block.page.name for block in BLOCKS if not block.needs} >= {"get_started.md", "bring_your_own.md"}


@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.needs], ids=lambda b: b.title)
def test_what_needs_nothing_has_no_holes(block: Any) -> None:
    """CKPT, BAG and the like are the reader's own: the block then says what it needs."""
    code = re.sub(r"#.*|'[^']*'|<<'END'.*?^END$", "", block.text, flags=re.M | re.S)
    assert not set(HOLE.findall(code)) - {"ROS_DOMAIN_ID", TRY.PLACEHOLDER, "PWD", "END"}


def commands() -> list[tuple[str, str]]:
    """Every line of a block that begins with vln_ros, and its block."""
    found: list[tuple[str, str]] = []
    for block in BLOCKS:
        text = re.sub(r"\\\n\s*", " ", block.text)
        found += [(line, block.title) for line in re.findall(r"^vln_ros [^#&|>\n]*", text, re.M)]
    return found


@cache
def options_of(*names: str) -> frozenset[str]:
    """What the help of a command names."""
    with redirect_stdout(StringIO()) as said, pytest.raises(SystemExit) as ended:
        main([*names, "--help"])
    assert ended.value.code == 0, f"vln_ros has no {' '.join(names)}"
    return frozenset(re.findall(r"--[a-z][a-z-]*", said.getvalue()))


@pytest.mark.parametrize(("line", "title"), commands())
def test_every_option_that_is_printed_exists(line: str, title: str) -> None:
    """Also in blocks that are not typed here."""
    words = shlex.split(line)[1:]
    names = words[: 2 if words[0] in ("bench", "habitat", "profile") else 1]
    if words[0].startswith("-"):
        names = []
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options_of(*names), title
