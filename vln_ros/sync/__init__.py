"""From separate sensor messages to the newest complete frame."""
