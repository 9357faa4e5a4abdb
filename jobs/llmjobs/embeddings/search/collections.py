"""An index as a collection: what there is, look-ups by key, counts and deletes, tenant by tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.documents.direct import drop
from llmjobs.embeddings.generations import Generation, active_generation
from llmjobs.embeddings.search.filters import Condition, condition_of
from llmjobs.embeddings.search.reader import checked_tenants, reading
from llmjobs.embeddings.search.statistics import refresh_statistics

MOST_DOCUMENTS = 1_000
"""Most documents of one look-up."""


@dataclass(frozen=True)
class Collection:
    """One index, as far as the tenants at hand may see it.

    Attributes:
        embedder: Name of the model that answers.
        refreshed_at: When it was last brought up to date; None where no refresh of it was ever finished.
    """

    name: str
    generation_id: int
    embedder: str
    dimensions: int
    documents: int
    chunks: int
    refreshed_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON fields."""
        return {**asdict(self), "refreshed_at": self.refreshed_at.isoformat() if self.refreshed_at else None}


@dataclass(frozen=True)
class Stored:
    """One document as the active generation holds it.

    Attributes:
        chunks: ``{ordinal, heading, text, start_char, end_char}`` each, in order.
    """

    source: str
    document: str
    tenant: str
    language: str
    title: str
    metadata: dict[str, Any]
    chunks: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON fields."""
        return asdict(self)


def list_collections(connection: Connection, *, tenants: Sequence[str]) -> list[Collection]:
    """Return every index that answers, by name, with counts of what the tenants may see."""
    with reading(connection, checked_tenants(tenants)):
        rows = connection.execute(
            """
            select i.name, g.generation_id, coalesce(m.settings ->> 'name', ''), m.dimensions,
                (select count(distinct document_id) from chunk c where c.generation_id = g.generation_id),
                (select count(*) from chunk c where c.generation_id = g.generation_id),
                (select refreshed_at from freshness(i.index_id))
            from search_index i join generation g using (index_id) join embedding_model m using (model_id)
            where g.state = 'active' order by i.name
            """
        ).fetchall()
    return [Collection(*row) for row in rows]


def count(
    connection: Connection,
    index: str,
    *,
    tenants: Sequence[str],
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in `search`
    within: str = "",
    source: str = "",
) -> int:
    """Return how many documents of an index tenants and filter leave.

    Raises:
        BadData: There is no such index, or it is empty.
        BadConfig: The filter is none.
    """
    generation = _active(connection, index)
    condition = condition_of(filter, within=within, source=source)
    with reading(connection, checked_tenants(tenants)):
        row = connection.execute(
            sql.SQL("select count(*) {}").format(_documents(condition)), _values(generation, condition), prepare=False
        ).fetchone()
    assert row is not None
    return int(row[0])


def get(
    connection: Connection,
    index: str,
    keys: Sequence[str] | None = None,
    *,
    tenants: Sequence[str],
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in `search`
    within: str = "",
    source: str = "",
    limit: int = 100,
    offset: int = 0,
) -> list[Stored]:
    """Return documents with their chunks, ordered by source and key.

    Args:
        connection: In autocommit mode, outside a transaction.
        index: The index's name.
        keys: Of documents; None: all that the rest leaves.
        tenants: Whose documents may be seen.
        filter: On metadata.
        within: Only documents whose key begins so.
        source: Only documents of this source.
        limit: Most documents, up to `MOST_DOCUMENTS`.
        offset: Documents to pass over.

    Raises:
        BadData: There is no such index, or it is empty.
        BadConfig: An argument cannot be obeyed.
    """
    if not (1 <= limit <= MOST_DOCUMENTS and offset >= 0):
        raise BadConfig(f"limit must be 1 to {MOST_DOCUMENTS} and offset not negative, got {limit} and {offset}")
    generation = _active(connection, index)
    condition = condition_of(filter, within=within, source=source, keys=keys)
    statement = sql.SQL(
        """
        select d.source, d.key, d.tenant, d.language, d.title, d.metadata, (
            select jsonb_agg(jsonb_build_object('ordinal', ordinal, 'heading', heading, 'text', content,
                                                'start_char', start_char, 'end_char', end_char) order by ordinal)
            from chunk c where c.generation_id = %(generation_id)s and c.document_id = d.document_id)
        {} order by d.source, d.key limit {} offset {}
        """
    ).format(_documents(condition), sql.Literal(limit), sql.Literal(offset))
    with reading(connection, checked_tenants(tenants)):
        rows = connection.execute(statement, _values(generation, condition), prepare=False).fetchall()
    return [Stored(*row) for row in rows]


def delete(
    connection: Connection,
    index: str,
    keys: Sequence[str] | None = None,
    *,
    tenants: Sequence[str],
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in `search`
    within: str = "",
    source: str = "",
) -> int:
    """Delete documents from every generation of an index, in one transaction, and return how many.

    For what came by `upsert`, for an imported index, or to be rid of a text at once. A document that a source still
    holds comes back when the source is next read in full: delete it there. Vectors stay in the cache, without text,
    until the next refresh clears it.

    Args:
        connection: In autocommit mode, of the tables' owner: a reader cannot delete.
        index: The index's name.
        keys: Of documents; None: all that the rest leaves.
        tenants: Whose documents may go.
        filter: On metadata.
        within: Only documents whose key begins so.
        source: Only documents of this source.

    Raises:
        BadConfig: Nothing says which documents: keys, filter, within or source is needed.
        BadData: There is no such index, or it is empty.
    """
    condition = condition_of(filter, within=within, source=source, keys=keys)
    if condition is None:
        raise BadConfig(f"{index}: say which documents are to go, by keys, filter, within or source")
    generation = _active(connection, index)
    with connection.transaction():
        # In the order of a refresh, so that the two never wait for one another in a circle.
        rows = connection.execute(
            sql.SQL(
                "select d.document_id from document d where d.index_id = %(index_id)s and d.tenant = any (%(tenants)s)"
                " and {} order by d.source, d.key for update"
            ).format(condition.clause),
            {**_values(generation, condition), "tenants": list(checked_tenants(tenants))},
            prepare=False,
        ).fetchall()
        _forget(connection, generation.index_id, [row[0] for row in rows])
    return len(rows)


def _forget(connection: Connection, index_id: int, ids: list[int]) -> None:
    generations = connection.execute("select generation_id from generation where index_id = %s", [index_id]).fetchall()
    for (generation_id,) in generations:
        table = sql.Identifier(f"chunk_vector_{generation_id}")
        connection.execute(sql.SQL("delete from {} where document_id = any (%s)").format(table), [ids])
        connection.execute(
            "delete from chunk where generation_id = %s and document_id = any (%s)", [generation_id, ids]
        )
    drop(connection, ids)
    connection.execute("delete from document_state where document_id = any (%s)", [ids])
    connection.execute("delete from document where document_id = any (%s)", [ids])
    for (generation_id,) in generations:
        refresh_statistics(connection, generation_id)


def _active(connection: Connection, index: str) -> Generation:
    found = active_generation(connection, index)
    if found is None:
        raise BadData(f"The index {index!r} is empty, or there is none of that name")
    return found


def _documents(condition: Condition | None) -> sql.Composable:
    return sql.SQL(
        """
        from document d where d.index_id = %(index_id)s and {} and exists (
            select from chunk c where c.generation_id = %(generation_id)s and c.document_id = d.document_id)
        """
    ).format(condition.clause if condition else sql.SQL("true"))


def _values(generation: Generation, condition: Condition | None) -> dict[str, Any]:
    values = dict(condition.values) if condition else {}
    contains = Jsonb(dict(condition.contains)) if condition else None
    return {**values, "index_id": generation.index_id, "generation_id": generation.generation_id, "contains": contains}
