"""Vision-language navigation for ROS 2 with a streaming Qwen2.5-VL."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Action",
    "ActionChunk",
    "CameraModel",
    "ConfigError",
    "EngineError",
    "Pose",
    "QuestionError",
    "Spoken",
    "Stream",
    "load",
]

if TYPE_CHECKING:
    from vln_ros.api.stream import Stream, load
    from vln_ros.config import ConfigError
    from vln_ros.datatypes import Action, ActionChunk, CameraModel, Pose
    from vln_ros.protocols import EngineError
    from vln_ros.questions import QuestionError, Spoken

_MODULES = {
    "vln_ros.api.stream": ("Stream", "load"),
    "vln_ros.config": ("ConfigError",),
    "vln_ros.datatypes": ("Action", "ActionChunk", "CameraModel", "Pose"),
    "vln_ros.protocols": ("EngineError",),
    "vln_ros.questions": ("QuestionError", "Spoken"),
}
"""Where each public name is defined. Imported when it is first asked for: ``import vln_ros`` stays fast."""


def __getattr__(name: str) -> object:
    import importlib

    for module, names in _MODULES.items():
        if name in names:
            found: object = getattr(importlib.import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'vln_ros' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
