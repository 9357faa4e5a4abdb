"""Documents become vectors in pgvector, and questions find them again."""
