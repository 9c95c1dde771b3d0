"""The navigator node: camera, odometry and instruction in, action queues out."""
