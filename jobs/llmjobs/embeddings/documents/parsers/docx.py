"""Word documents: text, headings, lists and tables as Markdown."""

from __future__ import annotations

import io
import zipfile

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.html import page
from llmjobs.embeddings.documents.parsers.parsed import Parsed

MOST_UNPACKED = 200_000_000
"""Bytes; a document that unpacks to more is a bomb, or no text."""


def parse(content: bytes) -> Parsed:
    """Return a Word document.

    Raises:
        BadData: It is none, is broken, or unpacks to too much.
    """
    import mammoth

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())  # a smaller lie ends its reading early
    except zipfile.BadZipFile:
        raise BadData(
            "it is no Word document, or a broken or encrypted one: open it in Word and save it again"
        ) from None
    if unpacked > MOST_UNPACKED:
        raise BadData(f"it unpacks to {unpacked:,} bytes, more than {MOST_UNPACKED:,}: take its pictures out")
    try:
        html = mammoth.convert_to_html(
            io.BytesIO(content), convert_image=mammoth.images.img_element(lambda _: {})
        ).value
    except RecursionError:
        raise
    except Exception as error:
        raise BadData(f"it is no Word document that can be read ({type(error).__name__}): save it again") from None
    return page(f"<body>{html}</body>")
