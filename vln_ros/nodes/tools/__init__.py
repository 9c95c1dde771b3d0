"""Nodes for people: looking, recording, playing recordings."""
