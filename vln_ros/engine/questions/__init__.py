"""Questions about a run, answered beside it."""
