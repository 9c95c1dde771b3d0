"""The fleet node: navigators of several robots in one process, on one model."""
