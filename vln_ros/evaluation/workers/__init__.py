"""Who runs the episodes, in how many processes, and in which world."""
