"""The benches: one file for each ``vln_ros bench NAME``."""
