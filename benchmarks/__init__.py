"""Measures the package; neither pip nor colcon installs it. ``vln_ros bench`` finds it in a checkout."""
