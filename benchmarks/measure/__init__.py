"""What the suites measure with."""
