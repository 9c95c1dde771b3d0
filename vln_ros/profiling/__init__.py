"""Records where the time goes, and reports it."""
