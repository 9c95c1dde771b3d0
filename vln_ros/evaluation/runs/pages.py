"""Renders the pages from their templates: each page is one file that loads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2


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
