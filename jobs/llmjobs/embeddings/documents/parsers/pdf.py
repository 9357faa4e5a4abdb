"""PDF: the text of its pages."""

from __future__ import annotations

import io

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.parsed import Parsed


def parse(content: bytes) -> Parsed:
    """Return the text of a PDF, one paragraph a page where the page says nothing else.

    Raises:
        BadData: It is broken, needs a password, or holds pictures only.
    """
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if locked else [page.extract_text().strip() for page in reader.pages]
        title = "" if locked or reader.metadata is None else reader.metadata.title
    except RecursionError:
        raise
    except Exception as error:
        raise BadData(f"it is no PDF that can be read ({type(error).__name__}): print it to a new PDF") from None
    if locked:
        raise BadData("it needs a password: save it without one")
    text = "\n\n".join(page for page in pages if page)
    if not text:
        raise BadData(f"its {len(pages)} pages hold no text, only pictures: run text recognition (OCR) on it")
    # Fonts without a map of their characters yield NULs and halves of characters.
    text = text.replace("\0", "").encode(errors="replace").decode()
    return Parsed(text + "\n", "text", title if isinstance(title, str) else "")
