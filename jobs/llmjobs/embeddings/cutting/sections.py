"""Sections of a Markdown document, each with the path of headings that it stands under."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise, zip_longest

from markdown_it import MarkdownIt

from llmjobs.embeddings.cutting.fences import mended

_MAY_HOLD_HEADINGS = re.compile(r"^ {0,3}(?:#{1,6}(?:[ \t]|$)|=+[ \t]*$|-+[ \t]*$)", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A stretch of text below one heading; `end` is where the next heading begins."""

    path: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class _Heading:
    """One heading: its level (1 to 6), its words, and where its own line or lines begin and end."""

    level: int
    title: str
    start: int
    end: int


def sections(text: str, *, title: str = "") -> Iterator[Section]:
    """Yield the stretches between headings in order; together they hold all text but the headings' own lines.

    Args:
        text: Markdown as CommonMark has it, but for fences of code that are not closed.
        title: Of the document: the beginning of every path, unless the text has a level-1 heading of its own.
    """
    headings = _headings(text)
    above = () if not title or any(heading.level == 1 for heading in headings) else (title,)
    yield Section(above, 0, headings[0].start if headings else len(text))
    path: list[_Heading] = []
    for heading, following in zip_longest(headings, headings[1:]):
        path = [*(one for one in path if one.level < heading.level), heading]
        end = following.start if following else len(text)
        # The words of a heading are in its chunks' path. One that has neither text nor a heading below it would
        # be lost, so it becomes a chunk itself.
        bare = not text[heading.end : end].strip() and not (following and following.level > heading.level)
        yield Section((*above, *(one.title for one in path)), heading.start if bare else heading.end, end)


def _headings(text: str) -> list[_Heading]:
    """Return the document's own headings; those inside quotes and lists belong to these."""
    if not _MAY_HOLD_HEADINGS.search(text):
        return []
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    starts[-1] = len(text)
    tokens = _parser().parse(mended(text))
    return [
        _Heading(int(token.tag[1:]), inline.content.strip(), starts[token.map[0]], starts[token.map[1]])
        for token, inline in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map is not None
    ]


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark")
