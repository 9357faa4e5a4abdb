"""How a text is cut: sections under headings, pieces that are never broken, and borders that stay where they are."""
