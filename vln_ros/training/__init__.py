"""Trains the package's small policy in the embedded world by behaviour cloning and DAgger."""
