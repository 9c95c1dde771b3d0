"""``vln_ros replay``: a recording, played to the nodes or to an engine alone."""
