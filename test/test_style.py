"""The English of the pages: what `docs/style.py` counts and finds, and that the pages keep to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pages import program

STYLE = program("docs/style.py")

PAGE = """# A heading of many words that is no sentence at all and does not count

The robot stops. It says why, e.g. `stopped: no odometry`, on
`/diagnostics`! Is that all?

- An item begins here. It goes on
  on the next line.
- Another [one with a link](somewhere.md#at-all).

| short | a cell with more than eight words is a sentence of its own |
|---|---|

```bash
not. A. sentence.
```

<!-- nor. This. -->

    nor. This. Drawing.

1. First.
"""


def test_sentences_of_paragraphs_items_and_cells() -> None:
    found = [(s.line, s.text, s.words) for s in STYLE.sentences(PAGE)]
    assert [(line, words) for line, _, words in found] == [
        (3, 3), (3, 9), (3, 3), (6, 4), (6, 7), (8, 5), (10, 13), (21, 1)
    ]  # fmt: skip
    assert found[5][1] == "Another one with a link."


def test_readability_counts_long_sentences() -> None:
    text = "Short one. Then " + "word " * 30 + "end."
    r = STYLE.Readability.of(STYLE.sentences(text))
    assert (r.sentences, r.mean_words, r.long_share) == (2, 17.0, 0.5)
    assert STYLE.Readability.of([]).mean_words == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("word " * 40 + "end.", "a sentence of 41 words"),
        ("The mounting is known.", "'mounting': write extrinsics"),
        ("Whoever asks.", "'Whoever': write"),
        ("It is simply there.", "'simply': write nothing"),
        ("In order to stop.", "'In order to': write to"),
    ],
)
def test_faults_are_named_with_their_line(text: str, said: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{text}\n", "utf-8")
    (fault,) = STYLE.faults(page)
    assert fault.startswith("page.md:3: ")
    assert said in fault


@pytest.mark.parametrize(
    "text",
    [
        "word " * 39 + "end.",
        "The option `mounting` is gone.",
        'Not "simply" stop.',
        "```\nwhoever\n```",
        "adjust",
    ],
)
def test_what_is_in_order_is_no_fault(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{text}\n", "utf-8")
    assert STYLE.faults(page) == []
    assert STYLE.main([str(page), "--quiet"]) == 0


def test_the_pages_that_people_write_keep_to_it() -> None:
    faults = [fault for page in STYLE.pages() if not STYLE.is_generated(page) for fault in STYLE.faults(page)]
    assert not faults, "\n".join(faults)


def test_what_is_generated_is_there() -> None:
    assert sum(STYLE.is_generated(page) for page in STYLE.pages()) == len(STYLE.GENERATED)


def test_words_are_counted_by_who_writes_them() -> None:
    texts = {
        "docs/index.md": "one two\n<!-- rows: made by x.py -->\n| three |\n<!-- end of rows -->\n`four` five",
        "docs/reference/parameters.md": "one two three",
        "docs/benchmarks/records.md": "one two",
        "docs/history/tree.md": "one",
    }
    counts = STYLE.words_by_kind(texts)
    marked, parameters = 14, 3
    assert counts == {
        "written by people": 4,
        "made from the code": marked + parameters,
        "records and history": 3,
    }
    assert STYLE.words_by_kind(STYLE.texts_at(None))["written by people"] > 10_000
