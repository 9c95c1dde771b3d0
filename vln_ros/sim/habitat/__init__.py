"""Habitat, in a process of its own."""
