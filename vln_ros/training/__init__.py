"""Behaviour cloning and DAgger of the package's own small policy, in the embedded world."""
