"""From the scores behind a forward to an action chunk."""
