"""For all tests: a ROS graph of one's own, no thread pool that fights with others', no need of plugins."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# Before anybody imports the distutils of Python 3.11: torch's compiler wants the one of setuptools.
import setuptools  # type: ignore[import-untyped]  # noqa: F401

# Before anything imports numpy, torch or rclpy. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
os.environ.setdefault("PYTEST_TIMEOUT", "120")  # of pytest-timeout, in seconds

from vln_ros.ros.terminal.environment import isolate, own_domain

isolate(os.environ, own_domain())  # a test is a simulation: no robot may hear it
# Child processes inherit that it is ignored, as it is behind nohup and a script's &: then no Ctrl-C ends one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    _forget_the_name_of_the_test()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    _forget_the_name_of_the_test()


def _forget_the_name_of_the_test() -> None:
    """It would make an environment of its own for each test, and every graph would try ROS anew in it."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first.

    `make test` hands whole files to its workers, in this order: a long one that came last would keep one of
    them busy while the other has nothing left to do.
    """
    cost: Counter[Path] = Counter()
    for item in items:
        cost[item.path] += _SLOW_COST if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -cost[item.path])


_SLOW_COST = 20
"""Of a test that is marked slow, in others."""


class _NoHypothesis(types.ModuleType):
    """In the place of hypothesis, which rosdep does not install: tests of properties are skipped, others run.

    Whatever is asked of it is itself again, so that strategies can be written down.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __or__(self, _: Any) -> Any:
        return self

    @staticmethod
    def given(*_: Any, **__: Any) -> Any:
        def skipped(test: Any) -> Any:
            @pytest.mark.skip(reason="needs hypothesis (requirements-dev.txt)")
            def of_a_property() -> None: ...

            of_a_property.__name__ = test.__name__
            return of_a_property

        return skipped

    @staticmethod
    def settings(*_: Any, **__: Any) -> Any:
        return lambda test: test


if importlib.util.find_spec("hypothesis") is None:
    sys.modules["hypothesis"] = _NoHypothesis("hypothesis")
