"""The interface of a source, and what it gives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from llmjobs.contracts.embeddings import PUBLIC, Scalar

Form = Literal["markdown", "text", "code"]


@dataclass(frozen=True)
class Scan:
    """What a source lists, without the documents themselves.

    A container is what is read at once: a file, a page, a row, one side of a dataset. It holds one document or many.

    Attributes:
        stamps: Container -> stamp. While its stamp is equal a container is not read again (size and time, etag, row
            version); an empty stamp is equal to none.
        complete: False: containers that are not named are as they were. True: they are gone.
        watermark: Where the next scan may begin; "" of sources that always list all.
    """

    stamps: Mapping[str, str]
    complete: bool = True
    watermark: str = ""


@dataclass(frozen=True)
class Place:
    """Where a document is: its container, and its key in the source."""

    container: str
    key: str


@dataclass(frozen=True)
class Document:
    """A document as it was read now.

    Attributes:
        place: Where it is.
        content_hash: SHA-256, 32 bytes, of all that decides what the index holds of it: text, title, metadata, tenant.
        text: Its text: no NUL, every line end a line feed.
        form: ``markdown`` has headings that chunks follow; ``code`` is cut at its lines.
        title: Of the document; "" where it has none.
        metadata: What filters compare.
        tenant: Who may see it.
        language: ISO 639 code; "" where it was too short to tell.
        whole: It is to be one chunk where it fits.
        updated_at: When it last changed, where the source knows.
    """

    place: Place
    content_hash: bytes
    text: str
    form: Form = "text"
    title: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    tenant: str = PUBLIC
    language: str = ""
    whole: bool = False
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Unreadable:
    """A document, or a whole container (then `key` of its place is the container's), that cannot be read.

    Attributes:
        reason: One sentence for its owner: what is wrong and how to mend it.
    """

    place: Place
    reason: str


class Source(Protocol):
    """Documents of one kind, in one place."""

    @property
    def name(self) -> str:
        """Its name in the index."""
        ...

    @property
    def settings_digest(self) -> bytes:
        """SHA-256 of the settings (and versions of parsers) that decide what its documents are; 32 bytes."""
        ...

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:
        """List the containers, as cheaply as the source allows.

        Args:
            watermark: Of the last finished run; "" at first.
            full: List all, whatever the watermark says.

        Raises:
            BadData: The source is empty in a way that no run should believe, or holds what must not be.
            JobError: It cannot be reached; worth another try.
        """
        ...

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        """Read containers and yield for each: document key -> content hash. One that is gone is passed over."""
        ...

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        """Read documents, in any order; those that are gone are passed over."""
        ...
