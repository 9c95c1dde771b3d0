"""Templates of the pages: whole, shared where they agree, and nothing from anywhere else."""

from __future__ import annotations

import re
from importlib.resources import files

import jinja2
import pytest

from vln_ros.evaluation.runs.pages import render

TEMPLATES = {
    path.name: path.read_text("utf-8") for path in (files("vln_ros.evaluation.runs") / "templates").iterdir()
}
PAGES = {name: text for name, text in TEMPLATES.items() if name.endswith(".html.j2")}


BASE = "base.html.j2"
"""Of every page: its frame, and the style that all share."""


def included(page: str) -> list[str]:
    return re.findall(r'{% (?:include|extends) "([^"]+)" %}', page)


def test_every_file_is_part_of_a_page_and_the_style_of_all_is_there_once() -> None:
    assert set(PAGES) == {BASE, "report.html.j2", "compare.html.j2"}
    assert {name for page in PAGES.values() for name in included(page)} | set(PAGES) == set(TEMPLATES)
    assert included(PAGES[BASE]) == ["page.css"]
    for name, page in PAGES.items():
        if name != BASE:
            assert page.startswith(f'{{% extends "{BASE}" %}}')
            assert "page.css" not in included(page) and "<html" not in page


def test_every_colour_of_the_pages_has_one_for_the_dark() -> None:
    light, dark = (
        set(re.findall(r"(--\w[\w-]*):", part)) for part in TEMPLATES["page.css"].split("@media", 1)
    )
    assert light == dark and len(light) > 8
    for name, text in TEMPLATES.items():
        if name.endswith(".css"):
            used = set(re.findall(r"var\((--[\w-]+)\)", text)) - {"--tone"}
            assert used <= light, name


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_file(name: str) -> None:
    """Pictures and data of the run lie beside it; style and script are in it, none of them in the markup."""
    page = PAGES[name]
    assert not re.search(r"<link\b|<script[^>]+src|https?://|@import", page)
    for tag in ("style", "script"):
        for inner in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            blocks = {"{% block style %}{% endblock %}"}
            assert set(inner.split("\n")) <= {
                "",
                *blocks,
                *(f'{{% include "{part}" %}}' for part in included(page)),
            }


@pytest.mark.parametrize("name", sorted(set(PAGES) - {BASE}))
def test_a_value_that_is_not_given_is_an_error(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(name, {"num": str, "metres": str})
