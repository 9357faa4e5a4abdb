"""What changed since the last version, and the page that tells it."""
