"""One file per ``vln_ros bench NAME``."""
