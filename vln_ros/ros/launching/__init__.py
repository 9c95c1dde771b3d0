"""What the launch files share: arguments as data, checks before anything starts, what became of each node."""
