"""Who knows the map: the shortest way as actions, and as an engine."""
