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


def included(page: str) -> list[str]:
    return re.findall(r'{% include "([^"]+)" %}', page)


def test_every_file_is_part_of_a_page_and_the_style_of_all_is_there_once() -> None:
    assert set(PAGES) == {"report.html.j2", "compare.html.j2"}
    assert {name for page in PAGES.values() for name in included(page)} | set(PAGES) == set(TEMPLATES)
    assert all("page.css" in included(page) for page in PAGES.values())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_file(name: str) -> None:
    """Pictures and data of the run lie beside it; style and script are in it, none of them in the markup."""
    page = PAGES[name]
    assert not re.search(r"<link\b|<script[^>]+src|https?://|@import", page)
    for tag in ("style", "script"):
        for inner in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            assert set(inner.split("\n")) <= {"", *(f'{{% include "{part}" %}}' for part in included(page))}


@pytest.mark.parametrize("name", PAGES)
def test_a_value_that_is_not_given_is_an_error(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(name, {"num": str, "metres": str})
