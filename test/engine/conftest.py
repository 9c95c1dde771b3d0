"""The model of the tests of one engine, unless they make their own."""

from __future__ import annotations

import pytest
from engine_models import build_small, load_small

from vln_ros.engine.checkpoint.model import LoadedModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_small(build_small(tmp_path_factory.mktemp("tiny") / "checkpoint"))
