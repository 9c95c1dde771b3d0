"""Episodes: tasks in scenes, and their instructions."""
