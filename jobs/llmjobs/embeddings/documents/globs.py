"""Globs below a folder, as one regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence

EVERYTHING = ("**/*",)

_PIECES = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])")
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def expression(globs: Sequence[str]) -> re.Pattern[str]:
    """Return what the paths look like that one of `globs` matches; ``*`` is within a folder, ``**/`` any depth."""
    return re.compile("|".join(f"(?:{_translated(glob.strip('/'))})" for glob in globs), re.DOTALL)


def _translated(glob: str) -> str:
    return "".join(
        piece.replace("[!", "[^", 1) if piece.startswith("[") else _MEANINGS.get(piece) or re.escape(piece)
        for piece in _PIECES.split(glob)
    )
