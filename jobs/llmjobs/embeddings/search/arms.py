"""The SQL of a search: two arms that find chunks, one by vectors and one by words, and their fusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from psycopg import sql
from psycopg.types.json import Jsonb

from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.search.filters import Condition
from llmjobs.embeddings.search.hits import Hit, Mode

Vector = npt.NDArray[np.float32]
"""(dimensions)"""

EXACT_ROWS = 10_000
"""Up to so many vectors behind tenants are all compared; more are found through the index."""

EXACT_ROWS_BEHIND_FILTER = 25_000
"""And behind a filter: where what it leaves is far from the question, a walk through the index meets little of it."""

RANK_CONSTANT = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""

CHOOSING_CHUNKS = 5_000
"""See `bm25` in the migration: the rarest words of a question choose about so many chunks, which are then ranked."""


@dataclass(frozen=True)
class Scope:
    """What tenants and filter leave to be searched.

    Attributes:
        rows: Vectors, counted up to the limit; None where there are more.
        document_ids: The documents behind the filter, where they are few enough; None: more, or no filter.
        condition: On a row ``d`` of ``document``; None without a filter.
    """

    rows: int | None
    document_ids: list[int] | None
    condition: Condition | None

    @property
    def narrow(self) -> bool:
        """Whether every vector in it is compared."""
        return self.rows is not None


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        vector: (dimensions); None where only words are compared.
        depth: Passages that each arm hands over.
    """

    text: str
    vector: Vector | None
    mode: Mode
    k: int
    depth: int


def measured(connection: Connection, generation: Generation, condition: Condition | None) -> Scope:
    """Count what tenants and filter leave, up to a limit: a few milliseconds, whatever the index holds."""
    if condition is None:
        return Scope(_counted(connection, generation, None, EXACT_ROWS), None, None)
    # GIN can look up equalities, and only through a function under row-level security.
    looked_up = "d.document_id in (select documents_holding(%(index_id)s, %(contains)s)) and "
    row = connection.execute(
        sql.SQL(
            """
            select case when count(*) <= {limit} then coalesce(array_agg(document_id), '{{}}') end
            from (
                select d.document_id from document d where d.index_id = %(index_id)s and {looked_up} {clause}
                limit {limit} + 1
            ) found
            """
        ).format(
            limit=sql.Literal(EXACT_ROWS_BEHIND_FILTER),
            looked_up=sql.SQL(looked_up if condition.contains else ""),
            clause=condition.clause,
        ),
        {**condition.values, "index_id": generation.index_id, "contains": Jsonb(dict(condition.contains))},
        prepare=False,
    ).fetchone()
    ids = row[0] if row else None
    rows = None if ids is None else _counted(connection, generation, ids, EXACT_ROWS_BEHIND_FILTER)
    return Scope(rows, ids, condition)


def _counted(connection: Connection, generation: Generation, document_ids: list[int] | None, most: int) -> int | None:
    """Count vectors up to `most`; None: there are more."""
    among = sql.SQL("" if document_ids is None else "where document_id = any (%(ids)s)")
    row = connection.execute(
        sql.SQL("select count(*) from (select from {} {} limit {} + 1) found").format(
            generation.table, among, sql.Literal(most)
        ),
        {"ids": document_ids},
        prepare=False,
    ).fetchone()
    assert row is not None
    return None if row[0] > most else int(row[0])


def find(
    connection: Connection, generation: Generation, question: Question, scope: Scope, *, exact: bool
) -> tuple[list[Hit], int]:
    """Return the best passages of both arms together, the best first, and how many the vectors' arm found.

    One statement, so one snapshot: vectors, words, chunks and documents are of the same moment.
    """
    with_vectors, with_words = question.mode != "text", question.mode != "vector"
    statement = sql.SQL(
        "with by_vector as materialized ({by_vector}), by_words as materialized ({by_words}), {fused} {details}"
    ).format(
        by_vector=_by_vector(generation, scope, question.depth, exact) if with_vectors else sql.SQL(_NONE),
        by_words=_by_words(scope, question.depth) if with_words else sql.SQL(_NONE),
        fused=sql.SQL(_FUSED[question.mode]),
        details=sql.SQL(_DETAILS).format(
            vectors=generation.table,
            k=sql.Literal(question.k),
            closeness=sql.SQL(f"greatest(1 - (v.embedding <=> {_asked(generation)}), 0)" if with_vectors else "null"),
        ),
    )
    values = {
        **(scope.condition.values if scope.condition else {}),
        "vector": question.vector,
        "question": question.text.replace("\0", " "),
        "generation_id": generation.generation_id,
        "index_id": generation.index_id,
        "ids": scope.document_ids,
        "choosing": CHOOSING_CHUNKS,
    }
    # Never a prepared plan: it would know neither how many rows are wanted nor how rare the words are.
    rows = connection.execute(statement, values, prepare=False).fetchall()
    hits = [Hit(**dict(zip(_COLUMNS, row[1:], strict=True)), fused_score=row[_SCORE]) for row in rows]
    return hits, rows[0][0] if rows else 0


def _by_vector(generation: Generation, scope: Scope, depth: int, exact: bool) -> sql.Composable:
    """Return the vectors' arm: chunk_id, score (negative distance), position from 1."""
    if exact:
        where = _among(scope, "v")
        # An order by an expression keeps the planner away from the vector index.
        order = f"(v.embedding <=> {_asked(generation)}) + 0"
    else:
        where = _holds(scope, "v")
        order = f"v.embedding <=> {_asked(generation)}"
    # The walk through the index may hand rows over a little out of order, so they are sorted again.
    return sql.SQL(
        """
        select chunk_id, -distance as score, row_number() over (order by distance, chunk_id) as position
        from (
            select v.chunk_id, v.embedding <=> {asked} as distance from {vectors} v {where}
            order by {order} limit {depth}
        ) nearest
        """
    ).format(
        asked=sql.SQL(_asked(generation)),
        vectors=generation.table,
        where=where,
        order=sql.SQL(order),
        depth=sql.Literal(depth),
    )


def _asked(generation: Generation) -> str:
    """Return the question's vector in the type that is stored: only then the index answers."""
    return f"%(vector)s::{generation.storage.type}"


def _by_words(scope: Scope, depth: int) -> sql.Composable:
    """Return the words' arm: chunk_id, score (BM25), position from 1."""
    where = sql.SQL("") if scope.document_ids is not None else _holds(scope, "b")
    return sql.SQL(
        """
        select chunk_id, score, row_number() over (order by score desc, chunk_id) as position
        from (
            select b.chunk_id, b.score from bm25(%(generation_id)s, %(question)s, %(ids)s, %(choosing)s) b {where}
            order by b.score desc, b.chunk_id limit {depth}
        ) best
        """
    ).format(where=where, depth=sql.Literal(depth))


def _among(scope: Scope, alias: str) -> sql.Composable:
    """Return a condition that an index on document_id answers, where the documents are known."""
    if scope.document_ids is None:
        return _holds(scope, alias)
    return sql.SQL("where {}.document_id = any (%(ids)s)").format(sql.Identifier(alias))


def _holds(scope: Scope, alias: str) -> sql.Composable:
    """Return the filter as a condition on one row: no join, so the walk through the vector index keeps its order."""
    if scope.condition is None:
        return sql.SQL("")
    return sql.SQL("where (select {} from document d where d.document_id = {}.document_id)").format(
        scope.condition.clause, sql.Identifier(alias)
    )


_NONE = "select null::uuid as chunk_id, null::float8 as score, null::bigint as position where false"

_FUSED = {
    "vector": "fused as (select chunk_id, greatest(1 + score, 0) as score, null::float8 as words from by_vector)",
    "text": "fused as (select chunk_id, score, score as words from by_words)",
    # Divided by what the first of both arms gets, so that it is between 0 and 1.
    "hybrid": f"""fused as (
        select chunk_id, b.score as words,
            (coalesce(1.0 / ({RANK_CONSTANT} + a.position), 0) + coalesce(1.0 / ({RANK_CONSTANT} + b.position), 0))
            ::float8 * {(RANK_CONSTANT + 1) / 2} as score
        from by_vector a full join by_words b using (chunk_id)
    )""",  # noqa: S608 - two numbers of ours
}

_COLUMNS = (
    "document", "heading", "text", "chunk", "start_char", "end_char", "score", "generation_id", "vector_score",
    "text_score", "source", "title", "metadata", "tenant", "language",
)  # fmt: skip
"""What `_DETAILS` selects after its count, as fields of `Hit`."""

_SCORE = 1 + _COLUMNS.index("score")

_DETAILS = """
    select (select count(*) from by_vector), d.key, c.heading, c.content, c.ordinal, c.start_char, c.end_char, f.score,
        c.generation_id, {closeness}, f.words, d.source, d.title, d.metadata, d.tenant, d.language
    from (select f.*, a.position from fused f left join by_vector a using (chunk_id)
          order by f.score desc, a.position, chunk_id limit {k}) f
    join chunk c using (chunk_id) join document d using (document_id) join {vectors} v using (chunk_id)
    order by f.score desc, f.position, chunk_id
"""
