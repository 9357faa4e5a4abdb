"""Cuts a document into chunks along its headings, none longer than the embedding model can read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from llmjobs.contracts.base import digest
from llmjobs.embeddings.cutting.borders import borders
from llmjobs.embeddings.cutting.pieces import Piece, pieces, ranks, smaller
from llmjobs.embeddings.cutting.sections import Section, sections
from llmjobs.embeddings.documents.source import Form
from llmjobs.embeddings.embedders.tokens import TokenizerTokens, Tokens

ALGORITHM = 4
"""Raise it when the code below, or what it cuts with, cuts or words chunks differently: every index is then rebuilt,
from the cache where texts are equal."""

HEADING_SEPARATOR = " > "

_SURELY_LONG = 5
"""Characters a token: a section with more for each token of a chunk is not counted whole first. It mostly has several
chunks, and then every count of it whole is for nothing."""

_SMALL = 2
"""Characters a token: a paragraph with at most so many for each token of a chunk is no more divided."""

_SPLIT_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_CHARACTERWISE = {"NoneType", "BertNormalizer", "Lowercase"}


@dataclass(frozen=True)
class Chunk:
    """A passage of a document.

    Attributes:
        heading: Path of headings that it stands under, ``Guide > Set-up > Ports``; empty where there is none.
        content: The passage as it stands in the document.
        start_char: Where it begins in the document's text, in characters.
        end_char: Where it ends, exclusive.
        embedded_text: What the model reads: prefix, heading path and content.
        tokens: Length of `embedded_text` with the model's special tokens.
    """

    heading: str
    content: str
    start_char: int
    end_char: int
    embedded_text: str
    tokens: int

    @property
    def text_hash(self) -> bytes:
        """SHA-256 of `embedded_text`, 32 bytes: the key of its vector."""
        return hashlib.sha256(self.embedded_text.encode()).digest()


@dataclass(frozen=True)
class _Head:
    """What stands before the content of every chunk of a section.

    Attributes:
        path: The headings, for the reader.
        text: Prefix and headings, or the last of these, for the model.
        tokens: Of `text`, without the model's special tokens.
    """

    path: str
    text: str
    tokens: int


class Chunker:
    """Cuts along headings first, then along paragraphs and sentences where a section is too long.

    Sections never merge, so an edit leaves every chunk outside its own section as it was; within a section
    `llmjobs.embeddings.cutting.borders` sees to it that few chunks change.

    Args:
        tokens: Counts as the embedding model does.
        max_tokens: Most tokens of a chunk, everything included.
        prefix: Put before each embedded text.
    """

    def __init__(self, tokens: Tokens, *, max_tokens: int, prefix: str = "") -> None:
        """Keep the settings."""
        self._tokens = tokens
        self._max_tokens = max_tokens
        self._prefix = prefix
        self._adds_up = _adds_up(tokens)
        (self._special,) = tokens.count([""])
        self._heads: dict[tuple[str, ...], _Head] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides where borders fall."""
        return {
            "algorithm": ALGORITHM,
            "parser": f"markdown-it-py {version('markdown-it-py')}",
            "max_tokens": self._max_tokens,
            "tokens": self._tokens.fingerprint,
        }

    @property
    def fingerprint(self) -> str:
        """Digest of `settings`."""
        return digest(self.settings)

    def chunks(self, text: str, *, form: Form = "markdown", title: str = "", whole: bool = False) -> list[Chunk]:
        """Return the chunks of a document in order; together they hold every heading and all text but white space.

        Args:
            text: Of the document.
            form: ``markdown`` is cut along its headings first, ``code`` at its lines.
            title: Before every path of headings, where the text has no level-1 heading of its own.
            whole: One chunk where it fits.

        Raises:
            BadData: A single character is too long for the model.
        """
        all_of_it = Section((title,) if title else (), 0, len(text))
        if whole and (fitting := self._fitting(text, [all_of_it])):
            return list(fitting.values())
        found = list(sections(text, title=title)) if form == "markdown" else [all_of_it]
        fitting = self._fitting(text, found)
        return [
            chunk
            for section in found
            for chunk in ([fitting[section]] if section in fitting else self._cut(text, section, form))
        ]

    def _fitting(self, text: str, found: list[Section]) -> dict[Section, Chunk]:
        """Return the sections that are one chunk, with it; they are counted together."""
        most = _SURELY_LONG * self._max_tokens
        short = [one for one in found if text[one.start : one.end].strip() and one.end - one.start <= most]
        candidates = [(one, Piece.of(text, one.start, one.end), self._head(one.path)) for one in short]
        counts = self._tokens.count([head.text + text[piece.start : piece.end] for _, piece, head in candidates])
        return {
            section: _chunk(text, piece.start, piece.end, head, count)
            for (section, piece, head), count in zip(candidates, counts, strict=True)
            if count <= self._max_tokens
        }

    def _cut(self, text: str, section: Section, form: Form) -> Iterator[Chunk]:
        found = list(pieces(text, section.start, section.end, form, small=_SMALL * self._max_tokens))
        if found:
            head = self._head(section.path)
            yield from self._packed(text, found, head, self._max_tokens - self._special - head.tokens)

    def _packed(self, text: str, found: list[Piece], head: _Head, room: int) -> Iterator[Chunk]:
        """Yield chunks of whole pieces, of about `room` tokens at most; exactly `max_tokens` at most with the head."""
        found, sizes = self._sized(text, found, room)
        ranges = list(borders(sizes, ranks(text, found), room))
        spans = [(found[first].start, found[last - 1].end) for first, last in ranges]
        if self._adds_up and all(_is_apart(text, one, other) for one, other in pairwise(found)):
            counts = [self._special + head.tokens + sum(sizes[first:last]) for first, last in ranges]
        else:
            counts = self._tokens.count([head.text + text[start:end] for start, end in spans])
        for (first, last), (start, end), count in zip(ranges, spans, counts, strict=True):
            if count <= self._max_tokens:
                yield _chunk(text, start, end, head, count)
                continue
            # Tokens of two texts need not add up to those of both together.
            rest = found[first:last] if last - first > 1 else list(smaller(text, found[first]))
            yield from self._packed(text, rest, head, max(room - (count - self._max_tokens), 1))

    def _sized(self, text: str, found: list[Piece], room: int) -> tuple[list[Piece], list[int]]:
        """Return pieces of at most `room` tokens with their tokens; longer ones are divided."""
        counts = self._tokens.count([text[piece.start : piece.end] for piece in found])
        fit: list[Piece] = []
        sizes: list[int] = []
        for piece, count in zip(found, counts, strict=True):
            size = count - self._special
            if size <= room or piece.end - piece.start == 1:
                fit.append(piece)
                sizes.append(size)
                continue
            parts, part_sizes = self._sized(text, list(smaller(text, piece)), room)
            fit += parts
            sizes += part_sizes
        return fit, sizes

    def _head(self, path: tuple[str, ...]) -> _Head:
        """Return what stands before a section's content: the path of headings, or its end where it is very long."""
        if path not in self._heads:
            tails = [path[first:] for first in range(len(path))]
            texts = [*(self._prefix + HEADING_SEPARATOR.join(tail) + "\n\n" for tail in tails), self._prefix]
            counts = [count - self._special for count in self._tokens.count(texts)]
            chosen = next(i for i, count in enumerate(counts) if count <= self._max_tokens // 2 or i == len(path))
            self._heads[path] = _Head(HEADING_SEPARATOR.join(path), texts[chosen], counts[chosen])
        return self._heads[path]


def _chunk(text: str, start: int, end: int, head: _Head, tokens: int) -> Chunk:
    content = text[start:end]
    return Chunk(head.path, content, start, end, head.text + content, tokens)


def _is_apart(text: str, piece: Piece, following: Piece) -> bool:
    """Return whether every tokenizer that splits at spaces splits between two pieces."""
    return any(character in " \n" for character in text[piece.end : following.start])


def _adds_up(tokens: Tokens) -> bool:
    """Return whether the tokens of texts with a space between them are those of all together.

    So it is where a tokenizer looks at each word by itself (BERT's). It saves counting every text twice, which is most
    of the work of cutting.
    """
    if not isinstance(tokens, TokenizerTokens):
        return False
    splitter, normaliser = tokens.tokenizer.pre_tokenizer, tokens.tokenizer.normalizer
    return type(splitter).__name__ in _SPLIT_AT_SPACES and type(normaliser).__name__ in _CHARACTERWISE
