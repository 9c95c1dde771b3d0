"""Recordings: rosbag2 in SQLite or MCAP."""
