"""One episode: how it runs, what is recorded and measured of it, and how it looks."""
