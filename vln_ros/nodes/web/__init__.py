"""The node behind the page in the browser: from topics to what is shown, and from viewers to the robot."""
