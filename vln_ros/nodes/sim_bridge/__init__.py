"""A simulated robot, as topics and services."""
