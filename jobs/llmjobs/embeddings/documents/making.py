"""From what a parser or a row gives to a `Document`: metadata, tenant, language and content hash."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, time
from typing import Any

from llmjobs.contracts.embeddings import DirectSource, Scalar, SourceConfig
from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.source import Document, Place

MAKING_VERSION = 1
"""Raise it when the code below makes another document of the same source."""

LARGEST_DOCUMENT = 50_000_000
"""Bytes or characters; more is a mistake (a dump, a log) that would hold up all other documents."""

_LANGUAGE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]+)*")


class Maker:
    """Makes the documents of one source.

    Args:
        config: Its tenant, metadata, language and chunker.
    """

    def __init__(self, config: SourceConfig | DirectSource) -> None:
        """Keep what each document gets from the config."""
        self._config = config
        decisive = {"tenant", "tenant_field", "metadata", "language", "chunker"}
        settings = config.model_dump(mode="json", include=decisive) | {"version": MAKING_VERSION}
        self._salt = json.dumps(settings, sort_keys=True).encode()

    def settings_digest(self, **versions: Any) -> bytes:
        """Return the digest of the source's whole config and of `versions`, 32 bytes."""
        settings = self._config.model_dump(mode="json") | {"making": MAKING_VERSION} | versions
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()

    def hash(self, content: bytes, parser: str) -> bytes:
        """Return the content hash of a document from the bytes that a parser reads and that parser's version.

        Whatever the parser makes of them follows from both, so a plan need not parse.
        """
        head = hashlib.sha256(self._salt + b"\0" + parser.encode() + b"\0")
        head.update(content)
        return head.digest()

    def document(
        self, place: Place, content_hash: bytes, parsed: Parsed, *, updated_at: datetime | None = None
    ) -> Document:
        """Return the document; its language is "" unless it is stated, see `with_languages`.

        Raises:
            BadData: It holds what cannot be stored, or names its tenant in a way that cannot be understood.
        """
        text = _storable(parsed.text.replace("\r\n", "\n").replace("\r", "\n"), "the text")
        if len(text) > LARGEST_DOCUMENT:
            raise BadData(f"its text has {len(text):,} characters, more than {LARGEST_DOCUMENT:,}: divide it")
        form = parsed.form
        if self._config.chunker in {"markdown", "text"}:
            form = "markdown" if self._config.chunker == "markdown" else "text"
        return Document(
            place=place,
            content_hash=content_hash,
            text=text,
            form=form,
            title=_storable(" ".join(parsed.title.split()), "the title")[:1000],
            metadata={**self._config.metadata, **_scalars(parsed.metadata)},
            tenant=self._tenant(parsed.metadata),
            language=self._config.language or _stated_language(parsed.metadata),
            whole=self._config.chunker == "whole",
            updated_at=updated_at,
        )

    def _tenant(self, metadata: Mapping[str, Any]) -> str:
        field = self._config.tenant_field
        found = {**self._config.metadata, **metadata}.get(field) if field else None
        if found is None:
            return self._config.tenant
        # A tenant that cannot be read must not become the one that everybody sees.
        if isinstance(found, bool) or not isinstance(found, str | int) or not str(found).strip():
            raise BadData(
                f"tenant_field: {field!r} holds {found!r}, which names no tenant: write its name, or leave it out"
            )
        return _storable(str(found).strip(), "the tenant")


def with_languages(documents: list[Document]) -> list[Document]:
    """Return the documents, each with a language told from its text where none was stated. Code has none."""
    open_ = [index for index, document in enumerate(documents) if not document.language and document.form != "code"]
    if not open_:
        return documents
    import polars as pl

    from llmjobs.languages import SAMPLE, languages_of

    told = dict(zip(open_, languages_of(pl.Series([documents[index].text[:SAMPLE] for index in open_])), strict=True))
    return [replace(one, language=told.get(index) or one.language) for index, one in enumerate(documents)]


def _scalars(metadata: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the values that a filter can compare.

    A list of plain values becomes one text with commas, a date its ISO form; what is nested or null is left out.
    """
    found = {_storable(str(key), "a field's name"): _scalar(key, value) for key, value in metadata.items()}
    return {key: value for key, value in found.items() if value is not None}


def _scalar(key: str, value: Any) -> Scalar | None:
    if isinstance(value, str):
        return _storable(value, f"metadata {key!r}")
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, list) and value and all(isinstance(one, str | int | float | date) for one in value):
        return _storable(", ".join(str(one) for one in value), f"metadata {key!r}")
    return None


def _stated_language(metadata: Mapping[str, Any]) -> str:
    """Return the language that a document states (``en``, ``pt-BR``: ``pt``), "" where it states none."""
    stated = metadata.get("language") or metadata.get("lang")
    match = _LANGUAGE.fullmatch(stated) if isinstance(stated, str) else None
    return match[1].lower() if match else ""


def _storable(text: str, what: str) -> str:
    """Return a text in Unicode's composed form (NFC).

    Raises:
        BadData: It holds what PostgreSQL cannot store.
    """
    if "\0" in text:
        raise BadData(f"{what} holds a NUL at character {text.index(chr(0))}: this is no text document")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadData(
            f"{what} holds half of a character (a lone surrogate) at character {error.start}: correct it"
        ) from None
    return unicodedata.normalize("NFC", text)
