"""Phone numbers and segments."""
