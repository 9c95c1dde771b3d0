"""The oracle policy: who knows the map, as actions and as an engine."""
