"""What a terminal and its Python have and lack for ROS."""
