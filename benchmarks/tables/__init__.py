"""Figures of the benches as text and pictures."""
