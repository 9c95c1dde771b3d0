"""What the commands share in reading their arguments."""
