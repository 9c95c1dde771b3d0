"""Habitat, in a process of its own under the user's own Python."""
