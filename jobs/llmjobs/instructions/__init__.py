"""Raw instruction files become a validated, deduplicated, split and published dataset version."""
