"""A person's sentences to a robot, from a terminal."""
