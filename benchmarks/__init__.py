"""Benches that measure the package; neither pip nor colcon installs them, ``vln_ros bench`` runs them."""
