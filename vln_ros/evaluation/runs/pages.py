"""Renders the pages from their templates: each page is one file, with the run's files beside or inside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import jinja2
from PIL import Image

_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".mp4": "video/mp4", ".json": "application/json"}
_THUMBNAIL_PX = 192
"""Twice the width at which it is shown, for fine screens."""


class PageFiles(Protocol):
    """How a page of a run comes by the files of the run.

    Attributes:
        alone: the page goes away from the run folder: what is not in it cannot be linked.
    """

    alone: bool

    def address(self, name: str) -> str:
        """What stands in ``src`` or ``href`` for a file of the run folder."""

    def thumbnail(self, name: str) -> str:
        """The same for a picture that is shown small."""


class FilesBeside:
    """The page lies in the run folder."""

    alone = False

    def address(self, name: str) -> str:
        return name

    def thumbnail(self, name: str) -> str:
        return name


class FilesInside:
    """The page holds them itself.

    Args:
        folder: of the run.
        made: contents of files that need not lie there, by name.
    """

    alone = True

    def __init__(self, folder: Path, made: Mapping[str, bytes]) -> None:
        self._folder, self._made = folder, made

    def address(self, name: str) -> str:
        content = self._made[name] if name in self._made else (self._folder / name).read_bytes()
        return _data_url(content, _TYPES[Path(name).suffix])

    def thumbnail(self, name: str) -> str:
        try:
            with Image.open(self._folder / name) as picture:
                small = picture.convert("RGB")
        except OSError:
            return ""
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        packed = io.BytesIO()
        small.save(packed, "JPEG", quality=80)
        return _data_url(packed.getvalue(), "image/jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _source(name: str) -> str:
    return (files("vln_ros.evaluation.runs") / "templates" / name).read_text("utf-8")


def render(template: str, filters: Mapping[str, Callable[..., str]], /, **values: Any) -> str:
    """The page that ``template``, a file of ``templates/``, makes of ``values``; text in them is escaped.

    Style and scripts are files of their own there, which the template includes.

    Args:
        filters: functions that the template uses to write values, by name.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)
