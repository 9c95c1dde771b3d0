"""The Python interface: pictures in, actions and answers out. Its names are those of ``vln_ros`` itself."""
