"""What a generation holds of its documents."""

from __future__ import annotations

from collections.abc import Iterator

from llmjobs.contracts.embeddings import Operation
from llmjobs.database.connection import Connection
from llmjobs.embeddings.differences import Difference
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.survey import Survey

MANY = 5_000
"""Containers beyond which the whole source is read at once and looked through here."""

Held = dict[str, tuple[str, bytes]]
"""Key -> container and content hash."""

_HELD = """
    select key, container, content_hash from document_state join document using (document_id)
    where generation_id = %(generation)s and index_id = %(index)s and source = %(source)s
"""


def held_of(connection: Connection, of: Generation, source: str) -> Held:
    """Return all that a generation holds of a source."""
    values = {"generation": of.generation_id, "index": of.index_id, "source": source}
    rows = connection.execute(_HELD.encode(), values, binary=True).fetchall()
    return {key: (container, content_hash) for key, container, content_hash in rows}


def held_in(connection: Connection, of: Generation, found: Survey) -> Held:
    """Return what a generation holds that a survey can speak of: of containers that were read or are gone.

    So what cannot be read is not taken for deleted.
    """
    blind = {one.place.container for one in found.unreadable}
    scope = found.gone | (found.read.keys() - blind)
    if found.everything or len(scope) > MANY:
        held = held_of(connection, of, found.source)
        if found.scan.complete:
            # Whatever a complete listing does not name is gone, known before or not.
            scope |= {container for container, _ in held.values()} - found.scan.stamps.keys()
        return {key: one for key, one in held.items() if key in found.listed or one[0] in scope}
    values = {"generation": of.generation_id, "index": of.index_id, "source": found.source}
    # By key too: a document may have moved to another container under its old name.
    query = f"""
        {_HELD} and container = any(%(scope)s) union {_HELD} and key = any(%(keys)s)
    """
    named = {**values, "scope": list(scope), "keys": list(found.listed)}
    rows = connection.execute(query.encode(), named, binary=True).fetchall()
    return {key: (container, content_hash) for key, container, content_hash in rows}


def held_count(connection: Connection, of: Generation) -> int:
    """Return how many documents a generation holds."""
    row = connection.execute(
        "select count(*) from document_state where generation_id = %s", [of.generation_id]
    ).fetchone()
    return int(row[0]) if row else 0


def held_counts(connection: Connection, of: Generation) -> dict[str, int]:
    """Return how many documents a generation holds of each source."""
    rows = connection.execute(
        "select source, count(*) from document_state join document using (document_id) where generation_id = %s"
        " group by source",
        [of.generation_id],
    ).fetchall()
    return dict(rows)


def lacking(connection: Connection, behind: Generation, ahead: Generation) -> Iterator[Difference]:
    """Yield what one generation must do to hold what another holds, in the order of sources and keys."""
    rows = connection.execute(
        """
        select source, container, key, a.content_hash, b.content_hash
        from (select * from document_state where generation_id = %s) a
        full join (select * from document_state where generation_id = %s) b using (document_id)
        join document using (document_id)
        where a.content_hash is distinct from b.content_hash
        order by source, key
        """,
        [ahead.generation_id, behind.generation_id],
        binary=True,
    )
    for source, container, key, new, old in rows:
        operation: Operation = "delete" if new is None else "add" if old is None else "change"
        yield Difference(source, container, key, operation, new, old)


def missing_documents(connection: Connection, behind: Generation, ahead: Generation) -> int:
    """Return how many documents one generation holds and another does not."""
    row = connection.execute(
        """
        select count(*) from document_state a where a.generation_id = %s and not exists (
            select from document_state b where b.generation_id = %s and b.document_id = a.document_id
        )
        """,
        [ahead.generation_id, behind.generation_id],
    ).fetchone()
    return int(row[0]) if row else 0
