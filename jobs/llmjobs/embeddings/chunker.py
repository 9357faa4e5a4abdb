"""Cuts a document into chunks along its headings, none longer than the embedding model can read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise, zip_longest
from typing import Any

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from llmjobs.contracts.base import digest

ALGORITHM = 1
"""Raise it when the code below cuts or words chunks differently: every index is then rebuilt, from the cache where
texts are equal."""

HEADING_SEPARATOR = " > "


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
class _Section:
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


class Chunker:
    """Cuts along headings first, then along blocks and sentences where a section is too long.

    Sections never merge, so an edit leaves every chunk outside its own section as it was.

    Args:
        tokenizer: The embedding model's own, without truncation.
        max_tokens: Most tokens of a chunk, everything included.
        prefix: Put before each embedded text.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int, prefix: str = "") -> None:
        """Keep the settings; splitters are made per length as they are needed."""
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._prefix = prefix
        self._markdown = MarkdownIt("commonmark")
        self._splitters: dict[tuple[int, bool], MarkdownSplitter | TextSplitter] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides where borders fall, beside the tokenizer."""
        return {
            "algorithm": ALGORITHM,
            "splitter": f"semantic-text-splitter {version('semantic-text-splitter')}",
            "parser": f"markdown-it-py {version('markdown-it-py')}",
            "max_tokens": self._max_tokens,
        }

    @property
    def fingerprint(self) -> str:
        """Digest of `settings`."""
        return digest(self.settings)

    def chunks(self, text: str, *, markdown: bool) -> list[Chunk]:
        """Return the chunks of a document in order; together they hold every heading and all text."""
        sections = self._sections(text) if markdown else [_Section((), 0, len(text))]
        return [chunk for section in sections for chunk in self._cut(text, section, markdown)]

    def count(self, text: str) -> int:
        """Return the tokens of `text` as the model sees it, special tokens included."""
        return len(self._tokenizer.encode(text).ids)

    def _sections(self, text: str) -> Iterator[_Section]:
        """Yield the stretches between headings, each with its path of headings."""
        headings = self._headings(text)
        yield _Section((), 0, headings[0].start if headings else len(text))
        path: list[_Heading] = []
        for heading, following in zip_longest(headings, headings[1:]):
            path = [*(above for above in path if above.level < heading.level), heading]
            end = following.start if following else len(text)
            # The words of a heading are in its chunks' path. One that has neither text nor a heading below it would
            # be lost, so it becomes a chunk itself.
            bare = not text[heading.end : end].strip() and not (following and following.level > heading.level)
            yield _Section(tuple(above.title for above in path), heading.start if bare else heading.end, end)

    def _headings(self, text: str) -> list[_Heading]:
        """Return the document's own headings; those inside quotes and lists belong to these."""
        starts = [0, *(index + 1 for index, character in enumerate(text) if character == "\n"), len(text)]
        tokens = self._markdown.parse(text)
        return [
            _Heading(int(token.tag[1:]), inline.content.strip(), starts[token.map[0]], starts[token.map[1]])
            for token, inline in pairwise(tokens)
            if token.type == "heading_open" and token.level == 0 and token.map is not None
        ]

    def _cut(self, text: str, section: _Section, markdown: bool) -> Iterator[Chunk]:
        body = text[section.start : section.end]
        heading = HEADING_SEPARATOR.join(section.path)
        if not body.strip():
            return
        head = self._head(section.path)
        room = self._max_tokens - self.count(head)
        for start, content in self._split(body, room, markdown, head):
            begin = section.start + start
            embedded = head + content
            yield Chunk(heading, content, begin, begin + len(content), embedded, self.count(embedded))

    def _split(self, body: str, room: int, markdown: bool, head: str) -> list[tuple[int, str]]:
        """Split with `room` tokens each; with less room while the whole is too long after all.

        Tokens of two texts need not add up to those of both together.
        """
        while True:
            parts = self._splitter(room, markdown).chunk_indices(body)
            longest = max((self.count(head + content) for _, content in parts), default=0)
            if longest <= self._max_tokens:
                return parts
            room -= longest - self._max_tokens

    def _splitter(self, room: int, markdown: bool) -> MarkdownSplitter | TextSplitter:
        key = (room, markdown)
        if key not in self._splitters:
            kind = MarkdownSplitter if markdown else TextSplitter
            self._splitters[key] = kind.from_huggingface_tokenizer(self._tokenizer, room)
        return self._splitters[key]

    def _head(self, path: tuple[str, ...]) -> str:
        """Return what stands before a chunk's content: the path of headings, or its end where it is very long."""
        for first in range(len(path)):
            head = self._prefix + HEADING_SEPARATOR.join(path[first:]) + "\n\n"
            if self.count(head) <= self._max_tokens // 2:
                return head
        return self._prefix


def load_tokenizer(path: str) -> Tokenizer:
    """Read a ``tokenizer.json``, with its truncation and padding off: lengths must be true ones."""
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
