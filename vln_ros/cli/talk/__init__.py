"""Sentences to a robot: what a person says, asks and stops from a terminal."""
