"""Puts documents into a generation: each whole, in one transaction, or not at all."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from llmjobs.contracts.errors import JobError
from llmjobs.database.connection import Connection
from llmjobs.embeddings.chunker import Chunk
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.plan import Difference
from llmjobs.embeddings.sources import SOURCE


@dataclass(frozen=True)
class Content:
    """What a document holds now.

    Attributes:
        planned: Its row of the plan.
        content_hash: SHA-256 of the bytes that were cut into `chunks`; None for a document that is gone.
    """

    planned: Difference
    content_hash: bytes | None
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class _Held:
    """A chunk as the database has it."""

    chunk_id: uuid.UUID
    place: tuple[int, int, int]


@dataclass
class _Changes:
    """Everything that one transaction writes, for all of its documents."""

    inserted: list[tuple[Any, ...]] = field(default_factory=list)
    deleted: list[uuid.UUID] = field(default_factory=list)
    moved: list[tuple[uuid.UUID, int, int, int]] = field(default_factory=list)
    outcomes: list[tuple[Any, ...]] = field(default_factory=list)


def chunk_ids(generation_id: int, document_id: int, chunks: list[Chunk]) -> list[uuid.UUID]:
    """Return an id for each chunk that depends on its content, not on its place.

    Equal passages of one document are told apart by counting them.
    """
    seen: Counter[tuple[str, str]] = Counter()
    ids = []
    for chunk in chunks:
        text = (chunk.heading, chunk.content)
        name = "\0".join((str(generation_id), str(document_id), *text, str(seen[text])))
        ids.append(uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16]))
        seen[text] += 1
    return ids


def publish(connection: Connection, generation: Generation, run_id: int, contents: list[Content]) -> Counter[str]:
    """Publish a few documents in one short transaction; every vector they need is in the cache already.

    A document that another run changed since the plan is left as that run made it (``superseded``).

    Returns:
        How many documents had which outcome: ``published``, ``superseded``.

    Raises:
        JobError: A vector left the cache meanwhile; nothing was written, and another try encodes it again.
    """
    contents = sorted(contents, key=lambda content: content.planned.key)
    with connection.transaction():
        documents = _lock_documents(connection, generation, contents)
        held = _held_chunks(connection, generation, [document_id for document_id, _ in documents.values()])
        changes, gone = _Changes(), []
        for content in contents:
            document_id, current = documents.get(content.planned.key, (0, None))
            if current != content.planned.previous_hash:
                changes.outcomes.append(_outcome(content, "superseded"))
                if current is None:
                    gone.append(document_id)  # its row, which was made above, holds nothing
                continue
            _compare(changes, generation, document_id, content, held.get(document_id, {}))
            if content.content_hash is None:
                gone.append(document_id)
        _write_states(connection, generation, documents, contents, changes)
        _write_chunks(connection, generation, changes)
        _forget(connection, generation, gone)
        write_outcomes(connection, run_id, changes.outcomes)
    return Counter(outcome[1] for outcome in changes.outcomes)


def write_outcomes(connection: Connection, run_id: int, outcomes: list[tuple[Any, ...]]) -> None:
    """Close rows of the plan: ``(key, outcome, reason, added, changed, deleted, unchanged)`` each."""
    columns = list(zip(*outcomes, strict=True))
    if columns:
        connection.execute(
            """
            update refresh_plan p
            set outcome = o.outcome, reason = o.reason, chunks_added = o.added, chunks_changed = o.changed,
                chunks_deleted = o.deleted, chunks_unchanged = o.unchanged
            from unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::int[], %s::int[])
                as o (key, outcome, reason, added, changed, deleted, unchanged)
            where p.run_id = %s and p.source = %s and p.key = o.key
            """,
            [*(list(column) for column in columns), run_id, SOURCE],
        )


def _outcome(content: Content, outcome: str, **counts: int) -> tuple[Any, ...]:
    names = ("added", "changed", "deleted", "unchanged")
    return (content.planned.key, outcome, "", *(counts.get(name, 0) for name in names))


def _lock_documents(
    connection: Connection, generation: Generation, contents: list[Content]
) -> dict[str, tuple[int, bytes | None]]:
    """Lock the documents, made where they are new, and return key -> (document id, hash that is indexed now)."""
    present = [content.planned.key for content in contents if content.content_hash is not None]
    connection.execute(
        "insert into document (index_id, source, key) select %s, %s, unnest(%s::text[]) on conflict do nothing",
        [generation.index_id, SOURCE, present],
    )
    # Every run locks in the order of the keys, so two runs wait for one another but never in a circle.
    rows = connection.execute(
        """
        select document_id, key from document
        where index_id = %s and source = %s and key = any(%s) order by key for update
        """,
        [generation.index_id, SOURCE, [content.planned.key for content in contents]],
    ).fetchall()
    # A statement of its own: it must see what was committed while the one above waited for its locks.
    hashes: dict[int, bytes] = dict(
        connection.execute(
            "select document_id, content_hash from document_state where generation_id = %s and document_id = any(%s)",
            [generation.generation_id, [document_id for document_id, _ in rows]],
        ).fetchall()
    )
    return {key: (document_id, hashes.get(document_id)) for document_id, key in rows}


def _held_chunks(
    connection: Connection, generation: Generation, document_ids: list[int]
) -> dict[int, dict[uuid.UUID, _Held]]:
    rows = connection.execute(
        """
        select document_id, chunk_id, ordinal, start_char, end_char from chunk
        where generation_id = %s and document_id = any(%s)
        """,
        [generation.generation_id, document_ids],
    ).fetchall()
    held: dict[int, dict[uuid.UUID, _Held]] = {}
    for document_id, chunk_id, *place in rows:
        held.setdefault(document_id, {})[chunk_id] = _Held(chunk_id, (place[0], place[1], place[2]))
    return held


def _compare(
    changes: _Changes, generation: Generation, document_id: int, content: Content, held: dict[uuid.UUID, _Held]
) -> None:
    """Add to `changes` what turns `held` into `content`."""
    ids = chunk_ids(generation.generation_id, document_id, content.chunks)
    for ordinal, (chunk_id, chunk) in enumerate(zip(ids, content.chunks, strict=True)):
        place = (ordinal, chunk.start_char, chunk.end_char)
        if chunk_id not in held:
            row = (chunk_id, generation.generation_id, document_id, *place, chunk.heading, chunk.content)
            changes.inserted.append((*row, chunk.text_hash, chunk.tokens))
        elif held[chunk_id].place != place:
            changes.moved.append((chunk_id, *place))
    gone = list(held.keys() - set(ids))
    changes.deleted += gone
    new = len(ids) - (len(held) - len(gone))
    replaced = min(new, len(gone))
    changes.outcomes.append(
        _outcome(
            content,
            "published",
            added=new - replaced,
            changed=replaced,
            deleted=len(gone) - replaced,
            unchanged=len(held) - len(gone),
        )
    )


def _write_states(
    connection: Connection,
    generation: Generation,
    documents: dict[str, tuple[int, bytes | None]],
    contents: list[Content],
    changes: _Changes,
) -> None:
    published = {outcome[0] for outcome in changes.outcomes if outcome[1] == "published"}
    rows = [
        (documents[content.planned.key][0], content.content_hash)
        for content in contents
        if content.planned.key in published and content.content_hash is not None
    ]
    connection.execute(
        """
        insert into document_state (generation_id, document_id, content_hash)
        select %s, * from unnest(%s::bigint[], %s::bytea[])
        on conflict (generation_id, document_id)
        do update set content_hash = excluded.content_hash, indexed_at = now()
        """,
        [generation.generation_id, [row[0] for row in rows], [row[1] for row in rows]],
    )


def _write_chunks(connection: Connection, generation: Generation, changes: _Changes) -> None:
    if changes.deleted:
        delete = sql.SQL("delete from {} where chunk_id = any(%s)")
        connection.execute(delete.format(generation.table), [changes.deleted])
        connection.execute(delete.format(sql.Identifier("chunk")), [changes.deleted])
    if changes.moved:
        connection.execute(
            """
            update chunk c set ordinal = m.ordinal, start_char = m.first, end_char = m.last
            from unnest(%s::uuid[], %s::int[], %s::int[], %s::int[]) as m (chunk_id, ordinal, first, last)
            where c.chunk_id = m.chunk_id
            """,
            [list(column) for column in zip(*changes.moved, strict=True)],
        )
    if changes.inserted:
        _insert_chunks(connection, changes.inserted)
        _insert_vectors(connection, generation, [row[0] for row in changes.inserted])


def _insert_chunks(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    statement = """
        copy chunk (chunk_id, generation_id, document_id, ordinal, start_char, end_char, heading, content, text_hash,
            tokens)
        from stdin with (format binary)
    """
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["uuid", "int4", "int8", "int4", "int4", "int4", "text", "text", "bytea", "int4"])
        for row in rows:
            copy.write_row(row)


def _insert_vectors(connection: Connection, generation: Generation, ids: list[uuid.UUID]) -> None:
    """Copy the chunks' vectors from the cache, inside the server."""
    cursor = connection.execute(
        sql.SQL(
            """
            insert into {} (chunk_id, document_id, embedding)
            select chunk_id, document_id, embedding
            from chunk join embedding_cache using (text_hash)
            where model_id = %s and chunk_id = any(%s)
            """
        ).format(generation.table),
        [generation.model_id, ids],
    )
    if cursor.rowcount != len(ids):
        raise JobError(
            f"{len(ids) - cursor.rowcount} of {len(ids)} vectors left the cache while they were needed; "
            "nothing was written, try again"
        )


def _forget(connection: Connection, generation: Generation, gone: list[int]) -> None:
    """Delete the state of documents that are gone, and the documents that no generation holds any more."""
    if gone:
        connection.execute(
            "delete from document_state where generation_id = %s and document_id = any(%s)",
            [generation.generation_id, gone],
        )
        connection.execute(
            "delete from document d where document_id = any(%s)"
            " and not exists (select from document_state s where s.document_id = d.document_id)",
            [gone],
        )
