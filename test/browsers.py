"""A headless Chromium for the tests of pages, which may neither complain nor reach outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.measure.chromium import chromium, why_no_chromium


@contextmanager
def launched() -> Iterator[Any]:
    """A browser of playwright's; skips the test where there is none."""
    if why := why_no_chromium():
        pytest.skip(why)
    with chromium() as browser:
        yield browser


class Complaints:
    """What pages of one context have said on the console, and asked of other machines.

    Attributes:
        expected: parts of texts that are no complaint.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.expected: tuple[str, ...] = ()

    def listen(self, context: Any) -> None:
        context.on("console", self._read)
        context.on("weberror", lambda e: self._note(str(e.error)))
        context.on("request", lambda r: self._look(r.url))

    def _read(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._note(f"{message.type}: {message.text}")

    def _look(self, url: str) -> None:
        if urlsplit(url).scheme not in ("blob", "data", "file") and urlsplit(url).hostname != "127.0.0.1":
            self._note(f"request to {url}")

    def _note(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.texts.append(text)
