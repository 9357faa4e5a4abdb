"""What a line of an audit's ``quarantine.jsonl`` says of its text."""

from __future__ import annotations

from typing import Any

CANONICAL = "canonical"
"""Value of ``raw_is`` where ``raw`` is not the text of the source file, but the row's messages after all repairs."""


def is_canonical(row: dict[str, Any]) -> bool:
    """Return whether a line holds the row's messages, not the text that stands in the source file.

    Lines of older releases do not say it; there it is so with leaks.
    """
    leaked = any(reason.get("rule") == "leak" for reason in row.get("reasons", ()))
    return bool(row.get("raw_is", CANONICAL if leaked else "") == CANONICAL)
