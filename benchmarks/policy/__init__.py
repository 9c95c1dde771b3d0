"""Compares one policy under different settings on the same episodes."""
