"""Published rows as training text, and their tokens."""
