"""Simulated worlds, their episodes, and who knows the way in them."""
