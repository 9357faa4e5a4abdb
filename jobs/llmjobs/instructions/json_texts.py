"""JSON texts taken apart, however deep: rows as they stand in a file, the tools that they offer, quoted texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def value_of(text: str) -> Any:
    """Return what JSON says; a text that is no JSON, or nested deeper than Python reads, stays a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def texts_in(value: Any, *, quoted: bool = False) -> Iterator[str]:
    """Yield every text in a value, in its order.

    Args:
        value: What JSON says, or a row of a table.
        quoted: Whether a text that is an object or a list as JSON yields the texts in it too.
    """
    # No recursion: a value is as deep as JSON that Python just reads, and its texts may hold such JSON again.
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
            if quoted and part[:1] in {"{", "["} and not isinstance(inner := value_of(part), str):
                waiting.append(inner)
        elif isinstance(part, dict):
            waiting.extend(reversed(part.values()))
        elif isinstance(part, list):
            waiting.extend(reversed(part))
