"""Episodes and their instructions."""
