"""Drives a headless Chromium that is installed on this machine, for benches and tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vln_ros.config import ConfigError

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def why_no_chromium() -> str:
    """What is missing, and the remedy; empty: nothing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is not installed: pip install -r requirements-dev.txt"
    if not any(map(shutil.which, NAMES)):
        return f"none of {', '.join(NAMES)} is installed: apt install chromium-headless-shell (Debian)"
    return ""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's, in a process of its own.

    Raises:
        ConfigError: there is none.
    """
    if why := why_no_chromium():
        raise ConfigError(why)
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()
