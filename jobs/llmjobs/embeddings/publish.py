"""Puts documents into a generation: each whole, in one transaction, or not at all."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg.types.json import Jsonb

from llmjobs.database.connection import Connection
from llmjobs.embeddings.chunk_rows import Held, chunks_of, write_chunks
from llmjobs.embeddings.chunker import Chunk
from llmjobs.embeddings.differences import Difference
from llmjobs.embeddings.documents.source import Document
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.outcomes import Outcome, close_rows

Name = tuple[str, str]
"""Source and key."""


@dataclass(frozen=True)
class Content:
    """What a document holds now.

    Attributes:
        planned: Its row of the plan.
        document: As it was read; None where it is gone.
    """

    planned: Difference
    document: Document | None
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def name(self) -> Name:
        """Its source and key."""
        return self.planned.source, self.planned.key

    @cached_property
    def hashes(self) -> list[bytes]:
        """Of its chunks' texts, in their order."""
        return [chunk.text_hash for chunk in self.chunks]


@dataclass
class Changes:
    """Everything that one transaction writes, for all of its documents."""

    inserted: list[tuple[Any, ...]] = field(default_factory=list)
    deleted: list[uuid.UUID] = field(default_factory=list)
    moved: list[tuple[Any, ...]] = field(default_factory=list)
    readmitted: list[tuple[uuid.UUID, str]] = field(default_factory=list)
    states: list[tuple[int, bytes]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def chunk_ids(generation_id: int, document_id: int, content: Content) -> list[uuid.UUID]:
    """Return an id for each chunk that depends on what it holds, not on its place.

    Equal passages of one document are told apart by counting them.
    """
    seen: Counter[tuple[str, bytes]] = Counter()
    ids = []
    for chunk, text_hash in zip(content.chunks, content.hashes, strict=True):
        text = (chunk.heading, text_hash)
        name = f"{generation_id}\0{document_id}\0{chunk.heading}\0{seen[text]}\0".encode() + text_hash
        ids.append(uuid.UUID(bytes=hashlib.sha256(name).digest()[:16]))
        seen[text] += 1
    return ids


def publish(connection: Connection, generation: Generation, run_id: int, contents: Sequence[Content]) -> Counter[str]:
    """Publish a few documents in one short transaction; every vector they need is in the cache already.

    A document that another run changed since the plan is left as that run made it (``superseded``).

    Returns:
        How many documents had which outcome: ``published``, ``superseded``.

    Raises:
        JobError: A vector left the cache meanwhile; nothing was written, and another try encodes it again.
    """
    if not contents:
        return Counter()
    contents = sorted(contents, key=lambda content: content.name)
    with connection.transaction():
        documents = _lock_documents(connection, generation, contents)
        held = chunks_of(connection, generation, [document_id for document_id, _ in documents.values()])
        changes, published = Changes(), []
        for content in contents:
            document_id, current = documents.get(content.name, (0, None))
            if current != content.planned.previous_hash:
                changes.outcomes.append(Outcome(content.planned, "superseded"))
                if current is None:
                    changes.gone.append(document_id)  # its row, which was made above, may hold nothing
                continue
            _compare(changes, generation, document_id, content, held.get(document_id, {}))
            if content.document is None:
                changes.gone.append(document_id)
            else:
                published.append((document_id, content.document))
        _write_documents(connection, published)
        _write_states(connection, generation, changes.states)
        write_chunks(
            connection, generation, inserted=changes.inserted, deleted=changes.deleted, moved=changes.moved,
            readmitted=changes.readmitted,
        )  # fmt: skip
        _forget(connection, generation, changes.gone)
        return close_rows(connection, run_id, generation.generation_id, changes.outcomes)


def _lock_documents(
    connection: Connection, generation: Generation, contents: Sequence[Content]
) -> dict[Name, tuple[int, bytes | None]]:
    """Lock the documents, made where they are new, and return name -> (document id, hash that is indexed now)."""
    present = [content for content in contents if content.document is not None]
    connection.execute(
        """
        insert into document (index_id, source, key, container, tenant, language, title, metadata, updated_at)
        select %s, * from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[],
            %s::timestamptz[])
        on conflict do nothing
        """,
        [
            generation.index_id,
            [content.planned.source for content in present],
            *_columns([content.document for content in present if content.document]),
        ],
    )
    # Every run locks in the order of the names, so two runs wait for one another but never in a circle.
    rows = connection.execute(
        """
        select document_id, source, key from document join unnest(%s::text[], %s::text[]) n (source, key)
            using (source, key)
        where index_id = %s order by source, key for update of document
        """,
        [[one.planned.source for one in contents], [one.planned.key for one in contents], generation.index_id],
    ).fetchall()
    # A statement of its own: it must see what was committed while the one above waited for its locks.
    hashes: dict[int, bytes] = dict(
        connection.execute(
            "select document_id, content_hash from document_state where generation_id = %s and document_id = any(%s)",
            [generation.generation_id, [row[0] for row in rows]],
            binary=True,
        ).fetchall()
    )
    return {(source, key): (document_id, hashes.get(document_id)) for document_id, source, key in rows}


def _columns(documents: Sequence[Document]) -> list[list[Any]]:
    """Return key, container, tenant, language, title, metadata and time of the last change, a list each."""
    return [
        [one.place.key for one in documents],
        [one.place.container for one in documents],
        [one.tenant for one in documents],
        [one.language for one in documents],
        [one.title for one in documents],
        [Jsonb(dict(one.metadata)) for one in documents],
        [one.updated_at for one in documents],
    ]


def _compare(
    changes: Changes, generation: Generation, document_id: int, content: Content, held: dict[uuid.UUID, Held]
) -> None:
    """Add to `changes` what turns `held` into `content`."""
    ids = chunk_ids(generation.generation_id, document_id, content)
    document = content.document
    tenant, language = (document.tenant, document.language) if document else ("", "")
    for ordinal, (chunk_id, chunk, text_hash) in enumerate(zip(ids, content.chunks, content.hashes, strict=True)):
        row = (ordinal, chunk.start_char, chunk.end_char, tenant, language)
        if chunk_id not in held:
            what = (chunk.heading, chunk.content, text_hash, chunk.tokens)
            changes.inserted.append((chunk_id, generation.generation_id, document_id, *row, *what))
        elif held[chunk_id].row != row:
            changes.moved.append((chunk_id, *row))
            if held[chunk_id].tenant != tenant:
                changes.readmitted.append((chunk_id, tenant))
    gone = list(held.keys() - set(ids))
    changes.deleted += gone
    if document is not None:
        changes.states.append((document_id, document.content_hash))
    new = len(ids) - (len(held) - len(gone))
    replaced = min(new, len(gone))
    changes.outcomes.append(
        Outcome(
            content.planned,
            "published",
            added=new - replaced,
            changed=replaced,
            deleted=len(gone) - replaced,
            unchanged=len(held) - len(gone),
        )
    )


def _write_documents(connection: Connection, published: Sequence[tuple[int, Document]]) -> None:
    """Bring what is known of documents up to date; rows that are equal are not touched."""
    connection.execute(
        """
        update document d set container = n.container, tenant = n.tenant, language = n.language, title = n.title,
            metadata = n.metadata, updated_at = n.updated_at
        from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[], %s::timestamptz[])
            as n (document_id, container, tenant, language, title, metadata, updated_at)
        where d.document_id = n.document_id
            and (d.container, d.tenant, d.language, d.title, d.metadata, d.updated_at)
                is distinct from (n.container, n.tenant, n.language, n.title, n.metadata, n.updated_at)
        """,
        [[document_id for document_id, _ in published], *_columns([document for _, document in published])[1:]],
    )


def _write_states(connection: Connection, generation: Generation, states: Sequence[tuple[int, bytes]]) -> None:
    connection.execute(
        """
        insert into document_state (generation_id, document_id, content_hash)
        select %s, * from unnest(%s::bigint[], %s::bytea[])
        on conflict (generation_id, document_id)
        do update set content_hash = excluded.content_hash, indexed_at = now()
        """,
        [generation.generation_id, [state[0] for state in states], [state[1] for state in states]],
    )


def _forget(connection: Connection, generation: Generation, gone: Sequence[int]) -> None:
    """Delete the state of documents that are gone, and the documents that no generation holds any more."""
    if gone:
        connection.execute(
            "delete from document_state where generation_id = %s and document_id = any(%s)",
            [generation.generation_id, list(gone)],
        )
        connection.execute(
            "delete from document d where document_id = any(%s)"
            " and not exists (select from document_state s where s.document_id = d.document_id)",
            [list(gone)],
        )
