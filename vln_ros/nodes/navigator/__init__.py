"""Camera, odometry and instruction in; numbered action queues out."""
