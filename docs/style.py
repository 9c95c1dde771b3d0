"""Checks the English of README, CONTRIBUTING and docs/: the length of sentences, and the field's words.

    python docs/style.py                 every page: words a sentence, share over 30 words, and what to mend
    python docs/style.py --table         the same as Markdown
    python docs/style.py --quiet         only what to mend
    python docs/style.py FILE ...        these pages only
    python docs/style.py --words 6c1e78c how long docs/ is, and was at that commit

The rules are in CONTRIBUTING.md, "How we write". Status: 0, or 1 where there is something to mend.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONG_WORDS = 30
"""A sentence above this counts as long."""
MOST_WORDS = 40
"""No sentence of a page that a person writes is longer."""
GENERATED = (
    "benchmarks/index.md",
    "benchmarks/records.md",
    "reference/parameters.md",
)
"""Their text stands in the code."""
SHORTEST_CELL_WORDS = 8
"""A cell of a table below this is a label and no sentence."""

WORDS = {
    r"mounting": "extrinsics",
    r"relief ladder": "OOM fallback",
    r"stillborn": "a worker that failed to start",
    r"workbench": "worker pool",
    r"contestants?": "policy",
    r"scribe": "collator",
    r"surprises": "dynamic obstacles",
    r"capacity planner": "capacity estimate",
    r"noisy-base": "noisy base",
    r"whoever": "'who', 'a process that', 'if you'",
    r"thereby|thereof|therein|wherein|hereby|heretofore": "plain words",
    r"in the place of": "'instead of'",
    r"amid": "'during', 'within'",
    r"is to be \w+ed": "say who does it",
    r"so-called": "the word alone",
    r"utili[sz]e[sd]?": "use",
    r"in order to": "to",
    r"makes it possible to": "lets you",
    r"it should be noted that": "nothing",
    r"very|really|simply|just|basically|obviously": "nothing",
}
"""What is not written, and what is instead: private words, words of another language's order, filler."""
_WORD_RULES = [(re.compile(rf"\b(?:{pattern})\b", re.I), instead) for pattern, instead in WORDS.items()]
_END = re.compile(r"(?<=[.?!])[\"”*)]*\s+(?=[A-Z*\"“(`\[0-9])")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|No|Fig|approx)\.")


@dataclass(frozen=True)
class Sentence:
    line: int
    text: str

    @property
    def words(self) -> int:
        """Code, numbers and links count as the words that they show."""
        return len(re.findall(r"[^\s]*\w[^\s]*", self.text))


@dataclass(frozen=True)
class Readability:
    sentences: int
    mean_words: float
    long_share: float

    @staticmethod
    def of(sentences: list[Sentence]) -> Readability:
        counts = [s.words for s in sentences]
        if not counts:
            return Readability(0, 0.0, 0.0)
        long = sum(count > LONG_WORDS for count in counts)
        return Readability(len(counts), sum(counts) / len(counts), long / len(counts))


def sentences(text: str) -> list[Sentence]:
    """Those of a page's paragraphs, items of lists, and cells of tables that are more than a label."""
    return [s for line, block in _blocks(text) for s in _split(line, block)]


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Each paragraph, item and cell, and the line on which it begins."""
    text = re.sub(r"<!--.*?-->", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    text = re.sub(r"^([ ]*```.*?^[ ]*```)$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    begun, lines = 0, list[str]()
    for number, line in enumerate([*text.split("\n"), ""], 1):
        new = not line.strip() or re.match(r"\s*([-*+]|\d+\.)\s+|#|\||>", line)
        if new and lines:
            yield begun, " ".join(lines)
            lines = []
        if not line.strip() or line.startswith("#") or (line.startswith("    ") and not lines):
            continue
        if line.startswith("|"):
            for cell in line.strip().strip("|").split("|"):
                if len(cell.split()) >= SHORTEST_CELL_WORDS:
                    yield number, cell
            continue
        begun = begun if lines else number
        lines.append(re.sub(r"^\s*([-*+]|\d+\.|>)\s+", "", line).strip())


def _split(line: int, block: str) -> list[Sentence]:
    plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", block)
    plain = _ABBREVIATIONS.sub(lambda m: m[0].replace(".", "․"), plain)
    return [Sentence(line, part.strip()) for part in _END.split(plain) if re.search(r"[A-Za-z]{2}", part)]


def faults(path: Path) -> list[str]:
    """What of a page is against the rules, each with its line."""
    text = path.read_text("utf-8")
    found = []
    for s in sentences(text):
        if s.words > MOST_WORDS:
            found.append(f"{path.name}:{s.line}: a sentence of {s.words} words: {s.text[:60]} ...")
        prose = re.sub(r"`[^`]*`|\"[^\"]*\"", "", s.text)  # what is quoted is no word of ours
        for rule, instead in _WORD_RULES:
            found += [f"{path.name}:{s.line}: {m[0]!r}: write {instead}" for m in rule.finditer(prose)]
    return found


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def is_generated(path: Path) -> bool:
    return any(path.as_posix().endswith(f"docs/{name}") for name in GENERATED)


def words_by_kind(texts: dict[str, str]) -> Counter[str]:
    """How long pages are, given by their paths: words between blanks, code and tables included."""
    counts = Counter[str]()
    for path, text in texts.items():
        by_hand = re.sub(r"<!-- (\w+): made by .*?<!-- end of \1 -->", "", text, flags=re.S)
        kind = "written by people"
        if path.endswith("/parameters.md"):
            by_hand = ""
        elif path.startswith(("docs/benchmarks", "docs/history")):
            kind = "records and history"
            by_hand = text
        counts[kind] += len(by_hand.split())
        counts["made from the code"] += len(text.split()) - len(by_hand.split())
    return counts


def texts_at(revision: str | None) -> dict[str, str]:
    """The pages of docs/ on disk, or as they were committed. Raises CalledProcessError: no such commit."""
    if revision is None:
        return {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in (ROOT / "docs").rglob("*.md")}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        return done.stdout.decode("utf-8")

    names = git("ls-tree", "-r", "--name-only", revision, "docs").splitlines()
    return {name: git("show", f"{revision}:{name}") for name in names if name.endswith(".md")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", type=Path, help="pages (default: all)")
    parser.add_argument("--table", action="store_true", help="print Markdown, and no faults")
    parser.add_argument("--quiet", action="store_true", help="print only what to mend")
    parser.add_argument("--words", metavar="COMMIT", help="print how many words docs/ has now and had then")
    options = parser.parse_args(arguments)
    if options.words:
        then, now = (words_by_kind(texts_at(revision)) for revision in (options.words, None))
        for kind in sorted(then | now):
            print(f"{kind:<42}{then[kind]:>8} words at {options.words}{now[kind]:>8} now")
        return 0
    found, every, rows = list[str](), list[Sentence](), list[tuple[str, Readability]]()
    for path in options.pages or pages():
        own = sentences(path.read_text("utf-8"))
        name = path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path
        rows.append((str(name), Readability.of(own)))
        if not is_generated(path):
            every += own
            found += faults(path)
    rows.append(("all that a person writes", Readability.of(every)))
    form = "{:<42}{:>6} sentences{:>7.1f} words{:>7.1f} % long"
    if options.table:
        print(f"| page | sentences | words a sentence | over {LONG_WORDS} words |\n|---|---|---|---|")
        form = "| {} | {} | {:.1f} | {:.1f} % |"
    if not options.quiet:
        for name, r in rows:
            print(form.format(name, r.sentences, r.mean_words, 100 * r.long_share))
    if not options.table:
        print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
