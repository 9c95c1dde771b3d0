"""As the real package has it."""

from . import common

__all__ = ["common"]
