"""Estimates what a checkpoint needs of a device before it runs there."""
