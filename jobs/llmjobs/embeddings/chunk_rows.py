"""The rows of chunks and of their vectors: what is there, and what a transaction writes of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from llmjobs.contracts.errors import JobError
from llmjobs.database.connection import Connection
from llmjobs.embeddings.cache import note_last_use
from llmjobs.embeddings.generations import Generation


@dataclass(frozen=True)
class Held:
    """A chunk as the database has it: what may differ while its text is the same.

    Attributes:
        row: Ordinal, first character, end, tenant, language.
    """

    row: tuple[int, int, int, str, str]

    @property
    def tenant(self) -> str:
        """Who may see it."""
        return self.row[3]


def chunks_of(
    connection: Connection, generation: Generation, document_ids: Sequence[int]
) -> dict[int, dict[uuid.UUID, Held]]:
    """Return document id -> chunk id -> chunk."""
    rows = connection.execute(
        """
        select document_id, chunk_id, ordinal, start_char, end_char, tenant, language from chunk
        where generation_id = %s and document_id = any(%s)
        """,
        [generation.generation_id, list(document_ids)],
        binary=True,
    ).fetchall()
    held: dict[int, dict[uuid.UUID, Held]] = {}
    for document_id, chunk_id, *row in rows:
        held.setdefault(document_id, {})[chunk_id] = Held((row[0], row[1], row[2], row[3], row[4]))
    return held


def write_chunks(
    connection: Connection,
    generation: Generation,
    *,
    inserted: Sequence[tuple[Any, ...]],
    deleted: Sequence[uuid.UUID],
    moved: Sequence[tuple[Any, ...]],
    readmitted: Sequence[tuple[uuid.UUID, str]],
) -> None:
    """Write chunks and vectors inside the caller's transaction.

    Args:
        connection: In a transaction.
        generation: Whose chunks they are.
        inserted: New ones; the columns of `_INSERT`.
        deleted: Ids of those that are gone.
        moved: Id and `Held.row` of those whose text is the same. Their vectors are not touched.
        readmitted: Id and new tenant of those whose vectors must say so.

    Raises:
        JobError: A vector left the cache meanwhile.
    """
    if deleted:
        _delete(connection, generation, deleted)
    if moved:
        connection.execute(
            """
            update chunk c set ordinal = m.ordinal, start_char = m.first, end_char = m.last, tenant = m.tenant,
                language = m.language
            from unnest(%s::uuid[], %s::int[], %s::int[], %s::int[], %s::text[], %s::text[])
                as m (chunk_id, ordinal, first, last, tenant, language)
            where c.chunk_id = m.chunk_id
            """,
            [list(column) for column in zip(*moved, strict=True)],
        )
    if readmitted:
        connection.execute(
            sql.SQL(
                "update {} v set tenant = m.tenant from unnest(%s::uuid[], %s::text[]) as m (chunk_id, tenant)"
                " where v.chunk_id = m.chunk_id"
            ).format(generation.table),
            [list(column) for column in zip(*readmitted, strict=True)],
        )
    if inserted:
        _insert_chunks(connection, inserted)
        _insert_vectors(connection, generation, [row[0] for row in inserted])


def _delete(connection: Connection, generation: Generation, ids: Sequence[uuid.UUID]) -> None:
    connection.execute(sql.SQL("delete from {} where chunk_id = any(%s)").format(generation.table), [list(ids)])
    rows = connection.execute(
        "delete from chunk where chunk_id = any(%s) returning text_hash", [list(ids)], binary=True
    ).fetchall()
    note_last_use(connection, generation.model_id, [row[0] for row in rows])


_INSERT = """
    copy chunk (chunk_id, generation_id, document_id, ordinal, start_char, end_char, tenant, language, heading,
        content, text_hash, tokens)
    from stdin with (format binary)
"""


def _insert_chunks(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(_INSERT) as copy:
        copy.set_types(["uuid", "int4", "int8", *["int4"] * 3, *["text"] * 4, "bytea", "int4"])
        for row in rows:
            copy.write_row(row)


def _insert_vectors(connection: Connection, generation: Generation, ids: Sequence[uuid.UUID]) -> None:
    """Copy the chunks' vectors from the cache, inside the server."""
    cursor = connection.execute(
        sql.SQL(
            """
            insert into {} (chunk_id, document_id, tenant, embedding)
            select chunk_id, document_id, tenant, embedding
            from chunk join embedding_cache using (text_hash)
            where model_id = %s and chunk_id = any(%s)
            """
        ).format(generation.table),
        [generation.model_id, list(ids)],
    )
    if cursor.rowcount != len(ids):
        raise JobError(
            f"{len(ids) - cursor.rowcount} of {len(ids)} vectors left the cache while they were needed; "
            "nothing was written, try again"
        )
