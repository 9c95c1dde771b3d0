"""A person talks with a robot: sentences from a terminal, or a page in the browser."""
