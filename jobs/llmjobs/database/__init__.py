"""PostgreSQL with pgvector: the connection and the numbered migrations of Nightshift's own database."""
