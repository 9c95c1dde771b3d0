"""Measures, records, the run folder and its report."""
