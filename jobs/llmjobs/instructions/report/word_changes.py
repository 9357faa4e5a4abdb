"""What has changed between two texts, word by word, with a little of what stands around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Literal

ELLIPSIS = " … "

_TOKEN = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
"""White space, a word, a mark; each sign of a script that has no spaces."""

_CONTEXT = 40
_MOST_TOKENS = 400
"""Tokens of the changed middle that are compared: the time grows with their square."""

Kind = Literal["same", "removed", "added"]


@dataclass(frozen=True)
class Piece:
    """A run of text that both have, or only one."""

    kind: Kind
    text: str


def word_changes(before: str, after: str) -> list[Piece]:
    """Return the pieces of both texts in reading order; long runs that are the same are cut to their ends.

    Two texts that are the same are one piece.
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    pieces = [Piece("same", "".join(old[:head]))]
    pieces += _middle(old[head : len(old) - tail], new[head : len(new) - tail])
    pieces.append(Piece("same", "".join(old[len(old) - tail :])))
    pieces = [piece for piece in pieces if piece.text]
    last = len(pieces) - 1
    return [_cut(piece, first=place == 0, last=place == last) for place, piece in enumerate(pieces)]


def _common(one: list[str], other: list[str]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _middle(old: list[str], new: list[str]) -> Iterator[Piece]:
    """Yield what differs: of every change first what was there, then what is."""
    removed = added = ""
    for kind, start, end, new_start, new_end in _opcodes(old[:_MOST_TOKENS], new[:_MOST_TOKENS]):
        text = "".join(old[start:end])
        if kind == "equal" and text.strip():
            yield from (Piece("removed", removed), Piece("added", added), Piece("same", text))
            removed = added = ""
        else:  # a space between two changed words is part of the change
            removed += text
            added += "".join(new[new_start:new_end])
    yield from (Piece("removed", removed + _rest(old)), Piece("added", added + _rest(new)))


def _opcodes(old: list[str], new: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    return SequenceMatcher(None, old, new, autojunk=False).get_opcodes()


def _rest(tokens: list[str]) -> str:
    return f"{ELLIPSIS}(and {len(tokens) - _MOST_TOKENS:,} more)" if len(tokens) > _MOST_TOKENS else ""


def _cut(piece: Piece, *, first: bool, last: bool) -> Piece:
    """Return a piece that is the same without the part that is far from any change."""
    tokens = _TOKEN.findall(piece.text)
    if piece.kind != "same" or len(tokens) <= 3 * _CONTEXT:
        return piece
    begins = "" if first and not last else "".join(tokens[:_CONTEXT])
    ends = "" if last and not first else "".join(tokens[-_CONTEXT:])
    return Piece("same", f"{begins}{ELLIPSIS}{ends}")
