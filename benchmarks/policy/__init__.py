"""One policy run in different ways."""
