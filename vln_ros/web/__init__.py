"""Serves the page in the browser: what is shown, who may drive. Knows nothing of ROS."""
