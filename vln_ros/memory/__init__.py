"""Decides which frames and tokens of the past a bounded stream keeps."""
