"""What a stream shows of the past, and what it forgets."""
