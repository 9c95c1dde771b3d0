"""From three streams of messages to the newest complete observation."""
