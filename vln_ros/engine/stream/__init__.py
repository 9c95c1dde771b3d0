"""The stream: what it holds, where it stands, its keys and values, and the forward that adds to it."""
