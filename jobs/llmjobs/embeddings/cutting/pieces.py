"""The pieces of a text that a chunk holds whole: paragraphs, sentences, lines; words where nothing else fits."""
# ruff: noqa: RUF001 (quotation marks and full stops of other languages look like ours)

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple, Self

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.cutting.borders import Rank
from llmjobs.embeddings.cutting.fences import spans
from llmjobs.embeddings.documents.source import Form


class Gap(IntEnum):
    """How good a place the gap before a piece is to cut at; the greater, the better."""

    CHARACTER = 0
    WORD = 1
    SENTENCE = 2
    LINE = 3
    PARAGRAPH = 4


class Piece(NamedTuple):
    """A stretch of a text, from `start` to `end` in characters, and the gap before it."""

    start: int
    end: int
    gap: Gap

    @classmethod
    def of(cls, text: str, start: int, end: int, gap: Gap = Gap.PARAGRAPH) -> Self:
        """Return a stretch of `text` without white space at its end and blank lines at its beginning.

        Its first line keeps its indentation, which means something in Markdown and in programs.
        """
        body = text[start:end].rstrip()
        lead = len(body) - len(body.lstrip())
        line = body.rfind("\n", 0, lead) + 1
        whole_line = line or start == 0 or text[start - 1] == "\n"
        return cls(start + (line if whole_line else lead), start + len(body), gap)


_AROUND = 32
"""Characters on either side of a gap that its hash sees: an edit further away cannot move a border."""

_PART = 16
"""Characters of a part of a word that is too long for a chunk."""

_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_LINE_END = re.compile(r"\n")
_LISTED = re.compile(r"^[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]|\|)", re.MULTILINE)
_SENTENCE_END = re.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？]["”』」）]*\s*""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[“\"])(?:[^\W\d]|e\.g|i\.e|z\.B|d\.h|etc|dr|mrs?|ms|prof|st|figs?|nos?|nr|vs|cf|al|eqs?|secs?|ch|vol|"
    r"pp|approx|bzw|abb|ca|resp|inc|ltd|jr|sr)\.$",
    re.IGNORECASE,
)
"""What ends with a full stop and not a sentence: initials too."""
_WORD_END = re.compile(r"\s+")


def pieces(text: str, start: int, end: int, form: Form, *, small: int) -> Iterator[Piece]:
    """Yield the pieces of a stretch of `text` in order; together they hold all but white space.

    Args:
        text: The document.
        start: Where the stretch begins.
        end: Where it ends, exclusive.
        form: What its lines mean.
        small: Characters; paragraphs that are no longer are not divided into sentences or lines.
    """
    fences = list(spans(text, start, end)) if form == "markdown" else []
    for piece in _stretches(text, start, end, _BLANK_LINES, (Gap.PARAGRAPH, Gap.PARAGRAPH)):
        fenced = any(begin <= piece.start < stop for begin, stop in fences)
        gap = piece.gap
        if any(begin < piece.start < stop for begin, stop in fences):
            gap = Gap.SENTENCE
        elif form == "code" and text[piece.start].isspace():
            gap = Gap.LINE
        known = piece._replace(gap=gap)
        if piece.end - piece.start <= small:
            yield known
        else:
            yield from _divided(text, known, "code" if fenced else form)


def smaller(text: str, piece: Piece) -> Iterator[Piece]:
    """Yield the words of a piece, or the parts of a single word; the first one has the piece's own gap.

    Raises:
        BadData: It is a single character.
    """
    start, end, gap = piece
    if end - start == 1:
        raise BadData(f"character {start} alone is too long for the model: take it out, or allow longer chunks")
    if not text[start].isspace() and not _WORD_END.search(text, start, end):
        part = _PART if end - start > _PART else 1
        for begin in range(start, end, part):
            yield Piece(begin, min(begin + part, end), gap if begin == start else Gap.CHARACTER)
        return
    for word in _stretches(text, start, end, _WORD_END, (gap, Gap.WORD)):
        lead = len(text[word.start : word.end]) - len(text[word.start : word.end].lstrip())
        yield word._replace(start=word.start + lead)


def ranks(text: str, found: Sequence[Piece]) -> list[Rank]:
    """Return how good a border the gap before each piece is: by its kind, then by a hash of the text around it."""
    first = [(int(found[0].gap), 0)] if found else []
    return first + [(int(piece.gap), _hash(text, before, piece)) for before, piece in pairwise(found)]


def _hash(text: str, before: Piece, piece: Piece) -> int:
    left = text[max(before.start, before.end - _AROUND) : before.end]
    right = text[piece.start : min(piece.end, piece.start + _AROUND)]
    return int.from_bytes(hashlib.blake2b(f"{left}\n{right}".encode(), digest_size=8).digest())


def _divided(text: str, piece: Piece, form: Form) -> Iterator[Piece]:
    """Yield the lines of a program, the items of a list or table, the sentences of anything else."""
    start, end, gap = piece
    if form == "code":
        return _stretches(text, start, end, _LINE_END, (gap, Gap.SENTENCE))
    if form == "markdown" and len(_LISTED.findall(text, start, end)) > 1:
        return _items(text, start, end, gap)
    return _stretches(text, start, end, _SENTENCE_END, (gap, Gap.SENTENCE), _ends_sentence)


def _items(text: str, start: int, end: int, gap: Gap) -> Iterator[Piece]:
    """Yield the sentences of each item of a list, or of each row of a table."""
    begins = [start, *(found.start() for found in _LISTED.finditer(text, start, end) if found.start() > start), end]
    for first, last in pairwise(begins):
        yield from _stretches(text, first, last, _SENTENCE_END, (gap, Gap.SENTENCE), _ends_sentence)
        gap = Gap.LINE


def _stretches(  # noqa: PLR0917
    text: str,
    start: int,
    end: int,
    separator: re.Pattern[str],
    gaps: tuple[Gap, Gap],
    is_end: Callable[[str, re.Match[str]], bool] | None = None,
) -> Iterator[Piece]:
    """Yield what stands between separators; separators that are text belong to what is before them.

    Args:
        text: The document.
        start: Where the stretch begins.
        end: Where it ends, exclusive.
        separator: What may stand between two pieces.
        gaps: That before the first piece, and that before all others.
        is_end: Whether a separator is one indeed.
    """
    following = gaps[0]
    begin = start
    ends = [found.end() for found in separator.finditer(text, start, end) if is_end is None or is_end(text, found)]
    for stop in [*ends, end]:
        piece = Piece.of(text, begin, stop, following)
        begin = stop
        if piece.start < piece.end:
            yield piece
            following = gaps[1]


def _ends_sentence(text: str, found: re.Match[str]) -> bool:
    begin, end = found.span()
    if text[begin] in "。！？":
        return True
    spaced = begin > 0 and text[begin - 1].isspace()  # " . " of old text collections
    if end < len(text) and text[end].islower() and not spaced:
        return False
    return not (text[begin] == "." and _ABBREVIATION.search(text[max(begin - 8, 0) : begin + 1]))
