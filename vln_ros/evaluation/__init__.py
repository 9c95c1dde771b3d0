"""Runs and measures many episodes, and reports them."""
