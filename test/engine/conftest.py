"""The model of the tests of one engine, unless they make their own."""

import pytest
import torch

from vln_ros.config import TinyConfig
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.tiny import build_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")
