"""The simulator bridge: a simulated robot as topics and services."""
