"""Reports of the training room, each one HTML page: audit, sweep, evaluation."""
