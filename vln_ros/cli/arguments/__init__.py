"""What the arguments of the commands share."""
