"""Bytes to text: UTF-8, or UTF-16 and UTF-32 that begin with their byte order mark."""

from __future__ import annotations

import codecs

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.parsed import Parsed

_MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
"""The longer marks first: UTF-32's begins as UTF-16's does."""


def parse(content: bytes) -> Parsed:
    """Return a plain text as it is."""
    return Parsed(decoded(content), "text")


def decoded(content: bytes) -> str:
    """Return the text of a document's bytes.

    Raises:
        BadData: It is in none of these encodings. A guess would put wrong letters into the index.
    """
    mark, encoding = next((pair for pair in _MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-le").removesuffix("-be").upper()
        raise BadData(f"byte {error.start + len(mark)} is no {name}: save the document as UTF-8") from None
