"""Markdown: its YAML front matter becomes metadata, its first heading the title where that has none."""

from __future__ import annotations

import re
from typing import Any

import yaml

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.parsers.text import decoded

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.{0,65536}?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r"^#[ \t]+(.+?)[ \t]*#*[ \t]*\r?$", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(content: bytes) -> Parsed:
    """Return a Markdown document.

    Raises:
        BadData: The front matter is no YAML. It may say who may read the document, so it cannot be passed over.
    """
    text = decoded(content)
    front = _FRONT.match(text) if text.startswith("---") else None
    metadata = _mapping(front[1]) if front else None
    if front and metadata is not None:
        text = text[front.end() :]
    metadata = metadata or {}
    stated = metadata.pop("title", None)
    return Parsed(text, "markdown", stated if isinstance(stated, str) else title_of(text), metadata)


def title_of(text: str) -> str:
    """Return the first level-1 heading of a Markdown text; "" where none comes before its first code block."""
    found = _TITLE.search(text)
    fence = _FENCE.search(text) if found else None
    return found[1] if found and not (fence and fence.start() < found.start()) else ""


def _mapping(front: str) -> dict[str, Any] | None:
    """Return what front matter says, None where it is a text between two rules."""
    try:
        found = yaml.load(front, _LOADER)  # noqa: S506 (a safe loader, in C where there is one)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 2}" if mark else ""
        raise BadData(
            f"the front matter between the first two --- is no YAML{where}: correct it, or begin with an empty line"
            " if it is none"
        ) from None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None
