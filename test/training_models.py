"""The smallest policy that the tests of training build."""

from vln_ros.config import Scalar

SMALL: dict[str, Scalar] = {
    "model.hidden": 48,
    "model.layers": 2,
    "model.heads": 3,
    "model.kv_heads": 1,
    "model.intermediate": 64,
    "model.vision_depth": 1,
    "model.vision_hidden": 32,
    "model.vision_heads": 2,
    "model.vision_intermediate": 48,
}
