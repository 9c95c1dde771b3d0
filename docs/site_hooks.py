"""Hooks of MkDocs: the list of modules as a page, and links that lead out of docs/ into the repository.

On GitHub they are relative paths. The site has no such files. So they lead to the repository where
``repo_url`` is set in mkdocs.yml, and are plain text where it is not. One that leads nowhere is a warning,
and ends a strict build.
"""

from __future__ import annotations

import importlib.util
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[(?P<text>[^]]+)\]\((?P<path>(?:\.\./)+[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
MODULES = "reference/modules.md"
"""A page that is made when the site is built."""
_LOG = logging.getLogger("mkdocs.hooks.site_hooks")


def on_files(files: Any, *, config: Any) -> Any:
    """MkDocs calls it with the files of docs/; the list of modules joins them."""
    from mkdocs.structure.files import File

    spec = importlib.util.spec_from_file_location("list_modules", ROOT / "docs/list_modules.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("docs/list_modules.py")
    list_modules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(list_modules)
    files.append(File.generated(config, MODULES, content=list_modules.page()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """MkDocs calls it with the text of every page."""
    return with_outside_links(markdown, page.file.src_uri, config.repo_url or "")


def with_outside_links(markdown: str, source: str, repo_url: str) -> str:
    """A page whose links out of docs/ lead to ``repo_url``, or are no links.

    Args:
        source: path of the page below docs/.
        repo_url: empty where the repository has no address yet.
    """

    def replaced(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), match["path"]))
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            _LOG.warning("%s: %s leads nowhere", source, match["path"])
        if not repo_url:
            return match["text"]
        return f"[{match['text']}]({repo_url.rstrip('/')}/blob/main/{path}{match['anchor'] or ''})"

    return LINK.sub(replaced, markdown)
