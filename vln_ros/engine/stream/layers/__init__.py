"""Runs the released decoder layers right on a stream's slots."""
