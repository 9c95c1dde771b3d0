"""The documentation: pages that are made from the code, links that lead somewhere, files that are there."""

from __future__ import annotations

import ast
import importlib.util
import logging
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from vln_ros.cli import COMMANDS as NAMES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
LINK = re.compile(r"\[[^]]+\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| (?P<file>`[^`]+`|[a-z ]+) \|(?P<inside>[^|]*)\| (?P<what>[^|]*) \|$", re.M)
NEW = "new"


def program(path: str) -> ModuleType:
    """A program of the repository that lies in no package, as a module."""
    loader = SourceFileLoader(Path(path).stem, str(ROOT / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look for their module
    loader.exec_module(module)
    return module


MODULES = program("docs/list_modules.py")
COMMANDS = program("docs/list_commands.py")
SITE = program("docs/site_hooks.py")


def test_the_list_of_modules_is_what_their_docstrings_say() -> None:
    assert MODULES.listing() in MODULES.page()
    assert "\n**vln_ros/motion/** " in MODULES.page()
    assert MODULES.listing().count("\n- `") > 200


def test_the_table_of_commands_is_what_help_says() -> None:
    assert COMMANDS.PAGE.read_text("utf-8") == COMMANDS.page(), "run: make docs"
    for name in (*NAMES, "bench"):
        assert f"\n| `vln_ros {name}` | " in COMMANDS.table()


@pytest.mark.parametrize("path", MODULES.modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    """In one sentence that fits its line, and that is more than the name of a command."""
    text = MODULES.purpose(path)
    assert text.endswith((".", "?")), text
    assert len(text.split()) >= 5, text
    assert len(text) <= 110, text
    assert text[0].isupper() or text[0] == "`", text


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_table_is_whole(page: Path) -> None:
    """An empty line within a table ends it: what follows would be shown as text with bars."""
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL).splitlines()
    for before, row, after in zip(["", *prose], prose, [*prose[1:], ""], strict=False):
        if row.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"\|[-: |]+\|", after), row


def test_the_citation_is_that_of_the_file() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = dict(re.findall(r"^  (\w+) += \{+(.*?)\}+,?$", readme, re.M))
    assert shown == {
        "author": " and ".join(author["name"] for author in cited["authors"]),
        "title": cited["title"],
        "version": cited["version"],
        "license": cited["license"],
    }


def targets(page: Path) -> list[Path]:
    """The files that a page leads to."""
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text("utf-8"))]
    return [(page.parent / link).resolve() for link in links if link and "://" not in link]


MENTION = re.compile(r"(?<![\w/-])docs/[\w./-]+\.(?:md|py|gif|jpg|png)\b")
PLACES = (
    "vln_ros",
    "benchmarks",
    "config",
    "interfaces",
    "launch",
    "scripts",
    "test",
    "docs",
    ".github",
    ".ci",
    ".",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_page_that_is_named_anywhere_is_there(place: str) -> None:
    """In comments, messages and help as well as in pages: a page that moves takes its mentions along."""
    suffixes = {".py", ".md", ".rst", ".yml", ".yaml", ".msg", ".toml", ".html", ".js", ".xml", ""}
    paths = (ROOT / place).glob("*") if place == "." else (ROOT / place).rglob("*")
    texts = [p for p in paths if p.is_file() and p.suffix in suffixes and "__pycache__" not in p.parts]
    assert texts
    named = {(p, name) for p in texts for name in MENTION.findall(p.read_text("utf-8", errors="replace"))}
    missing = sorted(f"{p.relative_to(ROOT)}: {name}" for p, name in named if not (ROOT / name).exists())
    assert not missing


def shown_by(entries: list[object]) -> list[str]:
    """The pages that a part of the site's navigation lists."""
    found: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, dict):
            for inner in entry.values():
                found += shown_by(inner if isinstance(inner, list) else [inner])
    return found


def test_the_site_lists_every_page_once() -> None:
    listed = shown_by(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]
    assert sorted(listed) == sorted([*pages, SITE.MODULES])


@pytest.mark.parametrize(
    ("link", "there", "nowhere"),
    [
        ("[a](../../CONTRIBUTING.md)", "[a](https://h/r/blob/main/CONTRIBUTING.md)", "a"),
        ("[a `b`](../../README.md#limits)", "[a `b`](https://h/r/blob/main/README.md#limits)", "a `b`"),
        ("[a](../../vln_ros/profiles)", "[a](https://h/r/blob/main/vln_ros/profiles)", "a"),
        ("[a](../design/engine.md#decoding)", "[a](../design/engine.md#decoding)", None),
        ("![a](../pictures/drive.gif)", "![a](../pictures/drive.gif)", None),
        ("[a](#here) and [b](https://x.y/../z)", "[a](#here) and [b](https://x.y/../z)", None),
    ],
)
def test_links_out_of_the_pages_lead_to_the_repository(link: str, there: str, nowhere: str | None) -> None:
    assert SITE.with_outside_links(link, "robot/web.md", "https://h/r/") == there
    assert SITE.with_outside_links(link, "robot/web.md", "") == (link if nowhere is None else nowhere)


def test_a_link_out_of_the_pages_that_leads_nowhere_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """MkDocs counts those of this logger, and a strict build fails."""
    with caplog.at_level(logging.WARNING):
        SITE.with_outside_links("[a](../../NOTHING.md)", "robot/web.md", "")
    assert [(r.name, r.levelno) for r in caplog.records] == [("mkdocs.hooks.site_hooks", logging.WARNING)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_is_an_orphan(page: Path) -> None:
    shown = [target for text in TEXTS if text != page for target in targets(text)]
    assert page in shown


@pytest.mark.parametrize("page", [p for p in TEXTS if p.name != "records.md"], ids=lambda p: p.name)
def test_no_line_stands_twice(page: Path) -> None:
    """As a merge leaves them that keeps both sides. The page of figures is made from records."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    lines = [line for line in text.splitlines() if len(line) > 50 and not line.startswith("| `")]
    assert not {line for line in lines if lines.count(line) > 1}
    topics = re.findall(r"^\| (`[a-z_/]+`) \| [a-z_]+_msgs/", text, re.M)
    assert len(topics) == len(set(topics)), "a topic has two rows"


def names_in(path: Path) -> set[str]:
    """Classes, functions and constants of a Python file; headings of a page."""
    if path.suffix == ".md":
        return set(re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M))
    tree = ast.parse(path.read_text("utf-8"))
    named = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return named | {
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }


SECTIONS = re.split(r"^## ", (ROOT / "docs/develop/extending.md").read_text("utf-8"), flags=re.M)[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.split("\n")[0])
def test_what_an_addition_touches_is_there(section: str) -> None:
    rows = ROW.findall(section)
    assert len(rows) > 2
    for file, inside, what in rows[1:]:
        assert what.strip()
        if not file.startswith("`"):
            continue
        path, inside = ROOT / file.strip("`"), inside.strip().strip("`")
        if inside == NEW:
            assert "NAME" in path.name
            assert path.parent.is_dir(), file
            assert list(path.parent.glob(path.name.replace("NAME", "*"))), f"nothing like {file} is there yet"
            continue
        assert path.exists(), file
        if inside:
            assert inside in names_in(path), f"{file} has no {inside}"
    for mentioned in re.findall(r"`((?:vln_ros|benchmarks|launch|config|docs|test)/[\w./]+)`", section):
        if "NAME" not in mentioned:
            assert (ROOT / mentioned).exists(), mentioned


def test_the_glossary_is_in_order_and_linked() -> None:
    text = (ROOT / "docs/reference/glossary.md").read_text("utf-8")
    entries = re.findall(r"^\*\*(.+?)\*\* (.+?)(?=\n\n|\Z)", text, re.M | re.S)
    terms = [term.lower().split(",")[0] for term, _ in entries]
    assert len(terms) > 40
    assert terms == sorted(set(terms)), "in the order of the alphabet, each once"
    for term, meaning in entries:
        assert meaning.strip().endswith((".", ")")), term
        assert len(meaning.split()) >= 6, term
    assert ROOT / "docs/reference/glossary.md" in targets(ROOT / "docs/design/architecture.md")
