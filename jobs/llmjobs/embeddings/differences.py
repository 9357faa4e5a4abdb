"""What differs between a source and a generation: found by content hash, dealt to shards by key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from llmjobs.contracts.embeddings import Operation
from llmjobs.embeddings.documents.source import Place


@dataclass(frozen=True)
class Difference:
    """One document that a generation does not hold as its source has it.

    Attributes:
        source: Name of its source.
        container: Where it is read.
        key: Its name in the source.
        content_hash: What the source has, 32 bytes; None where the document is gone.
        previous_hash: What the generation holds; None where it holds nothing.
    """

    source: str
    container: str
    key: str
    operation: Operation
    content_hash: bytes | None
    previous_hash: bytes | None

    @property
    def place(self) -> Place:
        """Where the source finds it."""
        return Place(self.container, self.key)


Hashes = Mapping[str, tuple[str, bytes]]
"""Key -> container and content hash."""


def compare(source: str, listed: Hashes, held: Hashes) -> list[Difference]:
    """Return what must be done to `held` to make it `listed`, sorted by key."""
    changed = [_listed(source, key, listed, held) for key in listed if not _equal(listed[key], held.get(key))]
    gone = [
        Difference(source, container, key, "delete", None, content_hash)
        for key, (container, content_hash) in held.items()
        if key not in listed
    ]
    return sorted([*changed, *gone], key=lambda one: one.key)


def shard_of(source: str, key: str, shards: int) -> int:
    """Return the shard of a document: a hash of its name, so a repeated plan deals the same way."""
    return int.from_bytes(hashlib.sha256(f"{source}\0{key}".encode()).digest()[:4]) % shards


def _listed(source: str, key: str, listed: Hashes, held: Hashes) -> Difference:
    container, content_hash = listed[key]
    previous = held[key][1] if key in held else None
    return Difference(source, container, key, "change" if previous else "add", content_hash, previous)


def _equal(new: tuple[str, bytes], old: tuple[str, bytes] | None) -> bool:
    return old is not None and new[1] == old[1]
