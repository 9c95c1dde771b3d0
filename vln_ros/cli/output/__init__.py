"""What the commands share in what they print: a line while one waits, and what comes next."""
