"""Where what one frame shows is in another, and whether two frames fit together."""
