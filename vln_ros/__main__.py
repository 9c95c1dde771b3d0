"""``python -m vln_ros``."""

from vln_ros.cli import main

main()
