"""A source in memory that remembers what was read of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from llmjobs.embeddings.documents.source import Document, Place, Scan, Unreadable


def page(container: str, key: str, text: str, **more: object) -> Document:
    """Return a document whose hash follows from all of it."""
    made = replace(Document(Place(container, key), b"", text, form="markdown"), **more)  # type: ignore[arg-type]
    return replace(made, content_hash=hashlib.sha256(repr(made).encode()).digest())


@dataclass
class Shelf:
    """Containers with documents; `only` makes its listing an incremental one."""

    name: str = "documents"
    stamps: dict[str, str] = field(default_factory=dict)
    pages: dict[str, list[Document]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    only: list[str] | None = None
    settings_digest: bytes = b"0" * 32
    hashed: list[str] = field(default_factory=list)
    scans: list[tuple[str, bool]] = field(default_factory=list)

    def put(self, *documents: Document, stamp: str = "1") -> None:
        """Fill a container anew."""
        container = documents[0].place.container
        self.pages[container], self.stamps[container] = list(documents), stamp

    def take(self, container: str) -> None:
        """Remove a container."""
        del self.pages[container], self.stamps[container]

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:
        self.scans.append((watermark, full))
        if self.only is None or full:
            return Scan(dict(self.stamps), watermark="w" if self.only is not None else "")
        return Scan({one: self.stamps[one] for one in self.only}, complete=False, watermark="w2")

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        for container in containers:
            self.hashed.append(container)
            if container in self.broken:
                yield container, Unreadable(Place(container, container), self.broken[container])
            elif container in self.pages:
                yield container, {one.place.key: one.content_hash for one in self.pages[container]}

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        for container, pages in self.pages.items():
            yield from (one for one in pages if Place(container, one.place.key) in places)
